"""What follows the end of a wrapper's request: its outputs uploaded, its webhook sent.

What is owed is written with the job and taken up again at the start, so that each is sent at least once, unless its
address refuses it, or a day has passed. What it takes (keys, secrets) is deleted as soon as it is no longer needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from bridge.core import Core
from bridge.delivery.buckets import Bucket
from bridge.delivery.sending import Patience
from bridge.delivery.webhooks import Webhooks
from bridge.errors import BridgeError, UnknownPrompt
from bridge.http import wrapper_shapes as shapes
from bridge.http.waiting import Ends
from bridge.http.wrapper_asked import Asked
from bridge.http.wrapper_requests import FOREVER, Wishes, Wrapper
from bridge.jobs.store import Store
from bridge.media.guard import Guard
from bridge.settings import Settings
from bridge.tasks import Tasks

logger = logging.getLogger(__name__)

LONGEST = 86400.0
"""Seconds after the end of a request in which something is delivered."""
_COMFYUI_PATIENCE = 600.0
"""Seconds that a ComfyUI which has the outputs and is away is waited for."""
_LOOK_EVERY = 0.5


class Deliveries:
    """Delivers what requests asked for. `take_up` first."""

    def __init__(
        self,
        settings: Settings,
        core: Core,
        store: Store,
        ends: Ends,
        wrapper: Wrapper,
        tasks: Tasks,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._core = core
        self._store = store
        self._ends = ends
        self._wrapper = wrapper
        self._tasks = tasks
        self._clock = clock
        self._secret = settings.webhooks.secret
        self._guard = Guard(settings.security.allowed_hosts, time_limit=settings.media.fetch_timeout)
        self._webhooks = Webhooks(self._guard)
        self._owed = 0

    def health(self) -> dict[str, int]:
        """Return the entry of `bridge/health`: how many requests are owed something, those that have yet to end too."""
        return {"owed": self._owed}

    async def take_up(self) -> None:
        """Go on with what is owed from before."""
        for key, note in await self._store.owed():
            asked = Asked.of_note(key, note)
            self._wrapper.remember(asked)
            self._follow(asked)

    async def begin(self, asked: Asked) -> None:
        """Have a request followed that was just taken. One that became a job was written down with it."""
        if asked.is_owed and asked.job_id is None:
            asked.bucket = None
            await self._store.keep_delivery(asked.key, asked.note(), owed=asked.is_owed)
        if asked.bucket is None:
            asked.uploaded()
        if asked.is_owed:
            self._follow(asked)

    def _follow(self, asked: Asked) -> None:
        self._tasks.spawn(self._deliver(asked), f"the delivery of the request {asked.id}")

    async def _deliver(self, asked: Asked) -> None:
        self._owed += 1
        try:
            await self._finish(asked)
        except UnknownPrompt:
            logger.warning("what the request %s is owed is given up: its job is no longer in the store", asked.id)
        finally:
            self._owed -= 1
            asked.uploaded()  # nobody waits any longer, whatever happened
        asked.hook = None
        await self._store.keep_delivery(asked.key, asked.note(), owed=False)

    async def _finish(self, asked: Asked) -> None:
        """Wait for the end of a request and send what is to be sent. Raises UnknownPrompt."""
        job = None if asked.job_id is None else await self._end_of(asked.job_id)
        ended_at = asked.queued_at if job is None else shapes.moment(job["finished_at"])
        left = ended_at + LONGEST - self._clock()
        if left <= 0:
            logger.warning("what the request %s is owed is given up: it ended more than a day ago", asked.id)
            return
        if job is not None and job["status"] == "completed" and (asked.bucket is not None or asked.base64):
            await self._reachable(job)
        if job is not None and asked.bucket is not None:
            await self._upload(asked, asked.bucket, job)
        if asked.hook is not None:
            await self._tell(asked, asked.hook, left)

    async def _end_of(self, job_id: str) -> Mapping[str, Any]:
        """Wait for the end of a job. Raises UnknownPrompt."""
        with self._ends.watching([job_id]) as watches:
            await self._ends.wait(watches, FOREVER)
            return watches[0].over.result()

    async def _reachable(self, job: Mapping[str, Any]) -> None:
        """Wait for the ComfyUI that has a job's outputs: after a start it may come later than we do."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COMFYUI_PATIENCE):
                while self._is_away(job["backend"]):  # noqa: ASYNC110  the core has no event for it
                    await asyncio.sleep(_LOOK_EVERY)

    def _is_away(self, backend: str) -> bool:
        return any(one["name"] == backend and not one["online"] for one in self._core.backends())

    async def _upload(self, asked: Asked, given: shapes.Bucket, job: Mapping[str, Any]) -> None:
        stages = self._wrapper.stages
        stages["postprocess"] += 1
        began = time.monotonic()
        try:
            outputs = [one for one in job["outputs"] if one["type"] != "temp"] if job["status"] == "completed" else []
            for output, key in zip(outputs, shapes.keys_of(asked.id, outputs), strict=True):
                asked.uploads[output["n"]] = await self._uploaded(given, job["id"], output, key)
        finally:
            stages["postprocess"] -= 1
        asked.posted = time.monotonic() - began
        asked.uploaded()
        await self._store.keep_delivery(asked.key, asked.note(), owed=asked.is_owed)

    async def _uploaded(
        self, given: shapes.Bucket, job_id: str, output: Mapping[str, Any], key: str
    ) -> shapes.Document:
        try:
            data = await self._wrapper.bytes_of(job_id, output["n"])
            return {"url": await _bucket(given, self._guard).put(key, data, content_type=output["content_type"])}
        except BridgeError as error:
            logger.warning("output %d of the job %s was not uploaded: %s", output["n"], job_id, error.message)
            return {"upload_error": error.message}

    async def _tell(self, asked: Asked, hook: shapes.Hook, within: float) -> None:
        async def body() -> bytes:
            result, _ = await self._wrapper.result(asked.id, Wishes(), asked=asked)
            told = {name: result[name] for name in ("id", "status", "message", "output", "timings")}
            if hook.extra_params:
                told["extra"] = hook.extra_params
            return json.dumps(told, ensure_ascii=False).encode(errors="replace")

        secret = hook.secret if hook.secret.get_secret_value() else self._secret
        await self._webhooks.send(hook.url, body, secret=secret, time_limit=hook.timeout, within=within)


def _bucket(given: shapes.Bucket, guard: Guard) -> Bucket:
    """Return the bucket that a request names."""
    return Bucket(
        guard,
        name=given.bucket_name,
        key_id=given.access_key_id,
        secret=given.secret_access_key,
        endpoint=given.endpoint_url or None,
        region=given.region or None,
        time_limit=given.connect_timeout,
        patience=Patience(given.connect_attempts),
    )
