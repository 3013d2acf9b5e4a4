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

    async def test_a_full_disk_refuses_new_jobs_holds_back_the_ends_and_is_forgotten(tmp_path: Path) -> None:
        async with house(tmp_path / "house", job_seconds=1.0) as made:
            (server,) = made.servers
            inside = {await made.queue("first"), await made.queue("second")}
            await made.queue("waits")  # until it can be written that it is handed over
            limit_files(made.bridge, 1)
            reply = await made.recorder.ask("queue", {"workflow": "quick"}, "refused")
            assert reply["status"] == "error", reply
            assert reply["code"] not in {"internal", "timeout"}, reply
            assert "store" in reply["error"], reply

            async def have_run() -> bool:
                return inside <= set((await server.stats())["executed"])

            await eventually(have_run, within=20.0, what="the pictures")
            # What was told and not written would end otherwise after a crash.
            assert not made.recorder.finals()
            await made.bridge.kill()
            await made.bridge.start()
            await made.recorder.until(lambda: inside <= made.recorder.finals().keys(), within=20.0, what="the ends")
            await made.queue("later")
            await made.over(within=20.0)

            async def all_written() -> bool:
                return made.ended_in_store() >= set(made.accepted.values())

            await eventually(all_written, within=20.0, what="the end of every job in the store")
            report = judge(made.evidence())
            assert not report.problems, str(report)
            assert report.statuses == {"completed": 4}, str(report)
            assert await made.bridge.stop() == 0

    async def test_ends_that_wait_for_a_full_disk_are_told_when_it_has_room(tmp_path: Path) -> None:
        async with house(tmp_path / "house", job_seconds=1.0) as made:
            (server,) = made.servers
            await made.queue("first")
            waiting = {await made.queue("second"), await made.queue("third"), await made.queue("fourth")}
            limit_files(made.bridge, 1)
            made.asked |= {"second", "third", "fourth"}
            for prompt_id in waiting:
                made.recorder.send("interrupt", prompt_id)

            async def has_run() -> bool:
                return len((await server.stats())["executed"]) == 1

            await eventually(has_run, within=20.0, what="the picture")
            assert not made.recorder.finals()
            limit_files(made.bridge, -1)
            await made.over(within=20.0)
            await made.bridge.kill()
            await made.bridge.start()
            await made.queue("last")
            await made.over(within=20.0)
            report = judge(made.evidence())
            assert not report.problems, str(report)
            assert report.statuses == {"completed": 2, "interrupted": 3}, str(report)

else:

    @pytest.mark.parametrize("system", [])
    def test_a_full_disk(system: str) -> None:
        """Only Linux lets one process limit another."""
