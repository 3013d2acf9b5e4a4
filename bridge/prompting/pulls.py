"""Downloads of models, each on its own, with their progress as events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from typing import Any

from bridge import events
from bridge.errors import BridgeError, Cancelled, Internal
from bridge.prompting.ollama import PullProgress

logger = logging.getLogger(__name__)

Pull = Callable[[str], AsyncGenerator[PullProgress, None]]


class Pulls:
    """The downloads that run. on_end: called after each that succeeded."""

    def __init__(self, hub: events.Hub, on_end: Callable[[], None]) -> None:
        self._hub = hub
        self._on_end = on_end
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()

    def start(self, model: str, pull: Pull) -> bool:
        """Start a download; False if it runs already."""
        if model in self._tasks:
            return False
        task = asyncio.get_running_loop().create_task(self._run(model, pull), name=f"pull {model}")
        self._tasks[model] = task
        task.add_done_callback(lambda _: self._tasks.pop(model, None))
        return True

    def cancel(self, model: str) -> bool:
        """End a download; False if there is none."""
        task = self._tasks.get(model)
        if task is None:
            return False
        self._cancelled.add(model)
        task.cancel()
        return True

    async def close(self) -> None:
        """End all of them; Ollama keeps what it has, and goes on from there when it is asked again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, model: str, pull: Pull) -> None:
        logger.info("Ollama downloads %s", model)
        layers: dict[str, PullProgress] = {}
        try:
            async with aclosing(pull(model)) as steps:
                async for step in steps:
                    if step.total:
                        layers[step.digest] = step
                    self._tell(model, _document(model, step, layers.values()))
        except asyncio.CancelledError:
            if model not in self._cancelled:
                raise
            self._fail(model, Cancelled(f"the download of {model} was cancelled"))
        except BridgeError as error:
            self._fail(model, error)
        except Exception:
            logger.exception("the download of %s failed inside the bridge", model)
            self._fail(model, Internal("the bridge failed on this download; its log holds more"))
        else:
            self._tell(model, {"model": model, "status": "ok", "step": "success", "percent": 100.0}, final=True)
            self._on_end()
        finally:
            self._cancelled.discard(model)

    def _fail(self, model: str, error: BridgeError) -> None:
        logger.warning("the download of %s ended: %s", model, error.message)
        self._tell(model, {"model": model, "status": "error", "code": error.code, "error": error.message}, final=True)

    def _tell(self, model: str, document: dict[str, Any], *, final: bool = False) -> None:
        self._hub.publish(events.ModelPull(model, document, final))


def _document(model: str, step: PullProgress, layers: Collection[PullProgress]) -> dict[str, Any]:
    """Return how far a download is: of all layers that Ollama has named so far, of which the first is nearly all."""
    document: dict[str, Any] = {"model": model, "status": "running", "step": step.status}
    completed, total = (sum(getattr(layer, name) for layer in layers) for name in ("completed", "total"))
    if total:
        document["percent"] = round(min(100.0, 100.0 * completed / total), 1)
        document |= {"completed": completed, "total": total}
    return document
