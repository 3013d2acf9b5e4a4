"""(b) Two hundred jobs at once: jobs a second, beside the direct client's."""

from __future__ import annotations

import time

from benchmarks.direct import DirectClient, direct_client
from benchmarks.figures import Figure, table
from benchmarks.stage import Stage
from benchmarks.through import BridgeClient, bridge_client
from benchmarks.workflows import EMPTY, MEASURED, Workflow

_JOBS = 200
_WARM_UP = 20
_LEAST = 0.6


async def run(stage: Stage, rounds: int) -> str:
    """Measure; return the table."""
    async with direct_client(stage.direct) as direct, bridge_client(stage.broker) as bridge:
        figures = [await _beside(direct, bridge, workflow, rounds) for workflow in (EMPTY, MEASURED)]
    return table(f"(b) {_JOBS} jobs at once", "direct", figures)


async def _beside(direct: DirectClient, bridge: BridgeClient, workflow: Workflow, rounds: int) -> Figure:
    bridged: list[float] = []
    directly: list[float] = []
    await _bridge_round(bridge, workflow, _WARM_UP)
    await _direct_round(direct, workflow, _WARM_UP)
    for number in range(rounds):
        if number % 2:
            bridged.append(await _bridge_round(bridge, workflow, _JOBS))
        directly.append(await _direct_round(direct, workflow, _JOBS))
        if not number % 2:
            bridged.append(await _bridge_round(bridge, workflow, _JOBS))
    return Figure(workflow.title, "jobs/s", bridged, directly, at_least=_LEAST)


async def _bridge_round(bridge: BridgeClient, workflow: Workflow, count: int) -> float:
    values = [workflow.values() for _ in range(count)]
    began = time.perf_counter()
    jobs = await bridge.run_all(workflow, values)
    took = max(job.result_at for job in jobs) - began
    assert len(jobs) == count
    assert all(job.output for job in jobs)
    return count / took


async def _direct_round(direct: DirectClient, workflow: Workflow, count: int) -> float:
    graphs = [workflow.with_values(workflow.values()) for _ in range(count)]
    began = time.perf_counter()
    outputs = await direct.run_all(graphs)
    took = time.perf_counter() - began
    assert len(outputs) == count
    return count / took
