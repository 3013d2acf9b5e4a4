"""Runs chains: each a job with parts, driven step by step, written after each so that a restart goes on there."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bridge import events
from bridge.errors import (
    BackendOffline,
    BridgeError,
    ExecutionError,
    Expired,
    FileMissing,
    Internal,
    StepError,
    StoreError,
    TimedOut,
)
from bridge.jobs import documents
from bridge.jobs.chains import SKIPPED, Chain, Part, Reference, Step, applies, read_chain
from bridge.jobs.model import CHAIN, ImageValue, Job, Output, Status, value_from_json, value_to_json
from bridge.jobs.reporter import Reporter
from bridge.jobs.store import Store
from bridge.media import kinds
from bridge.tasks import Tasks
from bridge.workflow.graph import Target

logger = logging.getLogger(__name__)

_PAUSE = 1.0
_PATIENCE = 600.0
"""Seconds that a step is waited for which cannot be handed on: the backend that has its picture is away, say."""

Values = Mapping[Target, Any]


class Parts(Protocol):
    """What the driver needs of the core: to run a part, end it, look at it and fetch what it made."""

    async def run_part(
        self, workflow: str, values: Mapping[str, Any], *, job_id: str, chain: Job, expires_at: float | None
    ) -> None:
        """Accept a job; values by name, images among them as ImageValue."""

    async def end_part(self, job_id: str) -> None:
        """End a job."""

    async def find_part(self, job_id: str) -> Job | None:
        """Return a job, ended or not."""

    async def part_output(self, job_id: str, n: int) -> tuple[Output, bytes]:
        """Fetch an output of a job."""


@dataclass(slots=True, eq=False)
class _Run:
    """A chain that runs."""

    job: Job
    chain: Chain
    values: Mapping[str, Mapping[str, Any]]
    """By step and parameter."""
    parts: dict[str, Part]
    current: str | None = None
    """The job of the step at work."""
    is_waiting: bool = False
    """That job has not begun."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when that job has ended."""
    percent: float = 0.0
    previews: int = 0


class Chains:
    """Drives the chains that run. `listen` is for the hub."""

    def __init__(
        self, store: Store, hub: events.Hub, report: Reporter, parts: Parts, *, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._hub = hub
        self._report = report
        self._core = parts
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._tasks = Tasks()
        self._of_part: dict[str, _Run] = {}
        """By the jobs of the steps at work."""

    @property
    def between_steps(self) -> int:
        """How many chains have yet to queue the job of a step."""
        return len(self._runs) - len(self._of_part)

    async def load(self) -> None:
        """Go on with the chains that the last run left."""
        for job in await self._store.unfinished_chains():
            document = json.loads(await self._store.raw_payload(job.id))
            chain = read_chain(document["chain"], where=str(job.workflow))
            parts = {part["step"]: Part(**part) for part in job.parts}
            self._report.begin(job)
            self._go(_Run(job, chain, _values(document["values"]), parts))

    async def close(self) -> None:
        """Stop driving; the parts go on, and so does the next start."""
        await self._tasks.close()

    async def start(self, chain: Chain, jobs: Sequence[tuple[Job, Values]]) -> None:
        """Take new runs of a chain, all or none: written to the store when this returns."""
        document = chain.to_json()
        runs = [_Run(job, chain, _by_step(values), {}) for job, values in jobs]
        payloads = []
        for run in runs:
            run.job.kind = CHAIN
            values = {
                step: {key: value_to_json(value) for key, value in given.items()} for step, given in run.values.items()
            }
            payloads.append((run.job, json.dumps({"chain": document, "values": values}).encode()))
        await self._store.add(payloads)
        for run in runs:
            self._report.begin(run.job)
            self._report.status(run.job)
            self._go(run)

    async def interrupt(self, job_id: str) -> bool:
        """End a chain; False if no such chain runs."""
        run = self._runs.get(job_id)
        if run is None:
            return False
        run.job.interrupting = True
        try:
            await self._store.save(run.job)
        except StoreError as error:
            logger.error("a restart would forget the interrupt of the chain %s: %s", job_id, error.message)
        if run.current is not None:
            await self._core.end_part(run.current)
        return True

    async def interrupt_all(self, *, batch_id: str | None, workflow: str | None) -> list[str]:
        """End the chains that run, of one batch or name if given; return their ids. A chain is a batch of its parts."""
        ids = [
            run.job.id
            for run in self._runs.values()
            if batch_id in {None, run.job.id, run.job.batch_id} and workflow in {None, run.job.workflow}
        ]
        await asyncio.gather(*(self.interrupt(one) for one in ids))
        return ids

    def document(self, job_id: str) -> dict[str, Any] | None:
        """Return a chain that runs as every face shows it; None if there is no such chain."""
        run = self._runs.get(job_id)
        return None if run is None else {**run.job.result(), **self._document(run)}

    def documents(self) -> list[tuple[Job, dict[str, Any]]]:
        """Return all chains that run, each with its document."""
        return [(run.job, {**run.job.result(), **self._document(run)}) for run in self._runs.values()]

    def listen(self, event: events.Event) -> None:
        """Take what happens to a part."""
        match event:
            case events.JobStatus(final=True):
                run = self._of_part.pop(event.job_id, None)
                if run is not None:
                    run.over.set()
            case events.JobStatus() | events.JobProgress():
                run = self._of_part.get(event.job_id)
                if run is None or event.document["status"] == Status.QUEUED:
                    return
                if run.job.status is Status.QUEUED:
                    run.job.started_at = self._clock()
                    self._report.enter(run.job, Status.RUNNING)
                if run.is_waiting:
                    run.is_waiting = False
                    self._publish(run)
                if isinstance(event, events.JobProgress):
                    run.percent = float(event.document["percent"])
                    self._hub.publish(events.JobProgress(run.job.id, run.job.workflow, self._document(run)))
            case events.PromptPreview():
                run = self._of_part.get(event.job_id)
                if run is not None:
                    run.previews += 1
                    chain = run.job
                    # Who is given frames has had the part's.
                    self._hub.publish(
                        dataclasses.replace(
                            event, job_id=chain.id, workflow=chain.workflow, seq=run.previews, frame=b""
                        )
                    )

    def _go(self, run: _Run) -> None:
        self._runs[run.job.id] = run
        self._tasks.spawn(self._drive(run), f"chain {run.job.id}")

    async def _drive(self, run: _Run) -> None:
        job = run.job
        try:
            end, error = await self._steps(run)
        except BridgeError as failure:
            end, error = Status.FAILED, failure
        except Exception:
            logger.exception("the chain %s failed inside the bridge", job.id)
            end, error = Status.FAILED, Internal("the bridge failed on this chain; its log holds more")
        if job.interrupting:
            end, error = Status.INTERRUPTED, None
        try:
            await self._take_outputs(run)
        except StoreError as failure:
            logger.error("the outputs of the chain %s cannot be looked up: %s", job.id, failure.message)
            if end is Status.COMPLETED:
                end, error = Status.FAILED, failure
        reason = documents.interrupted() if end is Status.INTERRUPTED else None
        del self._runs[job.id]
        await self._report.end(job, end, error.to_json() if error is not None else reason)
        self._hub.publish(events.BatchResult(job.id, {**job.result(), "kind": CHAIN}))
        self._publish_batch(run, final=True)

    async def _steps(self, run: _Run) -> tuple[Status, BridgeError | None]:
        job = run.job
        for step in run.chain.steps:
            if job.interrupting:
                return Status.INTERRUPTED, None
            part = run.parts.get(step.name)
            if part is not None and _is_over(part, step):
                continue
            earlier = {name: one for name, one in run.parts.items() if name != step.name}
            if not applies(step.when, earlier, await self._texts(run)):
                if step.when is None:
                    break  # an earlier one failed, and nothing is said of what then
                await self._note(run, Part(step.name, SKIPPED))
                continue
            await self._run_step(run, step, part)
        foreseen = {(step.when.step, step.when.status) for step in run.chain.steps if step.when is not None}
        for step in run.chain.steps:
            status = run.parts.get(step.name, _NONE).status
            if status in {Status.FAILED, Status.INTERRUPTED} and (step.name, status) not in foreseen:
                return Status(status), await self._step_error(run, step)
        return Status.COMPLETED, None

    async def _run_step(self, run: _Run, step: Step, part: Part | None) -> None:
        """Run a step until it ends well, or its tries are used up."""
        tries = part.tries if part is not None else 0
        while True:
            going_on = part is not None and part.status == Status.RUNNING.value
            if not going_on:
                tries += 1
            # The same id after a crash: what was accepted is not accepted twice.
            job_id = str(uuid.uuid5(uuid.UUID(run.job.id), f"{step.name}/{tries}"))
            part = None
            # Only what has not begun is late: the first try of the first step.
            expires_at = run.job.expires_at if step is run.chain.steps[0] and tries == 1 else None
            run.current, run.percent, run.is_waiting = job_id, 0.0, True
            run.over.clear()
            self._of_part[job_id] = run
            try:
                await self._note(run, Part(step.name, Status.RUNNING.value, job_id, tries))
                known = await self._core.find_part(job_id)
                if known is None:
                    await self._run_part(run, step, job_id, expires_at)
                    if run.job.interrupting:
                        await self._core.end_part(job_id)
                if known is None or not known.status.final:
                    await run.over.wait()
                    known = await self._core.find_part(job_id)
            except BridgeError:
                ended = Status.INTERRUPTED if run.job.interrupting else Status.FAILED
                await self._note(run, Part(step.name, ended.value, None, tries))
                raise
            finally:
                self._of_part.pop(job_id, None)
                run.current = None
            status = known.status if known is not None else Status.FAILED
            await self._note(run, Part(step.name, status.value, job_id, tries))
            if known is not None and expires_at is not None and (known.error or {}).get("code") == Expired.code:
                raise documents.expired(run.job)
            if status is not Status.FAILED or tries > step.retry or run.job.interrupting:
                return

    async def _run_part(self, run: _Run, step: Step, job_id: str, expires_at: float | None) -> None:
        """Hand a step to the runner; what passes (a full disk, a backend that is away) is waited for."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            try:
                values = await self._values_of(run, step)
                await self._core.run_part(step.workflow, values, job_id=job_id, chain=run.job, expires_at=expires_at)
            except (StoreError, BackendOffline, TimedOut) as error:
                if run.job.interrupting or clock() - began > _PATIENCE:
                    raise _of_step(step, error, job_id) from None
                logger.info("the chain %s waits before its step %s: %s", run.job.id, step.name, error.message)
            except BridgeError as error:
                raise _of_step(step, error, job_id) from None
            else:
                return
            await asyncio.sleep(_PAUSE)

    async def _values_of(self, run: _Run, step: Step) -> dict[str, Any]:
        values: dict[str, Any] = {**step.values, **run.values.get(step.name, {})}
        for key, reference in step.references.items():
            try:
                values[key] = await self._referred(run, reference)
            except BridgeError as error:
                raise type(error)(f"values.{key}: {error.message}") from None
        return values

    async def _referred(self, run: _Run, reference: Reference) -> Any:
        part = run.parts.get(reference.step, _NONE)
        if part.job_id is None:
            raise FileMissing(f"the step {reference.step!r} did not run")
        job = await self._core.find_part(part.job_id)
        if reference.text is not None:
            texts = job.text if job is not None else ()
            if reference.text >= len(texts):
                raise FileMissing(
                    f"the step {reference.step!r} gave {len(texts)} texts, none of number {reference.text}"
                )
            return texts[reference.text]["text"]
        number = reference.output if reference.output is not None or job is None else job.answer
        output, data = await self._core.part_output(part.job_id, number or 0)
        sha256 = await self._store.put_media(data)
        return ImageValue(f"{sha256[:32]}{kinds.ending(output.content_type)}", sha256)

    async def _texts(self, run: _Run) -> dict[str, str]:
        texts = {}
        for name, part in run.parts.items():
            job = await self._core.find_part(part.job_id) if part.job_id is not None else None
            texts[name] = "\n".join(str(entry["text"]) for entry in job.text) if job is not None else ""
        return texts

    async def _step_error(self, run: _Run, step: Step) -> BridgeError:
        job_id = run.parts[step.name].job_id
        job = await self._core.find_part(job_id) if job_id is not None else None
        known = job.error if job is not None else None
        reason = ExecutionError(str(known["message"]) if known else "it failed without a reason")
        return _of_step(step, reason, job_id, code=str(known["code"]) if known else None)

    async def _take_outputs(self, run: _Run) -> None:
        """Make the outputs of the last step that made some the chain's own."""
        job = run.job
        for step in reversed(run.chain.steps):
            part = run.parts.get(step.name, _NONE)
            made = await self._core.find_part(part.job_id) if part.job_id is not None else None
            if made is None or not (made.outputs or made.text):
                continue
            job.outputs, job.text, job.answer, job.backend = made.outputs, made.text, made.answer, made.backend
            for output in made.outputs:
                try:
                    _, data = await self._core.part_output(made.id, output.n)
                except BridgeError as error:
                    logger.info("output %d of the chain %s cannot be had again: %s", output.n, job.id, error.message)
                else:
                    self._report.publish_output(job, output, data)
            return

    async def _note(self, run: _Run, part: Part) -> None:
        run.parts[part.step] = part
        run.job.parts = tuple(dataclasses.asdict(one) for one in run.parts.values())
        try:
            await self._store.save(run.job)
        except StoreError as error:
            logger.error("the step of the chain %s cannot be written: %s", run.job.id, error.message)
        self._publish(run)

    def _publish(self, run: _Run) -> None:
        run.job.seq += 1
        self._hub.publish(events.JobStatus(run.job.id, run.job.workflow, self._document(run), final=False))
        self._publish_batch(run, final=False)

    def _publish_batch(self, run: _Run, *, final: bool) -> None:
        parts = [dict(part) for part in run.job.parts]
        for part in parts:
            if run.is_waiting and part["job_id"] == run.current:
                part["status"] = Status.QUEUED
        document = {**self._document(run), "kind": CHAIN, "parts": parts}
        self._hub.publish(events.BatchStatus(run.job.id, document, final=final))

    def _document(self, run: _Run) -> dict[str, Any]:
        document = documents.status(run.job)
        if run.job.status.final:
            return document
        over = sum(part.status != Status.RUNNING.value for part in run.parts.values())
        percent = (100.0 * over + (run.percent if run.current is not None else 0.0)) / len(run.chain.steps)
        part = next((part for part in run.parts.values() if part.status == Status.RUNNING.value), None)
        return document | {"percent": round(min(percent, 99.0), 1), "title": part.step if part is not None else None}


_NONE = Part("", "")


def _is_over(part: Part, step: Step) -> bool:
    return part.status != Status.RUNNING and (part.status != Status.FAILED or part.tries > step.retry)


def _of_step(step: Step, error: BridgeError, job_id: str | None, *, code: str | None = None) -> StepError:
    """Return an error that names the step; its code is that of the part's."""
    details = {"step": step.name, "prompt_id": job_id}
    return StepError(f"step {step.name!r}: {error.message}", code or error.code, details)


def _by_step(values: Values) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for target, value in values.items():
        found.setdefault(target.node, {})[target.input] = value
    return found


def _values(document: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {step: {key: value_from_json(value) for key, value in given.items()} for step, given in document.items()}
