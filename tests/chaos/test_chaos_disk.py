"""A full disk: the kernel refuses every write of the bridge to a file, its log's too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chaos.house import house
from tests.chaos.processes import Child, eventually
from tests.chaos.verdict import judge

if sys.platform == "linux":
    import resource

    def limit_files(child: Child, size: int) -> None:
        """Let the process write no file beyond `size` bytes; -1 for no limit."""
        _, hard = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))

    async def test_a_full_disk_refuses_new_jobs_ends_the_old_and_is_forgotten(tmp_path: Path) -> None:
        async with house(tmp_path / "house", job_seconds=1.0) as made:
            inside = {await made.queue("first"), await made.queue("second")}
            await made.queue("waits")  # until it can be written that it is handed over
            limit_files(made.bridge, 1)
            reply = await made.recorder.ask("queue", {"workflow": "quick"}, "refused")
            assert reply["status"] == "error", reply
            assert reply["code"] not in {"internal", "timeout"}, reply
            assert "store" in reply["error"], reply
            await made.recorder.until(lambda: inside <= made.recorder.finals().keys(), within=20.0, what="the ends")
            assert made.bridge.alive

            limit_files(made.bridge, -1)
            await made.queue("later")
            await made.over(within=20.0)

            async def all_written() -> bool:
                return made.ended_in_store() >= set(made.accepted.values())

            await eventually(all_written, within=20.0, what="the end of every job in the store")
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
