"""What was answered stands, even if the bridge dies right after the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.chaos.house import House, house
from tests.chaos.processes import eventually
from tests.chaos.verdict import judge


async def interrupt(made: House, name: str) -> dict[str, Any]:
    made.asked.add(name)
    reply = await made.recorder.ask("interrupt", {"prompt_id": made.accepted[name]}, f"interrupt {name}")
    assert reply["status"] == "ok", reply
    return reply


async def test_interrupts_that_were_answered_are_obeyed_after_a_kill(tmp_path: Path) -> None:
    async with house(tmp_path / "house", job_seconds=6.0) as made:
        (comfy,) = made.servers
        for name in ("runs", "inside", "waits"):
            await made.queue(name)

        async def has_begun() -> bool:
            return bool((await comfy.stats())["started"])

        await eventually(has_begun, within=20.0, what="the first prompt")
        comfy.freeze()  # what is asked of it is done later, or by nobody
        for name in ("runs", "inside", "waits"):
            await interrupt(made, name)
        await made.bridge.kill()
        comfy.thaw()
        await made.bridge.start()
        await made.over(within=20.0)
        ends = {name: made.recorder.finals()[prompt_id][0].document for name, prompt_id in made.accepted.items()}
        assert {name: end["status"] for name, end in ends.items()} == dict.fromkeys(made.accepted, "interrupted"), ends
        assert comfy.pictures() == []
        assert await made.bridge.stop() == 0


async def test_an_end_that_the_broker_never_got_is_told_after_a_kill(tmp_path: Path) -> None:
    async with house(tmp_path / "house", job_seconds=1.0) as made:
        await made.queue("job")
        await made.broker.kill()

        async def is_written() -> bool:
            return made.ended_in_store() == set(made.accepted.values())

        await eventually(is_written, within=20.0, what="the end of the job in the store")
        assert not made.recorder.finals()
        await made.bridge.kill()
        await made.broker.start()
        await made.bridge.start()
        await made.over(within=30.0)
        report = judge(made.evidence())
        assert not report.problems, str(report)
        assert await made.bridge.stop() == 0
        assert made.unpublished() == 0
