"""Work that must not end in silence: tasks that nobody awaits, and parts that begin again when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from bridge.errors import BridgeError, SettingsError, StoreError

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0


class Tasks:
    """The tasks of one owner. A failure is logged; it ends nothing else."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Begin a task; `name` is what the log calls it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel those that run, and wait until they have ended."""
        running = tuple(self.running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, BridgeError):
            logger.warning("%s: %s", task.get_name(), error.message)
        elif error is not None:
            logger.error("%s failed inside the bridge", task.get_name(), exc_info=error)


def log_failure(future: asyncio.Future[None]) -> None:
    """Log what became of a write that nobody awaits, if it failed: for `add_done_callback`."""
    error = None if future.cancelled() else future.exception()
    if error is not None:
        logger.error("%s", error)


async def supervise(name: str, run_it: Callable[[], Awaitable[None]], *, first_pause: float = 1.0) -> None:
    """Run a part, and again with growing pauses when it fails; wrong settings and a broken store end it all."""
    pause = first_pause
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await run_it()
        except (SettingsError, StoreError):
            raise
        except Exception:
            logger.exception("%s failed; it is started again in %g s", name, pause)
        else:
            return
        await asyncio.sleep(pause)
        pause = first_pause if loop.time() - began > 2 * _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)
