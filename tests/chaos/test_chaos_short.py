"""The short form of `make chaos`. The seed stands in the failure; CHAOS_SEED repeats a run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.chaos.house import Plan, run


def seed(default: int) -> int:
    return int(os.environ.get("CHAOS_SEED", default))


PLANS = (
    Plan(seed(3), jobs=40, faults=13, mean_pause=0.5, longest=1.5, job_seconds=0.15),
    Plan(seed(4), jobs=16, faults=6, servers=1, broker="mosquitto", mean_pause=0.5, longest=1.5, job_seconds=0.15),
)


async def test_every_accepted_job_ends_once_whatever_dies(tmp_path: Path) -> None:
    # Side by side: most of the time is waiting.
    folders = [tmp_path / plan.broker for plan in PLANS]
    reports = await asyncio.gather(*(run(plan, folder) for plan, folder in zip(PLANS, folders, strict=True)))
    for plan, folder, report in zip(PLANS, folders, reports, strict=True):
        story = (folder / "story.txt").read_text(encoding="utf-8")
        assert not report.problems, f"{plan}\n{report}\n{story[-20_000:]}"
        assert report.accepted == plan.jobs
        assert report.statuses["completed"] > plan.jobs / 2, str(report)
