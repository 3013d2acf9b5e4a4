"""(e) By HTTP: the bridge's own route and the wrapper's, one at a time and 200 with 32 at once, beside the client."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from benchmarks.direct import DirectClient, direct_client
from benchmarks.figures import Figure, share_below, table
from benchmarks.over_http import HttpClient, http_client
from benchmarks.stage import Stage
from benchmarks.workflows import EMPTY, MEASURED, TXT2IMG, Graph, Workflow

_MOST = 2.0
_LEAST = 0.6
_JOBS = {EMPTY.name: 100, MEASURED.name: 50, TXT2IMG.name: 25}
_WARM_UP = 10
_MANY = 200
_AT_ONCE = 32
_OURS, _WRAPPER, _DIRECT = "POST /api/jobs?wait", "POST /generate/sync", "direct"

Way = Callable[[Graph], Awaitable[Any]]
"""Runs one graph to its end, and returns what came of it."""


async def run(stage: Stage, rounds: int) -> str:
    """Measure; return the tables."""
    tables = []
    async with direct_client(stage.direct) as direct, http_client(stage.bridge.port) as bridge:
        ways: dict[str, Way] = {_DIRECT: direct.run, _OURS: bridge.run, _WRAPPER: bridge.generate}
        for workflow in (EMPTY, MEASURED, TXT2IMG):
            figures = await _one_by_one(ways, workflow, rounds, stage.times(_JOBS[workflow.name]))
            tables.append(table(f"(e) {workflow.title}", "direct", figures))
        figures = [
            await _many(direct, bridge, name, workflow, rounds)
            for workflow in (EMPTY, MEASURED)
            for name in (_OURS, _WRAPPER)
        ]
        tables.append(table(f"(e) {_MANY} jobs, {_AT_ONCE} requests at once", "direct", figures))
    return "\n\n".join(tables)


async def _one_by_one(ways: Mapping[str, Way], workflow: Workflow, rounds: int, count: int) -> list[Figure]:
    kept: defaultdict[str, list[list[float]]] = defaultdict(list)
    for way in ways.values():
        await _round(way, workflow, _WARM_UP)
    for number in range(rounds):
        # Who goes first changes, so that what slows down with time slows down all.
        for name in list(ways)[:: -1 if number % 2 else 1]:
            kept[name].append(await _round(ways[name], workflow, count))
    figures = []
    for name in (_OURS, _WRAPPER):
        medians, tails = (
            [[part(values) for values in kept[one]] for one in (name, _DIRECT)] for part in (statistics.median, _tail)
        )
        figures += [
            Figure(f"{name}, median", "ms", medians[0], medians[1], at_most=_MOST),
            Figure(f"{name}, p99", "ms", tails[0], tails[1]),
        ]
    return figures


def _tail(values: list[float]) -> float:
    return share_below(values, 0.99)


async def _round(way: Way, workflow: Workflow, count: int) -> list[float]:
    times: list[float] = []
    for _ in range(count):
        graph = workflow.with_values(workflow.values())
        began = time.perf_counter()
        assert await way(graph)
        times.append(1000 * (time.perf_counter() - began))
    return times


async def _many(direct: DirectClient, bridge: HttpClient, name: str, workflow: Workflow, rounds: int) -> Figure:
    way = bridge.run if name == _OURS else bridge.generate
    bridged: list[float] = []
    directly: list[float] = []
    for number in range(rounds):
        for turn in (0, 1) if number % 2 else (1, 0):
            graphs = [workflow.with_values(workflow.values()) for _ in range(_MANY)]
            began = time.perf_counter()
            outputs = await (_at_once(way, graphs) if turn else direct.run_all(graphs))
            (bridged if turn else directly).append(_MANY / (time.perf_counter() - began))
            assert len(outputs) == _MANY
    return Figure(f"{name}: {workflow.title}", "jobs/s", bridged, directly, at_least=_LEAST)


async def _at_once(way: Way, graphs: list[Graph]) -> list[Any]:
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(graph: Graph) -> Any:
        async with free:
            return await way(graph)

    return await asyncio.gather(*(one(graph) for graph in graphs))
