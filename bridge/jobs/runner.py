"""Runs jobs: from the queue to a backend, through ComfyUI, to a result. Exactly one final status each.

The websocket tells what happens at once; `bridge.jobs.reconciler` asks the queue and the history whenever the
socket cannot be trusted. A job is written before it is accepted, before it is submitted and when it has ended, so
that after a crash the next start knows where to look for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge import errors, events
from bridge.jobs import documents
from bridge.jobs.backend import Active, Backend
from bridge.jobs.driver import Driver
from bridge.jobs.model import Job, Payload, Status
from bridge.jobs.pool import Pool
from bridge.jobs.reconciler import Reconciler
from bridge.jobs.reporter import Reporter
from bridge.jobs.store import Store
from bridge.jobs.submission import Again, Submitter, refused_before, reserve
from bridge.jobs.waiting import Waiting
from bridge.settings import Settings
from bridge.tasks import Tasks, log_failure, supervise
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
_TOLD_AT_ONCE = 50
"""Ends of before that are told at once: after a long outage there are thousands, each with its pictures."""
_ENDING = 10.0
"""Seconds that an answer waits for the ends of the jobs that it is about."""
_RESTART = 1000
"""What `seq` skips over a restart: not every status is written."""

Documents = Sequence[tuple[Job, dict[str, Any]]]
"""Jobs with what the faces show of them."""


class Runner:
    """Runs jobs on the backends. `run` is its whole life; the other methods may be called while it runs."""

    def __init__(
        self, settings: Settings, store: Store, hub: events.Hub, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._store = store
        self._hub = hub
        self._clock = clock
        self._waiting = Waiting()
        self._payloads: dict[str, Payload] = {}
        self._report = Reporter(store, hub, clock=clock, max_output=settings.media.max_output)
        self.driver = Driver(Submitter(store, clock=clock), self._report, attempts=settings.jobs.attempts, clock=clock)
        self._going_straight = False
        """A job is being written as one that goes to a backend without waiting: of many that come at once just one."""
        self._wake = asyncio.Event()
        self._tasks = Tasks()
        self._running: dict[str, Active] = {}
        """Every job that a backend holds or whose outputs are being fetched."""
        backends = [
            Backend(
                url,
                hub=hub,
                on_change=self.driver.changed,
                on_state=self._on_state,
                previews=settings.comfyui.previews,
            )
            for url in settings.comfyui.urls
        ]
        self.pool = Pool(backends, depth=settings.comfyui.depth)
        self.on_object_info: Callable[[Mapping[str, Any]], None] = lambda _: None
        """Told what nodes and models a backend has, whenever one comes online."""

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
                        name = f"the websocket of {backend.name}"
                        group.create_task(supervise(name, backend.run), name=name)
                        reconciler = Reconciler(backend, stall_timeout=self._settings.comfyui.stall_timeout)
                        look = functools.partial(reconciler.run, self.pool.others_online)
                        group.create_task(supervise(f"the watch on {backend.name}", look), name=f"watch {backend.name}")
                    group.create_task(supervise("the dispatcher", self._dispatch), name="dispatcher")
            finally:
                await self._abandon()

    async def _abandon(self) -> None:
        # The jobs stay in ComfyUI and in the store: the next start finds them there.
        await self._tasks.close()
        for active in self._running.values():
            active.drop_fetches()

    async def _recover(self) -> None:
        room = asyncio.Semaphore(_TOLD_AT_ONCE)
        for job in await self._store.unpublished():
            self._tasks.spawn(self._tell_again(job, room), f"publish {job.id}")
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
            active = Active(job, payload, submitted=True, ambiguous=True, epoch=backend.epoch, missed=True)
            active.life.error = refused_before(job)
            self._report.begin(job)
            self._hold(backend, active)
            if job.interrupting:
                self._tasks.spawn(Reconciler.stop(backend, active), f"stop {job.id}")

    async def _tell_again(self, job: Job, room: asyncio.Semaphore) -> None:
        async with room:
            await self._report.publish_again(job, self.pool.named(job.backend))

    # Commands

    async def accept(self, jobs: Sequence[tuple[Job, Payload]]) -> None:
        """Take new jobs: written to the store when this returns. Raises QueueFull, all or none."""
        if any(job.parent is None for job, _ in jobs):  # the parts of a chain were let in with it
            self.check_room(len(jobs))
        straight = self._straight(jobs)
        if straight is not None:
            reserve(jobs[0][0], straight)
            jobs[0][0].attempts = 1
            self._going_straight = True
        try:
            await self._store.add([(job, payload.dump()) for job, payload in jobs])
        finally:
            if straight is not None:
                self._going_straight = False
        if straight is not None and not self._waiting and self.pool.takes(straight):
            self._start(straight, *jobs[0])
            return
        for job, payload in jobs:
            job.backend, job.submitted, job.attempts = None, False, 0
            if len(self._payloads) < _PAYLOADS_KEPT:
                self._payloads[job.id] = payload
            self._enqueue(job)
        self._hub.publish(events.QueueChanged())

    def check_room(self, count: int) -> None:
        """Raise QueueFull unless so many jobs more may wait."""
        if len(self._waiting) + count > self._settings.jobs.max_waiting:
            raise errors.QueueFull(
                f"{len(self._waiting)} jobs wait and {self._settings.jobs.max_waiting} may (jobs.max_waiting); "
                "try again when some have run"
            )

    def _straight(self, jobs: Sequence[tuple[Job, Payload]]) -> Backend | None:
        """Return the backend that a job can go to without waiting: that is written with it, in one go."""
        if len(jobs) != 1 or self._waiting or self._going_straight or not self.pool.free():
            return None
        job, payload = jobs[0]
        with contextlib.suppress(errors.BridgeError):  # that nobody can run it is told when its turn comes
            return self.pool.choose(job, payload.graph)
        return None

    def _start(self, backend: Backend, job: Job, payload: Payload) -> None:
        self._report.begin(job)
        self._report.status(job, position=1)
        self._hold(backend, Active(job, payload, reserved=True))

    async def interrupt(self, job_id: str) -> None:
        """End a job; that it is to end is written when this returns, if the store can be written.

        Raises UnknownPrompt, AlreadyOver.
        """
        waiting = self._waiting.remove(job_id)
        if waiting is not None:
            await self._interrupt_waiting([waiting])
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
        await asyncio.gather(self._interrupt_waiting(waiting), *(self._stop(active) for active in running))
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

    def job_documents(self, limit: int | None, chains: Documents = ()) -> list[dict[str, Any]]:
        """Return the jobs that wait and run in full, newest first; `limit` None: all.

        chains: the ones that run, which are driven elsewhere.
        """
        made = {job.id: document for job, document in chains}
        active = {one.job.id: one for one in self._running.values()}
        waiting = {job.id: (position, job) for position, job in enumerate(self._waiting.first(len(self._waiting)), 1)}
        jobs = [
            *(job for job, _ in chains),
            *(one.job for one in active.values()),
            *(job for _, job in waiting.values()),
        ]
        jobs.sort(key=lambda job: job.order, reverse=True)
        for job in jobs[:limit]:
            if job.id in active:
                made[job.id] = documents.job(job, life=active[job.id].life)
            elif job.id in waiting:
                made[job.id] = documents.job(job, position=waiting[job.id][0])
        return [made[job.id] for job in jobs[:limit]]

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
            except errors.StoreError:  # a full disk passes
                return False
            except errors.BridgeError as error:
                self._waiting.remove(job.id)
                self._finish_waiting(job, Status.FAILED, error.to_json())
                return True
            if backend is None:
                continue
            self._waiting.remove(job.id)
            self._payloads.pop(job.id, None)
            self._hold(backend, Active(job, payload))
            return True
        return False

    def _hold(self, backend: Backend, active: Active) -> None:
        self._running[active.job.id] = active
        backend.take(active)
        self._tasks.spawn(self._drive(backend, active), f"job {active.job.id}")

    # One job

    async def _drive(self, backend: Backend, active: Active) -> None:
        job = active.job
        try:
            end, error = await self.driver.attempt(backend, active)
        except Again as again:
            backend.release(active)
            self._running.pop(job.id, None)
            active.drop_fetches()
            self._retry(backend, job, again)
            return
        backend.release(active)
        self._wake.set()
        await self.driver.finish(backend, active, end, error)
        self._running.pop(job.id, None)
        if job.status is Status.COMPLETED and job.started_at is not None:
            self._waiting.ran(job.workflow, job.durations.get(Status.RUNNING, 0.0))
        self._wake.set()

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
        self._store.save(job).add_done_callback(log_failure)
        self._enqueue(job, again=True)
        self._hub.publish(events.QueueChanged())

    async def _stop(self, active: Active) -> None:
        job = active.job
        if job.interrupting:
            return
        job.interrupting = True
        backend = self.pool.holding(job.id)
        if backend is not None:
            self._tasks.spawn(Reconciler.stop(backend, active), f"stop {job.id}")
        try:
            await self._store.save(job)
        except errors.StoreError as error:
            logger.error("a restart would forget the interrupt of %s: %s", job.id, error.message)

    def _on_state(self, backend: Backend) -> None:
        self._wake.set()
        if backend.online:
            self._tasks.spawn(self._learn(backend), f"object_info {backend.name}")

    async def _learn(self, backend: Backend) -> None:
        try:
            object_info = await backend.client.object_info()
        except errors.BridgeError as error:
            logger.warning("%s does not tell its nodes: %s", backend.name, error.message)
            return
        backend.catalogue = catalogue(object_info)
        self.on_object_info(object_info)
        self._wake.set()

    async def _interrupt_waiting(self, jobs: Sequence[Job]) -> None:
        ends = [self._finish_waiting(job, Status.INTERRUPTED, documents.interrupted()) for job in jobs]
        if ends:  # a full disk holds up the ends, not the answer
            await asyncio.wait(ends, timeout=_ENDING)

    def _finish_waiting(self, job: Job, end: Status, error: Any) -> asyncio.Task[None]:
        self._payloads.pop(job.id, None)
        return self._tasks.spawn(self._report.end(job, end, error), f"end {job.id}")


def _at_work(job: Job) -> bool:
    """Tell whether a job that a backend holds can still be ended."""
    return job.status is not Status.FINISHING and not job.status.final
