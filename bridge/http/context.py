"""What the routes share."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from bridge.core import Core
from bridge.errors import BridgeError
from bridge.http.addresses import Addresses
from bridge.http.feeds import Feeds
from bridge.http.metrics import Metrics
from bridge.http.relay import Relay
from bridge.http.waiting import Ends, Kept
from bridge.settings import Settings

logger = logging.getLogger(__name__)

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
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """What goes on behind the answers."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Have something go on behind an answer, until the face stops."""

        async def safely() -> None:
            try:
                await work
            except BridgeError as error:
                logger.warning("%s: %s", name, error.message)
            except Exception:
                logger.exception("%s failed inside the bridge", name)

        task = asyncio.get_running_loop().create_task(safely(), name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def end_tasks(self) -> None:
        """End what goes on behind the answers."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


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
