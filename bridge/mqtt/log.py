"""The log on `bridge/log`: info and above, without what the MQTT side itself says, and no line twice in a row."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Self

from bridge.jobs.model import iso


class LogForwarder(logging.Handler):
    """Hands log entries of the bridge to `publish`, in the event loop, within the block."""

    def __init__(self, publish: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(logging.INFO)
        self._publish = publish
        self._last: tuple[str, str] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        logging.getLogger("bridge").addHandler(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        logging.getLogger("bridge").removeHandler(self)
        self.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Publish an entry; what the MQTT side says would come back for ever."""
        if record.name.startswith("bridge.mqtt.") and record.levelno < logging.ERROR:
            return
        message = record.getMessage()
        if self._last == (record.name, message):
            return
        self._last = (record.name, message)
        document = {
            "time": iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._publish, document)
