"""The websocket of ComfyUI against the stand-in and against servers that behave oddly."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import logging
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from bridge.comfyui.client import ComfyClient
from bridge.comfyui.protocol import (
    Executing,
    ExecutionStart,
    ExecutionSuccess,
    FeatureFlags,
    Malformed,
    Message,
    PreviewImage,
    Progress,
    Status,
)
from bridge.comfyui.socket import ComfySocket, growing_pauses, is_retryable
from bridge.testing import StandIn
from tests.integration.comfyui_servers import free_port, http_server, tcp_server, until
from tests.integration.test_comfyui_client import GRAPH, sampler_graph


class Listener:
    """A running `ComfySocket` and all that it has said."""

    def __init__(self, url: str, **options: Any) -> None:
        self.messages: list[Message] = []
        self.told: list[str] = []
        options.setdefault("pauses", lambda: itertools.repeat(0.01))
        self.socket = ComfySocket(
            url,
            on_message=self.messages.append,
            on_connected=lambda: self.told.append("connected"),
            on_disconnected=self.told.append,
            **options,
        )

    def of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]


@contextlib.asynccontextmanager
async def listening(url: str, **options: Any) -> AsyncIterator[Listener]:
    listener = Listener(url, **options)
    task = asyncio.create_task(listener.socket.run())
    try:
        yield listener
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)


@pytest.fixture
async def comfy() -> AsyncIterator[StandIn]:
    async with StandIn(port=0) as server:
        yield server


async def test_a_prompt_from_start_to_end(comfy: StandIn) -> None:
    async with ComfyClient(comfy.url) as client, listening(comfy.url) as listener:
        assert not listener.socket.connected
        await until(lambda: listener.socket.connected)
        await until(lambda: listener.of(FeatureFlags))
        before = asyncio.get_running_loop().time()
        await client.submit(sampler_graph(), prompt_id="p", client_id=listener.socket.client_id)
        await until(lambda: [m for m in listener.of(Executing) if m.node is None])
    assert listener.told == ["connected", "the bridge closed it"]
    assert isinstance(listener.messages[0], Status)
    assert listener.messages[0].sid == listener.socket.client_id
    assert listener.of(FeatureFlags)[0].data
    assert [m.prompt_id for m in listener.of(ExecutionStart)] == ["p"]
    assert [m.value for m in listener.of(Progress) if m.node == "3"] == list(range(1, 41))
    previews = listener.of(PreviewImage)
    assert {(m.prompt_id, m.node, m.content_type) for m in previews} == {("p", "3", "image/jpeg")}
    assert listener.socket.last_frame >= before
    kinds = [type(m) for m in listener.messages]
    assert kinds.index(ExecutionStart) < kinds.index(PreviewImage) < kinds.index(ExecutionSuccess)


async def test_previews_may_be_dropped_unread(comfy: StandIn) -> None:
    async with ComfyClient(comfy.url) as client, listening(comfy.url, previews=False) as listener:
        await until(lambda: listener.socket.connected)
        await client.submit(sampler_graph(), prompt_id="p", client_id=listener.socket.client_id)
        await until(lambda: listener.of(ExecutionSuccess))
    assert listener.of(Progress)
    assert not listener.of(PreviewImage)


async def test_a_lost_connection_comes_back_under_the_same_id_and_goes_on(comfy: StandIn) -> None:
    comfy.settings.step_delay = 0.02
    async with ComfyClient(comfy.url) as client, listening(comfy.url) as listener:
        await until(lambda: listener.socket.connected)
        client_id = listener.socket.client_id
        await client.submit(sampler_graph(), prompt_id="p", client_id=client_id)
        await until(lambda: len(listener.of(Progress)) > 3)
        comfy.sockets.drop_all()
        await until(lambda: len(listener.told) == 3)
        assert listener.socket.client_id == client_id
        resumed = listener.messages.index(listener.of(Status)[-1])
        await until(lambda: listener.of(ExecutionSuccess))
    assert listener.told == ["connected", "the connection broke", "connected", "the bridge closed it"]
    assert any(isinstance(m, PreviewImage) and m.node == "3" for m in listener.messages[resumed:])


async def test_a_renewed_connection_keeps_its_id_when_the_server_confirms_the_close(comfy: StandIn) -> None:
    async with ComfyClient(comfy.url) as client, listening(comfy.url) as listener:
        await until(lambda: listener.socket.connected)
        old = listener.socket.client_id
        listener.socket.renew()
        listener.socket.renew()
        await until(lambda: not listener.socket.connected)
        await until(lambda: listener.socket.connected)
        await until(lambda: comfy.stats.sockets == 1)
        assert listener.socket.client_id == old
        await client.submit(GRAPH, prompt_id="p", client_id=old)
        await until(lambda: listener.of(ExecutionSuccess))
    assert [told for told in listener.told if told == "connected"] == ["connected"] * 2


async def test_a_renewed_connection_has_a_fresh_id_when_the_server_does_not_confirm() -> None:
    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws)
        await ws.receive()
        if number == 1:
            await asyncio.sleep(3600)  # reads no more: the close is never answered
        await server.read(ws)

    server = OddServer(behave)
    async with http_server(server.handle) as port, listening(f"http://127.0.0.1:{port}") as listener:
        await until(lambda: listener.socket.connected)
        listener.socket.renew()
        await until(lambda: len(server.ids) == 2 and listener.socket.connected)
    assert len(set(server.ids)) == 2


async def test_a_server_that_comes_later_and_goes_and_comes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bridge.comfyui.socket")
    port = await free_port()
    asked = itertools.count()

    def pauses() -> Iterator[float]:
        while True:
            next(asked)
            yield 0.01

    async with listening(f"http://u:secret@127.0.0.1:{port}", pauses=pauses) as listener:
        for _ in range(2):
            waited = next(asked)
            await until(lambda waited=waited: next(asked) > waited + 20)  # type: ignore[misc]  # bound early on purpose
            assert not listener.socket.connected
            async with StandIn(port=port):
                await until(lambda: listener.socket.connected)
            await until(lambda: not listener.socket.connected)
    levels = [
        (r.levelname, r.getMessage().split(": ", 1)[-1]) for r in caplog.records if r.name == "bridge.comfyui.socket"
    ]
    assert [level for level, _ in levels] == ["WARNING", "INFO", "WARNING", "INFO", "WARNING"][: len(levels)]
    assert levels[0][1] == "Connection refused; it is tried again"
    assert "secret" not in caplog.text
    assert listener.told[:4] == ["connected", "the connection broke", "connected", "the connection broke"]


class OddServer:
    """A websocket server that notes what comes, and lets a test say what each connection does."""

    def __init__(self, behave: Callable[[OddServer, web.WebSocketResponse, int], Any]) -> None:
        self.behave = behave
        self.headers: list[dict[str, str]] = []
        self.ids: list[str] = []
        self.paths: list[str] = []
        self.first_frames: list[Any] = []
        self.open = 0
        self.most_open = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        self.headers.append({key.lower(): value for key, value in request.headers.items()})
        self.paths.append(request.path)
        self.ids.append(request.query["clientId"])
        number = len(self.ids)
        await ws.prepare(request)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self.behave(self, ws, number)
        finally:
            self.open -= 1
        return ws

    async def greet(self, ws: web.WebSocketResponse, sid: str | None = None) -> None:
        data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": sid or self.ids[-1]}
        await ws.send_json({"type": "status", "data": data})

    async def read(self, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                self.first_frames.append(json.loads(message.data))


async def test_what_is_sent() -> None:
    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws)
        await server.read(ws)

    server = OddServer(behave)
    async with http_server(server.handle) as port, listening(f"http://me:p%20w@127.0.0.1:{port}/comfy/") as listener:
        await until(lambda: listener.socket.connected and server.first_frames)
        listener.socket.renew()
        await until(lambda: listener.socket.connected and len(server.first_frames) == 2)
    assert server.first_frames == [{"type": "feature_flags", "data": {"supports_preview_metadata": True}}] * 2
    assert server.paths == ["/comfy/ws"] * 2
    for headers in server.headers:
        assert "origin" not in headers
        assert "sec-websocket-extensions" not in headers
        assert headers["authorization"] == "Basic " + base64.b64encode(b"me:p w").decode()


async def test_connections_never_overlap_and_keep_their_id_when_the_server_closes() -> None:
    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws)
        await ws.receive()
        if number < 6:
            if number % 2:
                await ws.close(code=1001, message=b"going away")
            await asyncio.sleep(0.05)  # a slow end: the next must wait for it
            return
        await server.read(ws)

    server = OddServer(behave)
    async with http_server(server.handle) as port, listening(f"http://127.0.0.1:{port}") as listener:
        await until(lambda: len(server.ids) == 6 and listener.socket.connected)
    assert server.most_open == 1
    assert len(set(server.ids)) == 1
    assert listener.told.count("connected") == 6
    assert "the server closed the connection (1001 (going away) going away)" in listener.told
    assert all((said == "connected") == (n % 2 == 0) for n, said in enumerate(listener.told))


async def test_a_server_that_greets_nobody_is_left_under_a_fresh_id() -> None:
    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        if number > 2:
            await server.greet(ws)
        await server.read(ws)

    server = OddServer(behave)
    async with http_server(server.handle) as port, listening(f"http://127.0.0.1:{port}", open_timeout=0.2) as listener:
        await until(lambda: listener.socket.connected)
        await asyncio.sleep(0.3)  # longer than the limit, which must not hold any more
        assert listener.socket.connected
    assert len(server.ids) == len(set(server.ids)) == 3
    assert listener.told[0] == "connected"


async def test_a_server_that_accepts_and_says_nothing() -> None:
    attempts: list[bytes] = []

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()

    async with tcp_server(mute) as port, listening(f"http://127.0.0.1:{port}", open_timeout=0.1):
        await until(lambda: len(attempts) == 3)
    ids = re.findall(rb"clientId=(\w+)", b"".join(attempts))
    assert len(set(ids)) == 3


async def test_a_half_open_connection_is_left_under_a_fresh_id() -> None:
    ids: list[bytes] = []

    async def frozen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"clientId=(\w+)", request)
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", request)
        assert found
        assert key
        ids.append(found[1])
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        data = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": found[1].decode()}
        frame = json.dumps({"type": "status", "data": data}).encode()
        writer.write(bytes([0x81, len(frame)]) + frame)
        await asyncio.Event().wait()

    limits = {"ping_interval": 0.05, "ping_timeout": 0.1}
    async with tcp_server(frozen) as port, listening(f"http://127.0.0.1:{port}", **limits) as listener:
        await until(lambda: listener.told.count("connected") == 2)
    assert len(ids) == len(set(ids)) >= 2
    assert "keepalive ping timeout" in listener.told[1]


async def test_an_http_answer_is_told_once_for_each_status(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bridge.comfyui.socket")
    asked = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked <= 6:
            return web.Response(status=403 if asked <= 3 else 404)
        return await server.handle(request)

    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws)
        await server.read(ws)

    server = OddServer(behave)
    async with http_server(handle) as port, listening(f"http://127.0.0.1:{port}") as listener:
        await until(lambda: listener.socket.connected)
    told = [record.getMessage() for record in caplog.records if record.name == "bridge.comfyui.socket"]
    assert len(told) == 3
    assert "HTTP 403" in told[0]
    assert "HTTP 404" in told[1]
    assert "is connected" in told[2]


async def test_frames_that_are_none_change_nothing() -> None:
    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws)
        for text in ("", "no json", "[]", '{"type": 3}', '{"type": "executing", "data": {"node": []}}'):
            await ws.send_str(text)
        for frame in (b"", b"\0\0\0\x09\0\0\0\0", b"\0\0\0\4\xff\xff\xff\xff"):
            await ws.send_bytes(frame)
        await ws.send_json({"type": "execution_start", "data": {"prompt_id": "p"}})
        await server.read(ws)

    server = OddServer(behave)
    async with http_server(server.handle) as port, listening(f"http://127.0.0.1:{port}") as listener:
        await until(lambda: listener.of(ExecutionStart))
    assert len(listener.of(Malformed)) == 7
    assert len(server.ids) == 1


async def test_text_that_is_no_utf8_costs_the_connection_only() -> None:
    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws)
        if number == 1:
            await ws.send_frame(b"\xff\xfe", WSMsgType.TEXT)
        await server.read(ws)

    server = OddServer(behave)
    async with http_server(server.handle) as port, listening(f"http://127.0.0.1:{port}") as listener:
        await until(lambda: listener.told.count("connected") == 2)
    assert server.most_open == 1


async def test_a_frame_of_many_megabytes_comes_through() -> None:
    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws)
        await ws.send_bytes(b"\0\0\0\1\0\0\0\2" + bytes(30_000_000))
        await server.read(ws)

    server = OddServer(behave)
    async with http_server(server.handle) as port, listening(f"http://127.0.0.1:{port}") as listener:
        await until(lambda: listener.of(PreviewImage))
    assert len(listener.of(PreviewImage)[0].image) == 30_000_000


async def test_a_server_that_names_us_itself() -> None:
    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws, "its-own-name")
        await server.read(ws)

    server = OddServer(behave)
    async with http_server(server.handle) as port, listening(f"http://127.0.0.1:{port}") as listener:
        await until(lambda: listener.socket.connected)
        assert listener.socket.client_id == "its-own-name"


async def test_an_exception_in_a_callback_changes_nothing(comfy: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Message] = []

    def on_message(message: Message) -> None:
        seen.append(message)
        raise RuntimeError("a defect of somebody else")

    def on_connected() -> None:
        raise KeyError("another one")

    socket = ComfySocket(
        comfy.url, on_message=on_message, on_connected=on_connected, on_disconnected=lambda _reason: None
    )
    task = asyncio.create_task(socket.run())
    async with ComfyClient(comfy.url) as client:
        await until(lambda: socket.connected)
        await client.submit(GRAPH, prompt_id=str(uuid.uuid4()), client_id=socket.client_id)
        await until(lambda: any(isinstance(message, ExecutionSuccess) for message in seen))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 2
    assert all(record.exc_info for record in errors)


async def test_pauses_grow_until_a_connection_has_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.comfyui.socket._LIVED", 0.2)
    taken: list[float] = []

    def pauses() -> Iterator[float]:
        for pause in itertools.count(1):
            taken.append(pause)
            yield 0.001

    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws)
        await asyncio.sleep(0.3 if number == 4 else 0)

    server = OddServer(behave)
    async with http_server(server.handle) as port, listening(f"http://127.0.0.1:{port}", pauses=pauses):
        await until(lambda: len(taken) >= 6)
    assert taken[:6] == [1, 2, 3, 1, 2, 3]


async def test_the_end_is_quick_even_if_the_server_does_not_answer() -> None:
    async def behave(server: OddServer, ws: web.WebSocketResponse, number: int) -> None:
        await server.greet(ws)
        await asyncio.Event().wait()

    server = OddServer(behave)
    async with http_server(server.handle) as port:
        started = asyncio.get_running_loop().time()
        async with listening(f"http://127.0.0.1:{port}") as listener:
            await until(lambda: listener.socket.connected)
        assert asyncio.get_running_loop().time() - started < 3
    assert listener.told == ["connected", "the bridge closed it"]


def test_growing_pauses() -> None:
    pauses = list(itertools.islice(growing_pauses(), 200))
    assert 0.07 <= pauses[0] <= 0.1
    assert max(pauses) <= 5
    assert min(pauses[10:]) >= 3
    assert len(set(pauses[10:])) > 50


def test_a_defect_of_ours_is_not_tried_again() -> None:
    assert is_retryable(ConnectionRefusedError())
    assert is_retryable(TimeoutError())
    assert not is_retryable(TypeError())
