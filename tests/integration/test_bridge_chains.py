"""Chains: steps that hand their outputs on, driven and shown like a workflow."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bridge.testing import StandIn
from tests.support.bridge_process import BridgeProcess, ComfyProcess, House, Plan, bridge, ended, house
from tests.support.graphs import Graph, img2img, node, sleep, txt2img
from tests.support.mqtt_eye import Eye, watching

TWO_STEPS = """
title = "Draw, then turn"
[[steps]]
name = "draw"
workflow = "fox"
values = { steps = 2 }
[[steps]]
name = "turn"
workflow = "img"
values = { image = { step = "draw" } }
"""


def workflows() -> dict[str, Graph]:
    return {
        "fox": txt2img(),
        "img": img2img(),
        "sleep": sleep(30.0, 600),
        "fail": {"1": node("StandInFail", message="on purpose"), "2": node("PreviewAny", source=["1", 0])},
        "text": {"1": node("PrimitiveString", value="a red kite"), "2": node("PreviewAny", source=["1", 0])},
    }


def chains(folder: Path, **files: str) -> dict[str, Any]:
    directory = folder / "chains"
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text, encoding="utf-8")
    return {"workflows": {"chains": str(directory)}}


@contextlib.asynccontextmanager
async def chained(folder: Path, broker_port: int, **files: str) -> AsyncIterator[House]:
    async with house(folder, broker_port, workflows=workflows(), more=chains(folder, **files)) as made:
        yield made


async def final(eye: Eye, batch_id: str, within: float = 30.0) -> dict[str, Any]:
    seen = await eye.first(
        f"batch/{batch_id}/status",
        lambda one: one.json["status"] in {"completed", "failed", "interrupted"},
        within=within,
    )
    return dict(seen.json)


async def test_a_step_gets_what_an_earlier_one_made(tmp_path: Path, broker_port: int) -> None:
    async with chained(tmp_path, broker_port, duo=TWO_STEPS) as here:
        (entry,) = [
            one for one in (await here.eye.done("bridge/request/workflows"))["workflows"] if one["name"] == "duo"
        ]
        assert (entry["kind"], entry["title"]) == ("chain", "Draw, then turn")
        assert {"prompt", "seed", "steps"} <= {parameter["name"] for parameter in entry["parameters"]}
        assert "image" not in {parameter["name"] for parameter in entry["parameters"]}
        await here.eye.done("workflow/duo/set/prompt", "an owl")
        data = await here.eye.done("workflow/duo/queue", {"values": {"seed": 7}})
        (chain_id,) = data["prompt_ids"]
        assert data["batch_id"] == chain_id
        result = await here.eye.over(chain_id)
        assert result["status"] == "completed"
        assert [(part["step"], part["status"]) for part in result["parts"]] == [
            ("draw", "completed"),
            ("turn", "completed"),
        ]
        draw, turn = (part["job_id"] for part in result["parts"])
        drawn, turned = here.eye.of(f"prompt/{draw}/result")[0].json, here.eye.of(f"prompt/{turn}/result")[0].json
        assert (drawn["values"]["prompt"], drawn["values"]["seed"], drawn["values"]["steps"]) == ("an owl", 7, 2)
        assert drawn["parent"] == turned["parent"] == chain_id
        assert here.eye.statuses(chain_id) == ["queued", "running", "completed"]
        # The bytes went through: the second picture is the first one, inverted.
        saved = next(output["n"] for output in turned["outputs"] if output["type"] == "output")
        pictures = (here.eye.outputs(draw)[0], here.eye.outputs(turn)[saved])
        first, second = (Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures)
        red, inverted = first.getpixel((3, 3)), second.getpixel((3, 3))
        assert isinstance(red, tuple)
        assert isinstance(inverted, tuple)
        assert all(abs(255 - a - b) <= 2 for a, b in zip(red, inverted, strict=True))
        assert here.eye.outputs(chain_id) == here.eye.outputs(turn)
        assert here.eye.last("workflow/duo/image").payload == pictures[1]
        made = {one.payload for part in (draw, turn) for one in here.eye.of(f"prompt/{part}/preview")}
        shown = [one.payload for one in here.eye.of(f"prompt/{chain_id}/preview")]
        assert shown
        assert made.issuperset(shown)
        assert here.eye.last("workflow/duo/preview").payload in made
        assert (await final(here.eye, chain_id))["status"] == "completed"
        assert len(here.eye.of(f"batch/{chain_id}/result")) == 1


async def test_a_picture_goes_from_one_server_to_another(tmp_path: Path, broker_port: int) -> None:
    async with (
        StandIn(data=tmp_path / "one", without=["LoadImage"]) as draws,
        StandIn(data=tmp_path / "other", without=["EmptyLatentImage"]) as turns,
    ):
        more = chains(tmp_path, duo=TWO_STEPS) | {"comfyui": {"urls": [draws.url, turns.url]}}
        plan = Plan(tmp_path, f"mqtt://127.0.0.1:{broker_port}", draws.url, workflows=workflows(), more=more)
        async with watching(broker_port, plan.base) as eye, bridge(plan):
            await eye.payload("bridge/state", "online")
            data = await eye.done("queue", {"workflow": "duo", "count": 2})
            for chain_id in data["prompt_ids"]:
                result = await eye.over(chain_id)
                assert result["status"] == "completed", result
                made = [eye.of(f"prompt/{part['job_id']}/result")[0].json["backend"] for part in result["parts"]]
                assert made == [f"127-0-0-1-{draws.port}", f"127-0-0-1-{turns.port}"]


async def test_a_step_that_fails_names_itself_and_is_tried_again(tmp_path: Path, broker_port: int) -> None:
    text = (
        TWO_STEPS
        + """
[[steps]]
name = "bad"
workflow = "fail"
retry = 1
[[steps]]
name = "never"
workflow = "fox"
"""
    )
    async with chained(tmp_path, broker_port, trio=text) as here:
        (chain_id,) = (await here.eye.done("queue", {"workflow": "trio"}))["prompt_ids"]
        result = await here.eye.over(chain_id)
        assert result["status"] == "failed"
        assert result["error"]["code"] == "execution_error"
        assert "step 'bad'" in result["error"]["message"]
        assert "on purpose" in result["error"]["message"]
        parts = {part["step"]: part for part in result["parts"]}
        assert (parts["bad"]["status"], parts["bad"]["tries"]) == ("failed", 2)
        assert "never" not in parts


async def test_conditions_and_texts(tmp_path: Path, broker_port: int) -> None:
    text = """
[[steps]]
name = "idea"
workflow = "text"
[[steps]]
name = "bad"
workflow = "fail"
[[steps]]
name = "instead"
workflow = "fox"
values = { prompt = { step = "idea", text = 0 } }
when = { step = "bad", status = "failed" }
[[steps]]
name = "not"
workflow = "fox"
when = { step = "idea", text = "blue" }
"""
    async with chained(tmp_path, broker_port, cond=text) as here:
        (chain_id,) = (await here.eye.done("queue", {"workflow": "cond"}))["prompt_ids"]
        result = await here.eye.over(chain_id)
        assert result["status"] == "completed", result
        parts = {part["step"]: part for part in result["parts"]}
        assert parts["not"]["status"] == "skipped"
        job_id = parts["instead"]["job_id"]
        assert here.eye.of(f"prompt/{job_id}/result")[0].json["values"]["prompt"] == "a red kite"


@pytest.mark.parametrize("by", ["prompt_id", "batch_id", "all"])
async def test_a_chain_is_interrupted(tmp_path: Path, broker_port: int, by: str) -> None:
    text = '[[steps]]\nname = "slow"\nworkflow = "sleep"\n[[steps]]\nname = "after"\nworkflow = "fox"\n'
    async with chained(tmp_path, broker_port, slow=text) as here:
        (chain_id,) = (await here.eye.done("queue", {"workflow": "slow"}))["prompt_ids"]
        await here.eye.first(f"prompt/{chain_id}/status", lambda one: one.json["title"] == "slow")
        await here.eye.done("interrupt", None if by == "all" else {by: chain_id})
        result = await here.eye.over(chain_id)
        assert (result["status"], result["error"]["code"]) == ("interrupted", "interrupted")
        assert [part["step"] for part in result["parts"]] == ["slow"]


async def test_a_chain_goes_on_at_its_step_after_the_death_of_the_bridge(tmp_path: Path, broker_port: int) -> None:
    comfy = ComfyProcess(tmp_path, step_delay=0.25)
    longer = TWO_STEPS.split("\n", 2)[2].replace("steps = 2", "steps = 12")
    for old, new in (("draw", "again"), ("turn", "more")):
        longer = longer.replace(f'"{old}"', f'"{new}"')
    more = chains(tmp_path, duo=TWO_STEPS.replace("steps = 2", "steps = 1") + longer)
    plan = Plan(tmp_path, f"mqtt://127.0.0.1:{broker_port}", comfy.url, workflows=workflows(), more=more)
    process = BridgeProcess(plan)
    with ended(process, comfy):
        await comfy.up()
        async with watching(broker_port, plan.base) as eye:
            process.start()
            await eye.payload("bridge/state", "online")
            (chain_id,) = (await eye.done("queue", {"workflow": "duo"}))["prompt_ids"]
            await eye.first(f"prompt/{chain_id}/status", lambda one: one.json["title"] == "again")
            process.kill()
            await eye.payload("bridge/state", "offline")
            process.start()
            result = await eye.over(chain_id, within=40)
            assert result["status"] == "completed", result
            assert [part["tries"] for part in result["parts"]] == [1, 1, 1, 1], result["parts"]
            assert set((await comfy.stats())["executed"].values()) == {1}


async def test_a_batch_of_chains_has_one_progress_and_one_result(tmp_path: Path, broker_port: int) -> None:
    only_prompt = '[parameters]\nprompt = "draw.prompt"\n' + TWO_STEPS.split("\n", 2)[2]
    async with chained(tmp_path, broker_port, duo=TWO_STEPS, plain=only_prompt) as here:
        data = await here.eye.done("workflow/duo/queue", {"count": 3})
        ids, batch = data["prompt_ids"], data["batch_id"]
        assert len(ids) == 3
        assert batch not in ids
        whole = await final(here.eye, batch)
        assert (whole["kind"], whole["total"], whole["completed"], whole["percent"]) == ("batch", 3, 3, 100.0)
        (result,) = [one.json for one in here.eye.of(f"batch/{batch}/result")]
        assert [one["id"] for one in result["results"]] == ids
        assert [one["values"]["seed"] for one in result["results"]] == [42, 43, 44]
        assert [len(one["parts"]) for one in result["results"]] == [2, 2, 2]
        assert {one["batch_id"] for one in result["results"]} == {batch}
        for chain_id in ids:
            assert here.eye.statuses(chain_id) == ["queued", "running", "completed"]
            assert (await final(here.eye, chain_id))["kind"] == "chain"
        # A chain that came first is done first: its later steps do not wait behind the first ones of others.
        last = {part["job_id"]: n for n, one in enumerate(result["results"]) for part in one["parts"][1:]}
        topics = [one.topic for one in here.eye.seen]
        ends = sorted(last, key=lambda job_id: topics.index(f"prompt/{job_id}/result"))
        assert [last[job_id] for job_id in ends] == [0, 1, 2]

        grid = {"prompt": ["a fox", "an owl"], "steps": [1, 2]}
        data = await here.eye.done("queue", {"workflow": "duo", "grid": grid, "values": {"seed": 5}})
        await final(here.eye, data["batch_id"])
        values = [one["values"] for one in here.eye.of(f"batch/{data['batch_id']}/result")[0].json["results"]]
        assert [(one["prompt"], one["steps"], one["seed"]) for one in values] == [
            *(("a fox", 1, 5), ("a fox", 2, 5)),
            *(("an owl", 1, 5), ("an owl", 2, 5)),
        ]

        data = await here.eye.done("queue", {"workflow": "plain", "values": [{"prompt": "one"}, {"prompt": "two"}]})
        await final(here.eye, data["batch_id"])
        (result,) = [one.json for one in here.eye.of(f"batch/{data['batch_id']}/result")]
        assert [one["values"]["prompt"] for one in result["results"]] == ["one", "two"]

        # A seed that nobody chose to show counts all the same: else all pictures would be one.
        data = await here.eye.done("queue", {"workflow": "plain", "count": 2})
        await final(here.eye, data["batch_id"])
        (result,) = [one.json for one in here.eye.of(f"batch/{data['batch_id']}/result")]
        assert [one["values"]["seed"] for one in result["results"]] == [42, 43]


async def test_presets_of_a_step_and_of_a_chain(tmp_path: Path, broker_port: int) -> None:
    set_by_step = '[[steps]]\nname = "draw"\nworkflow = "fox"\nvalues = { quality = "high" }\n'
    offered = '[parameters]\nquality = "draw.quality"\n[[steps]]\nname = "draw"\nworkflow = "fox"\n'
    folder = tmp_path / "workflows"
    folder.mkdir()
    (folder / "fox.toml").write_text("[presets.quality]\nlow = { steps = 2 }\nhigh = { steps = 5 }\n")
    async with chained(tmp_path, broker_port, high=set_by_step, free=offered) as here:

        async def steps_of(workflow: str, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            data = await here.eye.done("queue", {"workflow": workflow, "values": values})
            result = await here.eye.over(data["prompt_ids"][0])
            part = result["parts"][0]["job_id"]
            return here.eye.of(f"prompt/{part}/result")[0].json["values"]["steps"], result["values"]

        steps, values = await steps_of("high", {})
        assert (steps, values["steps"]) == (5, 5)
        assert await steps_of("free", {"quality": "low"}) == (2, {"quality": "low", "seed": 42})
        await here.eye.refused("queue", {"workflow": "free", "values": {"quality": "best"}}, "bad_value", "best", "low")


async def test_what_makes_no_batch_of_chains(tmp_path: Path, broker_port: int) -> None:
    more = chains(tmp_path, duo=TWO_STEPS) | {"jobs": {"max_batch": 4, "max_waiting": 3}}
    async with house(tmp_path, broker_port, workflows=workflows(), more=more) as here:
        for payload, code, word in (
            ({"count": 5}, "bad_value", "max_batch"),
            ({"count": 4}, "queue_full", "max_waiting"),
            ({"values": [{"prompt": "x"}, {"promt": "y"}]}, "unknown_parameter", "promt"),
            ({"count": 2, "expires_at": 1}, "expired", "expires_at"),
        ):
            await here.eye.refused("workflow/duo/queue", payload, code, word)
        assert not here.eye.prompt_ids()


async def test_of_many_first_steps_at_once_no_more_are_given_away_than_a_backend_takes(
    tmp_path: Path, broker_port: int
) -> None:
    text = '[[steps]]\nname = "slow"\nworkflow = "sleep"\n'
    async with chained(tmp_path, broker_port, slow=text) as here:
        data = await here.eye.done("queue", {"workflow": "slow", "count": 20})
        await here.eye.status(data["prompt_ids"][1], "running")
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / f"{here.plan.base}.db")) as store:
            # A restart would look for them at ComfyUI.
            sql = "SELECT count(*) FROM jobs WHERE json_extract(state, '$.submitted')"
            assert store.execute(sql).fetchone() == (2,)
        await here.eye.done("interrupt")


async def test_a_batch_of_chains_is_interrupted_as_a_whole(tmp_path: Path, broker_port: int) -> None:
    text = '[[steps]]\nname = "slow"\nworkflow = "sleep"\n[[steps]]\nname = "after"\nworkflow = "fox"\n'
    async with chained(tmp_path, broker_port, slow=text) as here:
        data = await here.eye.done("queue", {"workflow": "slow", "count": 4})
        ids, batch = data["prompt_ids"], data["batch_id"]
        await here.eye.status(ids[0], "running")
        assert here.eye.statuses(ids[3]) == ["queued"]
        reply = await here.eye.done("interrupt", {"batch_id": batch})
        assert set(ids) <= set(reply["prompt_ids"])
        whole = await final(here.eye, batch)
        assert (whole["status"], whole["interrupted"]) == ("interrupted", 4)
        (result,) = [one.json for one in here.eye.of(f"batch/{batch}/result")]
        assert {one["error"]["code"] for one in result["results"]} == {"interrupted"}
        await here.eye.refused("interrupt", {"batch_id": batch}, "already_over", "batch")


async def test_a_chain_that_has_not_begun_in_time_never_does(tmp_path: Path, broker_port: int) -> None:
    handled = TWO_STEPS + '[[steps]]\nname = "else"\nworkflow = "fox"\nwhen = { step = "draw", status = "failed" }\n'
    async with chained(tmp_path, broker_port, duo=handled.replace("[[steps]]\n", "[[steps]]\nretry = 2\n")) as here:
        for _ in range(3):  # one runs, one waits in ComfyUI, one in the bridge
            await here.eye.done("queue", {"workflow": "sleep"})
        soon = time.time() + 1.5
        data = await here.eye.done("queue", {"workflow": "duo", "count": 2, "expires_at": soon})
        whole = await final(here.eye, data["batch_id"])
        assert (whole["status"], whole["failed"]) == ("failed", 2)
        for result in here.eye.of(f"batch/{data['batch_id']}/result")[0].json["results"]:
            assert (result["status"], result["error"]["code"]) == ("failed", "expired")
            assert [(part["step"], part["tries"]) for part in result["parts"]] == [("draw", 1)]
        await here.eye.done("interrupt")
        # One that has begun is finished, however late.
        late = await here.eye.done("queue", {"workflow": "duo", "values": {"steps": 5}, "expires_at": time.time() + 5})
        assert (await here.eye.over(late["prompt_ids"][0]))["status"] == "completed"


async def test_a_batch_of_chains_survives_the_death_of_the_bridge(tmp_path: Path, broker_port: int) -> None:
    comfy = ComfyProcess(tmp_path, step_delay=0.2)
    plan = Plan(
        tmp_path,
        f"mqtt://127.0.0.1:{broker_port}",
        comfy.url,
        workflows=workflows(),
        more=chains(tmp_path, duo=TWO_STEPS),
    )
    process = BridgeProcess(plan)
    with ended(process, comfy):
        await comfy.up()
        async with watching(broker_port, plan.base) as eye:
            process.start()
            await eye.payload("bridge/state", "online")
            data = await eye.done("queue", {"workflow": "duo", "count": 3})
            await eye.over(data["prompt_ids"][0])
            process.kill()
            await eye.payload("bridge/state", "offline")
            process.start()
            whole = await final(eye, data["batch_id"], within=40)
            assert (whole["status"], whole["completed"]) == ("completed", 3)
            assert len(eye.of(f"batch/{data['batch_id']}/result")) == 1
            assert set((await comfy.stats())["executed"].values()) == {1}


async def test_a_command_may_bring_its_own_chain(tmp_path: Path, broker_port: int) -> None:
    async with chained(tmp_path, broker_port) as here:
        steps: list[dict[str, Any]] = [
            {"name": "a", "workflow": "fox", "values": {"prompt": "a heron"}},
            {"name": "b", "workflow": "img", "values": {"image": {"step": "a"}}},
        ]
        (chain_id,) = (await here.eye.done("queue", {"steps": steps}))["prompt_ids"]
        result = await here.eye.over(chain_id)
        assert (result["status"], result["workflow"], len(result["parts"])) == ("completed", None, 2)
        await here.eye.refused("queue", {"steps": steps[1:]}, "bad_value", "'b'", "values.image")
        await here.eye.refused("queue", {"steps": [{"workflow": "nowhere"}]}, "unknown_workflow", "nowhere")
        await here.eye.refused("queue", {"workflow": "fox", "steps": steps}, "bad_payload", "steps")
        await here.eye.refused("queue", {"steps": []}, "bad_value", "steps")
        assert not here.eye.below("workflow//")


async def test_broken_chains_are_told(tmp_path: Path, broker_port: int) -> None:
    files = {
        "a": '[[steps]]\nname = "one"\nworkflow = "nowhere"\n',
        "b": '[[steps]]\nname = "one"\nworkflow = "img"\nvalues = { image = { step = "later" } }\n',
        "c": "steps = 3",
        "d": '[[steps]]\nname = "one"\nworkflow = "fox"\nvalues = { stepz = 3 }\n',
        "fox": '[[steps]]\nworkflow = "fox"\n',
    }
    async with chained(tmp_path, broker_port, **files) as here:
        data = await here.eye.done("bridge/request/workflows")
        told = {problem["path"]: json.dumps(problem["error"]) for problem in data["problems"]}
        assert "nowhere" in told["a.toml"]
        assert "later" in told["b.toml"]
        assert "steps" in told["c.toml"]
        assert all(word in told["d.toml"] for word in ("step 'one'", "stepz", "steps", "unknown_parameter"))
        assert "fox" in told["fox.toml"]
        await here.eye.refused("queue", {"workflow": "a"}, "unknown_workflow", "step", "nowhere")
        await here.eye.refused("workflow/b/queue", None, "bad_value", "one", "later")
