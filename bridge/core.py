"""The commands of the bridge. Every face calls these and nothing deeper.

A command raises a BridgeError, or returns the `data` of its answer. Commands take effect in the order in which they
are called: what a command changes, it changes before it waits for the first time. An image that has yet to be
fetched is a promise from then on, which whoever needs the value waits for; others do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge import errors, events, requests
from bridge.batches import Batches
from bridge.chains import Chains
from bridge.comfyui.shapes import HistoryEntry
from bridge.health import Health
from bridge.ideas import Painter
from bridge.jobs.lookup import Lookup
from bridge.jobs.model import CHAIN, ImageValue, Output, Payload, iso
from bridge.jobs.reporter import Reporter
from bridge.jobs.runner import Runner
from bridge.jobs.store import Store
from bridge.library import Library
from bridge.media.sources import Media
from bridge.orders import Orders
from bridge.prompts import Prompts
from bridge.settings import Settings
from bridge.shelf import Shelf
from bridge.transactions import Transactions
from bridge.values import CurrentValues
from bridge.workflow.encoders import reads_sentences
from bridge.workflow.graph import Target
from bridge.workflow.kinds import MEDIA_TYPES
from bridge.workflow.values import named_parameter
from bridge.workflow.workflow import Workflow

logger = logging.getLogger(__name__)

_FREEING = 1.0
"""Seconds that ComfyUI has to unload its models before a prompt writer loads its own."""
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
        self._runner = runner
        self._hub = hub
        self._clock = clock
        self._media = Media(settings, store, runner.pool.file_exists)
        self._values = CurrentValues(store, hub, self._media)
        self._shelf = Shelf(settings, library, store, hub)
        self._lookup = Lookup(store, runner, max_bytes=settings.media.max_output)
        self._queueing: list[_Ticket] = []
        self._batches = Batches(store, hub)
        self._orders = Orders(runner, self._values, self._batches, self._lookup, self.workflow, clock=clock)
        report = Reporter(store, hub, clock=clock, max_output=settings.media.max_output)
        self._chains = self._orders.chains = Chains(store, hub, report, self._orders, clock=clock)
        self.prompts = Prompts(settings, store, hub, self)
        """Ideas that become prompts."""
        self.transactions = Transactions(store, clock=clock)
        self._health = Health(settings, store, runner, clock=clock)
        self.health_parts = self._health.parts
        """What else `health` shows, by name: a part of the bridge adds itself."""
        self.addresses = self._health.addresses
        """Where the faces listen, by their names."""

    async def start(self) -> None:
        """Read the workflows, the values that were set and which workflow is loaded."""
        await self.transactions.load()
        await self._lookup.load()
        await self._batches.load()
        self._runner.on_object_info = self._shelf.learn
        await self._shelf.start()
        await self._values.load()
        await self.prompts.load()

    # Workflows

    async def load(self, request: requests.Load) -> dict[str, Any]:
        """Make a workflow the one that bare commands act on."""
        return {"workflow": (await self._shelf.load(request.workflow)).name}

    async def reload(self) -> dict[str, Any]:
        """Read the files of the workflows again."""
        await self._shelf.reload()
        return {"workflows": list(self._shelf.workflows), "problems": self._shelf.document()["problems"]}

    def workflow(self, name: str | None = None) -> Workflow:
        """Return a workflow, or the loaded one. Raises UnknownWorkflow, or what keeps its file from being used."""
        return self._shelf.get(name)

    def workflows(self) -> dict[str, Any]:
        """Return `bridge/workflows`: every workflow with its parameters and outputs."""
        return self._shelf.document()

    def workflow_names(self) -> tuple[str, ...]:
        """Return the names of all workflows."""
        return tuple(self._shelf.workflows)

    def has_file(self, name: str) -> bool:
        """Tell whether there is a workflow of that name, even if nothing can be made of its file just now."""
        return self._shelf.has_file(name)

    async def refresh(self) -> None:
        """Take up what changed in the folder of the workflows, and say so; nothing when nothing did."""
        await self._shelf.refresh()

    # Values

    def values(self, name: str | None = None) -> dict[str, Any]:
        """Return what a workflow is set to: its parameters, and any other input set by hand as `<node>.<input>`."""
        workflow = self.workflow(name)
        return workflow.shown(self._values.fitting(workflow, self._values.of(workflow).values))

    async def update_text(self, request: requests.UpdateText, *, workflow: str | None = None) -> dict[str, Any]:
        """Set a text."""
        found = self.workflow(workflow)
        targets = found.text_targets(request.node)
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
        targets = found.image_targets(request.node)
        if request.mask is None or any((request.filename, request.url, request.base64)):
            request.given()
        await self._values.set_images(found, dict.fromkeys(targets, request))
        return self._set(found, targets)

    async def update_image_bytes(self, node: str | None, data: bytes, *, workflow: str | None = None) -> dict[str, Any]:
        """Set an image to the given bytes."""
        found = self.workflow(workflow)
        targets = found.image_targets(node)
        if _is_name(data):
            raise errors.BadValue(
                "the payload is not an image but a text; the bytes of a JPEG, PNG or WebP are needed, "
                'or {"filename": "…"} for a picture that ComfyUI has'
            )
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
        self,
        request: requests.Queue,
        *,
        workflow: str | None = None,
        transaction: tuple[str, str] | None = None,
        alias: str | None = None,
        owed: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run a workflow as it is set, with values for this run only; the answer names the jobs.

        transaction: command and key, written with the jobs, so that not even a crash makes them run twice.
        alias: a name for the job, where it is one. owed: what its end is owed (`Job.owed`), written with it.
        """
        if request.deliver is not None:
            raise errors.Unsupported("deliver is not supported yet")
        runs = request.runs(self._settings.jobs.max_batch)
        if request.workflow is not None and workflow is not None and request.workflow != workflow:
            raise errors.BadPayload(f"workflow is {request.workflow!r} in the payload and {workflow!r} in the topic")
        if request.steps is not None and (request.workflow or workflow) is not None:
            raise errors.BadPayload("steps make a chain of their own: no workflow can be named beside them")
        found = (
            self.workflow(request.workflow or workflow) if request.steps is None else self._shelf.chain(request.steps)
        )
        if request.expires_at is not None and request.expires_at <= self._clock():
            raise errors.Expired(f"expires_at is {iso(request.expires_at)}, which is over")
        assigned = [self._values.assignments(found, values) for values in _distinct(runs)]
        ticket = _Ticket(found.name)
        self._queueing.append(ticket)
        try:
            state = self._values.of(found).snapshot()
            data = await self._orders.queue(
                found, request, assigned, state, len(runs), transaction, alias=alias, owed=owed
            )
        finally:
            self._queueing.remove(ticket)
        if ticket.interrupted:
            for job_id in data["prompt_ids"]:
                with contextlib.suppress(errors.AlreadyOver):
                    await self._interrupt(job_id)
        return data

    async def run_graph(
        self,
        request: requests.RunGraph,
        *,
        files: Mapping[Target, ImageValue] | None = None,
        transaction: tuple[str, str] | None = None,
        owed: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run a whole graph, of no workflow, as it is; the answer names the job. `transaction`, `owed` as for `queue`.

        files: uploaded before it runs, and named in the inputs that they are for.
        """
        return await self._orders.run_graph(request, files=files, transaction=transaction, owed=owed)

    async def fetch_file(self, address: str) -> ImageValue:
        """Fetch a file from an address, for an input of a graph. Raises as `Guard.fetch`."""
        return await self._media.fetched(address)

    async def sample(self, name: str) -> Payload:
        """Return what a run of a workflow with nothing set would be, to warm a backend up."""
        return await self._orders.sample(name)

    async def interrupt(self, request: requests.Interrupt, *, workflow: str | None = None) -> dict[str, Any]:
        """End jobs: one, those of a batch or of a workflow, or all of this bridge.

        A batch may be named as `prompt_id` too: an id that was sent by itself does not say what it is of.
        """
        batch_id = request.batch_id
        workflow = None if workflow is None else self.workflow(workflow).name
        if request.prompt_id is not None:
            if self._batches.get(request.prompt_id) is None:
                job_id = self._lookup.resolve(request.prompt_id)
                if workflow is not None:
                    await self._check_workflow(job_id, workflow)
                await self._interrupt(job_id)
                return {"prompt_ids": [job_id]}
            batch_id = request.prompt_id
        for ticket in self._queueing:
            if batch_id is None and workflow in {None, ticket.workflow}:
                ticket.interrupted = True
        ids = await self._chains.interrupt_all(batch_id=batch_id, workflow=workflow)
        ids += await self._runner.interrupt_all(batch_id=batch_id, workflow=workflow)
        if batch_id is not None and not ids:
            if await self._store.batch(batch_id):
                raise errors.AlreadyOver(f"the batch {batch_id} has ended already")
            raise errors.UnknownPrompt(f"there is no batch {batch_id!r}")
        return {"prompt_ids": ids}

    async def _check_workflow(self, job_id: str, workflow: str) -> None:
        """Raise UnknownPrompt if the job is one of another workflow."""
        job = await self._runner.find(job_id)
        if job is not None and job.workflow != workflow:
            whose = "of no workflow" if job.workflow is None else f"one of the workflow {job.workflow}"
            raise errors.UnknownPrompt(f"the job {job_id} is {whose}, not of {workflow}")

    async def _interrupt(self, job_id: str) -> None:
        if not await self._chains.interrupt(job_id):
            await self._runner.interrupt(job_id)

    async def job(self, request: requests.JobRequest) -> dict[str, Any]:
        """Return one job, ended or not; a name that its caller chose stands for its id."""
        job_id = self._lookup.resolve(request.prompt_id)
        return self._chains.document(job_id) or await self._runner.job_document(job_id)

    async def job_list(self, request: requests.JobList) -> list[dict[str, Any]]:
        """Return jobs in full, newest first. A filter looks through the last two thousand of those that ended."""
        return await self._lookup.documents(request, self._chains.documents())

    async def output(self, request: requests.OutputRequest) -> tuple[Output, bytes]:
        """Return an output and its bytes, from the backend that ran the job (`Lookup.output` says what it raises)."""
        return await self._lookup.output(self._lookup.resolve(request.prompt_id), request.n)

    async def history(self, request: requests.JobRequest) -> HistoryEntry | None:
        """Return what ComfyUI remembers of a job; None if it knows none. Raises UnknownPrompt, BackendOffline."""
        return await self._lookup.history(self._lookup.resolve(request.prompt_id))

    async def jobs(self, request: requests.JobsRequest) -> dict[str, Any]:
        """Return the jobs that run and wait, and the last that ended."""
        finished = [job.result() for job in await self._store.finished(request.limit)]
        return {**self._runner.queue_document(request.limit), "finished": finished}

    def queue_state(self) -> dict[str, Any]:
        """Return `queue/state`."""
        return self._runner.queue_document(QUEUE_SHOWN)

    # Prompts (`self.prompts` has the rest)

    def check_then(self, request: requests.Then) -> Painter:
        """Check the run that a prompt which has yet to be written is for. Raises what `queue` would raise."""
        found = self.workflow(request.workflow)
        if named_parameter(found.parameters, "prompt") is None:
            raise errors.UnknownParameter(
                f"then: the workflow {found.name} has no parameter prompt that what is written could go to; "
                "name one in node_mappings"
            )
        self._values.assignments(found, {**request.values, "prompt": "a prompt"})
        takes_negative = named_parameter(found.parameters, "negative") is not None
        return Painter(found.name, takes_negative, not takes_negative or self._reads_sentences(found))

    def _reads_sentences(self, workflow: Workflow) -> bool:
        if workflow.kind != CHAIN:
            return reads_sentences(workflow.graph)
        return any(self._reads_sentences(self.workflow(step["class_type"])) for step in workflow.graph.values())

    def painters(self) -> list[str]:
        """Return the names of the workflows that a written prompt can go to."""
        found = self._shelf.workflows.items()
        return [name for name, workflow in found if named_parameter(workflow.parameters, "prompt") is not None]

    async def free_for_writer(self) -> None:
        """Have every ComfyUI leave its memory to a prompt writer, and give it a moment to do so."""
        await self._runner.pool.make_room(_FREEING)

    # The bridge itself

    @property
    def listener(self) -> events.Listener:
        """What the core itself has to hear of the hub."""
        return self._listen

    def _listen(self, event: events.Event) -> None:
        self._batches.listen(event)
        self._chains.listen(event)

    async def drive(self) -> None:
        """Go on with the chains of the last run, and drive them until cancelled."""
        await self._chains.load()
        try:
            await asyncio.Event().wait()
        finally:
            await self._chains.close()

    def knows_nodes(self) -> bool:
        """Tell whether some backend has told its nodes: types, limits and choices of parameters come from there."""
        return any(backend.catalogue is not None for backend in self._runner.pool.backends)

    def online(self) -> bool:
        """Tell whether some backend is there."""
        return self._runner.pool.online > 0

    async def not_ready(self) -> list[dict[str, Any]]:
        """Return why a new job could not be taken, or not be run, just now: errors, none if all is well."""
        return await self._health.not_ready()

    def backends(self) -> list[dict[str, Any]]:
        """Return what is known of each backend without asking it; counts are since the start."""
        return self._runner.pool.counts()

    def backend_names(self) -> list[str]:
        """Return the names of the backends as topics have them."""
        return [backend.name for backend in self._runner.pool.backends]

    async def health(self) -> dict[str, Any]:
        """Return `bridge/health`: of the process, its parts and each backend with its memory."""
        return await self._health.document()

    async def free(self, request: requests.Free) -> dict[str, Any]:
        """Free the memory of every backend that answers. Raises BackendOffline if none does."""
        done = await self._runner.pool.free_memory(unload_models=request.unload_models, free_memory=request.free_memory)
        if not done:
            raise errors.BackendOffline("no ComfyUI server answers, so no memory was freed")
        return {"backends": done}

    def info(self) -> dict[str, Any]:
        """Return `bridge/info`: what this bridge is and where it listens; no secrets."""
        return self._health.info()

    async def log_level(self, request: requests.LogLevel) -> dict[str, Any]:
        """Change what is logged, until the next start."""
        logging.getLogger("bridge").setLevel(request.level.upper())
        return {"level": request.level}

    def media_in_use(self) -> set[str]:
        """Return the names of the bytes that values refer to."""
        return self._values.media_in_use()


def _distinct(runs: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the values of each run; of `count` runs, which share theirs, just once."""
    return runs[:1] if all(values is runs[0] for values in runs) else runs


def _is_name(payload: bytes) -> bool:
    """Tell a file's name from the bytes of a file."""
    try:
        text = payload.decode().strip()
    except UnicodeDecodeError:
        return False
    return len(payload) < 1024 and text != "" and text.isprintable()
