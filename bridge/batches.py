"""Watches the jobs of batches and tells how each batch as a whole stands."""

from __future__ import annotations

from collections.abc import Sequence

from bridge import events
from bridge.jobs.batches import Batch
from bridge.jobs.model import Job, Status, iso
from bridge.jobs.store import Store


class Batches:
    """The batches that have not ended. `listen` is for the hub, before any listener that shows batches."""

    def __init__(self, store: Store, hub: events.Hub) -> None:
        self._store = store
        self._hub = hub
        self._batches: dict[str, Batch] = {}
        self._of_job: dict[str, Batch] = {}

    async def load(self) -> None:
        """Take up the batches that the last run left."""
        for batch_id in await self._store.open_batches():
            jobs = await self._store.batch(batch_id)
            batch = self.add(jobs)
            for job in jobs:
                if job.status.final:
                    batch.end(job.id, job.result())

    def add(self, jobs: Sequence[Job]) -> Batch:
        """Watch new jobs of one batch."""
        first = jobs[0]
        batch = Batch(str(first.batch_id), first.workflow, tuple(job.id for job in jobs), iso(first.created_at))
        self._batches[batch.id] = batch
        self._of_job.update(dict.fromkeys(batch.job_ids, batch))
        return batch

    def drop(self, batch_id: str | None) -> None:
        """Forget a batch whose jobs were not accepted."""
        batch = self._batches.pop(batch_id or "", None)
        for job_id in batch.job_ids if batch is not None else ():
            self._of_job.pop(job_id, None)

    def get(self, batch_id: str) -> Batch | None:
        """Return a batch that has not ended."""
        return self._batches.get(batch_id)

    def listen(self, event: events.Event) -> None:
        """Take what happens to a job."""
        match event:
            case events.JobStatus(final=False) | events.JobProgress():
                batch = self._of_job.get(event.job_id)
                if batch is None:
                    return
                status = Status(event.document["status"])
                batch.progress(event.job_id, status, float(event.document["percent"]))
                # That one more of them waits changes nothing for the whole.
                if status is not Status.QUEUED or event.job_id == batch.job_ids[0]:
                    self._hub.publish(events.BatchStatus(batch.id, batch.document(), final=False))
            case events.JobResult():
                batch = self._of_job.get(event.job_id)
                if batch is not None:
                    batch.end(event.job_id, event.document)
            case events.JobStatus():
                self._end(event.job_id)

    def _end(self, job_id: str) -> None:
        batch = self._of_job.pop(job_id, None)
        if batch is None or batch.id not in self._batches:
            return
        if batch.over:
            del self._batches[batch.id]
            self._hub.publish(events.BatchResult(batch.id, batch.result()))
        self._hub.publish(events.BatchStatus(batch.id, batch.document(), final=batch.over))
