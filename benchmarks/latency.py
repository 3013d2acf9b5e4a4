"""(a) One job at a time: from the command on MQTT to the result on MQTT, beside the direct client."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict

from benchmarks.direct import DirectClient, direct_client
from benchmarks.figures import Figure, share_below, table
from benchmarks.stage import Stage
from benchmarks.through import BridgeClient, bridge_client
from benchmarks.workflows import EMPTY, MEASURED, TXT2IMG, Workflow

_MOST = 2.0
_JOBS = {EMPTY.name: 100, MEASURED.name: 50, TXT2IMG.name: 25}
_WARM_UP = 5

Times = dict[str, list[float]]
"""Milliseconds by what was measured, a value for each job."""


async def run(stage: Stage, rounds: int) -> str:
    """Measure; return the tables."""
    tables = []
    async with direct_client(stage.direct) as direct, bridge_client(stage.broker) as bridge:
        for workflow in (EMPTY, MEASURED, TXT2IMG):
            await _bridge_round(bridge, workflow, _WARM_UP)
            await _direct_round(direct, workflow, _WARM_UP)
            kept: defaultdict[str, list[list[float]]] = defaultdict(list)
            for number in range(rounds):
                count = stage.times(_JOBS[workflow.name])
                # Who goes first changes, so that what slows down with time slows down both.
                times: Times = {}
                for turn in (0, 1) if number % 2 else (1, 0):
                    if turn:
                        times |= await _bridge_round(bridge, workflow, count)
                    else:
                        times |= await _direct_round(direct, workflow, count)
                for what, values in times.items():
                    kept[what].append(values)
            tables.append(table(f"(a) {workflow.title}", "direct", _figures(kept)))
    return "\n\n".join(tables)


def _figures(kept: dict[str, list[list[float]]]) -> list[Figure]:
    medians = {what: [statistics.median(values) for values in rounds] for what, rounds in kept.items()}
    tails = {what: [share_below(values, 0.99) for values in rounds] for what, rounds in kept.items()}
    return [
        Figure("until the result, median", "ms", medians["result"], medians["direct"], at_most=_MOST),
        Figure("until the result, p99", "ms", tails["result"], tails["direct"]),
        Figure("until the final status, median", "ms", medians["status"], medians["direct"]),
        Figure("until the final status, p99", "ms", tails["status"], tails["direct"]),
    ]


async def _bridge_round(bridge: BridgeClient, workflow: Workflow, count: int) -> Times:
    times: Times = {"result": [], "status": []}
    for _ in range(count):
        values = workflow.values()
        began = time.perf_counter()
        job = await bridge.run(workflow, values)
        assert job.output
        times["result"].append(1000 * (job.result_at - began))
        times["status"].append(1000 * (job.over_at - began))
    return times


async def _direct_round(direct: DirectClient, workflow: Workflow, count: int) -> Times:
    times: list[float] = []
    for _ in range(count):
        graph = workflow.with_values(workflow.values())
        began = time.perf_counter()
        outputs = await direct.run(graph)
        times.append(1000 * (time.perf_counter() - began))
        assert outputs
    return {"direct": times}
