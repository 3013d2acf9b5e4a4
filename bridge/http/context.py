"""What the routes share."""

from __future__ import annotations

import asyncio
from collections import Counter
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
    keep_alive: float = KEEP_ALIVE
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the face stops: nobody is to be kept waiting."""
    stages: Counter[str] = field(default_factory=Counter)
    """How many of the wrapper's requests are in `preprocess` and `postprocess`."""
    tasks: Tasks = field(default_factory=Tasks)
    """What goes on behind the answers, until the face stops."""


def made(settings: Settings, core: Core, *, keep_alive: float = KEEP_ALIVE) -> Context:
    """Build the parts."""
    addresses = Addresses(settings)
    relay = Relay()
    return Context(
        settings,
        core,
        addresses,
        Ends(core),
        Kept(max_bytes=_KEPT_BYTES),
        Feeds(preview_url=addresses.preview),
        relay,
        Metrics(core, relay),
        keep_alive,
    )


def note_jobs(request: Request, job_ids: Iterable[str]) -> None:
    """Have the log of requests name jobs."""
    noted: dict[str, Any] = request.scope.setdefault("bridge", {})
    noted["jobs"] = list(job_ids)
