from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.contract.peer import Peer, Server, save_graph, unused_name


@asynccontextmanager
async def _busy(comfyui: Server) -> AsyncIterator[tuple[Peer, str]]:
    """A client whose slow prompt runs; it is interrupted at the end."""
    async with comfyui.peer() as peer:
        await peer.http.post("/queue", json={"clear": True})
        await peer.idle()
        prompt_id = (await peer.submit(comfyui.slow_graph())).json()["prompt_id"]
        await peer.until("execution_start", prompt_id=prompt_id)
        try:
            yield peer, prompt_id
        finally:
            await peer.http.post("/queue", json={"clear": True})
            await peer.http.post("/interrupt", json={"prompt_id": prompt_id})
            await peer.idle()


async def _pending(peer: Peer) -> list[str]:
    queue = (await peer.http.get("/queue")).json()
    return [item[1] for item in sorted(queue["queue_pending"], key=lambda item: (item[0], item[1]))]


async def test_the_queue_shows_what_runs_and_what_waits(comfyui: Server) -> None:
    async with _busy(comfyui) as (peer, running):
        graph = save_graph()
        waiting = (await peer.submit(graph)).json()["prompt_id"]
        queue = (await peer.http.get("/queue")).json()
        assert set(queue) == {"queue_running", "queue_pending"}
        assert [item[1] for item in queue["queue_running"]] == [running]
        (item,) = queue["queue_pending"]
        assert item[1:] == [waiting, graph, {"client_id": peer.client_id}, ["2"]]
        assert (await peer.http.get("/prompt")).json() == {"exec_info": {"queue_remaining": 2}}
        assert (await peer.http.get(f"/history/{waiting}")).json() == {}
        assert (await peer.http.get(f"/history/{running}")).json() == {}


async def test_prompts_run_by_number_then_id(comfyui: Server) -> None:
    async with _busy(comfyui) as (peer, _):
        own = [f"{letter}-{uuid.uuid4()}" for letter in "abcdef"]
        plan: list[dict[str, Any]] = [
            {},
            {"number": 1e9},
            {"number": 1e9},
            {"front": True},
            {"number": -1e9},
            {"number": "2e9"},
        ]
        for prompt_id, fields in zip(own, plan, strict=True):
            answer = await peer.submit(save_graph(), prompt_id=prompt_id, **fields)
            assert answer.json()["prompt_id"] == prompt_id
            if "number" in fields:
                assert answer.json()["number"] == float(fields["number"])
        assert await _pending(peer) == [own[index] for index in (4, 3, 0, 1, 2, 5)]


async def test_a_deleted_prompt_leaves_nothing_but_a_status(comfyui: Server) -> None:
    async with _busy(comfyui) as (peer, running), comfyui.peer() as watcher:
        first = (await peer.submit(save_graph())).json()["prompt_id"]
        second = (await peer.submit(save_graph())).json()["prompt_id"]
        await watcher.until("status", status={"exec_info": {"queue_remaining": 3}})
        for victim in (first, "unknown", running):
            answer = await peer.http.post("/queue", json={"delete": [victim]})
            assert (answer.status_code, answer.content) == (200, b"")
        assert await _pending(peer) == [second]
        await watcher.until("status", status={"exec_info": {"queue_remaining": 2}})
        await peer.http.post("/queue", json={"delete": [second]})
        # The last pending one makes two frames.
        await watcher.until("status", status={"exec_info": {"queue_remaining": 1}})
        await watcher.until("status", status={"exec_info": {"queue_remaining": 1}})
        assert await _pending(peer) == []
        await peer.http.post("/interrupt", json={"prompt_id": running})
        await peer.until("executing", node=None, prompt_id=running)
        assert all(event.data.get("prompt_id") != first for event in peer.seen if event.kind != "binary")
        assert (await peer.http.get(f"/history/{first}")).json() == {}


async def test_clear_removes_what_waits(comfyui: Server) -> None:
    async with _busy(comfyui) as (peer, running):
        await peer.submit(save_graph())
        await peer.submit(save_graph())
        assert (await peer.http.post("/queue", json={"clear": True})).status_code == 200
        queue = (await peer.http.get("/queue")).json()
        assert queue["queue_pending"] == []
        assert [item[1] for item in queue["queue_running"]] == [running]


async def test_a_targeted_interrupt_ends_the_running_prompt(comfyui: Server) -> None:
    async with _busy(comfyui) as (peer, running):
        answer = await peer.http.post("/interrupt", json={"prompt_id": running})
        assert (answer.status_code, answer.content) == (200, b"")
        interrupted = await peer.until("execution_interrupted", prompt_id=running)
        assert set(interrupted.data) == {"prompt_id", "node_id", "node_type", "executed", "timestamp"}
        await peer.until("executing", node=None, prompt_id=running)
        kinds = [event.kind for event in peer.seen]
        assert "execution_success" not in kinds
        assert kinds[kinds.index("execution_interrupted") :] == ["execution_interrupted", "status", "executing"]
        status = (await peer.history(running))["status"]
        assert (status["status_str"], status["completed"]) == ("error", False)
        assert status["messages"][-1] == ["execution_interrupted", interrupted.data]


async def test_an_interrupt_for_another_prompt_changes_nothing(comfyui: Server) -> None:
    async with _busy(comfyui) as (peer, running):
        waiting = (await peer.submit(save_graph())).json()["prompt_id"]
        for other in (waiting, "unknown"):
            assert (await peer.http.post("/interrupt", json={"prompt_id": other})).status_code == 200
        await peer.until("progress_state", prompt_id=running)
        await peer.until("progress_state", prompt_id=running)
        assert await _pending(peer) == [waiting]
        assert all(event.kind != "execution_interrupted" for event in peer.seen)


async def test_a_global_interrupt_ends_what_runs_and_the_next_one_starts(comfyui: Server) -> None:
    async with _busy(comfyui) as (peer, running):
        waiting = (await peer.submit(save_graph())).json()["prompt_id"]
        assert (await peer.http.post("/interrupt", content="not JSON")).status_code == 200
        await peer.until("execution_interrupted", prompt_id=running)
        await peer.until("execution_success", prompt_id=waiting)


async def test_an_idle_interrupt_does_not_hurt_the_next_prompt(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        await peer.idle()
        assert (await peer.http.post("/interrupt")).status_code == 200
        _, events = await peer.run(save_graph())
        assert events[-2].kind == "execution_success"


async def test_a_prompt_for_an_absent_client_runs(comfyui: Server) -> None:
    async with comfyui.peer() as watcher:
        absent = {"prompt": save_graph(), "client_id": unused_name("absent")}
        prompt_id = (await watcher.http.post("/prompt", json=absent)).json()["prompt_id"]
        await watcher.idle()
        assert (await watcher.history(prompt_id))["status"]["completed"] is True


async def test_history_is_listed_limited_and_deleted(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        ids = [(await peer.run(save_graph()))[0] for _ in range(3)]
        newest = (await peer.http.get("/history", params={"max_items": 2})).json()
        assert list(newest) == ids[1:]
        assert (await peer.http.get("/history", params={"max_items": 0})).json() == {}
        assert (await peer.http.get("/history", params={"max_items": "abc"})).status_code == 500
        total = len((await peer.http.get("/history")).json())
        page = (await peer.http.get("/history", params={"offset": total - 3, "max_items": 1})).json()
        assert list(page) == ids[:1]
        answer = await peer.http.post("/history", json={"delete": [ids[1], "unknown"]})
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await peer.http.get(f"/history/{ids[1]}")).json() == {}
        assert (await peer.history(ids[2]))["status"]["completed"] is True
        assert (await peer.http.get("/history/unknown")).json() == {}


async def test_a_used_prompt_id_replaces_the_entry(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        name = "a/b c#ü " + uuid.uuid4().hex
        await peer.run(save_graph(), prompt_id=name)
        second = save_graph()
        await peer.run(second, prompt_id=name)
        quoted = "/history/" + "".join(f"%{byte:02X}" for byte in name.encode())
        assert (await peer.http.get(quoted)).json()[name]["prompt"][2] == second


async def test_free_is_accepted(comfyui: Server) -> None:
    async with comfyui.peer() as peer:
        for body in ({"unload_models": True, "free_memory": True}, {}):
            answer = await peer.http.post("/free", json=body)
            assert (answer.status_code, answer.content) == (200, b"")
        assert (await peer.http.post("/free", content="")).status_code == 500
        assert (await peer.http.post("/queue", content="")).status_code == 500
