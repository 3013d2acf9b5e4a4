"""The websocket of one ComfyUI, kept open.

Three facts about the server shape this (measured on 0.3.64):

- Events go to the connection of the client id that submitted the prompt. A second connection with the same id takes
  over, and when the FIRST one closes, the server forgets the second: it stays open and silent for ever. So the same
  id is used again only when the server's end is known to be gone; in any doubt a fresh id is taken.
- A reader that does not read stops the events of every client of that server. So frames are read as they come, and
  what is done with them must be cheap.
- Feature flags count only as the first JSON object of a connection, and for that connection only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidStatus, InvalidURI, WebSocketException

from bridge.comfyui.address import parse_address
from bridge.comfyui.protocol import (
    FEATURE_FLAGS,
    Malformed,
    Message,
    Status,
    decode_binary,
    decode_text,
)

logger = logging.getLogger(__name__)

_MAX_FRAME = 256 * 1024 * 1024
_MAX_QUEUE = 64
_OPEN_TIMEOUT = 10.0
_PING_INTERVAL = 20.0
# ComfyUI answers no ping while a node holds Python's global lock, loading a large model for instance.
_PING_TIMEOUT = 60.0
_CLOSE_TIMEOUT = 1.0
_LIVED = 5.0
_IMAGE_KINDS = (b"\x00\x00\x00\x01", b"\x00\x00\x00\x04")
_ENDED_BY_PEER = (EOFError, ConnectionResetError, BrokenPipeError)


class _Silent(Exception):
    """The connection was given up from this side; the server may still hold its end."""


def growing_pauses(first: float = 0.1, longest: float = 5.0) -> Iterator[float]:
    """Yield pauses in seconds, each about twice the last, none above `longest`, with jitter; without end."""
    pause = first
    while True:
        yield pause * random.uniform(0.7, 1.0)  # noqa: S311  spreads clients in time, guards nothing
        pause = min(pause * 2, longest)


class ComfySocket:
    """The websocket of one backend: `run()` keeps it open until it is cancelled.

    `on_message` gets every message, in order; `on_connected` comes at the first `status` frame of a connection,
    before its message, and `on_disconnected(reason)` when that connection is gone: the two always alternate. The
    callbacks are synchronous and must be cheap; an exception in one is logged and changes nothing.
    With `previews` false, images are dropped unread. `pauses` makes the pauses between attempts (seconds), anew after
    each connection that lived.
    """

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[Message], None],
        on_connected: Callable[[], None],
        on_disconnected: Callable[[str], None],
        previews: bool = True,
        pauses: Callable[[], Iterator[float]] = growing_pauses,
        open_timeout: float = _OPEN_TIMEOUT,
        ping_interval: float = _PING_INTERVAL,
        ping_timeout: float = _PING_TIMEOUT,
    ) -> None:
        self._address = parse_address(url)
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._previews = previews
        self._pauses = pauses
        self._open_timeout = open_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._connection: ClientConnection | None = None
        self._closing: asyncio.Task[None] | None = None
        self._client_id = uuid.uuid4().hex
        self._connected = False
        self._greeted_at: float | None = None
        self._last_frame = 0.0
        self._told: set[str] = set()
        self._defects: set[str] = set()

    @property
    def client_id(self) -> str:
        """The id to submit prompts with, now."""
        return self._client_id

    @property
    def connected(self) -> bool:
        """Whether the server has greeted the present connection with a `status`."""
        return self._connected

    @property
    def last_frame(self) -> float:
        """When the last frame came, in `loop.time()`; 0.0 before the first."""
        return self._last_frame

    def resume(self, client_id: str) -> None:
        """Be this client from the next connection on: its prompts, submitted by an earlier run, go on sending events.

        Only safe when that run's connection is gone; should the server still hold it, this one will be silent.
        """
        self._client_id = client_id

    def renew(self) -> None:
        """Close the connection and come back.

        For a connection that is silent while it should not be. If the server confirms the close, its end is gone:
        the same client id is used again, and a running prompt's events go on. If it does not, a fresh id is taken,
        and prompts under the old one send no more events.
        """
        if self._connection is not None and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._connection.close())

    async def run(self) -> NoReturn:
        """Connect, read, and connect again, until cancelled."""
        loop = asyncio.get_running_loop()
        pauses = self._pauses()
        pause = 0.0
        while True:
            self._greeted_at = None
            try:
                await self._live()
            except Exception as error:
                if not is_retryable(error):
                    raise
                self._tell(error)
            if self._greeted_at is not None and loop.time() - self._greeted_at >= _LIVED:
                pauses = self._pauses()
            pause = next(pauses, pause)
            logger.debug("the next try to reach ComfyUI at %s is in %.2f s", self._address.url, pause)
            await asyncio.sleep(pause)

    async def _live(self) -> None:
        """Live one connection, from its opening until nothing of it is left on this side."""
        client_id = self._client_id
        try:
            connection = await self._dial(client_id)
        except (ConnectionRefusedError, InvalidStatus):
            raise
        except Exception:
            # A server that was too busy to answer in time may still find this attempt, and close it late.
            self._client_id = uuid.uuid4().hex
            raise
        if client_id != self._client_id:  # replaced meanwhile
            await connection.close()
            return
        self._connection = connection
        reason = "the bridge closed it"
        try:
            await self._read(connection)
        except _Silent as silent:
            self._client_id = uuid.uuid4().hex
            reason = str(silent)
            raise
        except ConnectionClosed as closed:
            if not _peer_is_gone(closed):
                self._client_id = uuid.uuid4().hex
            reason = describe(closed)
            if self._closing is None:
                raise
            logger.debug("the connection to ComfyUI at %s is made anew", self._address.url)
        finally:
            self._connection = self._closing = None
            self._set_disconnected(reason)
            try:
                # Waits for the end of the TCP connection: only then may the same client id be used again.
                await connection.close()
            finally:
                connection.transport.abort()

    async def _dial(self, client_id: str) -> ClientConnection:
        return await connect(
            self._address.websocket(client_id),
            additional_headers=self._address.headers,
            compression=None,  # else the server's only event thread deflates each preview
            proxy=None if self._address.is_near else True,
            open_timeout=self._open_timeout,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
            close_timeout=_CLOSE_TIMEOUT,
            max_size=_MAX_FRAME,
            max_queue=_MAX_QUEUE,
        )

    async def _read(self, connection: ClientConnection) -> NoReturn:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._open_timeout) as limit:
                await connection.send(FEATURE_FLAGS)
                while True:
                    raw = await connection.recv()
                    self._last_frame = loop.time()
                    self._take(raw)
                    if self._connected and limit.when() is not None:
                        limit.reschedule(None)
        except TimeoutError:
            raise _Silent(f"no greeting came within {self._open_timeout:g} s") from None

    def _take(self, raw: str | bytes) -> None:
        if isinstance(raw, str):
            message = decode_text(raw)
        elif not self._previews and raw[:4] in _IMAGE_KINDS:
            return
        else:
            message = decode_binary(raw)
        match message:
            case Status(sid=sid) if not self._connected:
                if sid is not None and sid != self._client_id:
                    logger.debug("ComfyUI at %s gave us the client id %s", self._address.url, sid)
                    self._client_id = sid
                self._set_connected()
            case Malformed(reason=reason):
                logger.debug("ComfyUI at %s sent what is not of its protocol: %s", self._address.url, reason)
        self._call(self._on_message, message)

    def _set_connected(self) -> None:
        self._connected = True
        self._greeted_at = asyncio.get_running_loop().time()
        self._told.clear()
        logger.info("ComfyUI at %s is connected", self._address.url)
        self._call(self._on_connected)

    def _set_disconnected(self, reason: str) -> None:
        if self._connected:
            self._connected = False
            self._call(self._on_disconnected, reason)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        """Call somebody else's code; one traceback for each kind of defect, since frames come by the thousand."""
        try:
            callback(*args)
        except Exception as error:
            kind = f"{callback!r} {type(error)!r}"
            level = logging.DEBUG if kind in self._defects else logging.ERROR
            self._defects.add(kind)
            logger.log(level, "a callback of the websocket to ComfyUI at %s failed", self._address.url, exc_info=True)

    def _tell(self, error: Exception) -> None:
        """Log an outage once, and once more for each HTTP status: that one will not go away by waiting."""
        kind = f"HTTP {error.response.status_code}" if isinstance(error, InvalidStatus) else ""
        level = logging.DEBUG if self._told and kind in self._told | {""} else logging.WARNING
        self._told.add(kind)
        logger.log(level, "ComfyUI at %s is away: %s; it is tried again", self._address.url, describe(error))


def is_retryable(error: Exception) -> bool:
    """Tell whether another try may succeed. Servers and proxies come back and change; a defect of ours does not."""
    if isinstance(error, InvalidURI | InvalidProxy):
        return False
    return isinstance(error, WebSocketException | OSError | EOFError | _Silent)


def describe(error: Exception) -> str:
    """Say in a clause why there is no connection."""
    match error:
        case InvalidStatus():
            status = error.response.status_code
            hint = {
                401: ", a user and password are needed in its address",
                403: ", access is forbidden",
                404: ", so that it may be no ComfyUI or need a prefix in its address",
            }.get(status, "")
            return f"its websocket was answered with HTTP {status}{hint}"
        case ConnectionClosed(rcvd=None, sent=None):
            return "the connection broke"
        case ConnectionClosed(rcvd=None, sent=sent) if sent is not None:
            return f"the bridge closed the connection ({sent})"
        case ConnectionClosed(rcvd=rcvd):
            return f"the server closed the connection ({rcvd})"
        case TimeoutError():
            return "it does not answer"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
    return str(error) or type(error).__name__


def _peer_is_gone(closed: ConnectionClosed) -> bool:
    """Tell whether the server's end is known to be closed: it said so, or its system did."""
    if closed.rcvd is not None:
        return True
    return closed.sent is None and isinstance(closed.__cause__, _ENDED_BY_PEER)
