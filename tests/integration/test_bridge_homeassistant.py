"""A bridge and the household behind it: devices come, show what happens, do what they are told, and go."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.testing import StandIn
from bridge.testing.faults import Orders
from bridge.testing.ollama import OllamaStandIn
from tests.support.bridge_process import House, Plan, bridge, house
from tests.support.brokers import Mosquitto, free_port
from tests.support.graphs import node, picture, plain, txt2img
from tests.support.homeassistant import UNKNOWN, Home, home
from tests.support.mqtt_eye import watching

OUT_OF_THE_WAY = {"plain": plain()}


@asynccontextmanager
async def household(folder: Path, port: int, **options: Any) -> AsyncIterator[tuple[House, Home]]:
    async with house(folder, port, **options) as here, home(port, here.base) as there:
        await there.until(lambda: len(there.devices) == len(here.plan.workflows) + 1)
        yield here, there


def named(here: House, entity_id: str) -> str:
    """`number.fox_steps` as it is below the base topic of a test."""
    platform, _, name = entity_id.partition(".")
    return f"{platform}.{here.base}_{name}"


async def test_a_picture_is_made_from_home_assistant(tmp_path: Path, broker_port: int) -> None:
    async with household(tmp_path, broker_port, step_delay=0.03) as (here, there):

        def of(entity_id: str) -> str:
            return named(here, entity_id)

        await there.shows(of("sensor.fox_status"), "idle")
        await there.shows(of("sensor.fox_progress"), 0)
        await there.shows(of("binary_sensor.fox_running"), "off")
        await there.shows(of("image.fox_result"), UNKNOWN)
        await there.shows(of("sensor.queue"), 0)

        long = "a fox in the snow, " * 100
        await there.do(of("notify.fox_prompt"), long)
        await there.do(of("number.fox_steps"), 12)
        await there.do(of("number.fox_cfg"), 5.5)
        await there.do(of("select.fox_sampler"), "dpmpp_2m")
        await there.do(of("text.fox_negative"), "{not json}")
        await there.do(of("number.fox_seed"), 2**53 - 1)
        await there.shows(of("number.fox_seed"), 2**53 - 1)
        await there.do(of("switch.fox_random_seed"), True)
        await there.shows(of("switch.fox_random_seed"), "on")
        await there.shows(of("number.fox_seed"), UNKNOWN)
        await there.shows(of("number.fox_steps"), 12)
        await there.shows(of("text.fox_prompt"), long[:255].strip())
        assert there[of("text.fox_prompt")].attributes == {"text": long}

        await there.do(of("button.fox_generate"))
        await there.shows(of("event.fox_job"), "completed")
        await there.shows(of("sensor.fox_status"), "completed")
        assert there[of("event.fox_job")].history == ["queued", "started", "completed"]
        assert there[of("binary_sensor.fox_running")].history[-2:] == ["on", "off"]
        progress = there[of("sensor.fox_progress")].history
        assert progress == sorted(progress)
        assert progress[-1] == 100
        assert there[of("camera.fox_preview")].state[:3] in {b"\xff\xd8\xff", b"\x89PN"}

        prompt_id = there[of("event.fox_job")].attributes["id"]
        await there.until(lambda: there.state(of("image.fox_result")) != UNKNOWN)
        assert there.state(of("image.fox_result")) == here.eye.outputs(prompt_id)[0]
        assert there.state(of("sensor.fox_last_prompt")) == long[:255].strip()
        ran = here.graph(prompt_id)
        assert ran["6"]["inputs"]["text"] == long
        assert ran["7"]["inputs"]["text"] == "{not json}"
        sampler = ran["3"]["inputs"]
        assert (sampler["steps"], sampler["cfg"], sampler["sampler_name"]) == (12, 5.5, "dpmpp_2m")
        values = there[of("sensor.fox_last_prompt")].attributes
        assert (values["prompt"], values["seed"]) == (long, sampler["seed"])
        assert there.state(of("sensor.fox_duration")) > 0
        assert there[of("sensor.fox_status")].attributes == {"id": prompt_id, "position": None, "error": None}

        await there.do(of("switch.fox_random_seed"), False)
        await there.shows(of("number.fox_seed"), 42)


async def test_every_setting_shows_what_it_was_set_to(tmp_path: Path, broker_port: int) -> None:
    async with household(tmp_path, broker_port) as (_, there):
        for entity_id, entity in there.entities.items():
            if "/set" not in entity.config.get("command_topic", ""):
                continue
            values: list[Any]
            match entity.platform:
                case "number":
                    low = entity.config["min"]
                    values = [low, low + entity.config["step"]]
                case "select":
                    values = entity.config["options"][:2]
                case "switch":
                    values = [True, False]
                case "text" if entity_id.endswith("_image"):
                    values = ["example.png"]
                case "text":
                    values = [f"set by {entity_id}", "a fox, or two"]
                case _:
                    continue
            for value in values:
                await there.do(entity_id, value)
                await there.shows(entity_id, ("off", "on")[value] if entity.platform == "switch" else value)


async def test_the_bridge_itself_is_a_device(tmp_path: Path, broker_port: int) -> None:
    async with household(tmp_path, broker_port) as (here, there):
        backend = here.backend.replace("-", "_")
        await there.shows(named(here, f"binary_sensor.backend_{backend}"), "on")
        await there.until(lambda: isinstance(there.state(named(here, f"sensor.vram_free_{backend}")), float))
        await there.shows(named(here, "select.loaded_workflow"), "fox")
        await there.do(named(here, "select.loaded_workflow"), "plain")
        await there.shows(named(here, "select.loaded_workflow"), "plain")
        await there.do(named(here, "button.free_memory"))
        answer = await here.eye.first("response/bridge/request/free")
        assert answer.json["data"] == {"backends": [here.backend]}
        assert there.devices[there.object_id]["device"]["sw_version"] == there.state(named(here, "sensor.version"))


async def test_an_idea_becomes_a_picture_from_home_assistant(tmp_path: Path, broker_port: int) -> None:
    async with (
        OllamaStandIn() as ollama,
        household(tmp_path, broker_port, more={"ollama": {"url": ollama.url}}) as (here, there),
    ):
        idea, written = named(here, "text.idea"), named(here, "sensor.written_prompt")
        button, workflow = named(here, "button.write_prompt"), named(here, "select.idea_workflow")
        await there.shows(named(here, "binary_sensor.prompt_writer"), "on")
        await there.shows(idea, "")
        await there.shows(workflow, "(prompt only)")
        assert there[workflow].config["options"] == ["(prompt only)", "fox", "story"]

        await there.do(idea, "{a fox}")
        await there.shows(idea, "{a fox}")
        await there.do(button)
        await there.shows(written, "{a fox}, detailed painting, soft light")
        assert (there[written].attributes["negative"], there[written].attributes["prompt_id"]) == (
            "text, watermark",
            None,
        )

        long = "a fox in the snow and an owl above it, " * 20
        await there.do(named(here, "notify.idea"), long)
        await there.shows(idea, long[:255].strip())
        assert there[idea].attributes == {"text": long.strip()}
        await there.do(workflow, "fox")
        await there.shows(workflow, "fox")
        await there.do(button)
        await there.until(lambda: there[written].attributes["prompt_id"])
        picture = await here.eye.over(there[written].attributes["prompt_id"])
        assert picture["values"]["prompt"] == there[written].attributes["prompt"]
        assert picture["values"]["prompt"].startswith(long.strip())
        await there.do(workflow, "(prompt only)")
        await there.shows(workflow, "(prompt only)")

        ollama.faults.hang = True
        await there.do(button)
        await there.until(lambda: len(ollama.stats.chats) == 3)
        await there.do(named(here, "button.cancel_writing"))
        await there.shows(written, UNKNOWN)
        assert there[written].attributes["code"] == "cancelled"


async def test_without_its_writer_a_prompt_is_unavailable(tmp_path: Path, broker_port: int) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with household(tmp_path, broker_port, more={"ollama": {"url": nowhere}}) as (here, there):
        await there.shows(named(here, "binary_sensor.prompt_writer"), "off")
        await there.shows(named(here, "button.write_prompt"), "unavailable")
        await there.do(named(here, "text.idea"), "a fox")
        await there.shows(named(here, "text.idea"), "a fox")


async def test_cancel_ends_what_runs_and_what_waits(tmp_path: Path, broker_port: int) -> None:
    async with household(tmp_path, broker_port) as (here, there):
        status, generate = named(here, "sensor.sleep_status"), named(here, "button.sleep_generate")
        await there.do(generate)
        await there.shows(status, "running")
        for _ in range(3):
            await there.do(generate)
        await there.until(lambda: there.state(named(here, "sensor.queue")) >= 1)
        await there.do(named(here, "button.sleep_cancel"))
        await there.shows(named(here, "sensor.queue"), 0)
        await there.shows(status, "interrupted")
        assert there[status].attributes["error"]["code"] == "interrupted"
        await there.do(generate)
        await there.shows(status, "running")
        await there.do(named(here, "button.cancel_all"))
        await there.shows(status, "interrupted")
        for prompt_id in here.eye.prompt_ids():
            assert (await here.eye.over(prompt_id))["status"] == "interrupted"


async def test_a_picture_comes_by_address(tmp_path: Path, broker_port: int) -> None:
    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=picture(), content_type="image/png")

    app = web.Application()
    app.router.add_get("/door.png", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    more = {"security": {"allowed_hosts": ["127.0.0.1"]}}
    try:
        async with household(tmp_path, broker_port, more=more) as (here, there):
            image = named(here, "text.img_image")
            await there.shows(image, "example.png")
            await there.do(image, f"{site.name}/door.png")
            await there.until(lambda: there.state(image) != "example.png")
            prompt_id = await here.run(workflow="img")
            assert here.graph(prompt_id)["10"]["inputs"]["image"].endswith(there.state(image))
    finally:
        await runner.cleanup()


async def test_without_comfyui_only_what_needs_it_is_unavailable(tmp_path: Path, broker_port: int) -> None:
    async with household(tmp_path, broker_port) as (here, there):
        generate = named(here, "button.fox_generate")
        await there.until(lambda: there.available(generate))
        here.comfy.obey(Orders(drop_sockets=True, refuse_connections=3.0))
        await there.shows(generate, "unavailable")
        await there.shows(named(here, "camera.fox_preview"), "unavailable")
        await there.shows(named(here, f"binary_sensor.backend_{here.backend.replace('-', '_')}"), "off")
        await there.do(named(here, "number.fox_steps"), 7)
        await there.shows(named(here, "number.fox_steps"), 7)
        assert there.available(named(here, "button.fox_cancel"))
        await there.until(lambda: there.available(generate))


async def test_devices_follow_the_files(tmp_path: Path, broker_port: int) -> None:
    async with household(tmp_path, broker_port) as (here, there):
        files = tmp_path / "workflows"
        (files / "story.json").unlink()
        (files / "new.json").write_text(json.dumps(plain()), encoding="utf-8")
        fox = txt2img()
        fox["3"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
        fox["8"]["inputs"]["samples"] = ["3", 0]
        (files / "fox.json").write_text(json.dumps(fox), encoding="utf-8")
        await here.eye.done("bridge/request/reload")
        await there.shows(named(here, "number.fox_steps"), None)
        await there.shows(named(here, "button.story_generate"), None)
        await there.until(lambda: named(here, "button.new_generate") in there.entities)
        assert there.documents.count((f"{there.object_id}__story", None, False)) == 1
        assert not [one for one in there.entities if "story" in one]
        assert named(here, "number.fox_width") in there.entities
        options = there[named(here, "select.loaded_workflow")].config["options"]
        assert options == ["fox", "img", "new", "plain", "sleep"]
        # A Home Assistant that comes later is told of nothing else, and one that was away of what went.
        async with home(broker_port, here.base) as late:
            await late.until(lambda: len(late.devices) == 6)
            assert late.entities.keys() == there.entities.keys()
            assert late.devices[f"{late.object_id}__fox"]["components"]["set_steps_number"] == {"platform": "number"}


async def test_a_restart_of_the_bridge_removes_nothing(tmp_path: Path, broker_port: int) -> None:
    options: dict[str, Any] = {"base": "restarted", "workflows": {"fox": txt2img()}}
    async with household(tmp_path, broker_port, **options) as (here, there):
        await there.shows(named(here, "select.fox_sampler"), "euler")
        entities, documents = set(there.entities), dict(there.devices)
        await here.run()
    async with home(broker_port, "restarted") as there:
        await there.until(lambda: len(there.devices) == 2)
        fox = "button.restarted_fox_generate"
        await there.shows(fox, "unavailable")
        async with house(tmp_path, broker_port, **options):
            await there.until(lambda: there.available(fox))
            await there.shows("sensor.restarted_fox_status", "completed")
            assert set(there.entities) >= {one for one in entities if "backend" not in one and "vram" not in one}
            assert there.devices[f"{there.object_id}__fox"] == documents[f"{there.object_id}__fox"]
            assert all(document is not None for _, document, _ in there.documents)


async def test_a_workflow_that_went_between_two_starts_takes_its_device_with_it(
    tmp_path: Path, broker_port: int
) -> None:
    both = {"fox": txt2img(), "plain": plain()}
    async with household(tmp_path, broker_port, base="between", workflows=both):
        pass
    (tmp_path / "workflows" / "plain.json").unlink()
    async with household(tmp_path, broker_port, base="between", workflows={"fox": txt2img()}) as (_, there):
        assert set(there.devices) == {there.object_id, f"{there.object_id}__fox"}


async def test_switched_off_it_removes_what_it_announced(tmp_path: Path, broker_port: int) -> None:
    options: dict[str, Any] = {"base": "quiet", "workflows": OUT_OF_THE_WAY, "loaded": "plain"}
    async with household(tmp_path, broker_port, **options) as (_, there):
        assert len(there.devices) == 2
    async with home(broker_port, "quiet") as there:
        await there.until(lambda: len(there.devices) == 2)
        async with house(tmp_path, broker_port, more={"homeassistant": {"discovery": False}}, **options) as here:
            await there.until(lambda: not there.devices)
            assert not there.entities
            await there.say("online")
            await here.run()
    async with home(broker_port, "quiet") as late, watching(broker_port, "quiet") as eye:
        await eye.first("bridge/state")
        assert not late.documents


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_home_assistant_starts_anew(tmp_path: Path, broker_port: int, protocol: str) -> None:
    options: dict[str, Any] = {"workflows": OUT_OF_THE_WAY, "loaded": "plain", "more": {"mqtt": {"protocol": protocol}}}
    async with household(tmp_path, broker_port, **options) as (here, there):
        await there.say("offline")
        # Some have it retained: that is no command, and stays.
        await there.say("online", retain=True)
        before = len(there.documents)
        await there.until(lambda: len(there.documents) >= before + 2)
        assert {name for name, *_ in there.documents[before:]} == set(there.devices)
        async with watching(broker_port, "homeassistant", filters=("status",)) as eye:
            assert (await eye.first("status")).payload == b"online"
            await eye.client.publish("homeassistant/status", b"", retain=True)
        assert not here.eye.of("response/status")


async def test_one_that_was_away_removes_at_its_start_what_went_meanwhile(tmp_path: Path, broker_port: int) -> None:
    both = {"fox": txt2img(), "plain": plain()}
    async with household(tmp_path, broker_port, base="away", workflows=both):
        pass
    (tmp_path / "workflows" / "plain.json").unlink()
    async with household(tmp_path, broker_port, base="away", workflows={"fox": txt2img()}):
        pass
    async with household(tmp_path, broker_port, base="away", workflows={"fox": txt2img()}) as (_, there):
        before = len(there.documents)
        await there.say("online")

        def told() -> list[bool]:
            return [one is not None for name, one, _ in there.documents[before:] if name == f"{there.object_id}__plain"]

        await there.until(lambda: told() == [True, False])
        await there.until(lambda: f"{there.object_id}__plain" not in there.devices)
        before = len(there.documents)
        await there.say("online")
        await there.until(lambda: len(there.documents) >= before + 2)
        assert told() == []


async def test_a_broker_that_forgot_everything_is_told_again(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    await broker.start()
    try:
        async with StandIn() as comfy:
            plan = Plan(
                tmp_path, f"mqtt://127.0.0.1:{broker.port}", comfy.url, workflows=OUT_OF_THE_WAY, loaded="plain"
            )
            async with bridge(plan):
                async with home(broker.port, plan.base) as there:
                    await there.until(lambda: len(there.devices) == 2)
                    devices = dict(there.devices)
                await broker.restart()
                async with home(broker.port, plan.base) as there:
                    await there.until(lambda: len(there.devices) == 2)
                    assert there.devices == devices
                    await there.until(lambda: there.available(f"button.{plan.base}_plain_generate"))
    finally:
        await broker.kill()


async def test_two_bridges_on_one_broker(tmp_path: Path, broker_port: int) -> None:
    options: dict[str, Any] = {"workflows": OUT_OF_THE_WAY, "loaded": "plain"}
    async with (
        household(tmp_path / "a", broker_port, base="one", **options) as (_, first),
        household(tmp_path / "b", broker_port, base="one_2", **options) as (_, second),
    ):
        assert not first.entities.keys() & second.entities.keys()
        ids = [one.config["unique_id"] for each in (first, second) for one in each.entities.values()]
        assert len(ids) == len(set(ids))
    async with home(broker_port, "one_2") as there:
        await there.until(lambda: len(there.devices) == 2)
