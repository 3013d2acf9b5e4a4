"""Bad input: each kind has its own code and a sentence that says what would be right, and harms nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.bridge_process import House, house, workflows
from tests.support.graphs import picture, ui_format
from tests.support.mqtt_eye import watching

MAX_INPUT = 100_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory, broker_port: int) -> AsyncIterator[House]:
    made = {
        **workflows(),
        "drawn": ui_format("SomeAddOnThatNobodyHas"),
        "broken": '{"3": {"class_type": ',
        "odd": '{"3": "not a node"}',
        "nothing": "{}",
    }
    more = {"media": {"max_input": MAX_INPUT}, "jobs": {"max_batch": 5}}
    folder = tmp_path_factory.mktemp("refusals")
    async with house(folder, broker_port, workflows=made, more=more) as one:
        yield one


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("command", "payload", "code", "words"),
    [
        # Not JSON, or not the right JSON
        ("load", "{", "bad_payload", ["JSON"]),
        ("load", '{"workflow": "fox"', "bad_payload", ["JSON"]),
        ("load", '["fox"]', "bad_payload", ["object"]),
        ("load", "", "bad_payload", ["workflow"]),
        ("load", '{"workflow": 5}', "bad_payload", ["workflow"]),
        ("load", '{"workflow": ""}', "bad_payload", ["workflow"]),
        ("load", '{"worklfow": "fox"}', "bad_payload", ["worklfow", "workflow"]),
        ("load", b"\xff\xfe", "bad_payload", ["UTF-8"]),
        ("update/text", "{not json}", "bad_payload", ["JSON"]),
        ("update/text", '{"node_id": 6}', "bad_payload", ["text"]),
        ("update/text", '{"node_id": 6, "text": 7}', "bad_payload", ["text"]),
        ("update/text", '{"node_id": 6, "text": null}', "bad_payload", ["text"]),
        ("update/text", '{"node_id": [6], "text": "x"}', "bad_payload", ["node_id"]),
        ("update/text", '{"node_id": true, "text": "x"}', "bad_payload", ["node_id"]),
        ("update/text", '{"node_id": 6.5, "text": "x"}', "bad_payload", ["node_id"]),
        ("update/text", "[" * 100_000, "bad_payload", []),
        ("update/text", '{"a":' * 5_000 + "1" + "}" * 5_000, "bad_payload", []),
        ("update/text/6", b"\xff\xfe\x00", "bad_payload", ["UTF-8"]),
        ("update/values", "seed=5", "bad_payload", ["JSON"]),
        ("update/values", "[1]", "bad_payload", ["object"]),
        ("queue", "now", "bad_payload", ["JSON"]),
        ("queue", '{"count": "many"}', "bad_payload", ["count"]),
        ("queue", '{"count": 0}', "bad_payload", ["count"]),
        ("queue", '{"count": -1}', "bad_payload", ["count"]),
        ("queue", '{"count": 1.5}', "bad_payload", ["count"]),
        ("queue", '{"count": 6}', "bad_value", ["count", "5", "jobs.max_batch"]),
        ("queue", '{"count": 1e300}', "bad_payload", ["count"]),
        ("queue", '{"values": [1]}', "bad_payload", ["values"]),
        ("queue", '{"expires_at": "tomorrow"}', "bad_payload", ["expires_at", "ISO 8601"]),
        ("queue", '{"expires_at": true}', "bad_payload", ["expires_at"]),
        ("queue", '{"expires_at": NaN}', "bad_payload", []),
        ("queue", '{"expires_at": 1e999}', "bad_payload", ["expires_at"]),
        ("queue", '{"expires_at": "2020-01-01T00:00:00Z"}', "expired", ["expires_at", "2020"]),
        ("queue", '{"expires_at": 1}', "expired", ["expires_at"]),
        ("queue", '{"priority": "high"}', "bad_payload", ["priority"]),
        ("queue", '{"transaction": {"a": 1}}', "bad_payload", ["transaction"]),
        ("interrupt", '{"prompt": "x"}', "bad_payload", ["prompt"]),
        ("interrupt", '{"prompt_id": 5}', "bad_payload", ["prompt_id"]),
        ("bridge/request/health", "now", "bad_payload", []),
        ("bridge/request/job", "", "bad_payload", ["prompt_id"]),
        ("bridge/request/log_level", "loud", "bad_payload", ["level"]),
        ("bridge/request/jobs", '{"limit": 0}', "bad_payload", ["limit"]),
        # Names that are not there
        ("load", "nothing-of-that-name", "unknown_workflow", ["nothing-of-that-name"]),
        ("load", "../../etc/passwd", "unknown_workflow", []),
        ("load", "fxo", "unknown_workflow", ["fox"]),
        ("queue", '{"workflow": "fxo"}', "unknown_workflow", ["fox"]),
        ("workflow/fxo/queue", "", "unknown_workflow", ["fox"]),
        ("workflow/fxo/set", '{"seed": 1}', "unknown_workflow", ["fox"]),
        ("workflow/fox/queue", '{"workflow": "plain"}', "bad_payload", ["workflow"]),
        ("update/text", '{"node_id": 99, "text": "x"}', "unknown_node", ["99"]),
        ("update/text", '{"node": "Positiv Prompt", "text": "x"}', "unknown_node", ["Positive Prompt"]),
        ("update/text", '{"node": "CLIPTextEncode", "text": "x"}', "unknown_node", ["6", "7"]),
        ("update/text/nowhere", "x", "unknown_node", ["nowhere"]),
        ("update/image/99", picture(), "unknown_node", ["99"]),
        ("update/values", '{"sede": 5}', "unknown_parameter", ["seed"]),
        ("queue", '{"values": {"sede": 5}}', "unknown_parameter", ["seed"]),
        ("workflow/fox/set/sede", "5", "unknown_parameter", ["seed"]),
        ("update/values", '{"99.text": "x"}', "unknown_node", ["99"]),
        ("bridge/request/helth", "", "unknown_command", ["health"]),
        ("bridge/request", "", "unknown_command", []),
        ("update/txet", "x", "unknown_command", []),
        # Nodes that cannot take it
        ("update/text", '{"node_id": 3, "text": "x"}', "no_such_input", ["3"]),
        ("update/text/8", "x", "no_such_input", ["8"]),
        ("update/image/6", picture(), "no_such_input", ["6"]),
        ("update/image", picture(), "unknown_parameter", ["image"]),
        ("update/values", '{"6.txt": "x"}', "no_such_input", ["txt", "text"]),
        ("update/values", '{"3.model": "x"}', "is_link", ["model"]),
        ("update/values", '{"9.images": "x"}', "is_link", ["images"]),
        ("workflow/story/set", '{"6.text": "x"}', "is_link", ["text"]),
        ("queue", '{"values": {"3.positive": "x"}}', "is_link", ["positive"]),
        # Values that cannot be
        ("update/values", '{"seed": "abc"}', "bad_value", ["seed"]),
        ("update/values", '{"seed": 1.5}', "bad_value", ["seed"]),
        ("update/values", '{"seed": true}', "bad_value", ["seed"]),
        ("update/values", '{"seed": null}', "bad_value", ["seed"]),
        ("update/values", '{"seed": -1}', "bad_value", ["seed"]),
        ("update/values", '{"seed": 36893488147419103232}', "bad_value", ["seed"]),
        ("update/values", '{"steps": 0}', "bad_value", ["steps"]),
        ("update/values", '{"cfg": "warm"}', "bad_value", ["cfg"]),
        ("update/values", '{"cfg": 1e999}', "bad_value", ["cfg"]),
        ("update/values", '{"prompt": 5}', "bad_value", ["prompt"]),
        ("update/values", '{"prompt": ["6", 0]}', "bad_value", ["prompt"]),
        ("update/values", '{"sampler": "eulr"}', "bad_value", ["euler"]),
        ("update/values", '{"checkpoint": "nope.safetensors"}', "bad_value", ["checkpoint"]),
        ("workflow/fox/set/steps", "many", "bad_value", ["steps"]),
        ("workflow/fox/set/prompt", b"\xff\xfe", "bad_value", ["UTF-8"]),
        ("queue", '{"values": {"steps": "many"}}', "bad_value", ["steps"]),
        # Images
        ("workflow/img/set", '{"image": "missing.png"}', "file_missing", ["missing.png"]),
        ("workflow/img/set/image", "missing.png", "file_missing", ["missing.png"]),
        ("workflow/img/set", '{"image": {"base64": "!!!"}}', "bad_value", ["base64"]),
        ("workflow/img/set", '{"image": {}}', "bad_payload", ["filename", "url", "base64"]),
        ("workflow/img/set", '{"image": {"filename": "a.png", "url": "http://x"}}', "bad_payload", ["filename", "url"]),
        ("workflow/img/set", '{"image": {"base64": ""}}', "bad_payload", ["base64"]),
        ("workflow/img/set", '{"image": {"base64": "bm8gaW1hZ2U="}}', "bad_value", ["PNG"]),
        ("workflow/img/set", '{"image": 5}', "bad_value", ["image"]),
        ("workflow/img/set/image", bytes([0, 1, 2, 3]) * 10, "bad_value", ["PNG"]),
        ("workflow/img/set/image", picture() + bytes(MAX_INPUT), "too_large", [str(MAX_INPUT), "media.max_input"]),
        (
            "workflow/img/set",
            {"image": {"base64": base64.b64encode(picture() + bytes(MAX_INPUT)).decode()}},
            "too_large",
            ["media.max_input"],
        ),
        # Workflows that are none
        ("load", "drawn", "ui_format", ["API"]),
        ("workflow/drawn/queue", "", "ui_format", ["API"]),
        ("load", "broken", "invalid_graph", []),
        ("load", "odd", "invalid_graph", []),
        ("load", "nothing", "invalid_graph", []),
        # Jobs that are not there
        ("interrupt", "00000000-0000-0000-0000-000000000000", "unknown_prompt", ["00000000"]),
        ("interrupt", {"prompt_id": "nobody"}, "unknown_prompt", ["nobody"]),
        ("interrupt", {"batch_id": "nobody"}, "unknown_prompt", ["nobody"]),
        ("bridge/request/job", "nobody", "unknown_prompt", ["nobody"]),
    ],
)
async def test_bad_input_is_told(here: House, command: str, payload: Any, code: str, words: list[str]) -> None:
    before = here.eye.last("workflow/fox/values").payload
    await here.eye.refused(command, payload, code, *words)
    assert here.eye.last("workflow/fox/values").payload == before


@pytest.mark.asyncio(loop_scope="module")
async def test_files_outside_of_the_folder_are_refused(here: House) -> None:
    for name in ("../../secret.png", "../secret.png", "/etc/passwd", "sub/../../secret.png"):
        reply = await here.eye.ask("workflow/img/set", {"image": {"filename": name}})
        assert reply.get("code") in {"file_missing", "not_allowed", "bad_value"}, (name, reply)


@pytest.mark.asyncio(loop_scope="module")
async def test_details_name_the_node(here: House) -> None:
    reply = await here.eye.ask("workflow/fox/set", {"3.model": "x"})
    assert reply["details"]["node"] == "3"


@pytest.mark.asyncio(loop_scope="module")
async def test_values_are_set_all_or_none(here: House) -> None:
    await here.eye.refused("workflow/fox/set", {"prompt": "half", "seed": "no"}, "bad_value", "seed")
    reply = await here.eye.done("workflow/fox/set", {"steps": 4})
    assert reply["values"]["prompt"] == "a lighthouse"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_job_that_is_over_cannot_be_interrupted(here: House) -> None:
    prompt_id = await here.run(workflow="plain")
    await here.eye.refused("interrupt", prompt_id, "already_over", prompt_id, "completed")
    await here.eye.refused("interrupt", {"prompt_id": prompt_id}, "already_over", "completed")


@pytest.mark.asyncio(loop_scope="module")
async def test_msgpack_that_is_none(here: House) -> None:
    for payload in (b"\xc1", b"\x81\xa1", b"\x91\x01", b"", b"\x81\x01\x02"):
        reply = await here.eye.ask("load", payload, content_type="application/msgpack")
        assert (reply["status"], reply["code"]) == ("error", "bad_payload"), payload
        assert len(reply["error"]) > 10


@pytest.mark.asyncio(loop_scope="module")
async def test_retained_commands_are_refused_and_cleared(here: House, broker_port: int) -> None:
    jobs = len(here.eye.prompt_ids())
    before = len(here.eye.of("response/queue"))
    await here.eye.send("queue", json.dumps({"workflow": "plain"}), retain=True)
    answer = await here.eye.until(lambda: here.eye.of("response/queue")[before:])
    assert (answer[0].json["code"], answer[0].json["data"]) == ("retained", {})
    assert "retain" in answer[0].json["error"]
    await here.eye.until(lambda: any(one.payload == b"" for one in here.eye.of("queue")))
    async with watching(broker_port, here.base) as late:
        await late.first("bridge/state")
        assert late.of("queue") == []
    # The clearing itself is no command, and the next real one runs.
    await here.eye.done("bridge/request/health")
    assert len(here.eye.prompt_ids()) == jobs
    assert len(here.eye.of("response/queue")) == before + 1
    await here.run({"workflow": "plain"})
    # Somebody else who clears such a topic starts nothing.
    count = len(here.eye.prompt_ids())
    await here.eye.send("queue", b"", retain=True)
    await here.eye.done("bridge/request/health")
    assert len(here.eye.prompt_ids()) == count


@pytest.mark.asyncio(loop_scope="module")
async def test_after_all_that_it_works(here: House) -> None:
    await here.eye.done("load", "fox")
    prompt_id = await here.run()
    assert here.comfy.stats.started[prompt_id] == 1


async def test_a_command_retained_before_the_start(tmp_path: Path, broker_port: int) -> None:
    for version in ("5", "3.1.1"):
        base = "before" + version.replace(".", "")
        async with watching(broker_port, base, version=version) as eye:
            await eye.send("queue", "", retain=False)
            await eye.send("queue", "PRESS", retain=True)
            await eye.first("queue")
        async with house(
            tmp_path / version, broker_port, base=base, version=version, more={"mqtt": {"protocol": version}}
        ) as here:
            reply = await here.eye.first("response/queue")
            assert reply.json["code"] == "retained"
            await here.eye.first("queue", lambda one: one.payload == b"")
            await here.eye.done("bridge/request/health")
            assert here.eye.prompt_ids() == []
            # The next one is a command again: just the empty message of the clearing was swallowed.
            prompt_id = await here.eye.queue("")
            await here.eye.over(prompt_id)
            assert here.eye.prompt_ids() == [prompt_id]
        async with watching(broker_port, base, version=version) as late:
            await late.first("bridge/state")
            assert late.of("queue") == []


async def test_the_queue_can_be_full(tmp_path: Path, broker_port: int) -> None:
    more = {"jobs": {"max_waiting": 3}, "comfyui": {"depth": 1}}
    async with house(tmp_path, broker_port, loaded="sleep", more=more) as here:
        first = await here.eye.queue()
        await here.eye.status(first, "running")
        ids = (await here.eye.done("queue", {"count": 3}))["prompt_ids"]
        await here.eye.refused("queue", "", "queue_full", "jobs.max_waiting")
        await here.eye.done("interrupt", ids[0])
        await here.eye.refused("queue", {"count": 2}, "queue_full", "3")
        await here.eye.done("queue")
        await here.eye.done("interrupt")
