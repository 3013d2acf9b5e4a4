"""Drives jobs: from the queue to a backend, through ComfyUI, to a result. Exactly one final status each.

The websocket tells what happens at once; `bridge.jobs.reconciler` asks the queue and the history whenever the
socket cannot be trusted. A job is written before it is accepted, before it is submitted and when it has ended, so
that after a crash the next start knows where to look for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bridge import errors, events
from bridge.jobs import documents
from bridge.jobs.backend import Active, Backend, Verdict
from bridge.jobs.lifecycle import Change, End, Lifecycle
from bridge.jobs.model import Job, Output, Payload, Status
from bridge.jobs.pool import Pool
from bridge.jobs.reconciler import Reconciler
from bridge.jobs.reporter import Reporter, answer_of
from bridge.jobs.store import Store
from bridge.jobs.submission import Again, Submitter, reserve
from bridge.jobs.waiting import Waiting
from bridge.settings import Settings
from bridge.workflow.needs import catalogue

logger = logging.getLogger(__name__)

_LOOK_AHEAD = 50
_PAYLOADS_KEPT = 256
"""Snapshots of waiting jobs that stay in memory; those of the rest are read from the store when their turn comes."""
_RETRY_PAUSE = 1.0
_REST_AFTER = 3
"""Failures in a row after which a backend rests."""
_UNSTARTED = 5
"""How many submissions stand for one failure, where a prompt was lost before it had begun."""
_REST = 30.0
_IDLE = 1.0
_REMEMBERED_RUNS = 100
"""Runs of before that the estimates begin with."""
_RESTART = 1000
"""What `seq` skips over a restart: not every status is written."""


class Runner:
    """Runs jobs on the backends. `run` is its whole life; the other methods may be called while it runs."""

    def __init__(
        self, settings: Settings, store: Store, hub: events.Hub, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._store = store
        self._hub = hub
        self._clock = clock
        self._submitter = Submitter(store, clock=clock)
        self._waiting = Waiting()
        self._payloads: dict[str, Payload] = {}
        self._report = Reporter(store, hub, clock=clock, max_output=settings.media.max_output)
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[str, Active] = {}
        """Every job that a backend holds or whose outputs are being fetched."""
        backends = [
            Backend(
                url,
                hub=hub,
                on_change=self._on_change,
                on_state=self._on_state,
                previews=settings.comfyui.previews,
            )
            for url in settings.comfyui.urls
        ]
        self.pool = Pool(backends, depth=settings.comfyui.depth)
        self.on_object_info: Callable[[Mapping[str, Any]], None] = lambda _: None
        """Told what nodes and models a backend has, whenever one comes online."""
        self.output_url: Callable[[str, int], str] | None = None
        """Where a job's output n can be had; None: at ComfyUI itself."""

    # Life

    async def run(self, started: Callable[[], None]) -> None:
        """Take up what the last run left, then serve until cancelled; `started` is called in between."""
        async with contextlib.AsyncExitStack() as stack:
            for backend in self.pool.backends:
                await stack.enter_async_context(backend.client)
            await self._recover()
            started()
            try:
                async with asyncio.TaskGroup() as group:
                    for backend in self.pool.backends:
                        group.create_task(backend.run(), name=f"backend {backend.name}")
                        reconciler = Reconciler(backend, stall_timeout=self._settings.comfyui.stall_timeout)
                        group.create_task(reconciler.run(self.pool.others_online), name=f"reconciler {backend.name}")
                    group.create_task(self._dispatch(), name="dispatcher")
            finally:
                await self._abandon()

    async def _abandon(self) -> None:
        # The jobs stay in ComfyUI and in the store: the next start finds them there.
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._report.write_again()

    async def _recover(self) -> None:
        for job in await self._store.unpublished():
            self._spawn(self._report.publish_again(job, self.pool.named(job.backend)), f"publish {job.id}")
        for job in await self._store.finished(_REMEMBERED_RUNS):
            if job.status is Status.COMPLETED:
                self._waiting.ran(job.workflow, job.durations.get(Status.RUNNING, 0.0))
        for job in await self._store.unfinished():
            if job.kind != "job":  # a chain is driven elsewhere; its parts are jobs
                continue
            job.seq += _RESTART
            backend = self.pool.named(job.backend) if job.submitted else None
            if backend is None and job.interrupting:
                self._report.begin(job)
                self._finish_waiting(job, Status.INTERRUPTED, documents.interrupted())
                continue
            if backend is None:
                self._enqueue(job)
                continue
            payload = await self._store.payload(job.id)
            # ComfyUI sends a prompt's events to the client that submitted it: be that client again.
            if job.client_id is not None:
                backend.socket.resume(job.client_id)
            active = Active(
                job,
                payload,
                Lifecycle(job.id, payload.graph, outputs=payload.output_nodes),
                submitted=True,
                ambiguous=True,
            )
            active.epoch, active.missed = backend.epoch, True
            self._report.begin(job)
            self._hold(backend, active)
            self._spawn(self._drive(backend, active), f"job {job.id}")
            if job.interrupting:
                self._spawn(Reconciler.stop(backend, active), f"stop {job.id}")

    # Commands

    async def accept(self, jobs: Sequence[tuple[Job, Payload]]) -> None:
        """Take new jobs: written to the store when this returns. Raises QueueFull, all or none."""
        if len(self._waiting) + len(jobs) > self._settings.jobs.max_waiting:
            raise errors.QueueFull(
                f"{len(self._waiting)} jobs wait and {self._settings.jobs.max_waiting} may (jobs.max_waiting); "
                "try again when some have run"
            )
        straight = self._straight(jobs)
        if straight is not None:
            reserve(jobs[0][0], straight)
            jobs[0][0].attempts = 1
        await self._store.add([(job, payload.dump()) for job, payload in jobs])
        if straight is not None and self._waiting_for_nothing(straight):
            self._start(straight, *jobs[0])
            return
        for job, payload in jobs:
            job.backend, job.submitted, job.attempts = None, False, 0
            if len(self._payloads) < _PAYLOADS_KEPT:
                self._payloads[job.id] = payload
            self._enqueue(job)
        self._hub.publish(events.QueueChanged())

    def _straight(self, jobs: Sequence[tuple[Job, Payload]]) -> Backend | None:
        """Return the backend that a job can go to without waiting: that is written with it, in one go."""
        if len(jobs) != 1 or self._waiting or not self.pool.free():
            return None
        job, payload = jobs[0]
        with contextlib.suppress(errors.BridgeError):  # that nobody can run it is told when its turn comes
            return self.pool.choose(job, payload.graph)
        return None

    def _waiting_for_nothing(self, backend: Backend) -> bool:
        return not self._waiting and self.pool.takes(backend)

    def _start(self, backend: Backend, job: Job, payload: Payload) -> None:
        self._report.begin(job)
        self._report.status(job, position=1)
        life = Lifecycle(job.id, payload.graph, outputs=payload.output_nodes)
        active = Active(job, payload, life, reserved=True)
        self._hold(backend, active)
        self._spawn(self._drive(backend, active), f"job {job.id}")

    async def interrupt(self, job_id: str) -> None:
        """End a job; that it is to end is written when this returns. Raises UnknownPrompt, AlreadyOver."""
        waiting = self._waiting.remove(job_id)
        if waiting is not None:
            await self._end_waiting(waiting, Status.INTERRUPTED, documents.interrupted())
            return
        active = self._running.get(job_id)
        if active is None or not _at_work(active.job):
            job = active.job if active is not None else await self._store.job(job_id)
            if job is None:
                raise errors.UnknownPrompt(f"there is no job {job_id!r}")
            raise errors.AlreadyOver(f"the job {job_id} is already {job.status}")
        await self._stop(active)

    async def interrupt_all(self, *, batch_id: str | None = None, workflow: str | None = None) -> list[str]:
        """End every job that waits or runs, of one batch or workflow if named; return their ids."""

        def meant(job: Job) -> bool:
            return (batch_id is None or job.batch_id == batch_id) and (workflow is None or job.workflow == workflow)

        waiting = [job for job in self._waiting.first(len(self._waiting)) if meant(job)]
        for job in waiting:
            self._waiting.remove(job.id)
        running = [active for active in self._running.values() if _at_work(active.job) and meant(active.job)]
        await asyncio.gather(
            *(self._end_waiting(job, Status.INTERRUPTED, documents.interrupted()) for job in waiting),
            *(self._stop(active) for active in running),
        )
        return [job.id for job in waiting] + [active.job.id for active in running]

    async def job_document(self, job_id: str) -> dict[str, Any]:
        """Return a job as every face shows it. Raises UnknownPrompt."""
        active = self._running.get(job_id)
        if active is not None:
            return documents.job(active.job, life=active.life)
        job = self._waiting.get(job_id)
        if job is not None:
            return documents.job(job, position=self._waiting.position(job_id))
        job = await self._store.job(job_id)
        if job is None:
            raise errors.UnknownPrompt(f"there is no job {job_id!r}")
        return documents.job(job)

    def job_documents(self, limit: int | None) -> list[dict[str, Any]]:
        """Return the jobs that wait and run in full, newest first; `limit` None: all."""
        active = {one.job.id: one for one in self._running.values()}
        waiting = {job.id: (position, job) for position, job in enumerate(self._waiting.first(len(self._waiting)), 1)}
        jobs = [*(one.job for one in active.values()), *(job for _, job in waiting.values())]
        jobs.sort(key=lambda job: job.order, reverse=True)
        return [
            documents.job(job, life=active[job.id].life)
            if job.id in active
            else documents.job(job, position=waiting[job.id][0])
            for job in jobs[:limit]
        ]

    async def find(self, job_id: str) -> Job | None:
        """Return a job, ended or not."""
        active = self._running.get(job_id)
        return active.job if active is not None else self._waiting.get(job_id) or await self._store.job(job_id)

    def queue_document(self, limit: int) -> dict[str, Any]:
        """Return `queue/state`: what runs and what waits, the first `limit` of it, with estimates in seconds."""
        running = [active for active in self._running.values() if _at_work(active.job)]
        left = sum(self._waiting.expected(active.job.workflow) * (1 - active.life.percent / 100) for active in running)
        lanes = self.pool.online
        return {
            "running": [documents.queued(active.job, percent=active.life.percent) for active in running],
            "waiting": [
                documents.queued(job, position=position, seconds=seconds)
                for position, job, seconds in self._waiting.estimates(limit, ahead=left, lanes=lanes)
            ],
            "running_count": len(running),
            "waiting_count": len(self._waiting),
            "lanes": lanes,
        }

    # Dispatch

    def _enqueue(self, job: Job, *, again: bool = False) -> None:
        job.status = Status.QUEUED
        position = self._waiting.next_position(job.priority)
        self._waiting.add(job)
        if again:  # it keeps its place by age
            position = self._waiting.position(job.id)
        self._report.begin(job)
        self._report.status(job, position=position)
        self._wake.set()

    async def _dispatch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE):
                    await self._wake.wait()
            self._wake.clear()
            await self._report.write_again()
            for job in self._waiting.expired(self._clock()):
                self._finish_waiting(job, Status.FAILED, documents.expired(job).to_json())
            while await self._dispatch_one():
                pass

    async def _dispatch_one(self) -> bool:
        # A job that no free backend can run holds up none behind it.
        several = len(self.pool.backends) > 1
        for job in self._waiting.first(_LOOK_AHEAD if several else 1) if self.pool.free() else ():
            try:
                payload = self._payloads.get(job.id) or await self._store.payload(job.id)
                if job.id not in self._waiting:  # interrupted meanwhile
                    return True
                backend = self.pool.choose(job, payload.graph)
            except errors.BridgeError as error:
                self._waiting.remove(job.id)
                self._finish_waiting(job, Status.FAILED, error.to_json())
                return True
            if backend is None:
                continue
            self._waiting.remove(job.id)
            self._payloads.pop(job.id, None)
            active = Active(job, payload, Lifecycle(job.id, payload.graph, outputs=payload.output_nodes))
            self._hold(backend, active)
            self._spawn(self._drive(backend, active), f"job {job.id}")
            return True
        return False

    def _hold(self, backend: Backend, active: Active) -> None:
        self._running[active.job.id] = active
        backend.take(active)

    # One job

    async def _drive(self, backend: Backend, active: Active) -> None:
        job = active.job
        try:
            end, error = await self._attempt(backend, active)
        except Again as again:
            self._let_go(backend, active)
            self._retry(backend, job, again)
            return
        except errors.StoreError as failure:
            # Nothing is submitted that could not be written before; a full disk passes.
            job.attempts = max(0, job.attempts - 1)
            self._let_go(backend, active)
            self._retry(backend, job, Again(failure, counts=False))
            return
        except errors.BridgeError as reason:
            end, error = (Status.INTERRUPTED, None) if job.interrupting else (Status.FAILED, reason)
        except Exception:
            logger.exception("the job %s failed inside the bridge", job.id)
            end, error = Status.FAILED, errors.Internal("the bridge failed on this job; its log holds more")
        else:
            backend.failures = 0
        backend.release(active)
        self._wake.set()
        try:
            await self._finish(backend, active, end, error)
        except Exception:
            logger.exception("the outputs of the job %s failed inside the bridge", job.id)
            defect = errors.Internal("the bridge failed on the outputs of this job; its log holds more")
            await self._report.end(job, Status.FAILED, defect.to_json())
            self._running.pop(job.id, None)

    async def _attempt(self, backend: Backend, active: Active) -> tuple[Status, errors.BridgeError | None]:
        """Run a job once; return how it ended. Raises Again, or the error that ends it."""
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
                if isinstance(error, errors.OutOfMemory) and job.failures + 1 < min(2, self._settings.jobs.attempts):
                    raise Again(error, counts=True)
                return Status.FAILED, error

    def _retry(self, backend: Backend, job: Job, again: Again) -> None:
        """Put a job back into the queue, or end it if it had its attempts."""
        job.submitted, job.backend = False, None
        job.failures += again.counts
        backend.failures += again.backend_failed
        if job.interrupting:
            self._finish_waiting(job, Status.INTERRUPTED, documents.interrupted())
            return
        if max(job.failures, job.attempts / _UNSTARTED) >= self._settings.jobs.attempts:
            self._finish_waiting(job, Status.FAILED, again.reason.to_json())
            return
        logger.warning("the job %s goes back to the queue: %s", job.id, again.reason.message)
        rests = backend.failures >= _REST_AFTER and self.pool.others_online(backend)
        pause = _REST if rests else min(_REST, _RETRY_PAUSE * 4**job.failures)
        backend.rested_until = asyncio.get_running_loop().time() + pause
        job.error = again.reason.to_json()
        self._save(job)
        self._enqueue(job, again=True)
        self._hub.publish(events.QueueChanged())

    async def _stop(self, active: Active) -> None:
        job = active.job
        if job.interrupting:
            return
        job.interrupting = True
        backend = self.pool.holding(job.id)
        if backend is not None:
            self._spawn(Reconciler.stop(backend, active), f"stop {job.id}")
        try:
            await self._store.save(job)
        except errors.StoreError as error:
            logger.error("a restart would forget the interrupt of %s: %s", job.id, error.message)

    def _on_state(self, backend: Backend) -> None:
        self._wake.set()
        if backend.online:
            self._spawn(self._learn(backend), f"object_info {backend.name}")

    async def _learn(self, backend: Backend) -> None:
        try:
            object_info = await backend.client.object_info()
        except errors.BridgeError as error:
            logger.warning("%s does not tell its nodes: %s", backend.name, error.message)
            return
        backend.catalogue = catalogue(object_info)
        self.on_object_info(object_info)
        self._wake.set()

    # Changes, outputs, ends

    def _on_change(self, backend: Backend, active: Active, change: Change) -> None:
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

    async def _finish(self, backend: Backend, active: Active, end: Status, error: errors.BridgeError | None) -> None:
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
        if end is Status.COMPLETED and job.started_at is not None:
            self._waiting.ran(job.workflow, job.durations.get(Status.RUNNING, 0.0))
        reason = documents.interrupted() if end is Status.INTERRUPTED and error is None else None
        await self._report.end(job, end, error.to_json() if error is not None else reason)
        self._running.pop(job.id, None)
        self._wake.set()

    def _finish_waiting(self, job: Job, end: Status, error: Any) -> None:
        self._spawn(self._end_waiting(job, end, error), f"end {job.id}")

    async def _end_waiting(self, job: Job, end: Status, error: Any) -> None:
        self._payloads.pop(job.id, None)
        await self._report.end(job, end, error)

    # Small change

    def _let_go(self, backend: Backend, active: Active) -> None:
        backend.release(active)
        self._running.pop(active.job.id, None)
        for fetch in active.fetches:
            fetch.cancel()

    def _save(self, job: Job) -> None:
        future = self._store.save(job)
        future.add_done_callback(_log_failure)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _at_work(job: Job) -> bool:
    """Tell whether a job that a backend holds can still be ended."""
    return job.status is not Status.FINISHING and not job.status.final


def _log_failure(future: asyncio.Future[None]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        logger.error("%s", error)
