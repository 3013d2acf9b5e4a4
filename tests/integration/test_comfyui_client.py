"""The client of ComfyUI against the stand-in and against servers that behave oddly."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import ssl
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trustme
from aiohttp import web
from PIL import Image

from bridge import errors
from bridge.comfyui.client import ComfyClient, ConnectionLost, TimeLimits
from bridge.comfyui.shapes import FileRef, HistoryEntry, output_files
from bridge.testing import StandIn
from tests.integration.comfyui_servers import free_port, http_server, some, tcp_server

GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "client"}},
}
Call = Callable[[ComfyClient], Awaitable[Any]]
EVERY_CALL: dict[str, Call] = {
    "submit": lambda c: c.submit(GRAPH, prompt_id="p", client_id="c"),
    "queue": lambda c: c.queue(),
    "delete_pending": lambda c: c.delete_pending("p"),
    "interrupt": lambda c: c.interrupt("p"),
    "history": lambda c: c.history("p"),
    "delete_history": lambda c: c.delete_history("p"),
    "view": lambda c: c.view(FileRef("a.png"), max_bytes=100),
    "upload_image": lambda c: c.upload_image(b"x", "a.png"),
    "upload_mask": lambda c: c.upload_mask(b"x", "a.png", original=FileRef("b.png")),
    "object_info": lambda c: c.object_info(),
    "system_stats": lambda c: c.system_stats(),
    "free": lambda c: c.free(unload_models=True, free_memory=True),
}
ANSWERED_WITH_JSON = set(EVERY_CALL) - {"delete_pending", "interrupt", "delete_history", "view", "free"}


@pytest.fixture
async def comfy() -> AsyncIterator[StandIn]:
    async with StandIn(port=0) as server:
        yield server


@pytest.fixture
async def client(comfy: StandIn) -> AsyncIterator[ComfyClient]:
    async with ComfyClient(comfy.url) as opened:
        yield opened


def png(color: str = "red", mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (8, 8), color).save(out, "PNG")
    return out.getvalue()


async def end_of(client: ComfyClient, prompt_id: str) -> HistoryEntry:
    return await some(lambda: client.history(prompt_id))


async def test_the_life_of_a_prompt(client: ComfyClient) -> None:
    prompt_id = str(uuid.uuid4())
    taken = await client.submit(GRAPH, prompt_id=prompt_id, client_id="me", extra_data={"note": 1, "client_id": [1]})
    assert taken.prompt_id == prompt_id
    assert not taken.node_errors
    entry = await end_of(client, prompt_id)
    assert (entry.status_str, entry.completed, entry.error) == ("success", True, None)
    (file,) = output_files(entry.outputs["2"])
    fetched = await client.view(file, max_bytes=10_000)
    assert fetched.content_type == "image/png"
    assert Image.open(io.BytesIO(fetched.data)).size == (64, 32)
    assert await client.exists(file) is True
    await client.delete_history(prompt_id)
    assert await client.history(prompt_id) is None


async def test_waiting_and_running_prompts_are_told_apart_and_taken_away(comfy: StandIn, client: ComfyClient) -> None:
    comfy.settings.step_delay = 0.05
    slow = sampler_graph()
    await client.submit(slow, prompt_id="first", client_id="me")
    await client.submit(GRAPH, prompt_id="second/a b", client_id="me")
    await client.submit(GRAPH, prompt_id="third", client_id="me")
    queue = await some(client.queue, lambda queue: queue.running)
    assert [item.prompt_id for item in queue.running] == ["first"]
    assert [(item.prompt_id, item.client_id) for item in queue.pending] == [("second/a b", "me"), ("third", "me")]
    await client.delete_pending("third", "unknown")
    assert [item.prompt_id for item in (await client.queue()).pending] == ["second/a b"]
    await client.interrupt("second/a b")
    assert await client.history("first") is None
    await client.interrupt("first")
    assert (await end_of(client, "first")).interrupted
    assert (await end_of(client, "second/a b")).completed


def sampler_graph() -> dict[str, Any]:
    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    sampler = {"steps": 40, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "seed": 1}
    return {
        "3": node("KSampler", **sampler, model=["4", 0], positive=["6", 0], negative=["6", 0], latent_image=["5", 0]),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors"),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text="fox", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="s"),
    }


async def test_what_comfyui_refuses(client: ComfyClient) -> None:
    wrong = {**GRAPH, "1": {"class_type": "EmptyImage", "inputs": {**GRAPH["1"]["inputs"], "width": -5}}}
    with pytest.raises(errors.NodeErrors, match=r"Node 1 \(EmptyImage\): width is -5, its minimum is 1") as caught:
        await client.submit(wrong, prompt_id="p", client_id="c")
    assert caught.value.node == "1"
    with pytest.raises(errors.InvalidGraph, match="NoSuchNode"):
        await client.submit({"7": {"class_type": "NoSuchNode", "inputs": {}}}, prompt_id="p", client_id="c")
    with pytest.raises(errors.InvalidGraph):
        await client.submit({}, prompt_id="p", client_id="c")
    half: dict[str, Any] = {
        **GRAPH,
        "3": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
    }
    half["4"] = {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 1}}
    taken = await client.submit(half, prompt_id="half", client_id="c")
    assert set(taken.node_errors) == {"4"}


async def test_what_would_break_the_server_is_not_sent() -> None:
    sent: list[Any] = []

    async def old_server(request: web.Request) -> web.Response:
        sent.append(await request.json())
        return web.json_response({"prompt_id": "its-own", "number": 3, "node_errors": {}})

    async with http_server(old_server) as port, ComfyClient(f"http://127.0.0.1:{port}") as client:
        graph: dict[str, Any] = {"1": {"class_type": "A"}, "2": {"class_type": "B", "inputs": None}}
        taken = await client.submit(graph, prompt_id="ours", client_id="c", extra_data={"client_id": {}, "k": 1})
        assert taken.prompt_id == "its-own"
        odd_graphs: list[dict[str, Any]] = [
            {"1": []},
            {"1": {"inputs": [1]}},
            {"1": {"inputs": {"x": float("nan")}}},
            {"1": {"inputs": {"x": b""}}},
        ]
        for bad in odd_graphs:
            with pytest.raises(errors.InvalidGraph):
                await client.submit(bad, prompt_id="ours", client_id="c")
    assert sent == [
        {
            "prompt": {"1": {"class_type": "A", "inputs": {}}, "2": {"class_type": "B", "inputs": {}}},
            "prompt_id": "ours",
            "client_id": "c",
            "extra_data": {"k": 1},
        }
    ]
    assert "inputs" not in graph["1"]


async def test_files(client: ComfyClient) -> None:
    first = await client.upload_image(png("red"), "in put#1%ü.png")
    assert first == FileRef("in put#1%ü.png", "", "input")
    assert await client.upload_image(png("red"), "in put#1%ü.png") == first
    second = await client.upload_image(png("blue"), "in put#1%ü.png", subfolder="")
    assert second.filename == "in put#1%ü (1).png"
    assert await client.upload_image(png("green"), "in put#1%ü.png", overwrite=True) == first
    assert (await client.view(first, max_bytes=1000)).data == png("green")
    assert await client.upload_image(b"", 'a/b\\c"\r\nd.png', subfolder="s/t", type="temp") == FileRef(
        "c___d.png", "s/t", "temp"
    )
    assert (await client.view(FileRef("c___d.png", "s/t", "temp"), max_bytes=0)).data == b""
    assert await client.exists(FileRef("nope.png")) is False
    assert await client.exists(FileRef("../x", "", "what")) is False
    for missing in (FileRef("nope.png"), FileRef("../x.png"), FileRef("x.png", "../..")):
        with pytest.raises(errors.FileMissing):
            await client.view(missing, max_bytes=10)
    with pytest.raises(errors.TooLarge):
        await client.view(first, max_bytes=10)
    with pytest.raises(errors.BadValue):
        await client.upload_image(b"x", "a.png", subfolder="../x")
    with pytest.raises(errors.FileMissing):
        await client.view(FileRef("\ud800"), max_bytes=10)
    with pytest.raises(errors.BadValue):
        await client.upload_image(b"x", "a.png", subfolder="\ud800")


async def test_an_upload_above_the_servers_limit() -> None:
    async with StandIn(port=0, max_upload_size=1000) as comfy, ComfyClient(comfy.url) as client:
        for size in (2_000, 20_000_000):
            with pytest.raises(errors.TooLarge, match=r"big\.png is larger"):
                await client.upload_image(bytes(size), "big.png")


async def test_masks(client: ComfyClient) -> None:
    original = await client.upload_image(png("red"), "photo.png")
    masked = await client.upload_mask(png("#00000080", "RGBA"), "mask.png", original=original)
    image = Image.open(io.BytesIO((await client.view(masked, max_bytes=1000)).data))
    assert image.getpixel((0, 0)) == (255, 0, 0, 128)
    with pytest.raises(errors.FileMissing, match=r"nope\.png"):
        await client.upload_mask(png(), "mask.png", original=FileRef("nope.png", "", "input"))


async def test_what_the_server_tells_of_itself(comfy: StandIn, client: ComfyClient) -> None:
    assert "comfyui_version" in (await client.system_stats())["system"]
    assert "KSampler" in await client.object_info()
    await client.free(unload_models=True, free_memory=True)
    assert comfy.stats.freed == 1


async def test_many_calls_at_once(client: ComfyClient) -> None:
    answers = await asyncio.gather(*(client.queue() for _ in range(200)))
    assert len(answers) == 200


async def test_a_prefix_and_a_password() -> None:
    seen: list[tuple[str, str | None]] = []

    async def proxy(request: web.Request) -> web.Response:
        seen.append((request.raw_path, request.headers.get("Authorization")))
        return web.json_response({"queue_running": [], "queue_pending": []})

    async with http_server(proxy) as port:
        url = f"http://me%40home:p%3Aw@127.0.0.1:{port}/comfy/one/"
        async with ComfyClient(url) as client:
            await client.queue()
            assert await client.history("a/b") is None
            assert client.url == f"http://127.0.0.1:{port}/comfy/one"
    token = "Basic " + base64.b64encode(b"me@home:p:w").decode()
    assert seen == [("/comfy/one/queue", token), ("/comfy/one/history/a%2Fb", token)]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8188", "ftp://host", "http://", "http://host:99999", "http://h/?a=b"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(errors.SettingsError, match=r"http://127\.0\.0\.1:8188"):
        ComfyClient(url)


@pytest.mark.parametrize("name", EVERY_CALL)
async def test_a_server_that_is_not_there(name: str) -> None:
    port = await free_port()
    async with ComfyClient(f"http://me:secret@127.0.0.1:{port}") as client:
        with pytest.raises(errors.BackendOffline, match=f"127.0.0.1:{port} cannot be reached") as caught:
            await EVERY_CALL[name](client)
    assert not isinstance(caught.value, ConnectionLost)
    assert "secret" not in str(caught.value)


async def test_a_name_that_is_unknown() -> None:
    async with ComfyClient("http://no-such-host.invalid") as client:
        with pytest.raises(errors.BackendOffline, match="name is unknown"):
            await client.queue()


@pytest.mark.parametrize("name", EVERY_CALL)
async def test_a_server_that_does_not_answer(name: str) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    limits = TimeLimits(read=0.1)
    async with tcp_server(hang) as port, ComfyClient(f"http://me:secret@127.0.0.1:{port}", limits=limits) as client:
        with pytest.raises(errors.TimedOut, match=f"127.0.0.1:{port} did not answer") as caught:
            await EVERY_CALL[name](client)
    assert "secret" not in str(caught.value)


async def test_a_server_that_answers_drop_by_drop_or_takes_no_bytes() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
        await asyncio.Event().wait()

    for server, call in ((drip, EVERY_CALL["queue"]), (deaf, lambda c: c.upload_image(bytes(50_000_000), "a.png"))):
        limits = TimeLimits(total=0.3)
        async with tcp_server(server) as port, ComfyClient(f"http://127.0.0.1:{port}", limits=limits) as client:
            with pytest.raises(errors.TimedOut):
                await call(client)


@pytest.mark.parametrize("name", EVERY_CALL)
async def test_a_connection_that_breaks_is_tried_again_only_where_that_is_harmless(name: str) -> None:
    tries = 0

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        await reader.readuntil(b"\r\n\r\n")
        tries += 1

    async with tcp_server(drop) as port, ComfyClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ConnectionLost, match="broke"):
            await EVERY_CALL[name](client)
    # aiohttp itself sends idempotent requests a second time.
    assert tries == 1 if name in ("submit", "upload_image") else 3 <= tries <= 6


async def test_a_connection_that_breaks_once_is_not_noticed() -> None:
    tries = 0

    async def flaky(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        if tries == 1:
            response = web.StreamResponse(headers={"Content-Length": "100"})
            await response.prepare(request)
            await response.write(b"part")
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(body=b"whole")

    async with http_server(flaky) as port, ComfyClient(f"http://127.0.0.1:{port}") as client:
        assert (await client.view(FileRef("a"), max_bytes=1000)).data == b"whole"
    assert tries == 2


@pytest.mark.parametrize("body", ["<html>", "", "3", '"x"', "null", '{"detail": "x"}', "[{}]", "[" * 50_000])
@pytest.mark.parametrize("name", sorted(ANSWERED_WITH_JSON))
async def test_a_server_that_is_no_comfyui(name: str, body: str) -> None:
    fitting = {
        "object_info": "{",
        "history": "{",
    }
    if body.startswith(fitting.get(name, "no")):
        return

    async def other(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="text/html")

    async with http_server(other) as port, ComfyClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(errors.BackendOffline, match="does not look like ComfyUI"):
            await EVERY_CALL[name](client)


@pytest.mark.parametrize("name", EVERY_CALL)
@pytest.mark.parametrize("status", [301, 401, 405, 418, 502, 503])
async def test_statuses_that_comfyui_does_not_answer_with(name: str, status: int) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "http://elsewhere.example/"})

    async with http_server(refuse) as port, ComfyClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(errors.BackendOffline, match=str(status)) as caught:
            await EVERY_CALL[name](client)
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert await client.exists(FileRef("a.png")) is None


async def test_a_server_that_does_not_speak_http() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n" * 3)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")

    async with tcp_server(other) as port, ComfyClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(errors.BackendOffline):
            await client.queue()


async def test_a_file_without_end_is_left_as_soon_as_it_is_too_large() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1_000_000))
            sent += 1

    async with http_server(endless) as port, ComfyClient(f"http://127.0.0.1:{port}") as client:
        tracemalloc.start()
        try:
            with pytest.raises(errors.TooLarge, match="5000000"):
                await client.view(FileRef("movie.mp4"), max_bytes=5_000_000)
            assert tracemalloc.get_traced_memory()[1] < 30_000_000
        finally:
            tracemalloc.stop()
    assert sent < 60


async def test_a_certificate_that_nobody_trusts() -> None:
    async def ok(request: web.Request) -> web.Response:
        return web.json_response({})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with http_server(ok, tls=context) as port, ComfyClient(f"https://127.0.0.1:{port}") as client:
        with pytest.raises(errors.BackendOffline, match="TLS fails"):
            await client.queue()


async def test_a_certificate_that_the_system_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ok(request: web.Request) -> web.Response:
        return web.json_response({"queue_running": [], "queue_pending": []})

    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with authority.cert_pem.tempfile() as path:
        monkeypatch.setenv("SSL_CERT_FILE", path)
        async with http_server(ok, tls=context) as port, ComfyClient(f"https://127.0.0.1:{port}") as client:
            assert not (await client.queue()).running


async def test_a_proxy_of_the_environment_is_not_asked_about_near_servers(
    comfy: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{await free_port()}")
    async with ComfyClient(comfy.url) as client:
        await client.queue()


async def test_a_cancelled_call_leaves_the_client_usable() -> None:
    waiting = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        if request.path == "/queue":
            waiting.set()
            await asyncio.Event().wait()
        return web.json_response({})

    async with http_server(slow) as port, ComfyClient(f"http://127.0.0.1:{port}") as client:
        task = asyncio.create_task(client.queue())
        await asyncio.wait_for(waiting.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.object_info() == {}


async def test_an_unopened_client() -> None:
    client = ComfyClient("http://127.0.0.1:1")
    with pytest.raises(errors.Internal):
        await client.queue()


def test_the_errors_have_codes_of_the_wire() -> None:
    assert ConnectionLost("x").to_json()["code"] == "backend_offline"
    json.dumps(errors.TimedOut("x").to_json())
