"""The prompt queue (a heap by number, then prompt id), what runs, and the history."""

from __future__ import annotations

import asyncio
import copy
import heapq
from collections.abc import Callable
from typing import Any

# number, prompt id, graph, extra data, output nodes to execute - the shape that /queue and /history show.
Item = tuple[float, str, dict[str, Any], Any, list[str]]
_MAX_HISTORY = 10_000


class PromptQueue:
    """Pending prompts, running prompts and finished ones; `changed` is called at each change of the queue."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._pending: list[Item] = []
        self._running: dict[int, Item] = {}
        self._arrived = asyncio.Event()
        self._task_number = 0
        self.history: dict[str, dict[str, Any]] = {}

    @property
    def remaining(self) -> int:
        """Pending and running prompts together."""
        return len(self._pending) + len(self._running)

    def put(self, item: Item) -> None:
        """Add a prompt. Two with equal number and id make the heap compare graphs: TypeError, as in the real server."""
        try:
            heapq.heappush(self._pending, item)
        finally:
            self._arrived.set()
        self._changed()

    async def get(self) -> tuple[int, Item]:
        """Wait for the next prompt; gives a key for `done`, and a copy of the item."""
        while not self._pending:
            self._arrived.clear()
            await self._arrived.wait()
        item = heapq.heappop(self._pending)
        self._task_number += 1
        self._running[self._task_number] = copy.deepcopy(item)
        self._changed()
        return self._task_number, item

    def done(self, key: int, result: dict[str, Any] | None) -> None:
        """End a running prompt; `result` (outputs, status, meta) goes into the history, None leaves no trace."""
        item = self._running.pop(key)
        if result is not None:
            if len(self.history) >= _MAX_HISTORY:
                self.history.pop(next(iter(self.history)))
            number, prompt_id, graph, extra, outputs = item
            if isinstance(extra, dict):
                extra = {
                    name: value for name, value in extra.items() if not name.startswith(("api_key_", "auth_token_"))
                }
            self.history[prompt_id] = {"prompt": [number, prompt_id, graph, extra, outputs], **result}
        self._changed()

    def delete(self, prompt_id: Any) -> None:
        """Remove one pending prompt; unknown and running ids change nothing."""
        for index, item in enumerate(self._pending):
            if item[1] == prompt_id:
                if len(self._pending) == 1:
                    self.clear()
                else:
                    self._pending.pop(index)
                    heapq.heapify(self._pending)
                self._changed()
                return

    def clear(self) -> None:
        """Remove all pending prompts."""
        self._pending.clear()
        self._changed()

    def running_ids(self) -> set[str]:
        """The ids of the running prompts."""
        return {item[1] for item in self._running.values()}

    def as_json(self) -> dict[str, list[Item]]:
        """The answer of GET /queue; pending stands in heap order."""
        return {"queue_running": list(self._running.values()), "queue_pending": list(self._pending)}

    def history_page(self, max_items: int | None, offset: int) -> dict[str, Any]:
        """History entries, oldest first; without an offset (-1) the newest `max_items`."""
        entries = list(self.history.items())
        if offset < 0 and max_items is not None:
            offset = len(entries) - max_items
        page = entries[max(0, offset) :]
        return dict(page if max_items is None else page[: max(0, max_items)])
