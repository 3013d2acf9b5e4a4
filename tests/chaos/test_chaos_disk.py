"""A full disk: the kernel refuses every write of the bridge to a file, its log's too."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.chaos.house import House, house
from tests.chaos.processes import Child, eventually
from tests.chaos.verdict import judge

if sys.platform == "linux":
    import resource

    def limit_files(child: Child, size: int) -> None:
        """Let the process write no file beyond `size` bytes; -1 for no limit."""
        _, hard = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))

    async def in_store(made: House) -> bool:
        """Tell whether the store knows the end of every job."""
        with contextlib.closing(sqlite3.connect(made.store())) as db:
            ended = {row[0] for row in db.execute("SELECT id FROM jobs WHERE final = 1")}
        return set(made.accepted.values()) <= ended

    async def test_a_full_disk_refuses_new_jobs_ends_the_old_and_is_forgotten(tmp_path: Path) -> None:
        async with house(tmp_path / "house", job_seconds=1.0) as made:
            for name in ("first", "second", "third"):
                await made.queue(name)
            limit_files(made.bridge, 1)
            reply = await made.recorder.ask("queue", {"workflow": "quick"}, "refused")
            assert reply["status"] == "error", reply
            assert reply["code"] not in {"internal", "timeout"}, reply
            assert "store" in reply["error"], reply
            await made.over(within=30.0)
            assert made.bridge.alive

            limit_files(made.bridge, -1)
            await made.queue("later")
            await made.over(within=20.0)
            await eventually(lambda: in_store(made), within=20.0, what="the end of every job in the store")
            await made.bridge.kill()
            await made.bridge.start()
            await made.recorder.until(
                lambda: len([note for note in made.recorder.of("bridge/state") if note.payload == b"online"]) == 2,
                within=20.0,
                what="the bridge's return",
            )
            await made.queue("last")
            await made.over(within=20.0)
            report = judge(made.evidence())
            assert not report.problems, str(report)
            assert report.statuses == {"completed": 5}, str(report)
            assert await made.bridge.stop() == 0

else:

    @pytest.mark.parametrize("system", [])
    def test_a_full_disk(system: str) -> None:
        """Only Linux lets one process limit another."""
