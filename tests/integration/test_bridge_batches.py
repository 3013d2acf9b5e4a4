"""Batches: count, a list of values, a grid; one progress, a result each and one for all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.bridge_process import BridgeProcess, ComfyProcess, House, Plan, ended, house
from tests.support.mqtt_eye import watching


@pytest.fixture
async def here(tmp_path: Path, broker_port: int) -> AsyncIterator[House]:
    async with house(tmp_path, broker_port) as made:
        yield made


async def test_count_makes_one_result_each_and_one_for_all(here: House) -> None:
    data = await here.eye.done("queue", {"count": 3})
    batch, prompts = f"batch/{data['batch_id']}", data["prompt_ids"]
    assert len(prompts) == 3
    final = await here.eye.first(f"{batch}/status", lambda one: one.json["status"] == "completed")
    assert final.json["completed"] == final.json["total"] == 3
    assert final.json["percent"] == 100.0
    (result,) = [one.json for one in here.eye.of(f"{batch}/result")]
    assert [one["id"] for one in result["results"]] == prompts
    assert [one["values"]["seed"] for one in result["results"]] == [42, 43, 44]
    topics = [one.topic for one in here.eye.seen]
    assert topics.index(f"{batch}/result") < len(topics) - 1 - topics[::-1].index(f"{batch}/status")
    for prompt_id in prompts:
        assert len(here.eye.finals(prompt_id)) == 1


async def test_a_grid_runs_every_point_with_the_other_values(here: House) -> None:
    grid = {"seed": [1, 2], "prompt": ["a fox", "an owl"]}
    data = await here.eye.done("queue", {"grid": grid, "values": {"steps": 2}})
    result = (await here.eye.first(f"batch/{data['batch_id']}/result")).json
    values = [(one["values"]["seed"], one["values"]["prompt"], one["values"]["steps"]) for one in result["results"]]
    assert values == [(1, "a fox", 2), (1, "an owl", 2), (2, "a fox", 2), (2, "an owl", 2)]
    assert (await here.eye.done("workflow/fox/set", {"steps": 3}))["values"]["seed"] == 42


async def test_a_list_of_values_is_a_run_each(here: House) -> None:
    data = await here.eye.done("queue", {"values": [{"prompt": "one"}, {"prompt": "two", "seed": "random"}]})
    result = (await here.eye.first(f"batch/{data['batch_id']}/result")).json
    first, second = (one["values"] for one in result["results"])
    assert (first["prompt"], first["seed"], second["prompt"]) == ("one", 42, "two")
    assert isinstance(second["seed"], int)


async def test_a_batch_is_interrupted_as_a_whole(here: House) -> None:
    data = await here.eye.done("queue", {"workflow": "sleep", "count": 4})
    await here.eye.status(data["prompt_ids"][0], "running")
    reply = await here.eye.done("interrupt", {"batch_id": data["batch_id"]})
    assert sorted(reply["prompt_ids"]) == sorted(data["prompt_ids"])
    final = await here.eye.first(f"batch/{data['batch_id']}/status", lambda one: one.json["status"] == "interrupted")
    assert final.json["interrupted"] == 4
    await here.eye.refused("interrupt", {"batch_id": data["batch_id"]}, "already_over", "batch")


async def test_what_makes_no_batch(here: House) -> None:
    for payload, code, word in (
        ({"count": 0}, "bad_payload", "count"),
        ({"count": 100_000}, "bad_value", "max_batch"),
        ({"count": 2, "grid": {"seed": [1]}}, "bad_payload", "grid"),
        ({"grid": {"seed": []}}, "bad_payload", "grid"),
        ({"grid": {"seed": 5}}, "bad_payload", "grid"),
        ({"grid": {"seed": [1, "x"]}}, "bad_value", "seed"),
        ({"values": []}, "bad_payload", "values"),
        ({"values": [{"prompt": "x"}, {"promt": "y"}]}, "unknown_parameter", "promt"),
    ):
        await here.eye.refused("queue", payload, code, word)
    assert not here.eye.prompt_ids()


async def test_a_batch_survives_the_death_of_the_bridge(tmp_path: Path, broker_port: int) -> None:
    comfy = ComfyProcess(tmp_path, step_delay=0.2)
    plan = Plan(tmp_path, f"mqtt://127.0.0.1:{broker_port}", comfy.url)
    process = BridgeProcess(plan)
    with ended(process, comfy):
        await comfy.up()
        async with watching(broker_port, plan.base) as eye:
            process.start()
            await eye.payload("bridge/state", "online")
            data = await eye.done("queue", {"count": 3})
            await eye.over(data["prompt_ids"][0])
            process.kill()
            await eye.payload("bridge/state", "offline")
            process.start()
            final = await eye.first(
                f"batch/{data['batch_id']}/status", lambda one: one.json["status"] == "completed", within=40
            )
            assert final.json["completed"] == 3
            assert len(eye.of(f"batch/{data['batch_id']}/result")) == 1
            assert set((await comfy.stats())["executed"].values()) == {1}
