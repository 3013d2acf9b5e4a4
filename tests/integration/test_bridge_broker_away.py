"""The broker goes, comes, hangs, forgets: what must not be lost arrives, and late comers find everything again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiomqtt

from bridge.testing import StandIn
from tests.support.bridge_process import BridgeProcess, Plan, bridge, ended
from tests.support.brokers import Mosquitto, mosquitto, until
from tests.support.graphs import plain, sleep, txt2img
from tests.support.mqtt_eye import Eye, watching

GRAPHS = {"fox": txt2img(), "plain": plain(), "sleep": sleep(1.0, 20)}


def plan_for(folder: Path, broker: Mosquitto, comfy: StandIn, **mqtt: object) -> Plan:
    return Plan(folder, broker.url, comfy.url, workflows=GRAPHS, more={"mqtt": mqtt})


async def remember(port: int, base: str) -> None:
    """Leave a session at the broker that collects everything of QoS 1 while nobody is connected."""
    async with aiomqtt.Client("127.0.0.1", port, identifier=f"collector-{base}", clean_session=False) as client:
        await client.subscribe(f"{base}/prompt/#", qos=1)


async def collected(port: int, base: str, prompt_ids: list[str]) -> Eye:
    """Connect with that session, and wait until the final statuses have come."""
    async with watching(
        port, base, version="3.1.1", filters=(), identifier=f"collector-{base}", clean_session=False
    ) as eye:
        for prompt_id in prompt_ids:
            await eye.over(prompt_id)
        return eye


async def test_away_at_the_start(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    try:
        async with StandIn() as comfy, bridge(plan := plan_for(tmp_path, broker, comfy)):
            await broker.start()
            async with watching(broker.port, plan.base) as eye:
                await eye.payload("bridge/state", "online")
                prompt_id = await eye.queue()
                assert (await eye.over(prompt_id))["status"] == "completed"
                eye.check_prompts()
    finally:
        await broker.kill()


async def test_restarted_in_mid_run_nothing_is_lost(tmp_path: Path) -> None:
    async with (
        mosquitto(tmp_path / "broker", persistent=True) as broker,
        StandIn(step_delay=0.05) as comfy,
        bridge(plan := plan_for(tmp_path, broker, comfy)),
    ):
        await remember(broker.port, plan.base)
        async with watching(broker.port, plan.base) as eye:
            await eye.payload("bridge/state", "online")
            ids = (await eye.done("queue", {"workflow": "sleep", "count": 2}))["prompt_ids"]
            ids.append(await eye.queue(workflow="fox"))
            await eye.progress(ids[0])
        await broker.stop()
        await until(lambda: set(comfy.stats.executed) == set(ids), 20)
        await broker.start()
        seen = await collected(broker.port, plan.base, ids)
        for prompt_id in ids:
            assert seen.statuses(prompt_id)[0] == "queued"
            assert len(seen.finals(prompt_id)) == 1, seen.summary()
            assert seen.finals(prompt_id)[0]["status"] == "completed"
            assert len(seen.of(f"prompt/{prompt_id}/result")) == 1
            assert seen.outputs(prompt_id)[0][:4] == b"\x89PNG"
            assert len(seen.of(f"prompt/{prompt_id}/event/execution_success")) == 1
            assert comfy.stats.started[prompt_id] == 1
        seen.check_prompts()
        async with watching(broker.port, plan.base) as eye:
            await eye.payload("bridge/state", "online")
            await eye.queue(workflow="plain")


async def test_a_broker_that_forgot_everything_gets_it_again(tmp_path: Path) -> None:
    async with (
        mosquitto(tmp_path / "broker") as broker,
        StandIn() as comfy,
        bridge(plan := plan_for(tmp_path, broker, comfy)),
    ):
        async with watching(broker.port, plan.base) as eye:
            await eye.payload("bridge/state", "online")
            await eye.done("update/text", "told again")
            for name in ("fox", "plain"):
                assert (await eye.over(await eye.queue(workflow=name)))["status"] == "completed"
            await eye.until(lambda: eye.last("queue/state").json["running"] == [])
        before = await retained(broker.port, plan.base)
        assert {"workflow/fox/image", "workflow/plain/result", "bridge/health", "bridge/info"} <= set(before)
        await broker.kill()
        await broker.start()
        async with watching(broker.port, plan.base) as eye:
            await eye.payload("bridge/state", "online")
        after = await retained(broker.port, plan.base)
        assert set(after) == set(before)
        for topic in set(before) - {"bridge/health", "bridge/info", "queue/state"}:
            assert after[topic] == before[topic], topic
        async with watching(broker.port, plan.base) as eye:
            prompt_id = await eye.queue()
            result = await eye.over(prompt_id)
            assert result["values"]["prompt"] == "told again"


async def retained(port: int, base: str) -> dict[str, bytes]:
    """What a late comer gets."""
    async with watching(port, base) as eye:
        await eye.first("bridge/state")
        # The broker sends what it retains before it takes the next packet.
        await eye.client.publish(f"{base}/marker", "", qos=0)
        await eye.first("marker")
        return {one.topic: one.payload for one in eye.seen if one.retain}


async def test_restarted_again_and_again(tmp_path: Path) -> None:
    async with (
        mosquitto(tmp_path / "broker", persistent=True) as broker,
        StandIn() as comfy,
        bridge(plan := plan_for(tmp_path, broker, comfy)),
    ):
        await remember(broker.port, plan.base)
        async with watching(broker.port, plan.base) as eye:
            await eye.payload("bridge/state", "online")
            ids = (await eye.done("queue", {"workflow": "sleep", "count": 3}))["prompt_ids"]
        for _ in range(3):
            await broker.restart()
            async with watching(broker.port, plan.base) as eye:
                await eye.payload("bridge/state", "online")
        seen = await collected(broker.port, plan.base, ids)
        for prompt_id in ids:
            assert [one["status"] for one in seen.finals(prompt_id)] == ["completed"]
            assert seen.outputs(prompt_id).keys() == {0}
        assert comfy.stats.started == dict.fromkeys(ids, 1)


async def test_frozen_and_thawed(tmp_path: Path) -> None:
    async with (
        mosquitto(tmp_path / "broker") as broker,
        StandIn() as comfy,
        bridge(plan := plan_for(tmp_path, broker, comfy)),
        watching(broker.port, plan.base) as eye,
    ):
        await eye.payload("bridge/state", "online")
        ids = (await eye.done("queue", {"workflow": "sleep", "count": 2}))["prompt_ids"]
        await eye.progress(ids[0])
        broker.freeze()
        await until(lambda: set(comfy.stats.executed) == set(ids), 20)
        broker.thaw()
        for prompt_id in ids:
            assert (await eye.over(prompt_id))["status"] == "completed"
            assert eye.outputs(prompt_id).keys() == {0}
        eye.check_prompts()


async def test_frozen_for_so_long_that_bridges_give_it_up(tmp_path: Path) -> None:
    async with mosquitto(tmp_path / "broker") as broker, StandIn() as comfy:
        other = BridgeProcess(ends := plan_for(tmp_path / "other", broker, comfy))
        async with (
            bridge(plan := plan_for(tmp_path, broker, comfy, keepalive=2)),
            watching(broker.port, plan.base) as eye,
        ):
            with ended(other):
                async with watching(broker.port, ends.base) as its_eye:
                    await other.up(its_eye)
                await eye.payload("bridge/state", "online")
                prompt_id = await eye.queue(workflow="sleep")
                await eye.progress(prompt_id)
                broker.freeze()
                # One is told to stop now: it does not wait for ever.
                began = asyncio.get_running_loop().time()
                async with asyncio.timeout(15):
                    assert await asyncio.to_thread(other.stop) == 0
                # The other one has found that nobody answers.
                await eye.until(lambda: asyncio.get_running_loop().time() > began + 6)
                broker.thaw()
            assert (await eye.over(prompt_id))["status"] == "completed"
            assert eye.outputs(prompt_id).keys() == {0}
            await eye.payload("bridge/state", "online")
            await eye.queue(workflow="plain")
            assert comfy.stats.started[prompt_id] == 1


async def test_the_state_of_the_bridge(tmp_path: Path) -> None:
    async with mosquitto(tmp_path / "broker") as broker, StandIn() as comfy:
        plan = plan_for(tmp_path, broker, comfy)
        process = BridgeProcess(plan)
        with ended(process):
            async with watching(broker.port, plan.base) as eye:
                await process.up(eye)
                process.kill()
                await eye.payload("bridge/state", "offline")  # the will
                await process.up(eye)
                assert process.stop() == 0
                await eye.payload("bridge/state", "offline")
                states = [one.text for one in eye.of("bridge/state")]
                assert states[-4:] == ["online", "offline", "online", "offline"]
            assert (await retained(broker.port, plan.base))["bridge/state"] == b"offline"
