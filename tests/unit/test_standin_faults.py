from __future__ import annotations

import asyncio
import json
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.testing import StandIn
from tests.contract.peer import Peer, sampler_graph, save_graph, unused_name

CHECKPOINT = "dreamshaper_8.safetensors"


async def order(peer: Peer, **faults: Any) -> None:
    answer = await peer.http.post("/standin/faults", json=faults)
    assert answer.status_code == 200, answer.text


async def test_dropped_sockets_see_no_close_frame() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        await peer.next()
        await order(peer, drop_sockets=True)
        with pytest.raises(websockets.ConnectionClosedError):
            await peer.next()
        assert peer.socket.close_code == 1006


async def test_silence_keeps_sockets_open_and_says_nothing() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        await peer.next()
        await order(peer, silence=True)
        await peer.submit(save_graph())
        await peer.idle()
        with pytest.raises(TimeoutError):
            await peer.next(within=0.2)
        await order(peer, silence=False)
        await peer.run(save_graph())
        assert standin.stats.submitted == 2


async def test_refused_prompts_and_views() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        await order(peer, refuse=2, view_error=1)
        assert [(await peer.submit(save_graph())).status_code for _ in range(3)] == [500, 500, 200]
        missing = {"filename": "nope.png"}
        assert [(await peer.http.get("/view", params=missing)).status_code for _ in range(2)] == [500, 404]


async def test_a_prompt_that_is_taken_and_answered_wrongly() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        await order(peer, wrong_answer=502)
        assert [(await peer.submit(save_graph())).status_code for _ in range(2)] == [502, 200]
        assert standin.stats.submitted == 2


async def test_refused_connections_come_back_on_the_same_port() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        await peer.next()
        await order(peer, refuse_connections=0.2)
        async with asyncio.timeout(10):
            while True:
                try:
                    async with httpx.AsyncClient() as other:
                        await other.get(standin.url + "/prompt")
                except httpx.TransportError:
                    break
            while True:
                try:
                    async with httpx.AsyncClient() as other:
                        assert (await other.get(standin.url + "/prompt")).status_code == 200
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.02)


async def test_a_hanging_answer_comes_after_the_prompt_was_queued() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        await order(peer, hang=30)
        posting = asyncio.create_task(peer.submit(save_graph(), prompt_id="late"))
        await peer.until("executing", node=None, prompt_id="late")
        assert not posting.done()
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        assert standin.stats.executed == {"late": 1}


async def test_slow_answers() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        await order(peer, slow=0.1)
        began = time.monotonic()
        await peer.http.get("/prompt")
        assert time.monotonic() - began >= 0.1


async def test_a_dead_worker_holds_its_prompt() -> None:
    async with StandIn(step_delay=0.01) as standin, Peer(standin.url) as peer:
        await peer.submit(sampler_graph(CHECKPOINT, steps=1000), prompt_id="held")
        await peer.until("progress")
        await order(peer, kill_worker=True)
        await peer.submit(save_graph(), prompt_id="waiting")
        queue = (await peer.http.get("/queue")).json()
        assert [item[1] for item in queue["queue_running"]] == ["held"]
        assert [item[1] for item in queue["queue_pending"]] == ["waiting"]
        assert standin.stats.executed == {}


async def test_a_lost_prompt_leaves_no_trace_and_the_next_one_runs() -> None:
    async with StandIn(step_delay=0.01) as standin, Peer(standin.url) as peer:
        await peer.submit(sampler_graph(CHECKPOINT, steps=1000), prompt_id="lost")
        await peer.until("progress")
        await order(peer, lose_prompt=True)
        await peer.idle()
        await peer.run(save_graph(), prompt_id="next")
        assert (await peer.http.get("/history/lost")).json() == {}
        ends = ("execution_success", "execution_error", "execution_interrupted")
        assert [event.data["prompt_id"] for event in peer.seen if event.kind in ends] == ["next"]
        assert standin.stats.started == {"lost": 1, "next": 1}
        assert standin.stats.executed == {"next": 1}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        '{"unknown": 1}',
        '{"refuse": "x"}',
        '{"slow": -1}',
        '{"silence": 1}',
        '{"slow": NaN}',
        '{"hang": true}',
    ],
)
async def test_wrong_orders_are_refused(body: str) -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        answer = await peer.http.post("/standin/faults", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]


async def test_death_needs_a_process() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        assert (await peer.http.post("/standin/faults", json={"die": True})).status_code == 409


async def test_stats_count() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        await peer.upload("a.png", b"x")
        prompt_id, _ = await peer.run(save_graph(prefix="sub/picture"))
        stats = (await peer.http.get("/standin/stats")).json()
        assert stats == standin.stats.as_dict()
        assert (stats["uploads"], stats["sockets"], stats["submitted"]) == (1, 1, 1)
        assert stats["pictures"] == {"sub/picture_00001_.png": prompt_id}
        assert stats["executed"] == {prompt_id: 1}


@pytest.mark.parametrize("oom", [False, True])
async def test_a_node_that_fails_on_purpose(oom: bool) -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        fail = {"class_type": "StandInFail", "inputs": {"message": "no luck", "oom": oom}}
        _, events = await peer.run({"1": fail})
        failure = events[-2].data
        assert failure["exception_message"].startswith("no luck\n")
        assert failure["exception_type"] == ("torch.OutOfMemoryError" if oom else "RuntimeError")


async def test_frames_carry_their_time_and_size() -> None:
    async with StandIn() as standin, Peer(standin.url) as peer:
        frames = {"class_type": "StandInFrames", "inputs": {"count": 20, "bytes": 5000, "rate": 0}}
        _, events = await peer.run({"1": frames})
        images = [event.data["image"] for event in events if event.kind == "binary"]
        assert [len(image) for image in images] == [5000] * 20
        times = [struct.unpack(">d", image[-8:])[0] for image in images]
        assert times == sorted(times)
        assert abs(times[0] - time.time()) < 60


@pytest.mark.parametrize("size", [2_000, 20_000, 300_000])
async def test_previews_of_a_wanted_size(size: int) -> None:
    async with StandIn(preview_bytes=size) as standin, Peer(standin.url) as peer:
        _, events = await peer.run(sampler_graph(CHECKPOINT, steps=2))
        assert [len(event.data["image"]) for event in events if event.kind == "binary"] == [size] * 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NODE = st.fixed_dictionaries(
    {},
    optional={
        "class_type": st.sampled_from(["EmptyImage", "SaveImage", "PreviewAny", "KSampler", "LoadImage"]) | JSON,
        "inputs": st.dictionaries(
            st.sampled_from(["images", "image", "source", "width", "height", "batch_size", "color", "filename_prefix"]),
            st.tuples(st.sampled_from(["1", "2", "3"]), st.integers(-1, 3)).map(list) | JSON,
        )
        | JSON,
    },
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.dictionaries(st.sampled_from(["1", "2", "3"]), NODE | JSON, max_size=3) | JSON,
        "client_id": JSON,
        "prompt_id": JSON,
        "number": JSON,
        "front": JSON,
        "extra_data": JSON,
        "partial_execution_targets": JSON,
    },
)


@given(body=BODY | JSON)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_odd_prompts_are_answered(body: Any) -> None:
    async def check() -> None:
        async with StandIn() as standin, httpx.AsyncClient(base_url=standin.url) as http:
            answer = await http.post("/prompt", content=json.dumps(body))
            assert answer.status_code in {200, 400, 500}
            for path in ("/prompt", "/queue", "/history", "/standin/stats"):
                assert (await http.get(path)).status_code == 200

    asyncio.run(check())


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "bridge.testing", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own interpreter and module
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def stop(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    process.stdout.close()
    return process.wait(timeout=20)


def test_a_process_of_its_own_dies_without_a_goodbye(tmp_path: Path) -> None:
    process, port = start("--print-port", "--step-delay", "0", "--data", str(tmp_path))
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/prompt").status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.post(f"http://127.0.0.1:{port}/standin/faults", json={"die": True})
        assert stop(process) == 137
    finally:
        process.kill()


def test_a_process_ends_well_when_asked() -> None:
    process, line = start()
    try:
        url = line.split()[-1]
        assert httpx.get(f"{url}/prompt").status_code == 200
        process.send_signal(signal.SIGINT)
        assert stop(process) == 0
    finally:
        process.kill()


def test_an_unusable_client_id_ends_the_process_as_in_the_real_server() -> None:
    process, line = start("--step-delay", "0")
    try:
        body = {"prompt": save_graph(prefix=unused_name("x")), "client_id": []}
        httpx.post(f"{line.split()[-1]}/prompt", json=body)
        assert stop(process) == 1
    finally:
        process.kill()
