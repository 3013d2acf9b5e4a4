"""Work that nobody awaits: held while it runs, ended together, and its failures logged rather than lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from bridge.errors import BridgeError

logger = logging.getLogger(__name__)


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
