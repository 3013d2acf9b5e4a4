"""The driver of chains, with parts that a test makes end as it likes."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bridge import chains, events
from bridge.chains import Chains
from bridge.errors import BackendOffline, BadValue, StoreError
from bridge.jobs import documents
from bridge.jobs.chains import Chain, read_chain
from bridge.jobs.model import Job, Output, Status
from bridge.jobs.reporter import Reporter
from bridge.jobs.store import Store

CHAIN = read_chain(
    {
        "steps": [
            {"name": "draw", "workflow": "fox"},
            {"name": "turn", "workflow": "img", "values": {"image": {"step": "draw", "output": 0}}},
        ]
    },
    where="duo.toml",
)
ID = "6b5ad7ac-0000-4000-8000-000000000000"
PICTURE = Output(0, "9", "a.png", "", "output", "image/png", None)


class Parts:
    """Runs parts at once. away: how often the backend that has the picture does not answer; ends: by workflow."""

    def __init__(
        self, hub: events.Hub, *, away: int = 0, refuse: bool = False, ends: Mapping[str, Status] | None = None
    ) -> None:
        self._hub = hub
        self._away = away
        self._refuse = refuse
        self._ends = ends or {}
        self.jobs: dict[str, Job] = {}

    async def run_part(
        self, workflow: str, values: Mapping[str, Any], *, job_id: str, chain: Job, expires_at: float | None
    ) -> None:
        if self._refuse:
            raise BadValue(f"{workflow} takes no {list(values)}")
        job = Job(job_id, workflow, {}, 0.0, parent=chain.id, order=chain.order, expires_at=expires_at)
        job.outputs = (PICTURE,)
        self.jobs[job_id] = job
        for status in (Status.QUEUED, Status.RUNNING, self._ends.get(workflow, Status.COMPLETED)):
            job.status = status
            if status in {Status.FAILED, Status.INTERRUPTED}:
                job.error = {"code": "out_of_memory", "message": "too big"}
            self._hub.publish(events.JobStatus(job_id, workflow, documents.status(job), final=status.final))

    async def end_part(self, job_id: str) -> None:
        raise AssertionError(job_id)

    async def find_part(self, job_id: str) -> Job | None:
        return self.jobs.get(job_id)

    async def part_output(self, job_id: str, n: int) -> tuple[Output, bytes]:
        if self._away:
            self._away -= 1
            raise BackendOffline(f"nobody answers for output {n} of {job_id}")
        return PICTURE, b"bytes"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path / 'jobs.db'}", keep=1000.0) as made:
        yield made


async def drive(
    store: Store, hub: events.Hub, parts: Parts, told: list[events.Event] | None = None, chain: Chain = CHAIN
) -> Job:
    driver = Chains(store, hub, Reporter(store, hub, clock=lambda: 1.0, max_output=1000), parts, clock=lambda: 1.0)
    over = asyncio.Event()

    def listen(event: events.Event) -> None:
        driver.listen(event)
        if told is not None:
            told.append(event)
        if isinstance(event, events.JobStatus) and event.final and event.job_id == ID:
            over.set()

    with hub.subscribed(listen):
        job = Job(ID, "duo", {}, 0.0)
        await driver.start(chain, [(job, {})])
        async with asyncio.timeout(10):
            await over.wait()
        await driver.close()
    return job


async def test_a_picture_whose_server_is_away_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "_PAUSE", 0.01)
    hub = events.Hub()
    parts = Parts(hub, away=3)
    job = await drive(store, hub, parts)
    assert (job.status, [part["status"] for part in job.parts]) == (Status.COMPLETED, ["completed", "completed"])
    # One place by age for all of it.
    assert {part.order for part in parts.jobs.values()} == {job.order}


async def test_it_is_not_waited_for_without_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "_PAUSE", 0.01)
    monkeypatch.setattr(chains, "_PATIENCE", 0.0)
    hub = events.Hub()
    job = await drive(store, hub, Parts(hub, away=1000))
    assert job.status is Status.FAILED
    assert job.error is not None
    assert job.error["code"] == "backend_offline"
    assert "step 'turn': values.image" in job.error["message"]
    assert [part["status"] for part in job.parts] == ["completed", "failed"]


async def test_a_step_that_is_refused_ends_the_chain_and_names_itself(store: Store) -> None:
    hub = events.Hub()
    job = await drive(store, hub, Parts(hub, refuse=True))
    assert job.status is Status.FAILED
    assert job.error == {
        "code": "bad_value",
        "message": "step 'draw': fox takes no []",
        "details": {"step": "draw", "prompt_id": str(uuid.uuid5(uuid.UUID(ID), "draw/1"))},
    }


async def test_a_chain_ends_even_if_what_it_made_cannot_be_looked_up(store: Store) -> None:
    class Forgetful(Parts):
        """Loses the store once all steps are done."""

        async def find_part(self, job_id: str) -> Job | None:
            if len(self.jobs) == 2:
                raise StoreError("the disk is full")
            return await super().find_part(job_id)

    hub = events.Hub()
    job = await drive(store, hub, Forgetful(hub))
    assert job.status is Status.FAILED
    assert job.error is not None
    assert job.error["code"] == "store"


async def test_an_interrupt_that_cannot_be_written_ends_the_chain_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: Job) -> None:
        raise StoreError("the disk is full")

    hub = events.Hub()
    parts = Parts(hub)
    ended: list[str] = []

    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    async def end_part(job_id: str) -> None:
        ended.append(job_id)

    monkeypatch.setattr(parts, "run_part", never)
    monkeypatch.setattr(parts, "end_part", end_part)
    driver = Chains(store, hub, Reporter(store, hub, clock=lambda: 1.0, max_output=1000), parts, clock=lambda: 1.0)
    await driver.start(CHAIN, [(Job(ID, "duo", {}, 0.0), {})])
    await asyncio.sleep(0)
    monkeypatch.setattr(store, "save", full)
    assert await driver.interrupt(ID)
    assert ended == [str(uuid.uuid5(uuid.UUID(ID), "draw/1"))]
    await driver.close()


async def test_a_step_waits_before_it_runs_and_so_does_the_chain(store: Store) -> None:
    hub, told = events.Hub(), list[events.Event]()
    job = await drive(store, hub, Parts(hub), told)
    wholes = [event.document for event in told if isinstance(event, events.BatchStatus)]
    steps = [(one["parts"][-1]["step"], one["parts"][-1]["status"]) for one in wholes if one["parts"]]
    assert [step for step, _ in itertools.groupby(steps)] == [
        (name, status) for name in ("draw", "turn") for status in ("queued", "running", "completed")
    ]
    assert [status for status, _ in itertools.groupby(one["status"] for one in wholes)] == [
        *("queued", "running", "completed"),
    ]
    assert set(job.durations) == {"queued", "running", "total"}


def foreseeing(status: str) -> Chain:
    """Draw, and do something else if that ended so."""
    steps = [{"name": "draw", "workflow": "fox"}, {"workflow": "img", "when": {"step": "draw", "status": status}}]
    return read_chain({"steps": steps}, where="foreseeing.toml")


@pytest.mark.parametrize("end", [Status.FAILED, Status.INTERRUPTED])
async def test_an_end_that_a_later_step_is_for_does_not_end_the_chain(store: Store, end: Status) -> None:
    hub = events.Hub()
    job = await drive(store, hub, Parts(hub, ends={"fox": end}), chain=foreseeing(end))
    assert (job.status, job.error, [part["status"] for part in job.parts]) == (
        *(Status.COMPLETED, None),
        [end, "completed"],
    )


@pytest.mark.parametrize("end", [Status.FAILED, Status.INTERRUPTED])
async def test_one_that_nobody_foresaw_does(store: Store, end: Status) -> None:
    hub = events.Hub()
    job = await drive(store, hub, Parts(hub, ends={"fox": end}), chain=foreseeing("completed"))
    assert (job.status, [part["status"] for part in job.parts]) == (end, [end, "skipped"])
    assert job.error is not None
    assert (job.error["code"], job.error["message"]) == ("out_of_memory", "step 'draw': too big")


async def test_a_restart_does_not_run_a_step_again_that_failed_and_was_foreseen(store: Store) -> None:
    hub = events.Hub()
    parts = Parts(hub, ends={"fox": Status.FAILED})
    job = Job(ID, "duo", {}, 0.0, kind="chain")
    chain = foreseeing("failed")
    payload = json.dumps({"chain": chain.to_json(), "values": {}}).encode()
    job.status, job.parts = Status.RUNNING, ({"step": "draw", "status": "failed", "job_id": "j", "tries": 1},)
    await store.add([(job, payload)])
    driver = Chains(store, hub, Reporter(store, hub, clock=lambda: 1.0, max_output=1000), parts, clock=lambda: 1.0)
    over = asyncio.Event()

    def listen(event: events.Event) -> None:
        driver.listen(event)
        if isinstance(event, events.JobStatus) and event.final and event.job_id == ID:
            over.set()

    with hub.subscribed(listen):
        await driver.load()
        async with asyncio.timeout(10):
            await over.wait()
    assert [one.workflow for one in parts.jobs.values()] == ["img"]
