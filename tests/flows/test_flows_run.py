"""Each flow in a real Node-RED, with a real broker, the bridge and the stand-ins: a message in, the picture out.

`UPDATE_SCREENSHOTS=1` also writes docs/gallery.png.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.browser import Page, browser
from tests.flows.node_red import FLOWS, Node, NodeRed, Sidebar, flow, names, sidebar
from tests.support.bridge_process import (
    BridgeProcess,
    ComfyProcess,
    Plan,
    Process,
    ended,
    start_mosquitto,
    stop_mosquitto,
)
from tests.support.brokers import Mosquitto, free_port
from tests.support.graphs import node, txt2img
from tests.support.mqtt_eye import Eye, watching

BASE = "studio"
SAMPLES = FLOWS.parent / "workflows"
SCREENSHOT = FLOWS.parent / "docs" / "gallery.png"
JPEG, PNG = "ffd8ff", "89504e47"


@dataclass
class Stage:
    """What all tests share; each has a bridge of its own."""

    broker: Mosquitto
    comfy: ComfyProcess
    ollama: str
    node_red: NodeRed
    http: int
    relay: int

    def plan(self, folder: Path, **more: dict[str, Any]) -> Plan:
        settings: dict[str, dict[str, Any]] = {
            "http": {"port": self.http},
            "relay": {"port": self.relay},
            "ollama": {"url": self.ollama},
            "homeassistant": {"discovery": False},
            **more,
        }
        lamp = node("StandInFail", "Lamp", message="the lamp is out")
        graphs = {"fox": txt2img(steps=6), "broken": {**txt2img(steps=1), "20": lamp}}
        return Plan(folder, self.broker.url, self.comfy.url, base=BASE, workflows=graphs, more=settings)

    async def ollama_does(self, **faults: Any) -> None:
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{self.ollama}/standin/faults", json=faults)
            assert answer.status_code == 200, answer.text


def _wait(url: str, log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url)
            return
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    broker = start_mosquitto(folder / "broker")
    comfy = ComfyProcess(folder, step_delay=0.03)
    port = free_port()
    ollama = Process(folder / "ollama.log", "-m", "bridge.testing.ollama", "--port", str(port))
    http, relay = free_port(), free_port()
    node_red = NodeRed(
        folder,
        {
            "MQTT_HOST": "127.0.0.1",
            "MQTT_PORT": str(broker.port),
            "BRIDGE_TOPIC": BASE,
            "OLLAMA_URL": f"http://127.0.0.1:{port}",
            "BRIDGE_URL": f"http://127.0.0.1:{http}",
            "RELAY_URL": f"ws://127.0.0.1:{relay}",
            "SENSOR_TOPIC": "house/garden/air",
            "SENSOR_QUIET": "0.3",
            "SENSOR_EVERY": "600",
            "WATCH_PATIENCE": "0.5",
            "ALERT_TOPIC": f"{BASE}-alerts",
        },
    )
    with ended(comfy, ollama):
        try:
            comfy.start()
            ollama.start()
            node_red.start()
            _wait(f"{comfy.url}/prompt", comfy.log)
            _wait(f"http://127.0.0.1:{port}/", ollama.log)
            yield Stage(broker, comfy, f"http://127.0.0.1:{port}", node_red, http, relay)
        finally:
            node_red.stop()
            stop_mosquitto(broker)


@dataclass
class Scene:
    """One flow that is deployed, with a running bridge."""

    stage: Stage
    eye: Eye
    bridge: BridgeProcess
    sidebar: Sidebar

    async def inject(self, node: str, payload: Any = None) -> None:
        await self.stage.node_red.inject(node, payload)

    async def picture(self, path: str) -> bytes:
        answer = await self.stage.node_red.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer.text
        return answer.content

    async def made(self, number: int = 0) -> bytes:
        """The picture of the run that was started first (or later), as it came from the bridge."""
        await self.eye.until(lambda: len(self.eye.prompt_ids()) > number, what="a run")
        prompt_id = self.eye.prompt_ids()[number]
        result = await self.eye.over(prompt_id)
        assert result["status"] == "completed", result
        return self.eye.outputs(prompt_id)[0]


@contextlib.asynccontextmanager
async def scene(stage: Stage, plan: Plan, nodes: list[Node]) -> AsyncIterator[Scene]:
    bridge = BridgeProcess(plan)
    async with watching(stage.broker.port, BASE) as eye, sidebar(stage.node_red) as bar:
        with ended(bridge):
            await bridge.up(eye)
            await eye.payload(f"backend/127-0-0-1-{stage.comfy.port}/state", "online")
            # What is retained is of another test.
            eye.seen.clear()
            await stage.node_red.deploy(nodes)
            yield Scene(stage, eye, bridge, bar)
            bridge.stop()
        await stage.node_red.deploy([])


# Importing


@pytest.mark.parametrize("name", names())
async def test_it_can_be_imported_alone(stage: Stage, name: str) -> None:
    async with sidebar(stage.node_red) as bar:
        await stage.node_red.deploy(flow(name))
        for one in flow(name):
            # Those inside of a subflow have another id in each instance.
            if one["type"] == "mqtt in" and one["z"].endswith("-tab"):
                await bar.connected(one["id"])
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{stage.node_red.url}/flows")).json() == flow(name)
        assert [one for one in bar.debug if one.node.endswith("-wrong")] == []
    await stage.node_red.deploy([])


async def test_all_of_them_live_together(stage: Stage, tmp_path: Path) -> None:
    together = {one["id"]: one for name in names() for one in flow(name)}
    async with scene(stage, stage.plan(tmp_path), list(together.values())) as here:
        await here.sidebar.connected("generate-run-generate-sub-result", "sensor-state", "gallery-workflows")
        await here.inject("generate-fox")
        await here.sidebar.first("generate-image")
        picture = await here.made()
        assert await here.picture("/comfyui/picture") == picture
        # The relay and the gallery saw the same run; nobody answered twice.
        await here.sidebar.first("relay-finished")
        assert len(here.eye.of("queue")) == len(here.eye.of("response/queue")) == 1


# 01


async def test_generate(stage: Stage, tmp_path: Path) -> None:
    async with scene(stage, stage.plan(tmp_path), flow("01-generate")) as here:
        await here.sidebar.connected("generate-run-generate-sub-result")
        assert (await stage.node_red.get("/comfyui/picture")).status_code == 404
        await here.inject("generate-fox")
        image = await here.sidebar.first("generate-image")
        picture = await here.made()
        assert (image.size, str(image.value)[:8]) == (len(picture), PNG)
        assert await here.picture("/comfyui/picture") == picture

        await here.sidebar.state("generate-run", "completed 100 %")
        progress = here.sidebar.of("generate-progress")
        assert [progress[0]["status"], progress[-1]["status"]] == ["queued", "completed"]
        assert {one["id"] for one in progress} == set(here.eye.prompt_ids())
        previews = here.sidebar.of("generate-previews")
        assert previews
        assert all(one.startswith(JPEG) for one in previews)
        assert here.sidebar.of("generate-error") == []
        command = here.eye.last("queue").json
        assert command["values"] == {"prompt": "a fox in the snow, soft morning light", "seed": "random"}

        await here.inject("generate-text")
        await here.sidebar.first("generate-image", 2)
        assert here.eye.last("queue").json["values"] == {"prompt": "a lighthouse in a storm, oil on canvas"}


async def test_generate_tells_what_is_wrong(stage: Stage, tmp_path: Path) -> None:
    nodes = flow("01-generate")
    run = next(one for one in nodes if one["id"] == "generate-run")
    run["env"].append({"name": "TIMEOUT", "value": "0.5", "type": "num"})
    async with scene(stage, stage.plan(tmp_path), nodes) as here:
        await here.sidebar.connected("generate-run-generate-sub-result")
        await here.inject("generate-fox", {"prompd": "a fox"})
        refused = await here.sidebar.first("generate-error")
        assert refused.value["code"] == "unknown_parameter"
        assert "prompt" in refused.value["message"]

        await here.eye.done("load", "broken")
        await here.inject("generate-text", "")
        failed = await here.sidebar.first("generate-error", 2)
        assert failed.value["code"] == "execution_error"
        assert "the lamp is out" in failed.value["message"]
        await here.eye.done("load", "fox")

        await here.inject("generate-fox", {"steps": 9_000})
        await here.eye.until(lambda: len(here.eye.prompt_ids()) == 2, what="the second run")
        await here.eye.done("interrupt", here.eye.prompt_ids()[1])
        interrupted = await here.sidebar.first("generate-error", 3)
        assert interrupted.value["code"] == "interrupted"

        here.bridge.stop()
        await here.inject("generate-fox")
        silent = await here.sidebar.first("generate-error", 4)
        assert silent.value["code"] == "timeout"
        assert here.sidebar.of("generate-image") == []


# 02


async def test_idea_to_image(stage: Stage, tmp_path: Path) -> None:
    async with scene(stage, stage.plan(tmp_path), flow("02-idea-to-image")) as here:
        await here.sidebar.connected("idea-result")
        await here.inject("idea-styled")
        picture = await here.sidebar.first("idea-picture")
        made = await here.made()
        assert (picture.size, str(picture.value)[:8]) == (len(made), PNG)
        assert await here.picture("/comfyui/idea") == made
        assert here.sidebar.of("idea-prompt") == ["a fox who keeps bees, detailed painting, soft light"]
        assert here.sidebar.of("idea-text")[-1] == here.sidebar.of("idea-prompt")[0]
        assert str(here.sidebar.of("idea-previews")[0]).startswith(JPEG)
        assert here.eye.last("workflow/fox/result").json["values"]["prompt"] == here.sidebar.of("idea-prompt")[0]

        await stage.ollama_does(error="the model fell over")
        await here.inject("idea-city")
        failed = await here.sidebar.first("idea-error")
        await stage.ollama_does(error="")
        assert failed.value["code"] == "writer_failed"
        assert "the model fell over" in failed.value["message"]

        await here.inject("idea-city", {"idea": "a city", "then": {"workflow": "nowhere"}})
        assert (await here.sidebar.first("idea-error", 2)).value["code"] == "unknown_workflow"


# 03


async def test_sensor_to_art(stage: Stage, tmp_path: Path) -> None:
    async with scene(stage, stage.plan(tmp_path), flow("03-sensor-to-art")) as here:
        await here.sidebar.connected("sensor-reading", "sensor-state", "sensor-result")
        for reading in ("20", "21.5", '{"value": 23}', "23.1", '{"value": "3.5"}'):
            await here.eye.client.publish("house/garden/air", reading)
        picture = await here.sidebar.first("sensor-picture")
        made = await here.made()
        assert (picture.size, str(picture.value)[:8]) == (len(made), PNG)
        assert await here.picture("/comfyui/sensor") == made
        # One picture, for where the readings came to rest.
        command = here.eye.last("queue").json
        assert "cold and grey" in command["values"]["prompt"]
        assert "expires_at" in command

        # Another change so soon, and one that is none.
        await here.sidebar.state("sensor-follow", "drawn for 3.5")
        await here.eye.client.publish("house/garden/air", "30")
        await here.sidebar.state("sensor-read", "30")
        await here.sidebar.until(
            lambda: any(str(one.value).startswith("30 waits: ") for one in here.sidebar.states), "a reading that waits"
        )
        await here.eye.client.publish("house/garden/air", "warm")
        await here.sidebar.state("sensor-read", "no number")

        here.bridge.stop()
        await here.eye.client.publish("house/garden/air", "12")
        await here.sidebar.state("sensor-gate", "12 waits: the bridge is away")
        assert len(here.eye.of("queue")) == 1
        assert here.sidebar.of("sensor-error") == []


async def test_the_newest_reading_is_drawn_as_soon_as_possible(stage: Stage, tmp_path: Path) -> None:
    nodes = flow("03-sensor-to-art")
    for setting in next(one for one in nodes if one["type"] == "tab")["env"]:
        if setting["name"] == "EVERY":
            setting |= {"type": "str", "value": "0.5"}
    async with scene(stage, stage.plan(tmp_path), nodes) as here:
        await here.sidebar.connected("sensor-reading", "sensor-state", "sensor-result")
        await here.eye.client.publish("house/garden/air", "20")
        await here.sidebar.state("sensor-gate", "asked for 20")
        for reading in ("25", "30"):  # while the first is still in the making, or too soon after it
            await here.eye.client.publish("house/garden/air", reading)
        await here.sidebar.state("sensor-follow", "drawn for 30")

        here.bridge.stop()
        for reading in ("3", "12"):
            await here.eye.client.publish("house/garden/air", reading)
            await here.sidebar.state("sensor-gate", f"{reading} waits: the bridge is away")
        await here.bridge.up(here.eye)
        await here.sidebar.state("sensor-follow", "drawn for 12")
        moods = [one.json["values"]["prompt"].split(", ")[1] for one in here.eye.of("queue")]
        assert moods == ["mild and clear", "glaring heat", "cool wind"]
        assert here.sidebar.of("sensor-error") == []


# 04


async def _shown(page: Page, status: str) -> None:
    await page.until(f"document.querySelector('[data-testid=status]')?.innerText.includes('{status}')", status)


async def test_gallery(stage: Stage, tmp_path: Path) -> None:
    plan = stage.plan(tmp_path, workflows={"dir": str(SAMPLES), "loaded": "txt2img", "watch": False})
    url = f"{stage.node_red.url}/dashboard/gallery"
    async with scene(stage, plan, flow("04-gallery")) as here:
        await here.sidebar.connected("gallery-result", "gallery-workflows")
        ideas = (
            "an owl in a library, candle light",
            "a harbour at dawn, oil on canvas",
            "a garden of glass, macro",
            "a paper boat",
        )
        for seed, idea in enumerate(ideas, 7):
            run = await here.eye.queue({"values": {"prompt": idea, "seed": seed * 91, "steps": 2}})
            assert (await here.eye.over(run))["status"] == "completed"
        async with browser(tmp_path / "browser", url, width=1280, height=1060) as page:
            # The form is made from bridge/workflows, with the values as they are set.
            await page.until(
                "document.querySelector('[data-testid=prompt] textarea')?.value.startsWith('a lighthouse')", "the form"
            )
            gallery = "[...document.querySelectorAll('[data-testid=gallery] img')]"
            await page.until(
                f"{gallery}.length >= 4 && {gallery}.slice(0, 4).every((one) => one.naturalWidth)", "the last pictures"
            )

            # A run by the form: progress, preview, picture.
            await here.eye.done("update/values", {"steps": 100})
            before = len(here.eye.prompt_ids())
            await page.write("[data-testid=prompt] textarea", "a red fox in the snow, soft morning light, photograph")
            await page.click("[data-testid=generate]")
            half = "/[5-9]\\d %/.test(document.querySelector('[data-testid=status]').innerText)"
            preview = "document.querySelector('[data-testid=preview]')"
            await page.until(f"{half} && {preview}?.src.startsWith('blob:') && {preview}.naturalWidth", "a preview")
            shot = await page.screenshot()
            made = await here.made(before)
            await _shown(page, "completed")
            assert here.eye.last("queue").json["values"] == {
                "prompt": "a red fox in the snow, soft morning light, photograph"
            }
            prompt_id = here.eye.prompt_ids()[before]
            newest = await page.until(
                f"{gallery}[0].naturalWidth && {gallery}[0].src.includes('{prompt_id}') && {gallery}[0].src",
                "the new picture",
            )
            assert (await stage.node_red.get(httpx.URL(newest).path)).content == made

            # Cancel.
            run = await here.eye.queue({"values": {"steps": 100}})
            await _shown(page, "Sampler")
            await page.click("[data-testid=cancel]")
            assert (await here.eye.over(run))["status"] == "interrupted"
            await _shown(page, "interrupted")

            # What the bridge refuses is said.
            here.bridge.stop()
            await page.until("document.body.innerText.includes('The bridge is away')", "that the bridge is away")
            assert page.problems == []
        assert [one for one in here.sidebar.debug if one.node == "gallery-wrong"] == []
        if os.environ.get("UPDATE_SCREENSHOTS"):
            SCREENSHOT.write_bytes(shot)


# 05


async def test_watchdog(stage: Stage, tmp_path: Path) -> None:
    async with (
        watching(stage.broker.port, f"{BASE}-alerts", filters=("",)) as alerts,
        scene(stage, stage.plan(tmp_path), flow("05-watchdog")) as here,
    ):
        await alerts.client.subscribe(f"{BASE}-alerts")
        await here.sidebar.connected("watch-state", "watch-backend", "watch-event")
        await here.eye.queue(workflow="broken")
        failed = (await here.sidebar.first("watch-told")).value
        assert (failed["severity"], failed["title"], failed["code"]) == ("failure", "broken failed", "execution_error")
        assert "the lamp is out" in failed["text"]

        here.bridge.kill()
        away = (await here.sidebar.first("watch-told", 2)).value
        assert (away["severity"], away["title"]) == ("alarm", "comfy-bridge is away")
        await here.bridge.up(here.eye)
        back = (await here.sidebar.first("watch-told", 3)).value
        assert (back["severity"], back["title"]) == ("ok", "comfy-bridge is back")
        await alerts.until(lambda: len(alerts.seen) == 3)
        assert [one.json["severity"] for one in alerts.seen] == ["failure", "alarm", "ok"]


# 06


async def test_prompt_writer(stage: Stage, tmp_path: Path) -> None:
    plan = stage.plan(tmp_path, prompting={"writer": "mqtt", "timeout": 20})
    async with scene(stage, plan, flow("06-prompt-writer")) as here:
        await here.sidebar.connected("writer-request")
        await here.eye.send("ollama/generate", {"idea": "a fox that knits", "style": "woodcut", "then": {}})
        written = (await here.eye.first("ollama/result")).json
        assert written["status"] == "ok", written
        assert written["prompt"] == "a fox that knits, detailed painting, soft light"
        assert (written["negative"], written["title"]) == ("text, watermark", "A Fox That")
        assert written["model"] == "llama3.2:latest"
        assert (await here.eye.over(written["prompt_id"]))["values"]["prompt"] == written["prompt"]
        async with httpx.AsyncClient() as http:
            chat = (await http.get(f"{stage.ollama}/standin/stats")).json()["chats"][-1]
        assert chat["keep_alive"] == 0
        assert chat["messages"][1]["content"] == "Idea: a fox that knits\nStyle: woodcut"
        assert chat["messages"][0]["content"] == here.eye.last("prompting/request").json["system"]

        await stage.ollama_does(fenced=True)
        await here.eye.send("ollama/generate", "an owl")
        await here.eye.count("ollama/result", 2)
        await stage.ollama_does(fenced=False, error="the model fell over")
        await here.eye.send("ollama/generate", "a hare")
        await here.eye.count("ollama/result", 3)
        await stage.ollama_does(error="")
        fenced, failed = (one.json for one in here.eye.of("ollama/result")[1:])
        assert fenced["prompt"] == "an owl, detailed painting, soft light"
        assert failed["code"] == "writer_failed"
        assert "the model fell over" in failed["error"]


# 07


async def test_http_relay(stage: Stage, tmp_path: Path) -> None:
    async with scene(stage, stage.plan(tmp_path), flow("07-http-relay")) as here:
        await here.sidebar.state("relay-socket", "connected")
        await here.inject("relay-fox")
        picture = await here.sidebar.first("relay-picture")
        made = await here.made()
        assert (picture.size, str(picture.value)[:8]) == (len(made), PNG)
        assert await here.picture("/comfyui/relay") == made
        finished = (await here.sidebar.first("relay-finished")).value
        assert (finished["type"], finished["prompt_id"]) == ("image_generated", here.eye.prompt_ids()[0])
        assert here.sidebar.of("relay-progress")[-1]["max"] == 6
        previews = here.sidebar.of("relay-previews")
        assert previews
        assert all(one.startswith(JPEG) for one in previews)
        assert "execution_success" in [one["type"] for one in here.sidebar.of("relay-events")]

        await here.eye.done("load", "broken")
        await here.inject("relay-fox")
        wrong = (await here.sidebar.first("relay-wrong")).value
        assert "the lamp is out" in wrong["message"]


async def test_http_relay_tells_what_is_refused(stage: Stage, tmp_path: Path) -> None:
    nodes = flow("07-http-relay")
    tab = next(one for one in nodes if one["type"] == "tab")
    tab["env"] = [{"name": "PROMPT_NODE", "value": "999", "type": "str"}, *tab["env"][1:]]
    async with scene(stage, stage.plan(tmp_path), nodes) as here:
        await here.inject("relay-fox")
        wrong = (await here.sidebar.first("relay-wrong")).value
        assert "refused" in wrong["message"]
        assert "999" in wrong["message"]
        assert here.eye.prompt_ids() == []
