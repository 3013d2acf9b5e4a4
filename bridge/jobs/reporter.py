"""Telling what becomes of a job: its statuses, its outputs, its end; each written before it is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from bridge import errors, events
from bridge.comfyui.shapes import FileRef
from bridge.jobs import documents
from bridge.jobs.backend import Active, Backend
from bridge.jobs.lifecycle import Found, Lifecycle
from bridge.jobs.model import Job, Output, Status
from bridge.jobs.store import Store
from bridge.media import outputs

logger = logging.getLogger(__name__)

_RETRY_PAUSE = 1.0
_FETCH_PATIENCE = 120.0
"""Seconds that outputs are waited for when their backend goes away after the prompt's end."""
_FETCH_TRIES = 5.0
"""Seconds that outputs are tried for while their backend is there."""
_AGAIN_PATIENCE = 10.0
"""The same for a job that ended before the start."""


class Reporter:
    """Publishes on the hub. clock: seconds since the epoch; max_output: bytes of an output that are fetched."""

    def __init__(self, store: Store, hub: events.Hub, *, clock: Callable[[], float], max_output: int) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock
        self._max_output = max_output
        self._since: dict[str, float] = {}

    def begin(self, job: Job) -> None:
        """Begin to measure how long the job is in its status."""
        self._since[job.id] = time.monotonic()

    def set_status(self, active: Active, status: Status) -> None:
        """Change the status of a job that a backend holds."""
        if active.job.status is not status:
            self.enter(active.job, status)
            self.status(active.job, life=active.life)
            self._hub.publish(events.QueueChanged())

    def enter(self, job: Job, status: Status) -> None:
        """Change the status of a job without telling it; how long it was in the last one is kept."""
        self._clock_status(job)
        job.status = status

    def _clock_status(self, job: Job) -> None:
        now = time.monotonic()
        seconds = now - self._since.get(job.id, now)
        job.durations[job.status] = job.durations.get(job.status, 0.0) + seconds
        self._since[job.id] = now

    def status(self, job: Job, *, life: Lifecycle | None = None, position: int | None = None) -> None:
        """Publish where a job stands."""
        if not job.status.final:  # the end is counted before it is written, so that it is the same when told again
            job.seq += 1
        document = documents.status(job, life=life, position=position)
        self._hub.publish(events.JobStatus(job.id, job.workflow, document, final=job.status.final))

    async def fetch(
        self, backend: Backend, found: Found, n: int, *, patience: float = _FETCH_PATIENCE
    ) -> tuple[Output, bytes | None]:
        """Fetch an output; a backend that is away is waited for, `patience` seconds."""
        began = asyncio.get_running_loop().time()
        while True:
            output, data = await outputs.fetch(backend.client, found, n, max_bytes=self._max_output)
            gone = output.error is not None and output.error["code"] in {"backend_offline", "timeout"}
            # One that is there and cannot give the file will hardly find it later.
            limit = patience if not backend.online else min(patience, _FETCH_TRIES)
            if not gone or asyncio.get_running_loop().time() - began > limit:
                return output, data
            await asyncio.sleep(_RETRY_PAUSE)

    async def end(self, job: Job, end: Status, error: Any) -> None:
        """End a job: written, then published.

        What the store cannot take, its disk being full most likely, waits: an end that was told and not written would
        be another one after a crash.
        """
        self.enter(job, end)
        job.error, job.finished_at = error, self._clock()
        job.seq += 1
        job.durations["total"] = max(0.0, job.finished_at - job.created_at)
        await self._write(job)
        self.publish_end(job)
        self._hub.publish(events.QueueChanged())

    async def _write(self, job: Job) -> None:
        failed = False
        while True:
            try:
                await self._store.save(job)
            except errors.StoreError as failure:
                if not failed:
                    logger.error("the end of the job %s waits until it can be written: %s", job.id, failure.message)
                failed = True
                await asyncio.sleep(_RETRY_PAUSE)
            else:
                break
        if failed:
            logger.info("the end of the job %s is written now", job.id)

    def publish_end(self, job: Job) -> None:
        """Publish the result and the final status."""
        self._hub.publish(events.JobResult(job.id, job.workflow, job.result()))
        self.status(job)
        self._since.pop(job.id, None)

    async def publish_again(self, job: Job, backend: Backend | None) -> None:
        """Publish the end of a job that an earlier run could not, its outputs too if they can be had."""
        for output in job.outputs:
            if backend is None:
                break
            found = Found(output.node or "", FileRef(output.filename, output.subfolder, output.type))
            fresh, data = await self.fetch(backend, found, output.n, patience=_AGAIN_PATIENCE)
            if data is not None:
                self.publish_output(job, fresh, data)
        self.publish_end(job)

    def publish_output(self, job: Job, output: Output, data: bytes) -> None:
        """Publish the bytes of an output."""
        answer = output.n == job.answer
        self._hub.publish(events.JobOutput(job.id, job.workflow, output.to_json(), data, answer=answer))

    def progress(self, active: Active) -> None:
        """Publish how far a job is."""
        job = active.job
        job.seq += 1
        self._hub.publish(events.JobProgress(job.id, job.workflow, documents.status(job, life=active.life)))


def answer_of(found: Sequence[Found], node: str | None) -> int | None:
    """Return which output stands for the job: the first of the named node, else the first that is no temp file."""
    numbers = list(range(len(found)))
    named = [n for n in numbers if found[n].node == node]
    saved = [n for n in numbers if found[n].file.type != "temp"]
    return next(iter([*named, *saved, *numbers]), None)
