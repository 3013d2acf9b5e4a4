"""(e) By HTTP: `POST /api/jobs?wait`, one at a time and 200 with 32 at once, beside the direct client."""

from __future__ import annotations

import statistics
import time

from benchmarks.direct import DirectClient, direct_client
from benchmarks.figures import Figure, share_below, table
from benchmarks.over_http import HttpClient, http_client
from benchmarks.stage import Stage
from benchmarks.workflows import EMPTY, TXT2IMG, Workflow

_MOST = 2.0
_LEAST = 0.6
_JOBS = {EMPTY.name: 100, TXT2IMG.name: 25}
_WARM_UP = 10
_MANY = 200
_AT_ONCE = 32


async def run(stage: Stage, rounds: int) -> str:
    """Measure; return the tables."""
    tables = []
    async with direct_client(stage.direct) as direct, http_client(stage.bridge.port) as bridge:
        for workflow in (EMPTY, TXT2IMG):
            await _bridge_round(bridge, workflow, _WARM_UP)
            await _direct_round(direct, workflow, _WARM_UP)
            bridged: list[list[float]] = []
            directly: list[list[float]] = []
            count = stage.times(_JOBS[workflow.name])
            for number in range(rounds):
                if number % 2:
                    bridged.append(await _bridge_round(bridge, workflow, count))
                directly.append(await _direct_round(direct, workflow, count))
                if not number % 2:
                    bridged.append(await _bridge_round(bridge, workflow, count))
            tables.append(table(f"(e) POST /api/jobs?wait, {workflow.title}", "direct", _figures(bridged, directly)))
        tables.append(table(f"(e) {_MANY} jobs", "direct", [await _many(direct, bridge, rounds)]))
    return "\n\n".join(tables)


def _figures(bridged: list[list[float]], directly: list[list[float]]) -> list[Figure]:
    medians, tails = (
        [[part(values) for values in rounds] for rounds in (bridged, directly)]
        for part in (statistics.median, lambda values: share_below(values, 0.99))
    )
    return [
        Figure("until the answer, median", "ms", medians[0], medians[1], at_most=_MOST),
        Figure("until the answer, p99", "ms", tails[0], tails[1]),
    ]


async def _many(direct: DirectClient, bridge: HttpClient, rounds: int) -> Figure:
    bridged: list[float] = []
    directly: list[float] = []
    for _ in range(rounds):
        graphs = [EMPTY.with_values(EMPTY.values()) for _ in range(_MANY)]
        began = time.perf_counter()
        assert len(await direct.run_all(graphs)) == _MANY
        directly.append(_MANY / (time.perf_counter() - began))
        began = time.perf_counter()
        graphs = [EMPTY.with_values(EMPTY.values()) for _ in range(_MANY)]
        assert len(await bridge.run_all(graphs, at_once=_AT_ONCE)) == _MANY
        bridged.append(_MANY / (time.perf_counter() - began))
    return Figure(f"{_AT_ONCE} requests at once", "jobs/s", bridged, directly, at_least=_LEAST)


async def _bridge_round(bridge: HttpClient, workflow: Workflow, count: int) -> list[float]:
    times: list[float] = []
    for _ in range(count):
        graph = workflow.with_values(workflow.values())
        began = time.perf_counter()
        job = await bridge.run(graph)
        times.append(1000 * (time.perf_counter() - began))
        assert job["outputs"]
    return times


async def _direct_round(direct: DirectClient, workflow: Workflow, count: int) -> list[float]:
    times: list[float] = []
    for _ in range(count):
        graph = workflow.with_values(workflow.values())
        began = time.perf_counter()
        assert await direct.run(graph)
        times.append(1000 * (time.perf_counter() - began))
    return times
