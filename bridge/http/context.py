"""What the routes share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from bridge.core import Core
from bridge.http.addresses import Addresses
from bridge.http.feeds import Feeds
from bridge.http.metrics import Metrics
from bridge.http.relay import Relay
from bridge.http.waiting import Ends, Kept
from bridge.http.wrapper_deliveries import Deliveries
from bridge.http.wrapper_requests import Wrapper
from bridge.jobs.store import Store
from bridge.settings import Settings
from bridge.tasks import Tasks

KEEP_ALIVE = 15.0
_KEPT_BYTES = 32_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """The parts of the HTTP face; `made` builds them."""

    settings: Settings
    core: Core
    addresses: Addresses
    ends: Ends
    kept: Kept
    feeds: Feeds
    relay: Relay
    metrics: Metrics
    wrapper: Wrapper
    deliveries: Deliveries
    tasks: Tasks
    """What goes on behind the answers, until the face stops."""
    keep_alive: float = KEEP_ALIVE
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the face stops: nobody is to be kept waiting."""


def made(settings: Settings, core: Core, store: Store, *, keep_alive: float = KEEP_ALIVE) -> Context:
    """Build the parts."""
    addresses = Addresses(settings)
    relay = Relay()
    ends, kept, tasks = Ends(core), Kept(max_bytes=_KEPT_BYTES), Tasks()
    wrapper = Wrapper(settings, core, store, kept)
    return Context(
        settings,
        core,
        addresses,
        ends,
        kept,
        Feeds(preview_url=addresses.preview),
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
