"""Runs chains: each a job with parts, driven step by step, written after each so that a restart goes on there."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import tomllib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bridge import events
from bridge.errors import (
    BadValue,
    BridgeError,
    ExecutionError,
    FileMissing,
    Internal,
    JobError,
    StoreError,
    UnknownWorkflow,
)
from bridge.jobs import documents
from bridge.jobs.chains import SKIPPED, Chain, Part, Reference, Step, applies, read_chain
from bridge.jobs.model import ImageValue, Job, Output, Status
from bridge.jobs.reporter import Reporter
from bridge.jobs.store import Store
from bridge.library import Problem
from bridge.media import kinds
from bridge.workflow.graph import Target, slug
from bridge.workflow.parameters import Parameter
from bridge.workflow.workflow import Workflow, title_of

logger = logging.getLogger(__name__)

_KIND = "chain"
_MAX_FILE = 1_000_000

Values = Mapping[Target, Any]


@dataclass(frozen=True, slots=True)
class ChainWorkflow(Workflow):
    """A chain as a workflow like any other: its nodes are the steps, their inputs the parameters that can be set."""

    chain: Chain = field(default_factory=lambda: Chain("", "", ()))


def as_workflow(name: str, path: str, chain: Chain, get: Callable[[str], Workflow]) -> ChainWorkflow:
    """Make a workflow of a chain. Raises BadValue, UnknownWorkflow naming the step."""
    graph: dict[str, dict[str, Any]] = {}
    shown: dict[str, Parameter] = {}
    last: Workflow | None = None
    for step in chain.steps:
        try:
            workflow = last = get(step.workflow)
        except UnknownWorkflow as error:
            raise UnknownWorkflow(f"{path}: step {step.name!r}: {error.message}") from None
        inputs: dict[str, Any] = {}
        for parameter in workflow.parameters:
            if parameter.name in step.references or not parameter.targets:
                continue
            default = step.values.get(parameter.name, parameter.default)
            inputs[parameter.name] = default
            target = (Target(step.name, parameter.name),)
            # Of two steps with the same parameter the first has its plain name.
            label = parameter.name if parameter.name not in shown else f"{step.name}_{parameter.name}"
            shown[label] = dataclasses.replace(parameter, name=label, default=default, targets=target)
        graph[step.name] = {"class_type": step.workflow, "inputs": inputs, "_meta": {"title": step.name}}
    if chain.parameters is not None:
        shown = dict(_chosen(path, chain.parameters, graph, list(shown.values())))
    return ChainWorkflow(
        name=name,
        path=path,
        title=chain.title or title_of(path),
        graph=graph,
        parameters=tuple(shown.values()),
        outputs=last.outputs if last is not None else (),
        kind=_KIND,
        description=chain.description,
        chain=chain,
    )


def _chosen(
    path: str, wanted: Mapping[str, tuple[str, str]], graph: Mapping[str, Any], parameters: list[Parameter]
) -> Mapping[str, Parameter]:
    chosen = {}
    for name, (step, key) in wanted.items():
        target = Target(step, key)
        found = next((one for one in parameters if target in one.targets), None)
        if found is None:
            have = ", ".join(graph[step]["inputs"]) or "none"
            raise BadValue(
                f"{path}: parameters.{name}: the step {step!r} has no parameter {key!r} to set; it has {have}"
            )
        title = found.title if found.name == key else name
        chosen[name] = dataclasses.replace(found, name=name, title=title)
    return chosen


class ChainLibrary:
    """The chains in a folder: every `*.toml` that is not hidden. `load` blocks; `build` makes workflows of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._chains: dict[str, tuple[str, Chain]] = {}
        self._broken: list[Problem] = []
        self.problems: list[Problem] = []
        self.workflows: dict[str, ChainWorkflow] = {}

    def load(self) -> None:
        """Read all files anew; one that is broken keeps its last good version."""
        chains: dict[str, tuple[str, Chain]] = {}
        self._broken = []
        for file in sorted(self.directory.glob("*.toml")) if self.directory.is_dir() else ():
            name, path = slug(file.stem), file.name
            if not name or file.name.startswith("."):
                continue
            try:
                chains[name] = (path, _read(file))
            except BridgeError as error:
                self._broken.append(Problem(path, error, name))
                if name in self._chains:
                    chains[name] = self._chains[name]
        self._chains = chains

    def build(self, get: Callable[[str], Workflow], taken: Mapping[str, Workflow]) -> None:
        """Make workflows of the chains. get: gives the workflow of a step; taken: names that are workflows already."""
        made: dict[str, ChainWorkflow] = {}
        self.problems = list(self._broken)
        for name, (path, chain) in self._chains.items():
            try:
                if name in taken:
                    raise BadValue(f"{path} would have the name {name!r}, which {taken[name].path} has already")
                made[name] = as_workflow(name, path, chain, get)
            except BridgeError as error:
                self.problems.append(Problem(path, error, name))
        self.workflows = made


def _read(file: Path) -> Chain:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE)
        return read_chain(tomllib.loads(data.decode("utf-8-sig")), where=file.name)
    except OSError as error:
        raise FileMissing(f"{file.name} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BadValue(f"{file.name} is not text in UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadValue(f"{file.name} is not TOML: {error}") from None


class Parts(Protocol):
    """What the driver needs of the core: to run a part, end it, look at it and fetch what it made."""

    async def run_part(
        self, workflow: str, values: Mapping[str, Any], *, job_id: str, parent: str, priority: int
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
    percent: float = 0.0
    task: asyncio.Task[None] | None = None


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
        self._ends: dict[str, asyncio.Future[None]] = {}

    async def load(self) -> None:
        """Go on with the chains that the last run left."""
        for job in await self._store.unfinished_chains():
            document = json.loads(await self._store.raw_payload(job.id))
            chain = read_chain(document["chain"], where=str(job.workflow))
            parts = {part["step"]: Part(**part) for part in job.parts}
            self._go(_Run(job, chain, _values(document["values"]), parts))

    async def close(self) -> None:
        """Stop driving; the parts go on, and so does the next start."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def start(self, job: Job, chain: Chain, values: Values) -> None:
        """Take a new chain: written to the store when this returns."""
        job.kind = _KIND
        by_step: dict[str, dict[str, Any]] = {}
        for target, value in values.items():
            by_step.setdefault(target.node, {})[target.input] = value
        plain = {
            step: {key: value.to_json() if isinstance(value, ImageValue) else value for key, value in given.items()}
            for step, given in by_step.items()
        }
        payload = json.dumps({"chain": chain.to_json(), "values": plain}).encode()
        await self._store.add([(job, payload)])
        self._report.begin(job)
        self._report.status(job)
        self._go(_Run(job, chain, by_step, {}))

    async def interrupt(self, job_id: str) -> bool:
        """End a chain; False if no such chain runs."""
        run = self._runs.get(job_id)
        if run is None:
            return False
        run.job.interrupting = True
        await self._store.save(run.job)
        if run.current is not None:
            await self._core.end_part(run.current)
        return True

    def ids(self, workflow: str | None = None) -> list[str]:
        """Return the chains that run, of one name if given."""
        return [run.job.id for run in self._runs.values() if workflow in {None, run.job.workflow}]

    def listen(self, event: events.Event) -> None:
        """Take what happens to a part."""
        match event:
            case events.JobStatus(final=True):
                future = self._ends.pop(event.job_id, None)
                if future is not None and not future.done():
                    future.set_result(None)
            case events.JobProgress():
                run = next((one for one in self._runs.values() if one.current == event.job_id), None)
                if run is not None:
                    run.percent = float(event.document["percent"])
                    self._hub.publish(events.JobProgress(run.job.id, run.job.workflow, self._document(run)))

    def _go(self, run: _Run) -> None:
        self._runs[run.job.id] = run
        run.task = asyncio.get_running_loop().create_task(self._drive(run), name=f"chain {run.job.id}")

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
        await self._take_outputs(run)
        reason = documents.interrupted() if end is Status.INTERRUPTED else None
        del self._runs[job.id]
        await self._report.end(job, end, error.to_json() if error is not None else reason)
        self._hub.publish(events.BatchResult(job.id, {**job.result(), "kind": _KIND}))
        self._publish_batch(run, final=True)

    async def _steps(self, run: _Run) -> tuple[Status, BridgeError | None]:
        job = run.job
        if job.started_at is None:
            job.started_at = self._clock()
        job.status = Status.RUNNING
        for step in run.chain.steps:
            if job.interrupting:
                return Status.INTERRUPTED, None
            part = run.parts.get(step.name)
            if part is not None and part.status in {SKIPPED, Status.COMPLETED.value}:
                continue
            earlier = {name: one for name, one in run.parts.items() if name != step.name}
            if not applies(step.when, earlier, await self._texts(run)):
                if step.when is None:
                    break  # an earlier one failed, and nothing is said of what then
                await self._note(run, Part(step.name, SKIPPED))
                continue
            await self._run_step(run, step, part)
        wrong = [step for step in run.chain.steps if run.parts.get(step.name, _NONE).status == Status.FAILED.value]
        handled = {step.when.step for step in run.chain.steps if step.when is not None}
        for step in wrong:
            if step.name not in handled:
                return Status.FAILED, await self._step_error(run, step)
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
            run.current, run.percent = job_id, 0.0
            end = asyncio.get_running_loop().create_future()
            self._ends[job_id] = end
            await self._note(run, Part(step.name, Status.RUNNING.value, job_id, tries))
            known = await self._core.find_part(job_id)
            if known is None:
                values = await self._values_of(run, step)
                await self._core.run_part(
                    step.workflow, values, job_id=job_id, parent=run.job.id, priority=run.job.priority
                )
                if run.job.interrupting:
                    await self._core.end_part(job_id)
            if known is None or not known.status.final:
                await end
                known = await self._core.find_part(job_id)
            self._ends.pop(job_id, None)
            run.current = None
            status = known.status if known is not None else Status.FAILED
            await self._note(run, Part(step.name, status.value, job_id, tries))
            if status is not Status.FAILED or tries > step.retry or run.job.interrupting:
                if status is Status.INTERRUPTED and not run.job.interrupting:
                    raise _of_step(step, ExecutionError("its job was interrupted"), job_id)
                return

    async def _values_of(self, run: _Run, step: Step) -> dict[str, Any]:
        values: dict[str, Any] = {**step.values, **run.values.get(step.name, {})}
        for key, reference in step.references.items():
            try:
                values[key] = await self._referred(run, reference)
            except BridgeError as error:
                raise _of_step(step, error, None, f"values.{key}: ") from None
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
        run.job.seq += 1
        self._hub.publish(events.JobStatus(run.job.id, run.job.workflow, self._document(run), final=False))
        self._publish_batch(run, final=False)

    def _publish_batch(self, run: _Run, *, final: bool) -> None:
        document = {**self._document(run), "kind": _KIND, "parts": list(run.job.parts)}
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


def _of_step(
    step: Step, error: BridgeError, job_id: str | None, prefix: str = "", *, code: str | None = None
) -> BridgeError:
    """Return an error that names the step; its code is that of the part's."""
    details = {"step": step.name, "prompt_id": job_id}
    return StepError(f"step {step.name!r}: {prefix}{error.message}", code or error.code, details)


class StepError(JobError):
    """What ended a step, and the chain with it; its code on the wire is that of the step's own error."""

    def __init__(self, message: str, step_code: str, details: Mapping[str, Any]) -> None:
        super().__init__(message, details=details)
        self.step_code = step_code

    def to_json(self) -> dict[str, Any]:
        """The usual shape, with the step's code."""
        return {**super().to_json(), "code": self.step_code}


def _values(document: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        step: {key: ImageValue.from_json(value) or value for key, value in given.items()}
        for step, given in document.items()
    }
