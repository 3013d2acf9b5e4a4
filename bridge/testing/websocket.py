"""The websocket side: who is connected, and the one loop that sends to all of them.

As in the real server a single loop awaits each socket in turn, so one reader that stops stalls everybody; and a
connection is found by its client id alone, so closing an old one makes its successor deaf.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from bridge.testing.faults import Faults, Settings, Stats

_log = logging.getLogger(__name__)
_MAX_INCOMING = 4 * 1024 * 1024

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4


class Sockets:
    """The connected clients and the queue of what is to be sent."""

    def __init__(self, faults: Faults, settings: Settings, stats: Stats, remaining: Callable[[], int]) -> None:
        self._faults = faults
        self._settings = settings
        self._stats = stats
        self._remaining = remaining
        self._clients: dict[str, web.WebSocketResponse] = {}
        self._wants_metadata: dict[str, bool] = {}
        self._open: dict[int, asyncio.Transport | None] = {}
        self._messages: asyncio.Queue[tuple[str | bytes, Any]] = asyncio.Queue()
        # Of the running prompt: events go to this client, all of them if it is None.
        self.client_id: Any = None
        self.last_node: str | None = None

    def event(self, kind: str, data: Any, sid: Any) -> None:
        """Queue a text frame for the client `sid`, for all if it is None."""
        self._messages.put_nowait((json.dumps({"type": kind, "data": data}), sid))

    def status(self) -> None:
        """Queue a status frame for everybody."""
        self.event("status", {"status": {"exec_info": {"queue_remaining": self._remaining()}}}, None)

    def text(self, node_id: str, text: str) -> None:
        """Queue a TEXT frame, which everybody gets."""
        node = node_id.encode()
        self._messages.put_nowait((struct.pack(">II", TEXT, len(node)) + node + text.encode(), None))

    def takes_metadata(self) -> bool:
        """Whether the running prompt's client has asked for previews with metadata."""
        return isinstance(self.client_id, str) and self._wants_metadata.get(self.client_id, False)

    def preview(self, image: bytes, image_format: int, metadata: dict[str, Any] | None) -> None:
        """Queue a preview for the running prompt's client; `image_format` is 1 for JPEG, 2 for PNG."""
        if metadata is None:
            frame = struct.pack(">II", PREVIEW_IMAGE, image_format) + image
        else:
            described = json.dumps(
                {**metadata, "image_type": "image/jpeg" if image_format == 1 else "image/png"}
            ).encode()
            frame = struct.pack(">II", PREVIEW_IMAGE_WITH_METADATA, len(described)) + described + image
        self._messages.put_nowait((frame, self.client_id))

    async def drained(self) -> None:
        """Wait until everything queued so far has been handed to the sockets."""
        await self._messages.join()

    async def publish(self) -> None:
        """Send what is queued, for ever. A client id that cannot be looked up ends it, as in the real server."""
        while True:
            frame, sid = await self._messages.get()
            try:
                if not self._faults.silence:
                    await self._send(frame, sid)
            finally:
                self._messages.task_done()

    async def _send(self, frame: str | bytes, sid: Any) -> None:
        if sid is None:
            for socket in list(self._clients.values()):
                await self._send_to(socket, frame)
        elif sid in self._clients:
            await self._send_to(self._clients[sid], frame)

    @staticmethod
    async def _send_to(socket: web.WebSocketResponse, frame: str | bytes) -> None:
        try:
            if isinstance(frame, str):
                await socket.send_str(frame)
            else:
                await socket.send_bytes(frame)
        except ConnectionError as error:
            _log.debug("a client went away: %s", error)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until it ends."""
        socket = web.WebSocketResponse(max_msg_size=_MAX_INCOMING, compress=False)
        await socket.prepare(request)
        sid = request.query.get("clientId", "") or uuid.uuid4().hex
        self._clients.pop(sid, None)
        self._clients[sid] = socket
        self._wants_metadata[sid] = False
        self._open[id(socket)] = request.transport
        self._stats.sockets = len(self._open)
        try:
            await self._welcome(socket, sid)
            await self._listen(socket, sid)
        except ConnectionError as error:
            _log.debug("a client went away: %s", error)
        finally:
            # By id and not by connection: the flaw of the real server which makes a successor deaf.
            self._clients.pop(sid, None)
            self._wants_metadata.pop(sid, None)
            self._open.pop(id(socket), None)
            self._stats.sockets = len(self._open)
        return socket

    async def _welcome(self, socket: web.WebSocketResponse, sid: str) -> None:
        if self._faults.silence:
            return
        status = {"status": {"exec_info": {"queue_remaining": self._remaining()}}, "sid": sid}
        await socket.send_json({"type": "status", "data": status})
        if self.client_id == sid and self.last_node is not None:
            await socket.send_json({"type": "executing", "data": {"node": self.last_node}})

    async def _listen(self, socket: web.WebSocketResponse, sid: str) -> None:
        first = True
        async for message in socket:
            if message.type is not WSMsgType.TEXT or not first:
                continue
            try:
                document = json.loads(message.data)
            except ValueError:
                continue
            if not isinstance(document, dict):
                continue
            first = False
            if document.get("type") != "feature_flags":
                continue
            wanted = document.get("data")
            self._wants_metadata[sid] = isinstance(wanted, dict) and wanted.get("supports_preview_metadata") is True
            if not self._faults.silence:
                await socket.send_json({"type": "feature_flags", "data": features(self._settings)})

    def transports(self) -> set[Any]:
        """The TCP connections that are websockets."""
        return set(self._open.values())

    def drop_all(self) -> None:
        """Cut every connection without a close frame."""
        for transport in list(self._open.values()):
            if transport is not None:
                transport.abort()


def features(settings: Settings) -> dict[str, Any]:
    """What the server can do, as /features and the feature_flags answer say it."""
    return {"supports_preview_metadata": True, "max_upload_size": settings.max_upload_size}
