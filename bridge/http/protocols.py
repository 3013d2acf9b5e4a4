"""uvicorn's HTTP protocols with two limits that they lack: to the size of a head, and to the time that it takes."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from bridge.http.security import HEAD_BYTES

HEAD_SECONDS = 20.0
"""How long a head may take, from the connection's start or its first byte: a connection that says nothing costs one."""

if TYPE_CHECKING:
    _Base = H11Protocol
else:
    _Base = object


class _Timed(_Base):
    """Closes a connection whose head does not come."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self._expect()
        else:
            self._cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._due is None:
            self._due = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _cancel(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._due = None
        # A websocket has taken the connection over.
        if self.transport.get_protocol() is self:
            self.transport.close()


class TimedH11(_Timed, H11Protocol):
    """The parser in Python; it has a limit to the size of a head."""


def http_protocol() -> type[asyncio.Protocol]:
    """Return the protocol with the fast parser where there is one."""
    if importlib.util.find_spec("httptools") is None:
        return TimedH11
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415  it may be absent

    class TimedHttpTools(_Timed, HttpToolsProtocol):  # type: ignore[misc]  # both have what is used of them
        _seen = 0

        def on_message_begin(self) -> None:
            self._seen = 0
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._see(url)
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._see(name, value)
            super().on_header(name, value)

        def _see(self, *parts: bytes) -> None:
            self._seen += sum(len(part) for part in parts)
            if self._seen > HEAD_BYTES:
                raise ValueError("headers without end")

    return TimedHttpTools


class HandshakeNoise(logging.Filter):
    """Drops what uvicorn says of each websocket that was refused with an answer; we log the answer."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is of use."""
        return not record.getMessage().startswith("ASGI callable returned without completing handshake")
