"""Ending jobs: running, waiting with us, waiting in ComfyUI; and nobody else's."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import httpx

from tests.support.bridge_process import House, house
from tests.support.graphs import Graph, plain, sleep

ONE = {"comfyui": {"depth": 1}}


async def ended(here: House, prompt_id: str, code: str = "interrupted") -> dict[str, Any]:
    result = await here.eye.over(prompt_id)
    assert (result["status"], result["error"]["code"]) == ("interrupted", code), result
    return result


async def foreign(here: House, graph: Graph) -> str:
    """Somebody else's prompt on the same ComfyUI."""
    prompt_id = str(uuid.uuid4())
    async with httpx.AsyncClient() as http:
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": "somebody"}
        assert (await http.post(f"{here.comfy.url}/prompt", json=body)).status_code == 200
    return prompt_id


async def test_a_running_prompt(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep") as here:
        prompt_id = await here.eye.queue()
        await here.eye.progress(prompt_id)
        assert await here.eye.done("interrupt", {"prompt_id": prompt_id}) == {"prompt_ids": [prompt_id]}
        result = await ended(here, prompt_id)
        assert result["outputs"] == []
        assert here.eye.of(f"prompt/{prompt_id}/event/execution_interrupted")
        assert here.eye.last("workflow/sleep/event").json["event_type"] == "interrupted"
        await here.eye.refused("interrupt", prompt_id, "already_over", "interrupted")
        await here.run(workflow="plain")


async def test_a_prompt_that_waits_in_the_bridge(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep", more=ONE) as here:
        running, waiting, last = (await here.eye.done("queue", {"count": 3}))["prompt_ids"]
        await here.eye.progress(running)
        await here.eye.done("interrupt", waiting)
        await ended(here, waiting)
        assert here.eye.statuses(waiting) == ["queued", "interrupted"]
        assert here.eye.statuses(last) == ["queued"]
        assert here.comfy.stats.submitted == 1
        await here.eye.done("interrupt", last)
        await here.eye.done("interrupt", running)
        await ended(here, running)


async def test_a_prompt_that_waits_inside_comfyui(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep") as here:
        running, inside = (await here.eye.done("queue", {"count": 2}))["prompt_ids"]
        await here.eye.progress(running)
        await here.eye.until(lambda: here.comfy.stats.submitted == 2)
        await here.eye.done("interrupt", inside)
        await ended(here, inside)
        assert here.comfy.queue.as_json()["queue_pending"] == []
        assert here.eye.finals(running) == []
        await here.eye.done("interrupt", running)
        await ended(here, running)
        assert here.comfy.stats.started == {running: 1}
        await here.run(workflow="plain")


async def test_all_of_ours_and_nothing_else(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep") as here:
        ids = (await here.eye.done("queue", {"count": 5}))["prompt_ids"]
        await here.eye.progress(ids[0])
        await here.eye.until(lambda: here.comfy.stats.submitted == 2)
        theirs = await foreign(here, plain(color=1))
        assert set((await here.eye.done("interrupt"))["prompt_ids"]) == set(ids)
        for prompt_id in ids:
            await ended(here, prompt_id)
        await here.eye.until(lambda: here.comfy.stats.executed.get(theirs) == 1)
        assert here.comfy.stats.started == {ids[0]: 1, theirs: 1}
        assert await here.eye.done("interrupt", "PRESS") == {"prompt_ids": []}
        await here.run(workflow="plain")


async def test_a_running_prompt_of_others_goes_on(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        theirs = await foreign(here, sleep(1.0, 20))
        await here.eye.until(lambda: here.comfy.stats.started.get(theirs))
        ours = await here.eye.queue(workflow="plain")
        await here.eye.until(lambda: here.comfy.stats.submitted == 2)
        await here.eye.done("interrupt", ours)
        await ended(here, ours)
        await here.eye.until(lambda: here.comfy.stats.executed.get(theirs) == 1)
        assert here.comfy.stats.started == {theirs: 1}
        # Their events are no prompt's of ours.
        assert here.eye.below(f"prompt/{theirs}/") == []


async def test_those_of_a_workflow_or_a_batch(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep", more=ONE) as here:
        running = await here.eye.queue()
        await here.eye.progress(running)
        batch = await here.eye.done("queue", {"workflow": "plain", "count": 2})
        other = await here.eye.queue(workflow="plain")
        fox = await here.eye.queue(workflow="fox")
        data = await here.eye.done("interrupt", {"batch_id": batch["batch_id"]})
        assert set(data["prompt_ids"]) == set(batch["prompt_ids"])
        assert await here.eye.done("workflow/plain/interrupt") == {"prompt_ids": [other]}
        for prompt_id in (*batch["prompt_ids"], other):
            await ended(here, prompt_id)
        assert here.eye.finals(running) == []
        await here.eye.done("workflow/sleep/interrupt")
        assert (await here.eye.over(fox))["status"] == "completed"


async def test_right_after_it_was_queued(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep") as here:
        for number in range(8):
            await here.eye.send("queue", "")
            await asyncio.sleep(number * 0.004)
            await here.eye.send("interrupt", "")
            await here.eye.count("response/interrupt", number + 1)
            (prompt_id,) = (await here.eye.count("response/queue", number + 1)).json["data"]["prompt_ids"]
            await ended(here, prompt_id)
        await here.run(workflow="plain")


async def test_while_comfyui_is_away(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        await here.comfy.__aexit__(None, None, None)
        await here.eye.payload(f"backend/{here.backend}/state", "offline")
        ids = (await here.eye.done("queue", {"count": 2}))["prompt_ids"]
        await here.eye.done("interrupt", ids[0])
        await ended(here, ids[0])
        await here.eye.done("interrupt")
        await ended(here, ids[1])


async def test_by_somebody_else(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep") as here:
        running, inside, next_one = (await here.eye.done("queue", {"count": 3}))["prompt_ids"]
        await here.eye.progress(running)
        await here.eye.until(lambda: here.comfy.stats.submitted == 2)
        async with httpx.AsyncClient() as http:
            await http.post(f"{here.comfy.url}/queue", json={"delete": [inside]})
            result = await here.eye.over(inside)
            assert (result["status"], result["error"]["code"]) == ("failed", "deleted_elsewhere")
            await http.post(f"{here.comfy.url}/interrupt", json={})
            await ended(here, running, "deleted_elsewhere")
        await here.eye.progress(next_one)
        await here.eye.done("interrupt")
        await ended(here, next_one)


async def test_twice_is_no_harm(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep") as here:
        prompt_id = await here.eye.queue()
        await here.eye.progress(prompt_id)
        replies = await asyncio.gather(*(here.eye.ask("interrupt", prompt_id) for _ in range(5)))
        assert replies[0]["status"] == "ok"
        assert {reply.get("code", "ok") for reply in replies} <= {"ok", "already_over"}
        await ended(here, prompt_id)
        await here.run(workflow="plain")


async def test_a_job_of_another_workflow_is_left_alone(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep") as here:
        prompt_id = await here.eye.queue()
        await here.eye.progress(prompt_id)
        await here.eye.refused(
            "workflow/fox/interrupt", prompt_id, "unknown_prompt", "one of the workflow sleep, not of fox"
        )
        assert not here.eye.finals(prompt_id)
        await here.eye.done("workflow/sleep/interrupt", prompt_id)
        await ended(here, prompt_id)
