"""(d) The bridge's resident memory: at rest, and after a thousand jobs."""

from __future__ import annotations

import asyncio

from benchmarks.figures import Figure, table
from benchmarks.stage import Stage
from benchmarks.through import bridge_client
from benchmarks.workflows import EMPTY, TXT2IMG

_MOST = 120.0
_GROWTH = 1.05
"""The most that may be there after all jobs, by what is there after the first fifth of them: flat."""
_STEP = 200
_WITH_PREVIEWS = 10
_STEPS = 5
_SETTLE = 1.0


async def run(stage: Stage, _rounds: int) -> str:
    """Measure; return the table."""
    step = stage.times(_STEP)
    async with bridge_client(stage.broker) as bridge:
        await asyncio.sleep(_SETTLE)
        figures = [Figure("at rest", "MB", [stage.bridge.memory], at_most=_MOST, absolute=True)]
        after: list[float] = []
        for number in range(1, _STEPS + 1):
            for _ in range(stage.times(_WITH_PREVIEWS)):
                await bridge.run(TXT2IMG, TXT2IMG.values())
            plain = step - stage.times(_WITH_PREVIEWS)
            await bridge.run_all(EMPTY, [EMPTY.values() for _ in range(plain)])
            await asyncio.sleep(_SETTLE)
            after.append(stage.bridge.memory)
            figures.append(Figure(f"after {number * step} jobs", "MB", after[-1:], at_most=_MOST, absolute=True))
    what = f"after {_STEPS * step} jobs, beside after {step}"
    figures.append(Figure(what, "MB", after[-1:], after[:1], at_most=_GROWTH))
    return table("(d) resident memory", "", figures)
