"""The commands of the bridge. Every face calls these and nothing deeper.

A command raises a BridgeError, or returns the `data` of its answer. Commands take effect in the order in which they
are called: what a command changes, it changes before it waits for the first time. An image that has yet to be
fetched is a promise from then on, which whoever needs the value waits for; others do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge import __version__, errors, events, requests
from bridge.jobs.model import ImageValue, Job, Payload, iso
from bridge.jobs.runner import Runner
from bridge.jobs.store import Store
from bridge.library import Library, Workflow
from bridge.media.sources import Media
from bridge.settings import Settings
from bridge.transactions import Transactions, accepted
from bridge.values import CurrentValues, Values
from bridge.workflow.graph import Target, slug
from bridge.workflow.kinds import MEDIA_TYPES
from bridge.workflow.parameters import Parameter
from bridge.workflow.values import RANDOM, apply, image_targets, is_seed, named_parameter, text_targets

logger = logging.getLogger(__name__)

QUEUE_SHOWN = 100
"""How many waiting jobs `queue/state` lists."""
# Every program can write numbers up to this one exactly; half of them lose digits above 2^53.
_SEEDS = 2**50


@dataclass(slots=True, eq=False)
class _Ticket:
    """A `queue` whose jobs are not accepted yet; an `interrupt` that came after it means them too."""

    workflow: str
    interrupted: bool = False


class Core:
    """What the bridge can do. `start` first."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        library: Library,
        runner: Runner,
        hub: events.Hub,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._library = library
        self._runner = runner
        self._hub = hub
        self._clock = clock
        self._media = Media(settings, store, runner.pool.file_exists)
        self._values = CurrentValues(store, hub, self._media)
        self._loaded: str | None = None
        self._queueing: list[_Ticket] = []
        self._started_at = clock()
        self.transactions = Transactions(store, clock=clock)
        self.health_parts: dict[str, Callable[[], Mapping[str, Any]]] = {}
        """What else `health` shows, by name: a part of the bridge adds itself."""

    async def start(self) -> None:
        """Read the workflows, the values that were set and which workflow is loaded."""
        await self.transactions.load()
        self._runner.on_object_info = self._learn_object_info
        last = await self._store.fact("loaded")
        await self._read_workflows(self._settings.workflows.loaded or last)
        await self._values.load()
        if not self._library.workflows:
            logger.warning("there are no workflows in %s", self._library.directory)

    # Workflows

    async def load(self, request: requests.Load) -> dict[str, Any]:
        """Make a workflow the one that bare commands act on."""
        workflow = self.workflow(request.workflow)
        if workflow.name != self._loaded:
            self._loaded = workflow.name
            if any(not isinstance(value, dict) for value in self._settings.node_mappings.values()):
                await self._read_workflows(workflow.name)  # the plain node_mappings are for the loaded one
            self._hub.publish(events.WorkflowsChanged())
            await self._store.set_fact("loaded", workflow.name)
        return {"workflow": workflow.name}

    async def reload(self) -> dict[str, Any]:
        """Read the files of the workflows again."""
        await self._read_workflows(self._loaded)
        self._hub.publish(events.WorkflowsChanged())
        return {"workflows": list(self._library.names()), "problems": self._problems()}

    def workflow(self, name: str | None = None) -> Workflow:
        """Return a workflow, or the loaded one. Raises UnknownWorkflow, or what keeps its file from being used."""
        name = name or self._loaded
        if name is None:
            raise errors.UnknownWorkflow(f"no workflow is loaded: {self._library.directory} holds none")
        try:
            return self._library.get(name)
        except errors.UnknownWorkflow:
            for problem in self._library.problems:
                if slug(problem.path.removesuffix(".json").replace("/", "-")) == slug(name.removesuffix(".json")):
                    raise problem.error from None
            raise

    def workflows(self) -> dict[str, Any]:
        """Return `bridge/workflows`: every workflow with its parameters and outputs."""
        return {
            "loaded": self._loaded,
            "workflows": [workflow.to_json() for workflow in self._library.workflows.values()],
            "problems": self._problems(),
        }

    def workflow_names(self) -> tuple[str, ...]:
        """Return the names of all workflows."""
        return self._library.names()

    def _learn_object_info(self, object_info: Mapping[str, Any]) -> None:
        self._library.learn(object_info)
        self._hub.publish(events.WorkflowsChanged())

    async def _read_workflows(self, loaded: str | None) -> None:
        names = {key for key, value in self._settings.node_mappings.items() if isinstance(value, dict)}
        if loaded is None:
            await asyncio.to_thread(self._library.load, mappings={})
            first = self._library.default()
            loaded = first.name if first is not None else None
        if loaded is not None:
            names.add(loaded)
        mappings = {name: self._settings.mappings_for(name, loaded=name == loaded) for name in names}
        for problem in await asyncio.to_thread(self._library.load, mappings=mappings):
            logger.warning("the workflow %s: %s", problem.path, problem.error.message)
        if loaded is not None and loaded not in self._library.workflows:
            logger.warning("the workflow %s, which was to be loaded, is not there", loaded)
            first = self._library.default()
            loaded = first.name if first is not None else None
        self._loaded = loaded

    def _problems(self) -> list[dict[str, Any]]:
        return [{"path": problem.path, "error": problem.error.to_json()} for problem in self._library.problems]

    # Values

    def values(self, name: str | None = None) -> dict[str, Any]:
        """Return what a workflow is set to: its parameters, and any other input set by hand as `<node>.<input>`."""
        workflow = self.workflow(name)
        return self._values.shown(workflow, self._values.fitting(workflow, self._values.of(workflow).values))

    async def update_text(self, request: requests.UpdateText, *, workflow: str | None = None) -> dict[str, Any]:
        """Set a text."""
        found = self.workflow(workflow)
        targets = text_targets(found.graph, found.parameters, request.node, mappings=found.mappings)
        await self._values.set(found, dict.fromkeys(targets, request.text))
        return self._set(found, targets)

    async def update_values(self, values: Mapping[str, Any], *, workflow: str | None = None) -> dict[str, Any]:
        """Set parameters and inputs by name: all or none."""
        found = self.workflow(workflow)
        plain, sources = self._values.assignments(found, values)
        if sources:
            await self._values.set_images(found, sources, plain)
        else:
            await self._values.set(found, plain)
        return self._set(found, (*plain, *sources))

    async def update_image(self, request: requests.UpdateImage, *, workflow: str | None = None) -> dict[str, Any]:
        """Set an image, a mask for it, or both."""
        found = self.workflow(workflow)
        targets = image_targets(found.graph, found.parameters, request.node, mappings=found.mappings)
        if request.mask is None or any((request.filename, request.url, request.base64)):
            request.given()
        await self._values.set_images(found, dict.fromkeys(targets, request))
        return self._set(found, targets)

    async def update_image_bytes(self, node: str | None, data: bytes, *, workflow: str | None = None) -> dict[str, Any]:
        """Set an image to the given bytes."""
        found = self.workflow(workflow)
        targets = image_targets(found.graph, found.parameters, node, mappings=found.mappings)
        self._media.check(data)
        await self._values.set_images(found, dict.fromkeys(targets, data))
        return self._set(found, targets)

    async def set_parameter(self, name: str, payload: bytes, *, workflow: str) -> dict[str, Any]:
        """Set one parameter to a payload as it is: text, number, switch, or the bytes of an image."""
        found = self.workflow(workflow)
        parameter = named_parameter(found.parameters, name)
        if parameter is not None and parameter.type in MEDIA_TYPES and not _is_name(payload):
            return await self.update_image_bytes(name, payload, workflow=workflow)
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            raise errors.BadValue(f"{name} is not text in UTF-8") from None
        return await self.update_values({name: text}, workflow=workflow)

    def _set(self, workflow: Workflow, targets: Iterable[Target]) -> dict[str, Any]:
        inputs = [target.to_json() for target in targets]
        return {"workflow": workflow.name, "set": inputs, "values": self.values(workflow.name)}

    # Jobs

    async def queue(
        self, request: requests.Queue, *, workflow: str | None = None, transaction: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        """Run a workflow as it is set, with values for this run only; the answer names the jobs.

        transaction: command and key, written with the jobs, so that not even a crash makes them run twice.
        """
        if request.grid is not None or request.deliver is not None:
            raise errors.Unsupported(f"{'grid' if request.grid is not None else 'deliver'} is not supported yet")
        if request.count > self._settings.jobs.max_batch:
            raise errors.BadValue(f"count is {request.count}; at most {self._settings.jobs.max_batch} (jobs.max_batch)")
        if request.workflow is not None and workflow is not None and request.workflow != workflow:
            raise errors.BadPayload(f"workflow is {request.workflow!r} in the payload and {workflow!r} in the topic")
        found = self.workflow(request.workflow or workflow)
        if request.expires_at is not None and request.expires_at <= self._clock():
            raise errors.Expired(f"expires_at is {iso(request.expires_at)}, which is over")
        plain, sources = self._values.assignments(found, request.values)
        ticket = _Ticket(found.name)
        self._queueing.append(ticket)
        try:
            data = await self._queue(found, request, plain, sources, transaction)
        finally:
            self._queueing.remove(ticket)
        if ticket.interrupted:
            for job_id in data["prompt_ids"]:
                with contextlib.suppress(errors.AlreadyOver):
                    await self._runner.interrupt(job_id)
        return data

    async def _queue(
        self,
        found: Workflow,
        request: requests.Queue,
        plain: Values,
        sources: Mapping[Target, Any],
        transaction: tuple[str, str] | None,
    ) -> dict[str, Any]:
        now = self._clock()
        state = self._values.of(found).snapshot()
        images = await self._values.resolve(found, sources, state)
        values = {**await state.settled(), **plain, **images}
        values = self._values.fitting(found, values)
        batch_id = str(uuid.uuid4()) if request.count > 1 else None
        given = set(plain)
        jobs = []
        for number in range(request.count):
            job_values = self._drawn(found, values, step=number, given=given)
            job = Job(
                id=str(uuid.uuid4()),
                workflow=found.name,
                values=self._values.shown(found, job_values),
                created_at=now,
                priority=request.priority,
                expires_at=request.expires_at,
                batch_id=batch_id,
                transaction=transaction,
            )
            jobs.append((job, self._payload(found, job_values)))
        await self._runner.accept(jobs)
        return accepted([job for job, _ in jobs])

    def _drawn(self, workflow: Workflow, values: Values, *, step: int, given: set[Target]) -> Values:
        """Return the values of one run: random seeds drawn, others counted up by `step` unless they were given."""
        drawn = dict(values)
        for parameter in workflow.parameters:
            if not is_seed(parameter):
                continue
            value = drawn.get(parameter.targets[0], parameter.default)
            if value == RANDOM:
                value = _draw(parameter)
            elif step and not given & set(parameter.targets) and isinstance(value, int):
                value = (value + step) % (int(parameter.max or 2**64 - 1) + 1)
            else:
                continue
            drawn.update(dict.fromkeys(parameter.targets, value))
        # A seed that is no parameter, set by hand to "random".
        for target, value in drawn.items():
            if value == RANDOM and isinstance(workflow.graph[target.node]["inputs"].get(target.input), int):
                drawn[target] = _draw(None)
        return drawn

    def _payload(self, workflow: Workflow, values: Values) -> Payload:
        images = tuple(
            (target.node, target.input, value) for target, value in values.items() if isinstance(value, ImageValue)
        )
        plain = {target: value for target, value in values.items() if not isinstance(value, ImageValue)}
        return Payload(apply(workflow.graph, plain), images, workflow.answer)

    async def interrupt(self, request: requests.Interrupt, *, workflow: str | None = None) -> dict[str, Any]:
        """End jobs: one, those of a batch or of a workflow, or all of this bridge."""
        if request.prompt_id is not None:
            await self._runner.interrupt(request.prompt_id)
            return {"prompt_ids": [request.prompt_id]}
        for ticket in self._queueing:
            if request.batch_id is None and workflow in {None, ticket.workflow}:
                ticket.interrupted = True
        ids = self._runner.interrupt_all(batch_id=request.batch_id, workflow=workflow)
        if request.batch_id is not None and not ids:
            raise errors.UnknownPrompt(f"there is no batch {request.batch_id!r} with jobs that wait or run")
        return {"prompt_ids": ids}

    async def job(self, request: requests.JobRequest) -> dict[str, Any]:
        """Return one job, ended or not."""
        return await self._runner.job_document(request.prompt_id)

    async def jobs(self, request: requests.JobsRequest) -> dict[str, Any]:
        """Return the jobs that run and wait, and the last that ended."""
        finished = [job.result() for job in await self._store.finished(request.limit)]
        return {**self._runner.queue_document(request.limit), "finished": finished}

    def queue_state(self) -> dict[str, Any]:
        """Return `queue/state`."""
        return self._runner.queue_document(QUEUE_SHOWN)

    # The bridge itself

    def online(self) -> bool:
        """Tell whether some backend is there."""
        return any(backend.online for backend in self._runner.pool.backends)

    def backend_names(self) -> list[str]:
        """Return the names of the backends as topics have them."""
        return [backend.name for backend in self._runner.pool.backends]

    async def health(self) -> dict[str, Any]:
        """Return `bridge/health`: of the process, its parts and each backend with its memory."""
        return {
            "status": "ok" if self.online() else "degraded",
            "version": __version__,
            "time": iso(self._clock()),
            "uptime": round(self._clock() - self._started_at, 1),
            "backends": await self._runner.pool.health(),
            "queue": {key: value for key, value in self._runner.queue_document(0).items() if isinstance(value, int)},
            **{name: dict(part()) for name, part in self.health_parts.items()},
        }

    async def free(self, request: requests.Free) -> dict[str, Any]:
        """Free the memory of every backend that answers."""
        done = await self._runner.pool.free_memory(unload_models=request.unload_models, free_memory=request.free_memory)
        return {"backends": done}

    def info(self) -> dict[str, Any]:
        """Return `bridge/info`: what this bridge is and where it listens; no secrets."""
        return {
            "version": __version__,
            "base_topic": self._settings.mqtt.base_topic,
            "started_at": iso(self._started_at),
            "backends": {backend.name: backend.client.url for backend in self._runner.pool.backends},
            "limits": {
                "max_input": self._settings.media.max_input,
                "max_waiting": self._settings.jobs.max_waiting,
                "max_batch": self._settings.jobs.max_batch,
            },
        }

    async def log_level(self, request: requests.LogLevel) -> dict[str, Any]:
        """Change what is logged, until the next start."""
        logging.getLogger("bridge").setLevel(request.level.upper())
        return {"level": request.level}

    def media_in_use(self) -> set[str]:
        """Return the names of the bytes that values refer to."""
        return self._values.media_in_use()


def _draw(parameter: Parameter | None) -> int:
    limit = _SEEDS if parameter is None or parameter.max is None else min(_SEEDS, int(parameter.max) + 1)
    return random.SystemRandom().randrange(limit)


def _is_name(payload: bytes) -> bool:
    """Tell a file's name from the bytes of a file."""
    return len(payload) < 1024 and payload.isascii() and b"\x00" not in payload and payload.strip() != b""
