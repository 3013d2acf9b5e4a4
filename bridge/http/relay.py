"""The relay: ComfyUI's frames, verbatim, to any number of websocket clients.

A client need not send anything. What it cannot take in time waits in a queue of its own: of previews the newest few,
the others up to a limit, beyond which the client is dropped with the close code 1013. Nobody waits for anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect

from bridge import events
from bridge.errors import BadValue

TRY_AGAIN_LATER = 1013
GOING_AWAY = 1001
BAD_REQUEST = 1008
_PREVIEWS = 16
_PREVIEW_BYTES = 8_000_000
_FRAMES = 5_000
_FRAME_BYTES = 16_000_000
_STALLED = 30.0
"""Seconds that one frame may take to be accepted by the system."""
_FAREWELL = 10.0
"""Seconds that a slow client has to read up to the close code."""
_IMAGE_TYPES = {"image/jpeg": 1, "image/png": 2}
_DONE = "Workflow completed successfully"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client wants of the frames; None: of all prompts, of all types."""

    prompt_ids: frozenset[str] | None = None
    types: frozenset[str] | None = None
    packed: bool = False
    metadata: bool = False

    def includes(self, prompt_id: str | None, event_type: str) -> bool:
        """Tell whether a frame is wanted."""
        return (self.prompt_ids is None or prompt_id in self.prompt_ids) and (
            self.types is None or event_type in self.types
        )


def wishes(connection: HTTPConnection) -> Wishes:
    """Read `?prompt_id=`, `?types=` (both may be lists with commas), `?format=msgpack`, `?previews=metadata`.

    Raises BadValue.
    """
    query = connection.query_params
    form, previews = query.get("format", "raw"), query.get("previews", "image")
    if form not in {"raw", "msgpack"}:
        raise BadValue('format must be "raw" or "msgpack"')
    if previews not in {"image", "metadata"}:
        raise BadValue('previews must be "image" or "metadata"')
    return Wishes(_listed(query, "prompt_id"), _listed(query, "types"), form == "msgpack", previews == "metadata")


def _listed(query: Mapping[str, str], name: str) -> frozenset[str] | None:
    names = frozenset(part.strip() for part in query.get(name, "").split(",") if part.strip())
    return names or None


class Frame:
    """One frame, in the forms that clients want it in; each is made once."""

    def __init__(self, prompt_id: str | None, event_type: str, raw: str | bytes) -> None:
        self.prompt_id = prompt_id
        self.event_type = event_type
        self.preview: events.PromptPreview | None = None
        self._raw = raw
        self._made: dict[tuple[bool, bool], str | bytes] = {}

    @classmethod
    def of_preview(cls, event: events.PromptPreview) -> Frame:
        """Make the frame of a preview."""
        frame = cls(event.job_id, "preview", event.frame)
        frame.preview = event
        return frame

    def form(self, wanted: Wishes) -> str | bytes:
        """Return the frame as a client wants it."""
        key = (wanted.packed, wanted.metadata)
        if key not in self._made:
            self._made[key] = self._packed() if wanted.packed else self._plain(metadata=wanted.metadata)
        return self._made[key]

    def _plain(self, *, metadata: bool) -> str | bytes:
        preview = self.preview
        if preview is None or (preview.frame and (metadata or preview.frame[:4] == b"\x00\x00\x00\x01")):
            return self._raw
        kind = _IMAGE_TYPES.get(preview.content_type, 2)
        return b"\x00\x00\x00\x01" + kind.to_bytes(4, "big") + preview.image

    def _packed(self) -> bytes:
        preview = self.preview
        if preview is not None:
            data: Any = {
                "prompt_id": preview.job_id,
                "node": preview.node,
                "seq": preview.seq,
                "content_type": preview.content_type,
                "image": preview.image,
            }
            document: Any = {"type": "preview", "data": data}
        elif isinstance(self._raw, bytes):
            document = {"type": self.event_type, "data": self._raw}
        else:
            document = json.loads(self._raw)
        packed: bytes = msgpack.packb(document, default=str)
        return packed


class _Client:
    """A client's queue: frames and previews apart, each with its number in the order of all."""

    def __init__(self, wanted: Wishes) -> None:
        self.wishes = wanted
        self.woken = asyncio.Event()
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """What to close with, once it has to go."""
        self.dropped = 0
        self._numbers = itertools.count()
        self._frames: deque[tuple[int, str | bytes]] = deque()
        self._previews: deque[tuple[int, str | bytes]] = deque()
        self._frame_bytes = self._preview_bytes = 0

    def offer(self, frame: str | bytes, *, preview: bool) -> None:
        """Queue a frame; of previews the oldest makes room, too many of the others are the end."""
        if self.code.done():
            return
        if preview:
            self._previews.append((next(self._numbers), frame))
            self._preview_bytes += len(frame)
            while len(self._previews) > 1 and (len(self._previews) > _PREVIEWS or self._preview_bytes > _PREVIEW_BYTES):
                self._preview_bytes -= len(self._previews.popleft()[1])
                self.dropped += 1
        else:
            self._frames.append((next(self._numbers), frame))
            self._frame_bytes += len(frame)
            if len(self._frames) > _FRAMES or self._frame_bytes > _FRAME_BYTES:
                self.end(TRY_AGAIN_LATER)
        self.woken.set()

    def end(self, code: int) -> None:
        """Have it go; what waits is dropped."""
        if not self.code.done():
            self.code.set_result(code)
        self._frames.clear()
        self._previews.clear()

    def take(self) -> str | bytes | None:
        """Return the next frame; None if there is none."""
        frames, previews = self._frames, self._previews
        if previews and (not frames or previews[0][0] < frames[0][0]):
            frame = previews.popleft()[1]
            self._preview_bytes -= len(frame)
            return frame
        if frames:
            frame = frames.popleft()[1]
            self._frame_bytes -= len(frame)
            return frame
        self.woken.clear()
        return None


class Relay:
    """Hands frames to the clients. `listen` is for the hub, `serve` for each websocket."""

    def __init__(self) -> None:
        self._clients: set[_Client] = set()
        self._pictures: dict[str, Mapping[str, Any]] = {}
        self._dropped = 0
        self._closing = False
        self.sent = 0
        """Frames sent."""
        self.slow = 0
        """Clients that were dropped because they did not read."""

    @property
    def clients(self) -> int:
        """How many are there."""
        return len(self._clients)

    @property
    def dropped(self) -> int:
        """Previews that slow clients missed."""
        return self._dropped + sum(client.dropped for client in self._clients)

    def open(self) -> None:
        """Take clients, after `close` too."""
        self._closing = False

    def close(self) -> None:
        """Send everybody away."""
        self._closing = True
        for client in self._clients:
            client.end(GOING_AWAY)

    def listen(self, event: events.Event) -> None:
        """Take an event."""
        match event:
            case events.PromptPreview() if event.frame:
                self._send(Frame.of_preview(event))
            case events.PromptEvent():
                raw = event.raw if event.frame is None else event.frame
                self._send(Frame(event.job_id, event.event_type, raw))
            case events.BackendEvent():
                self._send(Frame(None, event.event_type, event.raw))
            case events.JobOutput(answer=True) if str(event.document["content_type"]).startswith("image/"):
                self._pictures[event.job_id] = event.document
            case events.JobResult():
                picture = self._pictures.pop(event.job_id, None)
                if picture is not None and event.document["status"] == "completed":
                    self._send(Frame(event.job_id, "image_generated", _image_generated(event, picture)))

    def _send(self, frame: Frame) -> None:
        for client in self._clients:
            if client.wishes.includes(frame.prompt_id, frame.event_type):
                client.offer(frame.form(client.wishes), preview=frame.preview is not None)

    async def serve(self, socket: WebSocket) -> None:
        """Serve a client until it goes, is too slow, or the relay closes."""
        await socket.accept()
        try:
            wanted = wishes(socket)
        except BadValue as error:
            await socket.close(BAD_REQUEST, error.message[:100])
            return
        client = _Client(wanted)
        if self._closing:
            client.end(GOING_AWAY)
        self._clients.add(client)
        loop = asyncio.get_running_loop()
        tasks = {loop.create_task(_read(socket)), loop.create_task(self._write(socket, client))}
        ends: set[asyncio.Future[Any]] = {*tasks, client.code}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clients.discard(client)
            self._dropped += client.dropped
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if client.code.done():
            await self._close(socket, client.code.result())

    async def _write(self, socket: WebSocket, client: _Client) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                frame = client.take()
                if frame is None:
                    await client.woken.wait()
                    continue
                try:
                    async with asyncio.timeout(_STALLED):
                        await (socket.send_text(frame) if isinstance(frame, str) else socket.send_bytes(frame))
                except TimeoutError:
                    client.end(TRY_AGAIN_LATER)
                    return
                self.sent += 1

    async def _close(self, socket: WebSocket, code: int) -> None:
        self.slow += code == TRY_AGAIN_LATER
        reason, patience = ("too slow", _FAREWELL) if code == TRY_AGAIN_LATER else ("the bridge stops", 1.0)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(patience):
                await socket.close(code, reason)


async def _read(socket: WebSocket) -> None:
    """Read what a client says, so that its going is seen; it is of no matter."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass


def _image_generated(event: events.JobResult, picture: Mapping[str, Any]) -> str:
    n = picture["n"]
    url = next((output["url"] for output in event.document["outputs"] if output["n"] == n), picture["url"])
    document = {
        "STATUS": _DONE,
        "type": "image_generated",
        "image_filename": picture["filename"],
        "image_url": url,
        "prompt_id": event.job_id,
    }
    return json.dumps(document, ensure_ascii=False)
