"""Ideas become prompts and pictures, over MQTT, against an Ollama on a port.

The stand-in always; what needs no faults also against a real one, if OLLAMA_URL names it (it needs a model).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from bridge.errors import SettingsError
from bridge.testing.ollama import OllamaStandIn
from tests.support.bridge_process import House, Plan, bridge, house, workflows
from tests.support.brokers import free_port
from tests.support.graphs import txt2img
from tests.support.mqtt_eye import Eye, watching
from tests.support.web import serving

REAL = os.environ.get("OLLAMA_URL")
WRITTEN = "a fox, detailed painting, soft light"

Rooms = Callable[..., AbstractAsyncContextManager[House]]


@pytest.fixture
async def ollama() -> AsyncIterator[OllamaStandIn]:
    async with OllamaStandIn(models=("llama3.2:latest", "llava:latest")) as standin:
        yield standin


@pytest.fixture(params=["standin", *(["real"] if REAL else [])])
def any_ollama(request: pytest.FixtureRequest, ollama: OllamaStandIn) -> str:
    return ollama.url if request.param == "standin" else str(REAL)


@pytest.fixture
def rooms(tmp_path: Path, broker_port: int) -> Rooms:
    """A house whose prompt writer is the given Ollama."""

    def made(url: str, *, prompting: dict[str, Any] | None = None, version: str = "5", **more: Any) -> Any:
        settings = {"ollama": {"url": url, **more.pop("ollama", {})}, "prompting": prompting or {}}
        graphs = {**workflows(), "flux": without_negative()}
        return house(tmp_path, broker_port, version=version, workflows=graphs, more={**settings, **more})

    return made


@pytest.fixture
async def here(rooms: Rooms, ollama: OllamaStandIn) -> AsyncIterator[House]:
    async with rooms(ollama.url) as made:
        yield made


async def result(eye: Eye, idea_id: str, *, within: float = 120.0) -> dict[str, Any]:
    """Wait for what became of an idea."""
    found = await eye.first("ollama/result", lambda one: one.json["id"] == idea_id, within=within)
    document: dict[str, Any] = found.json
    return document


async def generate(eye: Eye, payload: str | bytes | dict[str, Any], topic: str = "ollama/generate") -> dict[str, Any]:
    """Send an idea that is accepted, and return what became of it."""
    return await result(eye, (await eye.done(topic, payload))["id"])


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "JPEG")
    return out.getvalue()


def without_negative() -> dict[str, Any]:
    """A workflow such as those for Flux: one text."""
    graph = txt2img()
    del graph["7"]
    graph["3"]["inputs"]["negative"] = ["11", 0]
    graph["11"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}}
    return graph


# Ideas


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_plain_idea_becomes_a_prompt(rooms: Rooms, any_ollama: str, version: str) -> None:
    async with rooms(any_ollama, version=version) as here:
        await here.eye.payload("ollama/state", "online")
        models = (await here.eye.first("ollama/models")).json["models"]
        document = await generate(here.eye, "ein Fuchs im Schnee")
        assert document["status"] == "ok"
        assert len(document["prompt"]) > 10
        assert document["model"] in [model["name"] for model in models]
        assert document["duration"] > 0
        assert document["idea"] == "ein Fuchs im Schnee"
        assert "prompt_id" not in document
        stream = "".join(one.text for one in here.eye.of("ollama/stream"))
        assert json.loads(stream)["prompt"].strip() == document["prompt"]
        assert len(here.eye.of("ollama/stream")) > 2
        assert here.eye.last("ollama/stream/prompt").text == document["prompt"]


async def test_an_idea_becomes_a_picture_in_one_transaction(rooms: Rooms, any_ollama: str) -> None:
    async with rooms(any_ollama) as here:
        idea = {
            "idea": "a fox",
            "style": "woodcut",
            "then": {"workflow": "fox", "values": {"seed": 5}},
            "transaction": "t-1",
        }
        answers = await asyncio.gather(*(here.eye.ask("ollama/generate", idea) for _ in range(2)))
        assert answers[0] == answers[1]
        document = await result(here.eye, answers[0]["data"]["id"])
        assert (document["status"], document["transaction"], document["workflow"]) == ("ok", "t-1", "fox")
        picture = await here.eye.over(document["prompt_id"])
        assert picture["status"] == "completed"
        assert picture["values"]["prompt"] == document["prompt"]
        if "negative" in document:  # a real model may have none
            assert picture["values"]["negative"] == document["negative"]
        assert picture["values"]["seed"] == 5
        assert here.eye.prompt_ids() == [document["prompt_id"]]
        assert len(here.eye.of("ollama/result")) == 1
        # For that run only.
        values = (await here.eye.first("workflow/fox/values")).json
        assert here.eye.last("workflow/fox/values").json == values
        assert values["prompt"] != document["prompt"]


async def test_the_model_has_left_the_memory_before_the_picture_starts(here: House, ollama: OllamaStandIn) -> None:
    ollama.faults.unload_delay = 0.5
    accepted = await here.eye.done("ollama/generate", {"idea": "a fox", "then": {}})
    await here.eye.until(lambda: ollama.loaded)
    await here.eye.until(here.eye.prompt_ids)
    assert not ollama.loaded
    document = await result(here.eye, accepted["id"])
    await here.eye.over(document["prompt_id"])
    assert ollama.stats.chats[0]["keep_alive"] == 0


async def test_comfyui_frees_its_memory_first_where_that_is_set(rooms: Rooms, ollama: OllamaStandIn) -> None:
    async with rooms(ollama.url, ollama={"free_comfyui": True}) as here:
        ollama.faults.slow = 0.01
        assert (await generate(here.eye, "a fox"))["status"] == "ok"
        assert here.comfy.stats.freed == 1


async def test_a_workflow_without_a_negative_prompt_is_asked_for_as_flux(here: House, ollama: OllamaStandIn) -> None:
    asked = [
        await generate(here.eye, idea)
        for idea in (
            {"idea": "a fox", "then": {"workflow": "fox"}},
            {"idea": "a fox", "then": {"workflow": "flux"}},
            {"idea": "a fox", "then": {"workflow": "flux"}, "profile": "sd"},
        )
    ]
    assert [one["profile"] for one in asked] == ["sd", "flux", "sd"]
    systems = [chat["messages"][0]["content"] for chat in ollama.stats.chats]
    assert ["Stable Diffusion family" in one for one in systems] == [True, False, True]
    for one in asked:
        values = (await here.eye.over(one["prompt_id"]))["values"]
        assert values["prompt"] == one["prompt"]
        assert ("negative" in values) == (one["workflow"] == "fox")


async def test_style_and_negative_of_a_profile(rooms: Rooms, ollama: OllamaStandIn) -> None:
    profile = {"style": "woodcut", "negative": ["nudity", "text"], "system": "Draw {{ idea }} as {{ style }}."}
    async with rooms(ollama.url, ollama={"profiles": {"own": profile}}) as here:
        document = await generate(here.eye, {"idea": "a fox", "profile": "own"})
        assert document["negative"] == "nudity, text, watermark"
        assert document["profile"] == "own"
        assert ollama.stats.chats[0]["messages"][0]["content"] == "Draw a fox as woodcut."


async def test_the_description_of_the_runner_is_answered_as_the_runner_does(here: House) -> None:
    description = {"description": "a fox", "visualCue": "snow", "moodCue": "calm"}
    document = await generate(here.eye, {"image_description": description})
    assert document["STATUS"] == "success"
    assert document["positive_prompt"] == document["prompt"]
    assert document["negative_prompt"] == document["negative"]


# One after the other, and away with them


async def test_ideas_wait_in_line_and_are_cancelled(here: House, ollama: OllamaStandIn) -> None:
    ollama.faults.slow = 0.05
    answers = [await here.eye.done("ollama/generate", f"idea {number}") for number in range(4)]
    assert [one["position"] for one in answers] == [1, 2, 3, 4]
    ids = [one["id"] for one in answers]
    assert await here.eye.done("ollama/cancel", {"id": ids[2]}) == {"ids": [ids[2]]}
    assert (await result(here.eye, ids[2]))["code"] == "cancelled"
    assert (await result(here.eye, ids[0]))["status"] == "ok"
    await here.eye.until(lambda: len(ollama.stats.chats) == 2)
    assert await here.eye.done("ollama/cancel") == {"ids": [ids[1], ids[3]]}
    assert [(await result(here.eye, one))["code"] for one in (ids[1], ids[3])] == ["cancelled", "cancelled"]
    await here.eye.until(lambda: ollama.stats.aborted == 1)
    assert ollama.stats.most_at_once == 1
    assert len(here.eye.of("ollama/result")) == 4
    await here.eye.refused("ollama/cancel", ids[0], "unknown_idea", ids[0])
    assert await here.eye.done("ollama/cancel") == {"ids": []}


async def test_a_cancelled_idea_starts_no_picture(here: House, ollama: OllamaStandIn) -> None:
    ollama.faults.hang = True
    accepted = await here.eye.done("ollama/generate", {"idea": "a fox", "then": {}})
    await here.eye.until(lambda: ollama.stats.chats)
    await here.eye.done("ollama/cancel", accepted["id"])
    assert (await result(here.eye, accepted["id"]))["code"] == "cancelled"
    ollama.faults.hang = False
    assert (await generate(here.eye, "an owl"))["status"] == "ok"
    assert here.eye.prompt_ids() == []


async def test_so_many_ideas_may_wait(rooms: Rooms, ollama: OllamaStandIn) -> None:
    ollama.faults.hang = True
    async with rooms(ollama.url, prompting={"max_waiting": 2}) as here:
        for _ in range(2):
            await here.eye.done("ollama/generate", "a fox")
        await here.eye.refused("ollama/generate", "a fox", "queue_full", "max_waiting")


# What goes wrong


async def test_what_no_idea_is_refused_at_once(here: House) -> None:
    for payload, code, word in (
        ("", "bad_payload", "ollama/set/idea"),
        ({"ide": "a fox"}, "bad_payload", "'idea'"),
        ({"idea": "a fox", "image_description": {"description": "b"}}, "bad_payload", "just one"),
        ({"idea": "a fox", "profile": "sdxl"}, "bad_value", "flux"),
        ({"idea": "a fox", "images": ["?"]}, "bad_value", "base64"),
        ({"idea": "a fox", "images": [base64.b64encode(b"text").decode()]}, "bad_value", "image"),
        ({"idea": "a fox", "images": [{"url": "http://a", "base64": "b"}]}, "bad_payload", "just one"),
        ({"idea": "a fox", "then": {"workflow": "nowhere"}}, "unknown_workflow", "nowhere"),
        ({"idea": "a fox", "then": {"workflow": "plain"}}, "unknown_parameter", "prompt"),
        ({"idea": "a fox", "then": {"values": {"steps": "many"}}}, "bad_value", "steps"),
        ({"idea": "a fox", "then": "fox"}, "bad_payload", "then"),
        ('{"idea": ', "bad_payload", "JSON"),
    ):
        await here.eye.refused("ollama/generate", payload, code, word)
    await here.eye.refused("ollama/generate/image", b"", "bad_value", "empty")
    await here.eye.refused("ollama/generate/image", b"\x00\x81", "bad_value", "image")
    await here.eye.refused("ollama/set/colour", "red", "bad_payload", "colour")
    await here.eye.refused("prompting/response/x", "a fox", "unsupported", "prompting.writer")
    assert not here.eye.of("ollama/result")


@pytest.mark.parametrize(
    ("faults", "code", "words"),
    [
        ({"error": "CUDA error: out of memory"}, "writer_failed", "CUDA"),
        ({"error_midway": "runner crashed"}, "writer_failed", "runner crashed"),
        ({"empty": True}, "writer_failed", "nothing"),
        ({"cut": True}, "writer_offline", "broke"),
        ({"hang": True}, "timeout", "prompting.timeout"),
    ],
)
async def test_each_failure_has_its_code(
    rooms: Rooms, ollama: OllamaStandIn, faults: dict[str, Any], code: str, words: str
) -> None:
    async with rooms(ollama.url, prompting={"timeout": 1.5}) as here:
        for name, value in faults.items():
            setattr(ollama.faults, name, value)
        document = await generate(here.eye, {"idea": "a fox", "then": {}, "transaction": "t"})
        assert (document["status"], document["code"], document["transaction"]) == ("error", code, "t")
        assert words in document["error"]
        assert not here.eye.prompt_ids()
        for name in faults:
            setattr(ollama.faults, name, type(getattr(ollama.faults, name))())
        assert (await generate(here.eye, "a fox"))["status"] == "ok"


async def test_an_absent_ollama_is_offline_and_comes_back(rooms: Rooms) -> None:
    port = free_port()
    async with rooms(f"http://127.0.0.1:{port}") as here:
        await here.eye.payload("ollama/state", "offline")
        assert (await generate(here.eye, "a fox"))["code"] == "writer_offline"
        async with OllamaStandIn(port=port):
            assert (await generate(here.eye, "a fox"))["status"] == "ok"
            await here.eye.payload("ollama/state", "online")
        assert (await generate(here.eye, "a fox"))["code"] == "writer_offline"
        await here.eye.payload("ollama/state", "offline")


async def test_a_missing_model_names_the_command_to_pull_it(rooms: Rooms, ollama: OllamaStandIn) -> None:
    async with rooms(ollama.url, ollama={"model": "qwen2.5:7b"}) as here:
        document = await generate(here.eye, "a fox")
        assert document["code"] == "unknown_model"
        assert "ollama pull qwen2.5:7b" in document["error"]
        assert document["details"] == {"model": "qwen2.5:7b"}
        assert await here.eye.done("ollama/pull", "qwen2.5:7b") == {"model": "qwen2.5:7b"}
        end = await here.eye.first("ollama/pull/progress", lambda one: one.json["status"] != "running")
        assert end.json == {"model": "qwen2.5:7b", "status": "ok", "step": "success", "percent": 100.0}
        await here.eye.first("ollama/models", lambda one: "qwen2.5:7b" in one.text)
        assert (await generate(here.eye, "a fox"))["model"] == "qwen2.5:7b"


async def test_a_download_tells_how_far_it_is_and_is_cancelled(here: House, ollama: OllamaStandIn) -> None:
    ollama.faults.pull_slow = 0.3
    await here.eye.done("ollama/pull", {"model": "gemma3:4b"})
    await here.eye.done("ollama/pull", {"model": "gemma3:4b"})
    half = await here.eye.first("ollama/pull/progress", lambda one: one.json.get("percent", 0) >= 25)
    assert half.json["status"] == "running"
    assert half.json["total"] > half.json["completed"] > 0
    await here.eye.done("ollama/cancel", {"model": "gemma3:4b"})
    end = await here.eye.first("ollama/pull/progress", lambda one: one.json["status"] != "running")
    assert (end.json["status"], end.json["code"]) == ("error", "cancelled")
    await here.eye.refused("ollama/cancel", {"model": "gemma3:4b"}, "unknown_model", "gemma3:4b")
    await here.eye.done("ollama/pull", "nothing-like-it")
    end = await here.eye.first(
        "ollama/pull/progress", lambda one: one.json["model"] == "nothing-like-it" and "code" in one.json
    )
    assert end.json["code"] == "unknown_model"


async def test_an_answer_that_is_no_json_is_taken_as_it_is_with_a_warning(here: House, ollama: OllamaStandIn) -> None:
    ollama.faults.text = "A red fox in deep snow."
    document = await generate(here.eye, {"idea": "a fox", "then": {}})
    assert (document["status"], document["code"]) == ("ok", "not_json")
    assert document["prompt"] == "A red fox in deep snow."
    assert len(ollama.stats.chats) == 2
    assert (await here.eye.over(document["prompt_id"]))["values"]["prompt"] == "A red fox in deep snow."


async def test_a_picture_that_cannot_be_queued_keeps_what_was_written(rooms: Rooms, ollama: OllamaStandIn) -> None:
    async with rooms(ollama.url, jobs={"max_waiting": 1}) as here:
        for _ in range(4):  # as many as the server and the line take
            await here.eye.ask("queue", {"workflow": "sleep"})
        document = await generate(here.eye, {"idea": "a fox", "then": {}})
        assert (document["status"], document["code"]) == ("error", "queue_full")
        assert document["prompt"] == WRITTEN
        await here.eye.done("interrupt")
        await here.eye.until(lambda: all(here.eye.finals(one) for one in here.eye.prompt_ids()))


# Pictures


async def test_pictures_come_as_bytes_base64_and_addresses(rooms: Rooms, ollama: OllamaStandIn) -> None:
    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=jpeg(), content_type="image/jpeg")

    encoded = base64.b64encode(jpeg()).decode()
    async with (
        serving(picture) as server,
        rooms(ollama.url, security={"allowed_hosts": ["127.0.0.1"]}) as here,
    ):
        for topic, payload in (
            ("ollama/generate/image", jpeg()),
            ("ollama/generate/image", encoded),
            ("ollama/generate/image", f"data:image/jpeg;base64,{encoded}"),
            ("ollama/generate/image", server.url("/a.jpg")),
            ("ollama/generate/image", {"base64": encoded, "idea": "at night"}),
            ("ollama/generate/image", {"url": server.url("/a.jpg")}),
            ("ollama/generate", {"idea": "a fox", "images": [encoded]}),
            ("ollama/generate", {"idea": "a fox", "images": server.url("/a.jpg")}),
            ("ollama/generate", {"idea": "a fox", "images": [{"url": server.url("/a.jpg")}, {"base64": encoded}]}),
        ):
            document = await generate(here.eye, payload, topic)
            assert document["status"] == "ok", (topic, document)
            assert document["model"] == "llava:latest"
            sizes = ollama.stats.chats[-1]["messages"][1]["images"]
            assert sizes == [len(jpeg())] * len(sizes)
        assert len(sizes) == 2


async def test_addresses_inside_the_house_are_not_fetched(here: House) -> None:
    document = await generate(here.eye, {"idea": "a fox", "images": ["http://127.0.0.1:9/a.jpg"]})
    assert (document["status"], document["code"]) == ("error", "not_allowed")


# Values


async def test_what_is_set_is_for_ideas_that_do_not_say_it(here: House, ollama: OllamaStandIn) -> None:
    await here.eye.done("ollama/set/idea", "a fox ")
    await here.eye.done("ollama/set", {"style": "woodcut", "workflow": "fox"})
    values = (await here.eye.first("ollama/values", lambda one: one.json["workflow"])).json
    assert values == {"idea": "a fox", "style": "woodcut", "profile": "", "workflow": "fox", "profiles": ["flux", "sd"]}
    document = await generate(here.eye, "PRESS")
    assert document["idea"] == "a fox"
    assert (await here.eye.over(document["prompt_id"]))["status"] == "completed"
    assert "Style: woodcut" in ollama.stats.chats[0]["messages"][1]["content"]
    document = await generate(here.eye, {"idea": "an owl", "style": "", "then": None})
    assert "prompt_id" not in document
    assert ollama.stats.chats[1]["messages"][1]["content"] == "Idea: an owl"
    document = await generate(here.eye, jpeg(), "ollama/generate/image")
    assert ollama.stats.chats[2]["messages"][1]["content"].startswith("Idea: a fox\nStyle: woodcut\nA picture")
    await here.eye.refused("ollama/set/workflow", "nowhere", "unknown_workflow", "nowhere")
    await here.eye.refused("ollama/set/profile", "sdxl", "bad_value", "flux")


async def test_values_stay_over_a_restart_and_ideas_that_were_on_their_way_are_told(
    tmp_path: Path, broker_port: int, ollama: OllamaStandIn
) -> None:
    plan = Plan(
        tmp_path,
        f"mqtt://127.0.0.1:{broker_port}",
        "http://127.0.0.1:9",
        more={"ollama": {"url": ollama.url}},
    )
    ollama.faults.hang = True
    async with watching(broker_port, plan.base) as eye:
        async with bridge(plan):
            await eye.payload("bridge/state", "online")
            await eye.done("ollama/set/idea", "a fox")
            idea = {"idea": "a fox", "transaction": "t"}
            ids = [(await eye.done("ollama/generate", payload))["id"] for payload in (idea, "an owl")]
            await eye.until(lambda: ollama.stats.chats)
        assert not eye.of("ollama/result")
        async with bridge(plan):
            first, second = [await result(eye, one) for one in ids]
            assert (first["code"], first["transaction"], first["idea"]) == ("cancelled", "t", "a fox")
            assert (second["code"], second["idea"]) == ("cancelled", "an owl")
            assert (await eye.first("ollama/values", lambda one: one.json["idea"])).json["idea"] == "a fox"
        async with bridge(plan):
            await eye.payload("bridge/state", "online")
            ollama.faults.hang = False
            assert (await generate(eye, "PRESS"))["status"] == "ok"
    assert len(eye.of("ollama/result")) == 3


async def test_a_template_that_fails_keeps_the_bridge_from_starting(tmp_path: Path, broker_port: int) -> None:
    more: dict[str, dict[str, Any]] = {"ollama": {"profiles": {"own": {"system": "{{ ideas }}"}}}}
    plan = Plan(tmp_path, f"mqtt://127.0.0.1:{broker_port}", "http://127.0.0.1:9", more=more)
    with pytest.raises(SettingsError, match=r"ollama\.profiles\.own\.system"):
        async with bridge(plan):
            pass


# Other writers


@contextlib.asynccontextmanager
async def flow(eye: Eye, answer: Callable[[dict[str, Any]], tuple[str, str | dict[str, Any]]]) -> AsyncIterator[None]:
    """A flow that answers each question with a topic and a payload."""

    async def serve() -> None:
        for number in range(10**6):
            await eye.until(lambda: len(eye.of("prompting/request")) > number, 3600)  # noqa: B023
            topic, payload = answer(eye.of("prompting/request")[number].json)
            await eye.send(topic, payload)

    task = asyncio.create_task(serve())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("shape", ["ours", "runner", "plain", "id"])
async def test_a_flow_writes_prompts(rooms: Rooms, shape: str) -> None:
    def answer(asked: dict[str, Any]) -> tuple[str, str | dict[str, Any]]:
        topic = f"prompting/response/{asked['id']}"
        match shape:
            case "ours":
                return topic, {"prompt": f"{asked['idea']}, {asked['style']}", "negative": "text", "model": "mine"}
            case "runner":
                return topic, {"STATUS": "success", "positive_prompt": "a fox, woodcut", "negative_prompt": "text"}
            case "plain":
                return topic, "a fox, woodcut"
        return "prompting/response", {"id": asked["id"], "prompt": "a fox, woodcut"}

    async with rooms("http://127.0.0.1:9", prompting={"writer": "mqtt"}) as here, flow(here.eye, answer):
        await here.eye.payload("ollama/state", "online")
        document = await generate(here.eye, {"idea": "a fox", "style": "woodcut", "then": {}})
        assert (document["status"], document["prompt"]) == ("ok", "a fox, woodcut")
        assert document["model"] == ("mine" if shape == "ours" else None)
        assert (await here.eye.over(document["prompt_id"]))["values"]["prompt"] == "a fox, woodcut"
        asked = here.eye.last("prompting/request").json
        assert asked["system"].startswith("You write prompts")
        assert asked["response"] == f"{here.base}/prompting/response/{asked['id']}"
        await here.eye.refused("prompting/response/gone", {"prompt": "x"}, "unknown_idea", "gone")
        await here.eye.refused("prompting/response", {"prompt": "x"}, "bad_payload", "id")
        await here.eye.refused("ollama/pull", "llama3.2", "unsupported", "Ollama")


async def test_a_flow_that_fails_and_one_that_is_not_there(rooms: Rooms) -> None:
    async with rooms("http://127.0.0.1:9", prompting={"writer": "mqtt", "timeout": 0.5}) as here:
        assert (await generate(here.eye, "a fox"))["code"] == "timeout"
        async with flow(here.eye, lambda asked: (f"prompting/response/{asked['id']}", {"error": "tired"})):
            document = await generate(here.eye, "a fox")
            assert document["code"] == "writer_failed"
            assert "tired" in document["error"]


async def test_an_address_writes_prompts(rooms: Rooms) -> None:
    async def answer(request: web.Request) -> web.Response:
        document = await request.json()
        return web.json_response(
            {"STATUS": "success", "positive_prompt": f"{document['idea']}!", "negative_prompt": ""}
        )

    async with (
        serving(answer) as server,
        rooms("http://127.0.0.1:9", prompting={"writer": server.url("/write")}) as here,
    ):
        document = await generate(here.eye, {"idea": "a fox", "then": {}})
        assert (document["prompt"], "negative" in document) == ("a fox!", False)
        assert (await here.eye.over(document["prompt_id"]))["values"]["negative"]
