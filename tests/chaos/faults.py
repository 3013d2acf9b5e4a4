"""The faults: drawn from a seed, so that a run can be repeated, and done to the processes of a house."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.processes import BridgeChild, Broker, Child, Server

STALL = 6.0
"""Seconds of `comfyui.stall_timeout` of the bridges under chaos; no fault freezes anything as long."""
_BOOT = 2.0
"""Seconds from the start of a bridge or server until it has its connections."""


class Kind(StrEnum):
    """What can be done."""

    KILL_BRIDGE = "kill bridge"
    END_BRIDGE = "end bridge"
    FREEZE_BRIDGE = "freeze bridge"
    KILL_BROKER = "kill broker"
    FREEZE_BROKER = "freeze broker"
    KILL_SERVER = "kill server"
    FREEZE_SERVER = "freeze server"
    DROP_SOCKETS = "drop sockets"
    SILENCE = "silence"
    REFUSE = "refuse prompts"
    REFUSE_CONNECTIONS = "refuse connections"
    SLOW = "slow answers"
    HANG = "hang after queueing"
    LOSE_PROMPT = "lose prompt"
    VIEW_ERROR = "view errors"
    KILL_WORKER = "kill worker"
    POWER_CUT = "power cut"
    KILL_UNHEARD = "kill bridge while the broker is away"
    KILL_SUBMITTING = "kill bridge while a submission hangs"


_WEIGHTS = {
    Kind.KILL_BRIDGE: 6,
    Kind.END_BRIDGE: 1,
    Kind.FREEZE_BRIDGE: 2,
    Kind.KILL_BROKER: 3,
    Kind.FREEZE_BROKER: 2,
    Kind.KILL_SERVER: 5,
    Kind.FREEZE_SERVER: 2,
    Kind.DROP_SOCKETS: 3,
    Kind.SILENCE: 3,
    Kind.REFUSE: 2,
    Kind.REFUSE_CONNECTIONS: 2,
    Kind.SLOW: 2,
    Kind.HANG: 2,
    Kind.LOSE_PROMPT: 2,
    Kind.VIEW_ERROR: 2,
    Kind.KILL_WORKER: 1,
    Kind.POWER_CUT: 1,
    Kind.KILL_UNHEARD: 2,
    Kind.KILL_SUBMITTING: 2,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what, `pause` seconds after the one before, for `seconds`, to the server of that number."""

    kind: Kind
    pause: float
    seconds: float
    server: int
    number: int
    """How many prompts or pictures are spoiled."""


def schedule(rng: random.Random, *, count: int, servers: int, mean_pause: float, longest: float) -> list[Fault]:
    """Draw `count` faults: first each kind once in a random order, then by their weights."""
    kinds = [kind for kind in Kind if servers > 1 or kind is not Kind.KILL_WORKER]
    rng.shuffle(kinds)
    kinds = kinds[:count]
    weighted = list(kinds)
    while len(kinds) < count:
        kinds.append(rng.choices(weighted, [_WEIGHTS[kind] for kind in weighted])[0])
    return [
        Fault(
            kind,
            pause=rng.choice((0.0, rng.uniform(0.0, 2 * mean_pause), rng.uniform(0.0, 2 * mean_pause))) * 1.5,
            seconds=rng.choice((rng.uniform(0.0, 0.5), rng.uniform(0.5, longest))),
            server=rng.randrange(servers),
            number=rng.randint(1, 2),
        )
        for kind in kinds
    ]


class Injector:
    """Does faults. Those of one process come one after the other, those of different ones overlap."""

    def __init__(self, bridge: BridgeChild, broker: Broker, servers: list[Server]) -> None:
        self.done: list[tuple[float, Fault]] = []
        self._bridge = bridge
        self._broker = broker
        self._servers = servers
        self._locks: dict[str, asyncio.Lock] = {child.name: asyncio.Lock() for child in (bridge, broker, *servers)}

    async def run(self, faults: list[Fault]) -> None:
        """Do all of them; when this returns, everything works again."""
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(fault.pause)
                group.create_task(self._do(fault), name=fault.kind)
        for server in self._servers:
            await server.order(silence=False, refuse=0, view_error=0, slow=0.0, hang=0.0)

    async def _do(self, fault: Fault) -> None:
        targets = self._targets(fault)
        target = targets[0]
        async with contextlib.AsyncExitStack() as stack:
            for name in sorted(child.name for child in targets):  # in one order, so that none waits for ever
                await stack.enter_async_context(self._locks[name])
            self.done.append((time.time(), fault))
            match fault.kind:
                case Kind.KILL_BRIDGE | Kind.KILL_SERVER:
                    await self._restart(target, fault, polite=False)
                case Kind.KILL_BROKER:
                    await self._restart(target, fault, polite=not self._broker.survives_kills)
                case Kind.END_BRIDGE:
                    await self._bridge.booted()
                    await self._restart(target, fault, polite=True)
                case Kind.POWER_CUT:
                    async with asyncio.TaskGroup() as group:
                        for child in targets:
                            group.create_task(self._restart(child, fault, polite=False))
                case Kind.KILL_UNHEARD:
                    async with self._broker.outage(fault.kind):
                        await (self._broker.kill() if self._broker.survives_kills else self._broker.stop())
                        await asyncio.sleep(1.0 + fault.seconds / 2)
                        await self._restart(target, fault, polite=False)
                        await self._broker.start()
                case Kind.KILL_SUBMITTING:
                    server = self._servers[fault.server]
                    await server.order(hang=2.0)
                    await asyncio.sleep(0.2 + fault.seconds / 4)
                    await self._restart(target, fault, polite=False)
                    await server.order(hang=0.0)
                case Kind.FREEZE_BRIDGE | Kind.FREEZE_BROKER | Kind.FREEZE_SERVER:
                    async with self._frozen(target, fault):
                        await asyncio.sleep(fault.seconds)
                case _:
                    await self._order(self._servers[fault.server], fault)

    def _targets(self, fault: Fault) -> list[Child]:
        if fault.kind is Kind.POWER_CUT:
            return [self._bridge, *self._servers, *([self._broker] if self._broker.survives_kills else [])]
        if fault.kind is Kind.KILL_UNHEARD:
            return [self._bridge, self._broker]
        if fault.kind is Kind.KILL_SUBMITTING:
            return [self._bridge, self._servers[fault.server]]
        if "bridge" in fault.kind:
            return [self._bridge]
        return [self._broker if "broker" in fault.kind else self._servers[fault.server]]

    async def _restart(self, child: Child, fault: Fault, *, polite: bool) -> None:
        async with child.outage(fault.kind, recovery=_BOOT):
            await (child.stop() if polite else child.kill())
            await asyncio.sleep(fault.seconds / 2)
            await child.start()

    @contextlib.asynccontextmanager
    async def _frozen(self, child: Child, fault: Fault) -> AsyncIterator[None]:
        async with child.outage(fault.kind, recovery=1.0):
            child.freeze()
            try:
                yield
            finally:
                child.thaw()

    async def _order(self, server: Server, fault: Fault) -> None:
        match fault.kind:
            case Kind.DROP_SOCKETS:
                await server.order(drop_sockets=True)
            case Kind.SILENCE:
                async with server.outage(fault.kind, recovery=1.0):
                    await server.order(silence=True)
                    await asyncio.sleep(2 * fault.seconds)
                    await server.order(silence=False)
            case Kind.REFUSE:
                await server.order(refuse=fault.number)
            case Kind.REFUSE_CONNECTIONS:
                async with server.outage(fault.kind, recovery=1.0):
                    await server.order(refuse_connections=max(0.2, fault.seconds))
                    await asyncio.sleep(fault.seconds + 0.2)
            case Kind.SLOW:
                await server.order(slow=0.1 + fault.seconds / 4)
                await asyncio.sleep(2.0)
                await server.order(slow=0.0)
            case Kind.HANG:
                await server.order(hang=fault.seconds)
                await asyncio.sleep(2.0)
                await server.order(hang=0.0)
            case Kind.LOSE_PROMPT:
                await server.order(lose_prompt=True)
            case Kind.VIEW_ERROR:
                await server.order(view_error=fault.number)
            case Kind.KILL_WORKER:
                async with server.outage(fault.kind, recovery=_BOOT):
                    await server.order(kill_worker=True)
                    await asyncio.sleep(STALL + 2.0)
                    await server.kill()
                    await server.start()
