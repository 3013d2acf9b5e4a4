"""How the bridge and what it stands on are: `bridge/health`, `bridge/info`, and why no work could be taken just now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from bridge import __version__, errors
from bridge.jobs.model import iso
from bridge.jobs.runner import Runner
from bridge.jobs.store import Store
from bridge.settings import Settings

_STORE_PATIENCE = 2.0


class Health:
    """Answers for the whole. clock: seconds since the epoch."""

    def __init__(self, settings: Settings, store: Store, runner: Runner, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._store = store
        self._runner = runner
        self._clock = clock
        self._started_at = clock()
        # A computer without a battery learns the time of day only after the start: the uptime must not jump with it.
        self._since = time.monotonic()
        self.parts: dict[str, Callable[[], Mapping[str, Any]]] = {}
        self.addresses: dict[str, str] = {}

    async def document(self) -> dict[str, Any]:
        """Return `bridge/health`: of the process, its parts and each backend with its memory."""
        pool = self._runner.pool
        return {
            "status": "ok" if pool.online else "degraded",
            "version": __version__,
            "time": iso(self._clock()),
            "uptime": round(time.monotonic() - self._since, 1),
            "backends": await pool.health(),
            "queue": {key: value for key, value in self._runner.queue_document(0).items() if isinstance(value, int)},
            **{name: dict(part()) for name, part in self.parts.items()},
        }

    def info(self) -> dict[str, Any]:
        """Return `bridge/info`: what this bridge is and where it listens; no secrets."""
        return {
            "version": __version__,
            "base_topic": self._settings.mqtt.base_topic,
            "started_at": iso(self._started_at),
            "addresses": dict(self.addresses),
            "backends": {backend.name: backend.client.url for backend in self._runner.pool.backends},
            "limits": {
                "max_input": self._settings.media.max_input,
                "max_waiting": self._settings.jobs.max_waiting,
                "max_batch": self._settings.jobs.max_batch,
            },
        }

    async def not_ready(self) -> list[dict[str, Any]]:
        """Return why a new job could not be taken, or not be run, just now: errors, none if all is well."""
        reasons: list[errors.BridgeError] = []
        try:
            async with asyncio.timeout(_STORE_PATIENCE):
                await self._store.fact("loaded")
        except (errors.BridgeError, TimeoutError) as error:
            reasons.append(errors.StoreError(f"the store does not answer: {str(error) or 'it takes too long'}"))
        if not self._runner.pool.online:
            reasons.append(errors.BackendOffline("no ComfyUI server answers"))
        waiting, limit = self._runner.queue_document(0)["waiting_count"], self._settings.jobs.max_waiting
        if waiting >= limit:
            reasons.append(errors.QueueFull(f"{waiting} jobs wait and {limit} may (jobs.max_waiting)"))
        if "mqtt" in self.parts and not self.parts["mqtt"]()["connected"]:
            reasons.append(errors.BackendOffline("the MQTT broker does not answer"))
        return [reason.to_json() for reason in reasons]
