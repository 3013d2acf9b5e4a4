"""(c) Previews: the delay that the way through the bridge adds, and how many get through, beside a bare publisher."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import defaultdict
from dataclasses import dataclass, field

from benchmarks import mqtt, processes
from benchmarks.figures import Figure, share_below, table
from benchmarks.stage import Stage
from benchmarks.through import BridgeClient, bridge_client
from benchmarks.workflows import FRAMES

_TOPIC = "benchmark/preview"
_RATE = 60.0
_SECONDS = 10
_LARGE = 100_000
_FLOODS = {15_000: 30_000, _LARGE: 10_000}
"""How many frames are sent as fast as they go, by size in bytes: some seconds' worth."""
_LONGEST = 10.0
"""Milliseconds: the target of the delay's p99."""
_LEAST = 0.5
_QUIET = 0.5
"""Seconds without a frame after which no more will come."""


@dataclass(slots=True)
class Watcher:
    """The subscriber, the same for both: each frame holds the time of its sending in its last eight bytes."""

    delays: list[float] = field(default_factory=list)
    """Milliseconds."""
    first: float = 0.0
    last: float = 0.0

    def take(self, _topic: str, payload: memoryview) -> None:
        """Take a frame."""
        now = time.time()
        (sent,) = struct.unpack(">d", payload[-8:])
        self.last = now
        if not self.delays:
            self.first = now
        self.delays.append(1000 * (now - sent))

    async def quiet(self) -> None:
        """Wait until no more frames come."""
        while time.time() - self.last < _QUIET:  # noqa: ASYNC110  frames come by the thousand: no event for each
            await asyncio.sleep(_QUIET / 5)

    @property
    def rate(self) -> float:
        """Frames a second."""
        return (len(self.delays) - 1) / (self.last - self.first)


class _Previews:
    """Both ways to the subscriber: each method sends so many frames and returns what arrived."""

    def __init__(self, stage: Stage, bridge: BridgeClient) -> None:
        self._stage = stage
        self._bridge = bridge
        self.watcher = Watcher()

    def take(self, topic: str, payload: memoryview) -> None:
        self.watcher.take(topic, payload)

    async def bare(self, size: int, count: int, rate: float) -> Watcher:
        self.watcher = watcher = Watcher()
        with processes.paho_publisher(
            self._stage.folder, broker=self._stage.broker, topic=_TOPIC, size=size, count=count, rate=rate
        ) as publisher:
            async with asyncio.timeout(60):
                code = await asyncio.to_thread(publisher.process.wait)
                await watcher.quiet()
        if code or len(watcher.delays) != count:
            raise RuntimeError(f"the bare publisher ended with {code}; {len(watcher.delays)} of {count} frames came")
        return watcher

    async def bridged(self, size: int, count: int, rate: float) -> Watcher:
        self.watcher = watcher = Watcher()
        await self._bridge.run(FRAMES, {"1.count": count, "1.bytes": size, "1.rate": rate})
        await watcher.quiet()
        if not watcher.delays:
            raise RuntimeError("no previews came through the bridge")
        return watcher


async def run(stage: Stage, rounds: int) -> str:
    """Measure; return the table."""
    kept: defaultdict[str, list[float]] = defaultdict(list)
    async with bridge_client(stage.broker) as bridge:
        previews = _Previews(stage, bridge)
        async with mqtt.connected(stage.broker, "benchmark-watcher", previews.take) as client:
            await client.subscribe("comfyui/prompt/+/preview", _TOPIC, qos=0)
            for _ in range(rounds):
                count = int(_RATE) * stage.times(_SECONDS)
                for name, send in (("bare", previews.bare), ("bridge", previews.bridged)):
                    paced = await send(_LARGE, count, _RATE)
                    kept[f"{name} p50"].append(share_below(paced.delays, 0.5))
                    kept[f"{name} p99"].append(share_below(paced.delays, 0.99))
                    kept[f"{name} came"].append(100 * len(paced.delays) / count)
                for size, frames in _FLOODS.items():
                    many = stage.times(frames)
                    for name, send in (("bare", previews.bare), ("bridge", previews.bridged)):
                        flood = await send(size, many, 0.0)
                        kept[f"{name} {size}"].append(flood.rate)
                        kept[f"{name} {size} came"].append(100 * len(flood.delays) / many)
    return table("(c) previews", "bare publisher", _figures(kept))


def _figures(kept: dict[str, list[float]]) -> list[Figure]:
    paced = f"delay at {_RATE:g} frames/s of {_LARGE // 1000} kB"
    figures = [
        Figure(f"{paced}, median", "ms", kept["bridge p50"], kept["bare p50"], digits=2),
        Figure(f"{paced}, p99", "ms", kept["bridge p99"], kept["bare p99"], at_most=_LONGEST, absolute=True, digits=2),
        Figure("of these frames arrived", "%", kept["bridge came"], kept["bare came"]),
    ]
    for size in _FLOODS:
        what = f"as many frames of {size // 1000} kB as go"
        rates = kept[f"bridge {size}"], kept[f"bare {size}"]
        figures.append(Figure(what, "frames/s", *rates, at_least=_LEAST, digits=0))
        figures.append(Figure("of these frames arrived", "%", kept[f"bridge {size} came"], kept[f"bare {size} came"]))
    return figures
