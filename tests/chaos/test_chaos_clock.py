"""A clock that jumps, as one does that is set after the start: jobs keep their order and end, nothing runs twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge import events, requests, settings
from bridge.core import Core
from bridge.jobs.runner import Runner
from bridge.jobs.store import Store
from bridge.library import Library
from bridge.testing import StandIn
from tests.chaos.house import graphs
from tests.chaos.processes import eventually

HOUR = 3600.0
DAY = 24 * HOUR
JUMPS = [-400 * DAY, -0.5, HOUR, 400 * DAY]


class Clock:
    """The time of day, off by what a test says."""

    def __init__(self) -> None:
        self.off = 0.0

    def __call__(self) -> float:
        return time.time() + self.off


@dataclass
class Inside:
    """The bridge without its faces."""

    core: Core
    store: Store
    comfy: StandIn
    clock: Clock
    ends: list[events.JobResult]

    async def queue(self, **fields: Any) -> str:
        data = await self.core.queue(requests.Queue(workflow="quick", **fields))
        return str(data["prompt_ids"][0])

    async def over(self, count: int) -> None:
        async def are_over() -> bool:
            return len(self.ends) >= count

        await eventually(are_over, within=20.0, what=f"the end of {count} jobs")


@contextlib.asynccontextmanager
async def inside(folder: Path) -> AsyncIterator[Inside]:
    (folder / "workflows").mkdir()
    for name, graph in graphs(0.02).items():
        (folder / "workflows" / f"{name}.json").write_text(json.dumps(graph), encoding="utf-8")
    clock, hub, ends = Clock(), events.Hub(), list[events.JobResult]()

    def note(event: events.Event) -> None:
        if isinstance(event, events.JobResult):
            ends.append(event)

    async with StandIn() as comfy:
        made = settings.load(
            environ={},
            overrides={
                "comfyui": {"urls": [comfy.url], "depth": 1},
                "store": {"url": f"sqlite:///{folder / 'bridge.db'}"},
            },
        )
        async with Store(made.store.url, keep=made.store.keep, clock=clock) as store:
            runner = Runner(made, store, hub, clock=clock)
            core = Core(made, store, Library(folder / "workflows"), runner, hub, clock=clock)
            await core.start()
            started = asyncio.Event()
            running = asyncio.create_task(runner.run(started.set))
            with hub.subscribed(note):
                await started.wait()
                try:
                    yield Inside(core, store, comfy, clock, ends)
                finally:
                    running.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await running


@pytest.mark.parametrize("jump", JUMPS)
async def test_jobs_end_in_the_order_of_their_acceptance(jump: float, tmp_path: Path) -> None:
    async with inside(tmp_path) as made:
        first = [await made.queue() for _ in range(4)]
        made.clock.off = jump
        ids = first + [await made.queue() for _ in range(3)]
        await made.over(len(ids))
        assert list(made.comfy.stats.started) == ids
        assert set(made.comfy.stats.executed.values()) == {1}
        assert [event.document["status"] for event in made.ends] == ["completed"] * len(ids)
        for event in made.ends:
            assert all(seconds >= 0 for seconds in event.document["timings"].values()), event.document["timings"]
            seconds = sum(value for key, value in event.document["timings"].items() if key != "total")
            assert seconds < 30.0, event.document["timings"]


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_transaction_is_still_known_right_after_a_jump(jump: float, tmp_path: Path) -> None:
    async with inside(tmp_path) as made:

        async def run() -> dict[str, Any]:
            return {"status": "ok", "data": await made.queue()}

        answer = await made.core.transactions.once("queue", "key", run)
        made.clock.off = jump
        assert await made.core.transactions.once("queue", "key", run) == answer
        await made.over(1)
        assert made.comfy.stats.submitted == 1


async def test_what_waits_is_not_tidied_away(tmp_path: Path) -> None:
    async with inside(tmp_path) as made:
        ids = [await made.queue() for _ in range(4)]
        made.clock.off = 400 * DAY
        await made.store.prune(media_in_use=())
        await made.over(len(ids))
        assert [event.document["status"] for event in made.ends] == ["completed"] * len(ids)
