"""The relay: every frame verbatim to any number of clients, filters, forms, slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.bridge_process import tap
from tests.support.graphs import node, txt2img
from tests.support.http_house import HttpHouse, http_house


@contextlib.asynccontextmanager
async def listening(here: HttpHouse, path: str = "", *, port: int | None = None) -> AsyncIterator[ClientConnection]:
    url = f"ws://127.0.0.1:{port or here.relay}{path}"
    async with connect(url, compression=None, max_size=None, max_queue=None) as client:
        yield client


async def frames(client: ClientConnection, last: str = "image_generated") -> list[str | bytes]:
    """What comes, up to a frame of a type."""
    found: list[str | bytes] = []
    async with asyncio.timeout(20):
        async for frame in client:
            found.append(frame)
            if isinstance(frame, str) and json.loads(frame)["type"] == last:
                break
    return found


async def test_every_frame_comes_verbatim_and_in_order_to_all(tmp_path: Path) -> None:
    async with http_house(tmp_path, step_delay=0.01) as here:
        sent = tap(here.comfy)
        async with listening(here) as first, listening(here, "/ws", port=here.port) as second:
            job = await here.run("fox", wait=20)
            got = await frames(first)
            other = await frames(second)
        assert got == other
        texts = [frame for frame in got if isinstance(frame, str)]
        assert [frame for frame in texts if json.loads(frame)["type"] != "image_generated"] == sent[-len(texts) + 1 :]
        kinds = [json.loads(frame)["type"] for frame in texts]
        assert kinds.index("execution_start") < kinds.index("executing") < kinds.index("execution_success")
        images = [frame for frame in got if isinstance(frame, bytes)]
        assert images
        assert all(frame[:10] == b"\x00\x00\x00\x01\x00\x00\x00\x01\xff\xd8" for frame in images)
        done = json.loads(texts[-1])
        output = job["outputs"][0]
        assert done == {
            "STATUS": "Workflow completed successfully",
            "type": "image_generated",
            "image_filename": output["filename"],
            "image_url": output["url"],
            "prompt_id": job["id"],
        }


async def test_a_client_narrows_what_it_gets(tmp_path: Path) -> None:
    async with http_house(tmp_path, step_delay=0.01) as here:
        async with listening(here, "?types=executed,image_generated") as client:
            await here.run("fox", wait=20)
            got = await frames(client)
            assert {json.loads(frame)["type"] for frame in got} == {"executed", "image_generated"}
        job = (await here.http.post("/api/jobs", json={"prompt": txt2img(steps=40)})).json()
        async with listening(here, f"?prompt_id={job['id']}") as client:
            await here.run("plain")
            got = await frames(client)
            texts = [json.loads(frame) for frame in got if isinstance(frame, str)]
            assert {one.get("prompt_id") or one["data"].get("prompt_id") for one in texts} == {job["id"]}


async def test_previews_with_metadata_are_verbatim(tmp_path: Path) -> None:
    async with http_house(tmp_path, step_delay=0.01) as here, listening(here, "?previews=metadata") as client:
        job = await here.run("fox", wait=20)
        images = [frame for frame in await frames(client) if isinstance(frame, bytes)]
        assert images
        for frame in images:
            assert frame[:4] == b"\x00\x00\x00\x04"
            size = int.from_bytes(frame[4:8], "big")
            assert json.loads(frame[8 : 8 + size])["prompt_id"] == job["id"]


async def test_previews_of_a_chain_come_once_as_those_of_its_step(tmp_path: Path) -> None:
    async with http_house(tmp_path, step_delay=0.01) as here, listening(here, "?previews=metadata") as client:
        chain = (await here.http.post("/api/jobs", json={"steps": [{"workflow": "fox"}]})).json()
        images = [frame for frame in await frames(client) if isinstance(frame, bytes)]
        part = (await here.becomes(chain["id"], "completed"))["parts"][0]["job_id"]
        assert images
        for frame in images:
            assert json.loads(frame[8 : 8 + int.from_bytes(frame[4:8], "big")])["prompt_id"] == part


async def test_msgpack(tmp_path: Path) -> None:
    async with http_house(tmp_path, step_delay=0.01) as here, listening(here, "?format=msgpack") as client:
        job = await here.run("fox", wait=20)
        got: list[dict[str, Any]] = []
        async with asyncio.timeout(20):
            async for frame in client:
                assert isinstance(frame, bytes)
                got.append(msgpack.unpackb(frame))
                if got[-1]["type"] == "image_generated":
                    break
        preview = next(one["data"] for one in got if one["type"] == "preview")
        assert (preview["prompt_id"], preview["image"][:2]) == (job["id"], b"\xff\xd8")
        assert any(one["type"] == "executing" and one["data"]["prompt_id"] == job["id"] for one in got)


async def test_wishes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async with http_house(tmp_path) as here:
        for query in ("?format=xml", "?previews=none"):
            async with listening(here, query) as client:
                with pytest.raises(ConnectionClosed):
                    await client.recv()
                assert client.close_code == 1008
        for address in (f"http://127.0.0.1:{here.relay}/", f"{here.url}/ws"):
            answer = await here.http.get(address)
            assert (answer.status_code, answer.json()["code"]) == (426, "unknown_command")


async def test_what_a_client_says_is_of_no_matter(tmp_path: Path) -> None:
    async with http_house(tmp_path) as here, listening(here) as client:
        for word in ("hello", b"\x00\x01", json.dumps({"type": "feature_flags"})):
            await client.send(word)
        await here.run("plain", wait=20)
        assert await frames(client)


async def test_a_client_that_does_not_read_loses_previews_and_then_its_place_and_slows_nobody(tmp_path: Path) -> None:
    async with http_house(tmp_path) as here:
        slow = socket.create_connection(("127.0.0.1", here.relay))
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        slow.sendall(
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        async with listening(here) as quick:
            graph = {
                "1": node("StandInFrames", count=6000, bytes=20_000, rate=0.0, progress=True),
                "2": node("EmptyImage", width=16, height=16, batch_size=1, color=1),
                "3": node("SaveImage", filename_prefix="last", images=["2", 0]),
            }
            reading = asyncio.create_task(_ended(quick))
            job = (await here.http.post("/api/jobs", json={"prompt": graph})).json()
            for _ in range(2_000):
                if await counted(here, "comfy_bridge_relay_slow_clients_total") == 1:
                    break
                await asyncio.sleep(0.02)
            read = await asyncio.to_thread(_rest, slow)
            texts, images = await reading
            assert (await here.job(job["id"]))["status"] == "completed"
        assert texts >= 6000
        assert images > 100
        assert await counted(here, 'comfy_bridge_frames_dropped_total{face="relay"}') > 100
        assert await counted(here, "comfy_bridge_relay_slow_clients_total") == 1
        assert (1013).to_bytes(2, "big") + b"too slow" in read


async def counted(here: HttpHouse, name: str) -> float:
    lines = (await here.http.get("/metrics")).text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def _rest(slow: socket.socket) -> bytes:
    """The last bytes that come before the end."""
    read = b""
    with slow, contextlib.suppress(OSError):
        slow.settimeout(15)
        while chunk := slow.recv(1_000_000):
            read = (read + chunk)[-200:]
    return read


async def _ended(client: ClientConnection) -> tuple[int, int]:
    texts = images = 0
    async with asyncio.timeout(60):
        async for frame in client:
            if isinstance(frame, bytes):
                images += 1
                continue
            texts += 1
            if json.loads(frame)["type"] == "image_generated":
                break
    return texts, images


async def test_a_page_of_another_site_is_not_let_in(tmp_path: Path) -> None:
    async with http_house(tmp_path, http={"cors": ["https://allowed.example"]}) as here:
        for port in (here.relay, here.port):
            url = f"ws://127.0.0.1:{port}/ws"
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, origin="https://evil.example")  # type: ignore[arg-type]
            assert refused.value.response.status_code == 403
            for origin in ("https://allowed.example", "http://localhost:1880", "http://127.0.0.1:8080"):
                async with connect(url, origin=origin):  # type: ignore[arg-type]
                    pass


async def test_a_token_is_asked_here_too(tmp_path: Path) -> None:
    async with http_house(tmp_path, headers={"Authorization": "Bearer s3cret"}, http={"token": "s3cret"}) as here:
        for port in (here.relay, here.port):
            url = f"ws://127.0.0.1:{port}/ws"
            for query in ("", "?token=wrong"):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(url + query)
                assert refused.value.response.status_code == 401
            async with connect(f"{url}?token=s3cret"):
                pass
            async with connect(url, additional_headers={"Authorization": "Bearer s3cret"}):
                pass
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{here.relay}/")).status_code == 401
