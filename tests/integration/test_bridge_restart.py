"""The bridge itself is killed and started again: its jobs go on, each runs once and ends once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bridge.testing import StandIn
from tests.support.bridge_process import BridgeProcess, ComfyProcess, Plan, ended
from tests.support.graphs import picture, plain, sleep, txt2img
from tests.support.mqtt_eye import Eye, watching

GRAPHS = {"fox": txt2img(), "plain": plain(), "sleep": sleep(1.2, 24), "long": sleep(30, 600)}


@asynccontextmanager
async def apart(folder: Path, port: int, comfy_url: str) -> AsyncIterator[tuple[Eye, BridgeProcess]]:
    """The bridge as a process, started; and an observer that stays."""
    plan = Plan(folder, f"mqtt://127.0.0.1:{port}", comfy_url, workflows=GRAPHS, loaded="sleep")
    process = BridgeProcess(plan)
    with ended(process):
        async with watching(port, plan.base) as eye:
            await process.up(eye)
            await eye.until(lambda: [one for one in eye.below("backend/") if one.payload == b"online"])
            yield eye, process


async def again(eye: Eye, process: BridgeProcess) -> None:
    process.kill()
    await eye.payload("bridge/state", "offline")
    await process.up(eye)


async def once(eye: Eye, comfy: StandIn, ids: list[str], status: str = "completed") -> None:
    for prompt_id in ids:
        assert (await eye.over(prompt_id, within=40))["status"] == status
    # A barrier: whatever was to come with them has come now.
    await eye.done("bridge/request/health")
    for prompt_id in ids:
        assert len(eye.finals(prompt_id)) == 1, eye.summary()
        assert len(eye.of(f"prompt/{prompt_id}/result")) == 1
        if status == "completed":
            assert eye.outputs(prompt_id).keys() == {0}
            assert comfy.stats.started[prompt_id] == 1


async def test_waiting_and_running_jobs_go_on(tmp_path: Path, broker_port: int) -> None:
    async with StandIn() as comfy, apart(tmp_path, broker_port, comfy.url) as (eye, process):
        ids = (await eye.done("queue", {"count": 2}))["prompt_ids"]
        for word in ("one", "two"):
            ids.append(await eye.queue({"workflow": "fox", "values": {"prompt": word}}))
        await eye.progress(ids[0])
        await again(eye, process)
        await once(eye, comfy, ids)
        assert list(comfy.stats.started) == ids
        assert eye.last(f"prompt/{ids[3]}/result").json["values"]["prompt"] == "two"
        # And once more: what is over is not told again.
        await again(eye, process)
        await once(eye, comfy, ids)


async def test_a_job_that_ended_while_nobody_looked(tmp_path: Path, broker_port: int) -> None:
    async with StandIn() as comfy, apart(tmp_path, broker_port, comfy.url) as (eye, process):
        ids = (await eye.done("queue", {"count": 2}))["prompt_ids"]
        await eye.until(lambda: comfy.stats.submitted == 2)
        process.kill()
        await eye.until(lambda: len(comfy.stats.executed) == 2)
        await process.up(eye)
        await once(eye, comfy, ids)


async def test_events_go_on_after_the_restart(tmp_path: Path, broker_port: int) -> None:
    async with StandIn() as comfy, apart(tmp_path, broker_port, comfy.url) as (eye, process):
        prompt_id = await eye.queue(workflow="long")
        await eye.progress(prompt_id)
        await again(eye, process)
        before = len(eye.of(f"prompt/{prompt_id}/event/progress"))
        await eye.until(lambda: len(eye.of(f"prompt/{prompt_id}/event/progress")) > before)
        await eye.done("interrupt", prompt_id)
        await eye.first(f"prompt/{prompt_id}/event/execution_interrupted")
        await once(eye, comfy, [prompt_id], "interrupted")


async def test_killed_again_and_again(tmp_path: Path, broker_port: int) -> None:
    async with StandIn() as comfy, apart(tmp_path, broker_port, comfy.url) as (eye, process):
        ids = (await eye.done("queue", {"count": 2}))["prompt_ids"]
        for number in range(2):
            await asyncio.sleep(0.3 * number)  # at some moment or other
            await again(eye, process)
        for prompt_id in ids:
            assert (await eye.over(prompt_id, within=40))["status"] == "completed"
        await eye.done("bridge/request/health")
        assert comfy.stats.started == dict.fromkeys(ids, 1)
        for prompt_id in ids:
            assert len(eye.finals(prompt_id)) == 1, eye.summary()


async def test_an_image_of_a_waiting_job_outlives_it(tmp_path: Path, broker_port: int) -> None:
    async with StandIn(data=tmp_path / "comfy") as comfy:
        (comfy.folders.root / "input" / "example.png").write_bytes(picture())
        graph = {
            "10": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
            "11": {"class_type": "SaveImage", "inputs": {"filename_prefix": "i", "images": ["10", 0]}},
        }
        plan = Plan(
            tmp_path,
            f"mqtt://127.0.0.1:{broker_port}",
            comfy.url,
            workflows={**GRAPHS, "img": graph},
            loaded="img",
            more={"comfyui": {"depth": 1}},
        )
        process = BridgeProcess(plan)
        with ended(process):
            async with watching(broker_port, plan.base) as eye:
                await process.up(eye)
                running = await eye.queue(workflow="sleep")
                await eye.done("update/image/10", picture(color="blue"))
                waiting = await eye.queue()
                await eye.done("update/image/10", picture(color="green"))
                await again(eye, process)
                await once(eye, comfy, [running, waiting])
                name = comfy.queue.history[waiting]["prompt"][2]["10"]["inputs"]["image"]
                assert comfy.folders.load_path(name).read_bytes() == picture(color="blue")


async def test_an_interrupt_that_was_promised_is_kept(tmp_path: Path, broker_port: int) -> None:
    comfy = ComfyProcess(tmp_path)
    with ended(comfy):
        await comfy.up()
        async with apart(tmp_path, broker_port, comfy.url) as (eye, process):
            prompt_id = await eye.queue(workflow="long")
            await eye.progress(prompt_id)
            comfy.freeze()  # the interrupt cannot reach it
            await eye.done("interrupt", prompt_id)
            process.kill()
            await process.up(eye)
            comfy.thaw()
            assert (await eye.over(prompt_id))["status"] == "interrupted"


async def test_waiting_jobs_while_comfyui_is_away(tmp_path: Path, broker_port: int) -> None:
    comfy = ComfyProcess(tmp_path)
    with ended(comfy):
        await comfy.up()
        async with apart(tmp_path, broker_port, comfy.url) as (eye, process):
            comfy.kill()
            await eye.until(lambda: eye.below("backend/")[-1].payload == b"offline")
            ids = (await eye.done("queue", {"workflow": "plain", "count": 2}))["prompt_ids"]
            assert await asyncio.to_thread(process.stop) == 0
            await process.up(eye)
            await eye.done("interrupt", ids[0])
            assert (await eye.over(ids[0]))["status"] == "interrupted"
            await comfy.up()
            assert (await eye.over(ids[1]))["status"] == "completed"
            assert (await comfy.stats())["started"] == {ids[1]: 1}
