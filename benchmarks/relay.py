"""(g) The relay: fifty clients, sixty frames a second of 50 kB: what arrives, and when."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import defaultdict

import aiohttp

from benchmarks.figures import Figure, share_below, table
from benchmarks.over_http import http_client
from benchmarks.stage import Stage
from benchmarks.workflows import FRAMES

_CLIENTS = 50
_RATE = 60.0
_SECONDS = 10
_BYTES = 50_000
_LONGEST = 100.0
"""Milliseconds: the target of the delay's p99, at the last of fifty clients."""
_QUIET = 1.0


async def run(stage: Stage, rounds: int) -> str:
    """Measure; return the table."""
    kept: defaultdict[str, list[float]] = defaultdict(list)
    count = int(_RATE) * stage.times(_SECONDS)
    async with http_client(stage.bridge.port) as bridge, aiohttp.ClientSession() as session:
        sockets = [
            await session.ws_connect(f"http://127.0.0.1:{stage.relay}", max_msg_size=0, compress=0)
            for _ in range(_CLIENTS)
        ]
        for _ in range(rounds):
            delays: list[float] = []
            readers = [asyncio.create_task(_read(socket, delays)) for socket in sockets]
            await bridge.run(FRAMES.with_values({"1.count": count, "1.bytes": _BYTES, "1.rate": _RATE}))
            await asyncio.sleep(_QUIET)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            kept["p50"].append(share_below(delays, 0.5))
            kept["p99"].append(share_below(delays, 0.99))
            kept["came"].append(100 * len(delays) / count / _CLIENTS)
        for socket in sockets:
            await socket.close()
    what = f"delay at {_CLIENTS} clients, {_RATE:g} frames/s of {_BYTES // 1000} kB each"
    figures = [
        Figure(f"{what}, median", "ms", kept["p50"]),
        Figure(f"{what}, p99", "ms", kept["p99"], at_most=_LONGEST, absolute=True),
        Figure("of these frames arrived", "%", kept["came"], at_least=99.0, absolute=True),
    ]
    return table("(g) the relay", "", figures)


async def _read(socket: aiohttp.ClientWebSocketResponse, delays: list[float]) -> None:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            (sent,) = struct.unpack(">d", message.data[-8:])
            delays.append(1000 * (time.time() - sent))
