from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest
import websockets

from tests.contract.peer import FLAGS, PATIENCE, Peer, Server, save_graph

ANSWER = {"supports_preview_metadata": True, "max_upload_size": 104857600}


async def _answers(peer: Peer) -> list[Any]:
    """The answers to feature_flags that came before the next status frame, which a short prompt makes."""
    await peer.run(save_graph())
    return [event.data for event in peer.seen if event.kind == "feature_flags"]


async def test_the_first_frame_gives_the_client_id_back(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        first = await peer.next()
        assert first.kind == "status"
        assert first.data["sid"] == peer.client_id
    async with comfyui.peer(client_id="") as peer:
        sid = (await peer.next()).data["sid"]
        assert len(bytes.fromhex(sid)) == 16


@pytest.mark.parametrize("before", [[], ["not JSON"], ["[]"], ["{", "[1]", "17"]])
async def test_feature_flags_count_in_the_first_object(comfyui: Server, before: list[str]) -> None:
    async with comfyui.peer() as peer:
        for frame in before:
            await peer.socket.send(frame)
        await peer.socket.send(FLAGS)
        await peer.socket.send(FLAGS)
        answers = await _answers(peer)
        assert len(answers) == 1
        assert answers[0].items() >= {"supports_preview_metadata": True}.items()
        assert isinstance(answers[0]["max_upload_size"], int)


async def test_feature_flags_after_another_object_are_ignored(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        await peer.socket.send(json.dumps({"type": "other"}))
        await peer.socket.send(FLAGS)
        assert await _answers(peer) == []


async def test_a_large_frame_closes_with_1009(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        await peer.next()
        # The closing may be seen while the frame is still being sent.
        with contextlib.suppress(websockets.ConnectionClosed):
            await peer.socket.send("x" * (4 * 1024 * 1024 + 1))
        async with asyncio.timeout(PATIENCE):
            await peer.socket.wait_closed()
        assert peer.socket.close_code == 1009


async def test_pings_are_answered(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        async with asyncio.timeout(10):
            await (await peer.socket.ping())


async def test_no_compression_unless_asked_for(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        assert peer.socket.response is not None
        assert "Sec-WebSocket-Extensions" not in peer.socket.response.headers


async def test_a_clean_reconnect_is_told_what_runs(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        prompt_id = (await peer.submit(comfyui.slow_graph())).json()["prompt_id"]
        running = await peer.until("executing")
        await peer.socket.close()
        again = comfyui.peer(client_id=peer.client_id)
        async with again:
            assert (await again.next()).data["sid"] == peer.client_id
            reminder = await again.next()
            assert reminder.kind == "executing"
            assert set(reminder.data) == {"node"}
            assert running.data["prompt_id"] == prompt_id
            await again.http.post("/interrupt", json={"prompt_id": prompt_id})
            await again.until("execution_interrupted", prompt_id=prompt_id)
            await again.until("executing", node=None, prompt_id=prompt_id)


async def test_an_overlapping_reconnect_goes_deaf_when_the_first_closes(comfyui: Server) -> None:
    async with comfyui.peer() as old:
        await old.next()
        async with comfyui.peer(client_id=old.client_id) as new:
            await new.next()
            await new.run(save_graph())
            await old.socket.close()
            heard = len(new.seen)
            answer = await new.submit(save_graph())
            await new.idle()
            with pytest.raises(TimeoutError):
                await new.next(within=0.3)
            assert len(new.seen) == heard
            assert (await new.history(answer.json()["prompt_id"]))["status"]["completed"] is True


async def test_a_foreign_origin_is_refused(comfyui: Server) -> None:
    address = httpx.URL(comfyui.url)
    if address.host not in {"127.0.0.1", "localhost", "::1"}:
        return
    foreign = {"Origin": "http://evil.example"}
    async with httpx.AsyncClient(base_url=comfyui.url) as http:
        assert (await http.get("/prompt", headers=foreign)).status_code == 403
        assert (await http.get("/prompt", headers={"Origin": comfyui.url})).status_code == 200
    with pytest.raises(websockets.InvalidStatus) as refusal:
        await websockets.connect(
            comfyui.url.replace("http", "ws", 1) + "/ws", origin=websockets.Origin(foreign["Origin"])
        )
    assert refusal.value.response.status_code == 403
