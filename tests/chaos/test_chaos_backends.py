"""Several backends: where jobs go, and what happens to those of a backend that is lost or stuck."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx

from tests.chaos.house import PICTURE, House, house
from tests.chaos.processes import Server, eventually
from tests.chaos.verdict import judge
from tests.support.graphs import node


def results(made: House) -> dict[str, dict[str, object]]:
    """By the job's name."""
    names = {prompt_id: name for name, prompt_id in made.accepted.items()}
    found = [note for note in made.recorder.notes if note.topic.endswith("/result")]
    return {names[note.topic.split("/")[1]]: note.document for note in found}


async def running_on(made: House, *servers: Server) -> None:
    """Wait until each of them has begun a prompt."""

    async def have_begun() -> bool:
        return all([(await one.stats())["started"] for one in servers])

    await eventually(have_begun, within=20.0, what="a prompt on each server")


async def test_lost_and_stuck_backends_give_their_jobs_to_the_one_that_is_left(tmp_path: Path) -> None:
    async with house(
        tmp_path / "house", servers=3, job_seconds=0.5, settings={"comfyui": {"stall_timeout": 2.0}}
    ) as made:
        lost, stuck, good = made.servers
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(made.queue(f"job{number}"))
        await running_on(made, lost, stuck, good)
        await lost.kill()
        await stuck.order(kill_worker=True)
        await made.over(within=40.0)
        report = judge(made.evidence())
        assert not report.problems, str(report)
        assert report.statuses["completed"] == 8, str(report)
        assert report.resubmitted >= 2, str(report)
        assert await made.bridge.stop() == 0


async def test_jobs_behind_a_prompt_of_somebody_else_that_never_ends_go_elsewhere(tmp_path: Path) -> None:
    async with house(tmp_path / "house", servers=2, settings={"comfyui": {"stall_timeout": 2.0}}) as made:
        blocked, _ = made.servers
        save = node("SaveImage", filename_prefix="foreign", images=["1", 0])
        foreign = {"1": node("StandInSleep", seconds=3600.0, steps=1), PICTURE: save}
        async with httpx.AsyncClient() as http:
            (await http.post(f"{blocked.url}/prompt", json={"prompt": foreign})).raise_for_status()
        for number in range(4):
            await made.queue(f"job{number}")
        await made.over(within=40.0)
        report = judge(made.evidence())
        assert not report.problems, str(report)
        assert report.statuses["completed"] == 4, str(report)
        assert {one["backend"] for one in results(made).values()} == {made.servers[1].backend}


async def test_a_backend_gets_only_what_it_can_run_and_what_it_ran_last(tmp_path: Path) -> None:
    folder = tmp_path / "house"
    folder.mkdir()
    poor, rich = Server(folder, "poor", more=["--without", "StandInSleep"]), Server(folder, "rich")
    solid = {"1": node("EmptyImage", width=16, height=16, batch_size=1, color=1)}
    save = node("SaveImage", filename_prefix="x", images=["1", 0])
    workflows = {
        "quick": {"1": node("StandInSleep", seconds=0.05, steps=1), PICTURE: save},
        "plain": {**solid, PICTURE: save},
        "other": {**solid, PICTURE: save},
        "nowhere": {**solid, "2": node("NoSuchNode", image=["1", 0]), PICTURE: save},
    }
    async with house(tmp_path / "house", servers=[poor, rich], workflows=workflows) as made:
        for number in range(6):
            await made.queue(f"quick{number}")
        await made.over(within=20.0)
        assert {results(made)[f"quick{number}"]["backend"] for number in range(6)} == {rich.backend}

        for number in range(3):  # one after the other, so that both are idle
            for workflow in ("plain", "quick"):
                await made.queue(f"{workflow}-{number}", {"workflow": workflow})
                await made.over(within=20.0)
        used = Counter(results(made)[f"plain-{number}"]["backend"] for number in range(3))
        assert used == {poor.backend: 3}, used

        await made.queue("nowhere", {"workflow": "nowhere"})
        await made.over(within=20.0)
        end = results(made)["nowhere"]
        assert end["status"] == "failed"
        assert "NoSuchNode" in str(end["error"])
        assert await made.bridge.stop() == 0
