"""One job at a backend: an attempt at it, what its frames mean for it, and its end with its outputs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from bridge import errors
from bridge.jobs import documents
from bridge.jobs.backend import Active, Backend, Verdict
from bridge.jobs.lifecycle import Change, End
from bridge.jobs.model import Output, Status
from bridge.jobs.reporter import Reporter, answer_of
from bridge.jobs.submission import Again, Submitter

logger = logging.getLogger(__name__)


class Driver:
    """Takes jobs that a backend holds to their end.

    attempts: how many a job has. clock: seconds since the epoch.
    """

    def __init__(self, submitter: Submitter, report: Reporter, *, attempts: int, clock: Callable[[], float]) -> None:
        self._submitter = submitter
        self._report = report
        self._attempts = attempts
        self._clock = clock
        self.output_url: Callable[[str, int], str] | None = None
        """Where a job's output n can be had; None: at ComfyUI itself."""

    async def attempt(self, backend: Backend, active: Active) -> tuple[Status, errors.BridgeError | None]:
        """Run a job once; return how it ended. Raises Again if it is to be tried another time, and nothing else."""
        job = active.job
        try:
            ended = await self._attempt(backend, active)
        except Again:
            raise
        except errors.StoreError as failure:
            # Nothing is submitted that could not be written before; a full disk passes.
            job.attempts = max(0, job.attempts - 1)
            raise Again(failure, counts=False) from None
        except errors.BridgeError as reason:
            return (Status.INTERRUPTED, None) if job.interrupting else (Status.FAILED, reason)
        except Exception:
            logger.exception("the job %s failed inside the bridge", job.id)
            return Status.FAILED, errors.Internal("the bridge failed on this job; its log holds more")
        backend.failures = 0
        return ended

    async def _attempt(self, backend: Backend, active: Active) -> tuple[Status, errors.BridgeError | None]:
        job = active.job
        if not active.submitted:
            self._report.set_status(active, Status.PREPARING)
            await self._submitter.submit(backend, active)
        await active.done.wait()
        match active.verdict:
            case Verdict.DELETED:
                if job.interrupting:
                    return Status.INTERRUPTED, None
                raise errors.DeletedElsewhere("the prompt was deleted from ComfyUI's queue, not by this bridge")
            case Verdict.LOST if job.interrupting:
                return Status.INTERRUPTED, None
            case Verdict.LOST:
                lost = errors.Lost("ComfyUI no longer knows the prompt: it was restarted, or its history cleared")
                raise Again(lost, counts=active.life.started)
            case Verdict.STUCK:
                stuck = errors.Stuck(f"ComfyUI at {backend.name} holds the prompt and does nothing")
                raise Again(stuck, counts=active.life.started, backend_failed=True)
            case _:
                return self._ended(active)

    def _ended(self, active: Active) -> tuple[Status, errors.BridgeError | None]:
        job, life = active.job, active.life
        match life.end:
            case End.SUCCESS:
                return Status.COMPLETED, life.error
            case End.INTERRUPTED if job.interrupting:
                return Status.INTERRUPTED, None
            case End.INTERRUPTED:
                return Status.INTERRUPTED, errors.DeletedElsewhere("the prompt was interrupted in ComfyUI, not by us")
            case _:
                error = life.error or errors.ExecutionError("ComfyUI reports a failure without a reason")
                if isinstance(error, errors.OutOfMemory) and job.failures + 1 < min(2, self._attempts):
                    raise Again(error, counts=True)
                return Status.FAILED, error

    def changed(self, backend: Backend, active: Active, change: Change) -> None:
        """Tell what a frame changed, and begin to fetch the outputs that it named."""
        job, life = active.job, active.life
        if Change.STARTED in change and job.status in {Status.QUEUED, Status.PREPARING}:
            job.started_at = self._clock()
            self._report.set_status(active, Status.RUNNING)
        if change & (Change.NODE | Change.PROGRESS):
            self._report.progress(active)
        while len(active.fetches) < len(life.found):
            n = len(active.fetches)
            fetch = self._report.fetch(backend, life.found[n], n)
            active.fetches.append(asyncio.get_running_loop().create_task(fetch, name=f"output {job.id}/{n}"))

    async def finish(self, backend: Backend, active: Active, end: Status, error: errors.BridgeError | None) -> None:
        """Hand on the outputs of a job whose prompt is over, then its end."""
        try:
            await self._hand_on(backend, active)
            reason = documents.interrupted() if end is Status.INTERRUPTED and error is None else None
            await self._report.end(active.job, end, error.to_json() if error is not None else reason)
        except Exception:
            logger.exception("the outputs of the job %s failed inside the bridge", active.job.id)
            active.drop_fetches()
            defect = errors.Internal("the bridge failed on the outputs of this job; its log holds more")
            await self._report.end(active.job, Status.FAILED, defect.to_json())

    async def _hand_on(self, backend: Backend, active: Active) -> None:
        job, life = active.job, active.life
        if active.submitted and life.started:
            self._report.set_status(active, Status.FINISHING)
        made: list[Output] = []
        job.answer = answer_of(life.found, active.payload.answer_node)
        for fetch in active.fetches:
            output, data = await fetch
            if self.output_url is not None:
                output = replace(output, url=self.output_url(job.id, output.n))
            made.append(output)
            if data is not None:
                self._report.publish_output(job, output, data)
        job.outputs, job.text = tuple(made), tuple(life.texts)
        job.backend = backend.name
