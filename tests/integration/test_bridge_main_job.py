"""The main job: commands by MQTT in, ComfyUI, the topics of one prompt out."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.support.bridge_process import House, house
from tests.support.graphs import Graph, node, plain, txt2img
from tests.support.mqtt_eye import PATIENCE, watching


async def view(house: House, output: dict[str, str]) -> bytes:
    async with httpx.AsyncClient() as http:
        params = {key: output[key] for key in ("filename", "subfolder", "type")}
        answer = await http.get(f"{house.comfy.url}/view", params=params)
        assert answer.status_code == 200
        return answer.content


async def test_a_text_becomes_a_picture(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, step_delay=0.01) as here:
        data = await here.eye.done("update/text", {"node_id": 6, "text": "a red fox in the snow"})
        assert data["values"]["prompt"] == "a red fox in the snow"
        prompt_id = await here.eye.queue()
        result = await here.eye.over(prompt_id)
        assert here.graph(prompt_id)["6"]["inputs"]["text"] == "a red fox in the snow"
        assert here.eye.statuses(prompt_id) == ["queued", "preparing", "running", "finishing", "completed"]

        assert result["id"] == prompt_id
        assert result["status"] == "completed"
        assert result["workflow"] == "fox"
        assert result["values"]["prompt"] == "a red fox in the snow"
        assert result["values"]["seed"] == 42
        assert result["error"] is None
        (output,) = result["outputs"]
        assert (output["n"], output["node"], output["content_type"]) == (0, "9", "image/png")
        assert (output["width"], output["height"]) == (64, 64)
        png = await view(here, output)
        assert here.eye.outputs(prompt_id) == {0: png}
        assert output["bytes"] == len(png)
        async with httpx.AsyncClient() as http:
            assert (await http.get(output["url"])).content == png
        message = here.eye.last(f"prompt/{prompt_id}/output/0")
        assert message.content_type == "image/png"
        assert message.user == {"filename": output["filename"], "node": "9"}
        assert here.comfy.stats.executed == {prompt_id: 1}


async def test_comfyuis_events_come_verbatim_and_in_order(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, step_delay=0.01) as here:
        prompt_id = await here.run()
        events = here.eye.below(f"prompt/{prompt_id}/event/")
        assert [one.text for one in events] == here.frames_of(prompt_id)
        assert all(one.topic.endswith("/" + one.json["type"]) for one in events)
        kinds = [one.json["type"] for one in events]
        assert kinds[0] == "execution_start"
        assert kinds[-1] == "executing"
        assert events[-1].json["data"]["node"] is None
        assert {"execution_cached", "progress", "progress_state", "executed", "execution_success"} <= set(kinds)
        assert events[0].content_type == "application/json"


async def test_previews_are_the_jpegs_of_comfyui(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, step_delay=0.03) as here:
        prompt_id = await here.run()
        previews = here.eye.of(f"prompt/{prompt_id}/preview")
        assert len(previews) == 4
        for number, preview in enumerate(previews, 1):
            assert Image.open(io.BytesIO(preview.payload)).format == "JPEG"
            assert preview.content_type == "image/jpeg"
            assert preview.user == {"node": "3", "seq": str(number)}
        assert len({preview.payload for preview in previews}) == 4


async def test_status_tells_how_far_it_is(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, step_delay=0.1) as here:
        prompt_id = await here.run()
        documents = [one.json for one in here.eye.of(f"prompt/{prompt_id}/status")]
        assert documents[0]["position"] == 1
        percents = [document["percent"] for document in documents]
        assert percents == sorted(percents)
        assert (percents[0], percents[-1]) == (0, 100)
        assert any(0 < document["percent"] < 100 for document in documents)
        assert "Sampler" in {document["title"] for document in documents}
        assert "3" in {document["node"] for document in documents}
        seqs = [document["seq"] for document in documents]
        assert seqs == sorted(set(seqs))
        assert {document["workflow"] for document in documents} == {"fox"}


async def test_each_waiting_job_says_queued_at_once(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, step_delay=0.02) as here:
        data = await here.eye.done("queue", {"count": 4})
        assert len(data["prompt_ids"]) == 4
        assert data["batch_id"]
        for number, prompt_id in enumerate(data["prompt_ids"], 1):
            result = await here.eye.over(prompt_id)
            assert result["batch_id"] == data["batch_id"]
            assert result["values"]["seed"] == 41 + number
            assert here.graph(prompt_id)["3"]["inputs"]["seed"] == 41 + number
            assert here.eye.of(f"prompt/{prompt_id}/status")[0].json["position"] == number
        # All of them were told before the first one ended.
        topics = [one.topic for one in here.eye.seen]
        queued = [topics.index(f"prompt/{prompt_id}/status") for prompt_id in data["prompt_ids"]]
        assert max(queued) < topics.index(f"prompt/{data['prompt_ids'][0]}/result")


async def test_queue_as_it_is_set(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="plain") as here:
        for payload in ("", "PRESS", "{}", " \n", None):
            await here.run(payload)


async def test_values_for_this_run_only(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        await here.eye.done("update/values", {"prompt": "kept", "steps": 2})
        once = await here.run({"values": {"prompt": "once", "seed": 7, "7.text": "no dogs"}})
        later = await here.run()
        assert here.graph(once)["6"]["inputs"]["text"] == "once"
        assert here.graph(once)["7"]["inputs"]["text"] == "no dogs"
        assert here.graph(once)["3"]["inputs"]["seed"] == 7
        assert here.graph(once)["3"]["inputs"]["steps"] == 2
        assert here.graph(later)["6"]["inputs"]["text"] == "kept"
        assert here.graph(later)["7"]["inputs"]["text"] == "blurry"
        assert here.graph(later)["3"]["inputs"]["seed"] == 42


BY_ANY_NAME: list[tuple[str, str | dict[str, Any], str]] = [
    ("update/text", {"node_id": 6, "text": "X"}, "6"),
    ("update/text", {"node_id": "6", "text": "X"}, "6"),
    ("update/text", {"node": "Negative Prompt", "text": "X"}, "7"),
    ("update/text", {"node": "negative", "text": "X"}, "7"),
    ("update/text", {"text": "X"}, "6"),
    ("update/text", "X", "6"),
    ("update/text/6", "X", "6"),
    ("update/text/negative-prompt", "X", "7"),
    ("update/text/negative", "X", "7"),
    ("update/text/7", '{"text": "as it is"}', "7"),
    ("update/text/7", "", "7"),
    ("workflow/fox/set/prompt", "X", "6"),
    ("workflow/fox/set", {"prompt": "X"}, "6"),
    ("update/values", {"6.text": "X"}, "6"),
    ("update/values", {"Positive Prompt.text": "X"}, "6"),
]


async def test_a_text_by_any_name(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, workflows={"fox": txt2img(steps=1)}) as here:
        for command, payload, node_id in BY_ANY_NAME:
            await here.eye.done("update/values", {"6.text": "was 6", "7.text": "was 7"})
            await here.eye.done(command, payload)
            graph = here.graph(await here.run())
            expected = "X" if isinstance(payload, dict) else payload
            other = {"6": "7", "7": "6"}[node_id]
            assert graph[node_id]["inputs"]["text"] == expected, (command, payload)
            assert graph[other]["inputs"]["text"] == f"was {other}", (command, payload)


async def test_subgraph_nodes_classes_and_mappings(tmp_path: Path, broker_port: int) -> None:
    more = {"node_mappings": {"tale": "12:5"}}
    async with house(tmp_path, broker_port, loaded="story", more=more) as here:
        for command, payload in (
            ("update/text", {"node_id": "12:5", "text": "one"}),
            ("update/text/12:5", "two"),
            ("update/text", {"node": "PrimitiveStringMultiline", "text": "three"}),
            ("update/text/the-story", "four"),
            ("update/text", {"node": "tale", "text": "five"}),
            ("update/text/tale", "six"),
            ("update/values", {"12:5.value": "seven"}),
        ):
            await here.eye.done(command, payload)
            text = list(payload.values())[-1] if isinstance(payload, dict) else payload
            prompt_id = await here.run()
            assert here.graph(prompt_id)["12:5"]["inputs"]["value"] == text, command
            assert here.graph(prompt_id)["6"]["inputs"]["text"] == ["12:5", 0]


async def test_a_text_goes_to_the_first_input_that_takes_one(tmp_path: Path, broker_port: int) -> None:
    names = [
        "text",
        "value",
        "text_positive",
        "text_negative",
        "prompt",
        "system",
        "style",
        "style_name",
        "key",
        "url",
        "model",
    ]
    graph: Graph = plain()
    for at in range(len(names)):
        graph[f"1{at}"] = node("SomeAddOn", **dict.fromkeys(reversed(names[at:]), "old"))
    async with house(tmp_path, broker_port, workflows={"fox": graph}) as here:
        for at, name in enumerate(names):
            data = await here.eye.done(f"update/text/1{at}", "new")
            assert data["set"] == [{"node": f"1{at}", "input": name}]


async def test_load_makes_bare_commands_act_on_it(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        assert await here.eye.done("load", {"workflow": "plain"}) == {"workflow": "plain"}
        prompt_id = await here.run()
        assert here.graph(prompt_id) == plain()
        await here.eye.done("load", "fox")
        await here.eye.until(lambda: here.eye.last("bridge/workflows").json["loaded"] == "fox")
        # The files may be named as they are called, too.
        await here.eye.done("load", "plain.json")
        assert (await here.eye.done("bridge/request/workflows"))["loaded"] == "plain"


async def test_a_named_workflow_leaves_the_loaded_one_alone(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        await here.eye.done("workflow/plain/set/color", "7")
        prompt_id = await here.run(workflow="plain")
        assert here.graph(prompt_id)["1"]["inputs"]["color"] == 7
        other = await here.run({"workflow": "plain", "values": {"1.color": 9}})
        assert here.graph(other)["1"]["inputs"]["color"] == 9
        assert here.eye.last("workflow/plain/values").json["color"] == 7
        assert here.eye.last("bridge/workflows").json["loaded"] == "fox"


async def test_topics_of_a_named_workflow_and_late_comers(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, step_delay=0.05) as here:
        prompt_id = await here.run()
        picture = here.eye.outputs(prompt_id)[0]
        mine = here.eye.below("workflow/fox/")
        events = [one.json["event_type"] for one in mine if one.topic == "workflow/fox/event"]
        assert events == ["queued", "started", "completed"]
        assert all(one.json["id"] == prompt_id for one in mine if one.topic == "workflow/fox/event")
        progress = [one.json["percent"] for one in mine if one.topic == "workflow/fox/progress"]
        assert progress[-1] == 100
        previews = here.eye.of("workflow/fox/preview")
        assert 1 <= len(previews) <= 4
        assert {one.user["prompt_id"] for one in previews} == {prompt_id}

        async with watching(broker_port, here.base) as late:
            image = await late.first("workflow/fox/image")
            assert (image.payload, image.retain, image.content_type) == (picture, True, "image/png")
            assert (await late.first("workflow/fox/result")).json["id"] == prompt_id
            assert (await late.first("workflow/fox/status")).json["status"] == "completed"
            assert (await late.first("workflow/fox/values")).json["prompt"] == "a lighthouse"
            assert (await late.first("workflow/fox/state")).payload == b"online"
            assert (await late.first("bridge/state")).payload == b"online"
            assert (await late.first(f"backend/{here.backend}/state")).payload == b"online"
            assert (await late.first("bridge/info")).json["version"]
            assert here.backend in (await late.first("bridge/health")).json["backends"]
            assert (await late.first("queue/state")).json["waiting_count"] >= 0
            described = (await late.first("bridge/workflows")).json
            (fox,) = [one for one in described["workflows"] if one["name"] == "fox"]
            kinds = {parameter["name"]: parameter["type"] for parameter in fox["parameters"]}
            assert kinds["prompt"] == "text"
            assert kinds["seed"] == "integer"
            assert kinds["sampler"] == "choice"
            assert fox["outputs"] == [{"node": "9", "title": "Picture", "type": "image"}]
            assert all(one.retain for one in late.seen)
            assert not late.below("prompt/")


async def test_online_is_said_last_at_the_start(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        topics = [one.topic for one in here.eye.seen]
        online = next(
            at for at, one in enumerate(here.eye.seen) if one.topic == "bridge/state" and one.payload == b"online"
        )
        before = set(topics[:online])
        assert {"bridge/info", "bridge/workflows", "queue/state", "workflow/fox/values", "workflow/fox/state"} <= before
        # A command that is given now is heard.
        await here.eye.done("bridge/request/health")


async def test_health_follows_the_state_of_the_backend(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        reply = await here.eye.done("bridge/request/health")
        assert reply["backends"][here.backend]["state"] == "online"
        assert reply["backends"][here.backend]["devices"][0]["vram_total"] > 0
        # The retained one must not say for the rest of the minute what was true before ComfyUI was found.
        told = await here.eye.first(
            "bridge/health", lambda one: one.json["backends"][here.backend]["state"] == "online", within=5
        )
        assert told.json["status"] == "ok"


async def test_the_queue_is_told(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="sleep") as here:
        ids = (await here.eye.done("queue", {"count": 4}))["prompt_ids"]
        await here.eye.status(ids[0], "running")

        def told() -> bool:
            state = here.eye.last("queue/state").json
            return len(state["running"]) == 2 and [one["id"] for one in state["waiting"]] == ids[2:]

        await here.eye.until(told, what="queue/state with two inside and two waiting")
        state = here.eye.last("queue/state").json
        assert [one["position"] for one in state["waiting"]] == [1, 2]
        assert all(one["estimate"] >= 0 for one in state["waiting"])
        jobs = await here.eye.done("bridge/request/jobs")
        assert {one["id"] for one in [*jobs["running"], *jobs["waiting"]]} == set(ids)
        assert (await here.eye.done("bridge/request/job", ids[3]))["status"] == "queued"
        assert (await here.eye.done("bridge/request/job", {"prompt_id": ids[0]}))["status"] == "running"
        await here.eye.done("interrupt")
        for prompt_id in ids:
            await here.eye.over(prompt_id)
        await here.eye.until(lambda: here.eye.last("queue/state").json["running"] == [])


async def test_the_queue_is_empty_again(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="plain") as here:
        for slow in (0, 0.6):
            here.comfy.faults.slow = slow  # fetching takes longer than the pause between two of these documents
            await here.run()
            await here.eye.done("bridge/request/health")  # what was published with the end has come now

            def is_empty() -> bool:
                state = here.eye.last("queue/state").json
                return not state["running"] and not state["waiting"]

            await here.eye.until(is_empty, 5, "an empty queue/state")


async def test_reload_and_log_level(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        (tmp_path / "workflows" / "new.json").write_text(json.dumps(plain(color=3)), encoding="utf-8")
        (tmp_path / "workflows" / "story.json").unlink()
        await here.eye.first("workflow/story/values")
        data = await here.eye.done("bridge/request/reload")
        assert "new" in data["workflows"]
        assert "story" not in data["workflows"]
        prompt_id = await here.run(workflow="new")
        assert here.graph(prompt_id)["1"]["inputs"]["color"] == 3
        # What is retained of a workflow that is gone is cleared.
        await here.eye.until(lambda: here.eye.last("workflow/story/values").payload == b"")
        async with watching(broker_port, here.base) as late:
            await late.first("workflow/new/result")
            await late.first("bridge/state")
            assert not late.below("workflow/story/")
        assert (await here.eye.done("bridge/request/log_level", "info"))["level"] == "info"


async def test_values_and_the_loaded_workflow_outlive_a_restart(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded=None, base="outlive") as here:
        await here.eye.done("load", "story")
        await here.eye.done("update/text/12:5", "kept over a restart")
        await here.eye.done("workflow/fox/set", {"seed": 5})
    async with house(tmp_path, broker_port, loaded=None, base="outlive") as here:
        prompt_id = await here.run()
        assert here.graph(prompt_id)["12:5"]["inputs"]["value"] == "kept over a restart"
        assert here.eye.last("workflow/fox/values").json["seed"] == 5


async def test_mosquitto_pub_and_sub_are_all_one_needs(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        where = ("-h", "127.0.0.1", "-p", str(broker_port))
        listener = await asyncio.create_subprocess_exec(
            "mosquitto_sub",
            *(*where, "-q", "0", "-t", f"{here.base}/prompt/+/status", "-t", f"{here.base}/response/#", "-v"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert listener.stdout is not None
        try:
            await publish(*where, "-t", f"{here.base}/bridge/request/health", "-n")
            async with asyncio.timeout(PATIENCE):
                while True:  # until it surely listens
                    try:
                        async with asyncio.timeout(0.5):
                            await listener.stdout.readline()
                        break
                    except TimeoutError:
                        await publish(*where, "-t", f"{here.base}/bridge/request/health", "-n")
            await publish(*where, "-t", f"{here.base}/update/text", "-m", '{"node_id": 6, "text": "an owl"}')
            await publish(*where, "-t", f"{here.base}/queue", "-n")
            lines: list[str] = []
            async with asyncio.timeout(PATIENCE):
                while not lines or '"status":"completed"' not in lines[-1]:
                    lines.append((await listener.stdout.readline()).decode())
        finally:
            listener.kill()
            await listener.wait()
        (queued,) = [line for line in lines if line.startswith(f"{here.base}/response/queue ")]
        reply = json.loads(queued.split(" ", 1)[1])
        (prompt_id,) = reply["data"]["prompt_ids"]
        assert here.graph(prompt_id)["6"]["inputs"]["text"] == "an owl"


async def publish(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec("mosquitto_pub", *arguments)
    assert await process.wait() == 0
