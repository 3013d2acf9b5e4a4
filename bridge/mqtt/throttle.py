"""At most so many a second for each key, and always the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Throttle(Generic[T]):
    """Passes values on to `send`, at most `per_second` for each key; of those in between only the last one, late."""

    def __init__(self, per_second: float, send: Callable[[str, T], None]) -> None:
        self._interval = 1 / per_second
        self._send = send
        self._waiting: dict[str, tuple[asyncio.TimerHandle, T]] = {}
        self._last: dict[str, float] = {}

    def put(self, key: str, value: T, *, urgent: bool = False) -> None:
        """Send now, or as soon as it may be; a value that waits is replaced. urgent: now in any case."""
        loop = asyncio.get_running_loop()
        if urgent:
            self.drop(key)
            self._last[key] = loop.time()
            self._send(key, value)
            return
        waiting = self._waiting.get(key)
        if waiting is not None:
            self._waiting[key] = (waiting[0], value)
            return
        now = loop.time()
        due = self._last.get(key, float("-inf")) + self._interval
        if due <= now:
            self._last[key] = now
            self._send(key, value)
        else:
            self._waiting[key] = (loop.call_at(due, self._late, key), value)

    def drop(self, key: str) -> None:
        """Forget the value that waits: something newer says it all."""
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            waiting[0].cancel()

    def forget(self, key: str) -> None:
        """Forget a key that will not come again."""
        self.drop(key)
        self._last.pop(key, None)

    def close(self) -> None:
        """Forget everything that waits."""
        for key in list(self._waiting):
            self.drop(key)

    def _late(self, key: str) -> None:
        _, value = self._waiting.pop(key)
        self._last[key] = asyncio.get_running_loop().time()
        self._send(key, value)
