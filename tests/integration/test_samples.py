"""What docs/samples.md and docs/debugging.md give to copy does what they say, as far as that can be tried here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml
from websockets.asyncio.client import connect

from bridge.mqtt.topics import Topics
from tests.support.bridge_process import House, house
from tests.support.brokers import free_port
from tests.support.graphs import txt2img

DOCS = Path(__file__).parents[2] / "docs"
TOPICS = Topics("comfyui")


def blocks(name: str, language: str) -> list[str]:
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def documents() -> list[Any]:
    """The YAML of the samples; what it takes from a file of secrets is a text here."""
    return [yaml.safe_load(block.replace("!secret ", "")) for block in blocks("samples", "yaml")]


def values_of(document: Any, key: str) -> list[Any]:
    """Every value of a key, at whatever depth."""
    found: list[Any] = []
    if isinstance(document, dict):
        found += [document[key]] if key in document else []
        for value in document.values():
            found += values_of(value, key)
    elif isinstance(document, list):
        for value in document:
            found += values_of(value, key)
    return found


@contextlib.asynccontextmanager
async def _house(folder: Path, port: int, **more: dict[str, Any]) -> AsyncIterator[House]:
    async with house(folder, port, workflows={"txt2img": txt2img()}, loaded="txt2img", more=more) as here:
        yield here


async def _drawn(here: House, payload: dict[str, Any]) -> None:
    prompt_id = await here.eye.queue(payload)
    result = await here.eye.over(prompt_id)
    assert (result["status"], result["values"]["prompt"]) == ("completed", "a fox in the snow")


def test_the_topics_in_yaml_are_ours() -> None:
    topics = [topic for document in documents() for topic in values_of(document, "topic")]
    commands = {"comfyui/ollama/generate", "comfyui/queue"}
    said = {
        TOPICS.bridge("state"),
        TOPICS.workflow("txt2img", "progress"),
        TOPICS.workflow("txt2img", "event"),
    }
    assert set(topics) == commands | said
    for topic in commands:
        command = TOPICS.parse(topic)
        assert command is not None
        assert command.kind != "unknown"
    assert True not in values_of(documents(), "retain")


async def test_the_button_of_esphome(tmp_path: Path, broker_port: int) -> None:
    (payload,) = [one for one in values_of(documents(), "payload") if "root[" in one]
    message: dict[str, Any] = {}
    for keys, value in re.findall(r'^root((?:\["\w+"\])+) = (".*");$', payload, re.MULTILINE):
        *path, last = re.findall(r'"(\w+)"', keys)
        place = message
        for key in path:
            place = place.setdefault(key, {})
        place[last] = json.loads(value)
    async with _house(tmp_path, broker_port) as here:
        await _drawn(here, message)


async def test_the_rules_of_tasmota(tmp_path: Path, broker_port: int) -> None:
    rules = " ".join(block for block in blocks("samples", "") if "Rule" in block)
    sent = re.findall(r"DO Publish comfyui/(\S+) (.*?) ENDON", rules)
    assert [command for command, _ in sent] == ["queue", "interrupt", "workflow/txt2img/set/prompt"]
    async with _house(tmp_path, broker_port) as here:
        await _drawn(here, json.loads(sent[0][1]))
        await here.eye.done("interrupt", sent[1][1])
        await here.eye.done(sent[2][0], sent[2][1].replace("%value%", "21.5"))
        await here.eye.first("workflow/txt2img/values", lambda one: "a garden at 21.5 degrees" in one.json["prompt"])


class Operator:
    """An operator of TouchDesigner, as far as the callbacks touch it."""

    def __init__(self) -> None:
        self.text = ""
        self.file = ""
        self.shown: list[bytes] = []
        self.par = self
        self.reloadpulse = self

    def pulse(self) -> None:
        self.shown.append(Path(self.file).read_bytes())


async def test_the_callbacks_for_touchdesigner(tmp_path: Path, broker_port: int) -> None:
    callbacks, _ = blocks("samples", "python")
    operators = {name: Operator() for name in ("preview", "picture", "words")}
    scope: dict[str, Any] = {"op": operators.__getitem__}
    exec(compile(callbacks, "samples.md", "exec"), scope)  # noqa: S102 - it is what is tested
    scope["FOLDER"] = tmp_path
    relay, http = free_port(), free_port()
    async with _house(tmp_path, broker_port, relay={"port": relay}, http={"port": http}) as here:
        async with connect(f"ws://127.0.0.1:{relay}", max_size=None) as socket, asyncio.timeout(20):
            prompt_id = await here.eye.queue()
            while not operators["picture"].shown:
                frame = await socket.recv()
                if isinstance(frame, bytes):
                    scope["onReceiveBinary"](None, frame)
                else:
                    await asyncio.to_thread(scope["onReceiveText"], None, 0, frame)
        await here.eye.over(prompt_id)
        assert operators["picture"].shown == [here.eye.outputs(prompt_id)[0]]
        previews = [one.payload for one in here.eye.of(f"prompt/{prompt_id}/preview")]
        assert operators["preview"].shown == previews
        assert operators["words"].text == "done"


def test_the_filters_of_the_debugging_page() -> None:
    """Each filter that is there to copy can match something that the bridge says, or a command."""
    text = "\n".join(blocks("debugging", "sh"))
    filters = re.findall(r"-[tT] '?(comfyui/[^' \n]+|homeassistant/[^' \n]+)'?", text)
    assert len(filters) > 10
    kinds = {"bridge", "response", "prompt", "workflow", "backend", "queue", "batch", "ollama", "prompting", "#", "+"}
    for one in filters:
        prefix, kind, *_ = one.split("/")
        assert prefix == "homeassistant" or kind in kinds, one
    for topic in re.findall(r"mosquitto_pub -t (\S+)", text):
        command = TOPICS.parse(topic)
        assert command is not None, topic
        assert command.kind != "unknown", topic
