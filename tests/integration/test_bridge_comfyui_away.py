"""ComfyUI goes, comes, hangs, forgets: jobs end once, run once, and commands are answered all the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.testing import Orders
from tests.support.bridge_process import ComfyProcess, House, Plan, bridge, ended, house
from tests.support.graphs import plain, sleep, txt2img
from tests.support.mqtt_eye import Eye, watching

SHORT = {"fox": txt2img(), "plain": plain(), "sleep": sleep(0.8, 16)}


@asynccontextmanager
async def apart(folder: Path, port: int, *, step_delay: float = 0.0) -> AsyncIterator[tuple[Eye, ComfyProcess, str]]:
    """A bridge in this process and a ComfyUI that is another one, not started yet; and its state's topic."""
    comfy = ComfyProcess(folder, step_delay=step_delay)
    plan = Plan(folder, f"mqtt://127.0.0.1:{port}", comfy.url, workflows=SHORT, loaded="sleep")
    with ended(comfy):
        async with watching(port, plan.base) as eye, bridge(plan):
            await eye.payload("bridge/state", "online")
            yield eye, comfy, f"backend/127-0-0-1-{comfy.port}/state"
            eye.check_prompts()


async def completed(eye: Eye, *ids: str) -> None:
    for prompt_id in ids:
        result = await eye.over(prompt_id, within=40)
        assert result["status"] == "completed", result


async def test_away_at_the_start(tmp_path: Path, broker_port: int) -> None:
    async with apart(tmp_path, broker_port) as (eye, comfy, state):
        await eye.payload(state, "offline", within=5)
        assert eye.last("workflow/fox/state").payload == b"offline"
        assert (await eye.done("bridge/request/health"))["status"] == "degraded"
        await eye.done("load", "fox")
        await eye.done("update/text", "long awaited")
        await eye.refused("update/text/99", "x", "unknown_node")
        ids = (await eye.done("queue", {"count": 3}))["prompt_ids"]
        assert eye.statuses(ids[0]) == ["queued"]
        await comfy.up()
        await eye.payload(state, "online")
        await completed(eye, *ids)
        await eye.payload("workflow/fox/state", "online")
        assert (await comfy.stats())["started"] == dict.fromkeys(ids, 1)


async def test_killed_in_mid_run(tmp_path: Path, broker_port: int) -> None:
    async with apart(tmp_path, broker_port) as (eye, comfy, state):
        await comfy.up()
        await eye.payload(state, "online")
        ids = (await eye.done("queue", {"count": 2}))["prompt_ids"]
        await eye.progress(ids[0])
        comfy.kill()
        await eye.payload(state, "offline")
        await eye.payload("workflow/sleep/state", "offline")
        # Still there for everybody.
        await eye.done("bridge/request/health")
        await eye.done("workflow/fox/set/prompt", "meanwhile")
        later = await eye.queue(workflow="plain")
        await comfy.up()
        await eye.payload(state, "online")
        await completed(eye, *ids, later)
        assert (await comfy.stats())["executed"] == dict.fromkeys([*ids, later], 1)
        result = eye.last(f"prompt/{ids[0]}/result").json
        assert result["attempts"] == 2
        assert eye.statuses(ids[0]).count("running") == 2


async def test_killed_between_the_end_and_the_fetching(tmp_path: Path, broker_port: int) -> None:
    async with apart(tmp_path, broker_port) as (eye, comfy, state):
        await comfy.up()
        await eye.payload(state, "online")
        async with httpx.AsyncClient() as http:
            await http.post(f"{comfy.url}/standin/faults", json={"slow": 0.4})
        prompt_id = await eye.queue(workflow="plain")
        await eye.first(f"prompt/{prompt_id}/event/execution_success", within=30)
        comfy.kill()
        await eye.payload(state, "offline")
        await comfy.up()
        await completed(eye, prompt_id)
        assert eye.outputs(prompt_id)[0][:4] == b"\x89PNG"


async def test_frozen_and_thawed(tmp_path: Path, broker_port: int) -> None:
    async with apart(tmp_path, broker_port) as (eye, comfy, state):
        await comfy.up()
        await eye.payload(state, "online")
        ids = (await eye.done("queue", {"count": 2}))["prompt_ids"]
        await eye.progress(ids[0])
        comfy.freeze()
        await eye.done("workflow/fox/set/seed", "3")
        third = await eye.queue(workflow="plain")
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.5
        await eye.until(lambda: loop.time() > until)
        comfy.thaw()
        await completed(eye, *ids, third)
        assert (await comfy.stats())["started"] == dict.fromkeys([*ids, third], 1)


@asynccontextmanager
async def faulty(folder: Path, port: int, **options: Any) -> AsyncIterator[House]:
    async with house(folder, port, workflows=SHORT, loaded="sleep", **options) as here:
        yield here
        # Whatever happened: everything ran once, and the bridge works.
        await here.run(workflow="plain")


async def run_through(here: House, count: int = 2) -> list[str]:
    ids: list[str] = (await here.eye.done("queue", {"count": count}))["prompt_ids"]
    await here.eye.progress(ids[0])
    return ids


async def test_sockets_that_drop(tmp_path: Path, broker_port: int) -> None:
    async with faulty(tmp_path, broker_port) as here:
        ids = await run_through(here)
        for _ in range(2):
            sent = len(here.eye.of(f"backend/{here.backend}/state"))
            here.comfy.obey(Orders(drop_sockets=True))
            await here.eye.count(f"backend/{here.backend}/state", sent + 2)
            await here.eye.payload(f"backend/{here.backend}/state", "online")
        await completed(here.eye, *ids)
        assert here.comfy.stats.started == dict.fromkeys(ids, 1)
        assert all(len(here.eye.outputs(prompt_id)) == 1 for prompt_id in ids)


async def test_a_socket_that_drops_and_misses_the_end(tmp_path: Path, broker_port: int) -> None:
    async with faulty(tmp_path, broker_port) as here:
        (prompt_id,) = await run_through(here, 1)
        # Nobody gets in before the prompt is over.
        here.comfy.obey(Orders(drop_sockets=True, refuse_connections=1.5))
        await here.eye.payload(f"backend/{here.backend}/state", "offline")
        await completed(here.eye, prompt_id)
        assert here.comfy.stats.started == {prompt_id: 1}
        assert len(here.eye.outputs(prompt_id)) == 1


async def test_a_socket_that_falls_silent(tmp_path: Path, broker_port: int) -> None:
    async with faulty(tmp_path, broker_port) as here:
        (prompt_id,) = await run_through(here, 1)
        here.comfy.faults.silence = True
        await here.eye.until(lambda: here.comfy.stats.executed.get(prompt_id))
        await completed(here.eye, prompt_id)
        assert len(here.eye.outputs(prompt_id)) == 1
        assert here.comfy.stats.started == {prompt_id: 1}
        here.comfy.faults.silence = False


async def test_a_prompt_that_vanishes(tmp_path: Path, broker_port: int) -> None:
    async with faulty(tmp_path, broker_port) as here:
        ids = await run_through(here)
        here.comfy.obey(Orders(lose_prompt=True))
        await completed(here.eye, *ids)
        assert here.comfy.stats.executed == dict.fromkeys(ids, 1)
        assert here.comfy.stats.started == {ids[0]: 2, ids[1]: 1}


@pytest.mark.parametrize(
    "fault",
    [{"refuse": 2}, {"slow": 0.25}, {"hang": 1.5}, {"view_error": 1}, {"wrong_answer": 500}, {"wrong_answer": 504}],
)
async def test_answers_that_fail_or_take_long(tmp_path: Path, broker_port: int, fault: dict[str, float]) -> None:
    async with faulty(tmp_path, broker_port) as here:
        for name, value in fault.items():
            setattr(here.comfy.faults, name, value)
        ids = (await here.eye.done("queue", {"workflow": "fox", "count": 2}))["prompt_ids"]
        await completed(here.eye, *ids)
        assert here.comfy.stats.started == dict.fromkeys(ids, 1)
        assert all(len(here.eye.outputs(prompt_id)) == 1 for prompt_id in ids)
        here.comfy.faults.slow = here.comfy.faults.hang = 0


async def test_a_server_that_always_refuses(tmp_path: Path, broker_port: int) -> None:
    async with faulty(tmp_path, broker_port, more={"jobs": {"attempts": 2}}) as here:
        here.comfy.faults.refuse = 1000
        prompt_id = await here.eye.queue(workflow="plain")
        result = await here.eye.over(prompt_id)
        assert result["status"] == "failed"
        assert result["error"]["message"]
        assert here.comfy.stats.submitted == 0
        here.comfy.faults.refuse = 0


async def test_a_connection_that_is_cut_while_it_submits(tmp_path: Path, broker_port: int) -> None:
    async with faulty(tmp_path, broker_port) as here:
        here.comfy.faults.hang = 30
        prompt_id = await here.eye.queue(workflow="fox")
        await here.eye.until(lambda: here.comfy.stats.submitted == 1)
        here.comfy.faults.hang = 0
        here.comfy.obey(Orders(refuse_connections=0.3))
        await completed(here.eye, prompt_id)
        assert here.comfy.stats.started == {prompt_id: 1}


async def test_a_history_that_lags_behind(tmp_path: Path, broker_port: int) -> None:
    async with faulty(tmp_path, broker_port) as here:
        lagging = LaggingHistory(4)
        here.comfy.queue.history = lagging
        ids = await run_through(here)
        here.comfy.obey(Orders(drop_sockets=True))
        await completed(here.eye, *ids)
        assert here.comfy.stats.started == dict.fromkeys(ids, 1)


class LaggingHistory(dict[str, Any]):
    """A history that knows of each prompt only when it has been asked for it some times."""

    def __init__(self, lag: int) -> None:
        super().__init__()
        self._lag = lag
        self._asked: dict[str, int] = {}

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            self._asked[key] = self._asked.get(key, 0) + 1
            if self._asked[key] <= self._lag:
                return default
        return super().get(key, default)
