"""What the routes share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.requests import Request

from bridge.core import Core
from bridge.http.addresses import Addresses
from bridge.http.feeds import Feeds
from bridge.http.metrics import Metrics
from bridge.http.relay import Relay
from bridge.http.texts import Texts
from bridge.http.waiting import Ends, Kept
from bridge.http.wrapper_deliveries import Deliveries
from bridge.http.wrapper_requests import Wrapper
from bridge.jobs.store import Store
from bridge.settings import Settings
from bridge.tasks import Tasks

KEEP_ALIVE = 15.0
_KEPT_BYTES = 32_000_000


class Leaving(NamedTuple):
    """Why nobody is to be kept waiting: each is done when it is so."""

    gone: asyncio.Future[Any]
    """The caller has hung up."""
    closing: asyncio.Future[Any]
    """The face stops."""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """The parts of the HTTP face; `made` builds them."""

    settings: Settings
    core: Core
    addresses: Addresses
    ends: Ends
    kept: Kept
    feeds: Feeds
    texts: Texts
    relay: Relay
    metrics: Metrics
    wrapper: Wrapper
    deliveries: Deliveries
    tasks: Tasks
    """What goes on behind the answers, until the face stops."""
    keep_alive: float = KEEP_ALIVE
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the face stops: nobody is to be kept waiting."""

    @contextmanager
    def leaving(self, request: Request) -> Iterator[Leaving]:
        """Notice within the block that the caller hangs up, or that the face stops. For after the body was read."""
        loop = asyncio.get_running_loop()
        tasks = Leaving(loop.create_task(_hung_up(request)), loop.create_task(self.closing.wait()))
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def made(settings: Settings, core: Core, store: Store, *, keep_alive: float = KEEP_ALIVE) -> Context:
    """Build the parts."""
    addresses = Addresses(settings)
    relay = Relay()
    ends, kept, tasks = Ends(core), Kept(core, max_bytes=_KEPT_BYTES), Tasks()
    wrapper = Wrapper(settings, core, store, kept)
    return Context(
        settings,
        core,
        addresses,
        ends,
        kept,
        Feeds(preview_url=addresses.preview),
        Texts(),
        relay,
        Metrics(core, relay),
        wrapper,
        Deliveries(settings, core, store, ends, wrapper, tasks),
        tasks,
        keep_alive,
    )


def note_jobs(request: Request, job_ids: Iterable[str]) -> None:
    """Have the log of requests name jobs."""
    noted: dict[str, Any] = request.scope.setdefault("bridge", {})
    noted["jobs"] = list(job_ids)
