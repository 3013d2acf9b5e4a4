"""Handing a job to ComfyUI: images uploaded, the submission written, the graph posted."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bridge import errors
from bridge.comfyui.client import ComfyClient, ConnectionLost
from bridge.comfyui.failures import refused_nodes
from bridge.jobs import documents
from bridge.jobs.backend import Active, Backend
from bridge.jobs.model import ImageValue, Job, Payload
from bridge.jobs.store import Store
from bridge.media import inputs
from bridge.tasks import log_failure
from bridge.workflow.graph import Graph

logger = logging.getLogger(__name__)

_UPLOADED = 256
"""Uploads of each backend that are remembered: a camera may set a new image with each job, for months."""


class Again(Exception):
    """The attempt came to nothing.

    counts: it is one of the attempts that a job has. backend_failed: it speaks against the backend.
    """

    def __init__(self, reason: errors.BridgeError, *, counts: bool, backend_failed: bool = False) -> None:
        super().__init__(reason.message)
        self.reason = reason
        self.counts = counts
        self.backend_failed = backend_failed


def reserve(job: Job, backend: Backend) -> None:
    """Note in the job that this backend may know it from now on; written before anything is sent."""
    job.backend, job.client_id, job.submitted = backend.name, backend.socket.client_id, True


def refused_before(job: Job) -> errors.NodeErrors | None:
    """Return what the server refused of a graph that it took, as it was noted in the job then."""
    noted = job.error or {}
    if noted.get("code") != errors.NodeErrors.code:
        return None
    return errors.NodeErrors(noted["message"], node=noted.get("node"), details=noted.get("details"))


class Submitter:
    """Submits jobs. clock: seconds since the epoch."""

    def __init__(self, store: Store, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def submit(self, backend: Backend, active: Active) -> None:
        """Upload what the job needs, and hand it over; when this returns, ComfyUI has it or may have it.

        Raises Again if it can be tried later, or the error that ends the job.
        """
        job = active.job
        if job.expires_at is not None and job.expires_at <= self._clock():
            raise documents.expired(job)
        if job.attempts and not active.reserved and await self._known(backend, job):
            await self._follow(backend, active)
            return
        old = any(_key(value) in backend.uploaded for _, _, value in active.payload.images)
        graph = await self._with_images(backend, active.payload)
        if job.interrupting:
            raise errors.Lost("interrupted before it was submitted")
        if not active.reserved or job.client_id != backend.socket.client_id:
            job.attempts += not active.reserved
            reserve(job, backend)
            await self._store.save(job)
        active.epoch = backend.epoch
        backend.last_workflow = job.workflow
        try:
            await self._post(backend, active, graph)
        except errors.NodeErrors:
            if not old:
                raise
            # Perhaps somebody has tidied up: what was uploaded for an earlier job is uploaded once more.
            for _, _, value in active.payload.images:
                backend.uploaded.pop(_key(value), None)
            await self._post(backend, active, await self._with_images(backend, active.payload))

    async def _with_images(self, backend: Backend, payload: Payload) -> Graph:
        """Return the graph with the names of its images at the backend, uploaded where they are not yet."""
        graph = {node: {**entry, "inputs": dict(entry["inputs"])} for node, entry in payload.graph.items()}
        try:
            for node, name, value in payload.images:
                graph[node]["inputs"][name] = await self._uploaded(backend, value)
        except (errors.BackendOffline, errors.TimedOut) as error:
            raise Again(error, counts=False) from None
        return graph

    async def _post(self, backend: Backend, active: Active, graph: Graph) -> None:
        job = active.job
        try:
            taken = await backend.client.submit(graph, prompt_id=job.id, client_id=job.client_id or "")
        except (ConnectionLost, errors.TimedOut) as error:
            self._doubt(backend, active, error)
            return
        except errors.BackendOffline as error:
            job.submitted = False
            job.attempts -= 1
            raise Again(error, counts=False) from None
        except errors.InvalidGraph as error:
            if (error.details or {}).get("status") != 500:
                job.submitted = False
                raise
            # The graph was checked: the server is not well, and may have queued it all the same.
            if await _may_have(backend.client, job.id):
                self._doubt(backend, active, error)
                return
            job.submitted = False
            raise Again(error, counts=True, backend_failed=True) from None
        active.submitted = True
        if taken.node_errors:
            # Said only once: a restart could not ask for it.
            active.life.error = refused = refused_nodes(taken.node_errors)
            job.error = refused.to_json()
            self._store.save(job).add_done_callback(log_failure)
        if taken.prompt_id != job.id:
            logger.warning(
                "ComfyUI at %s chooses its own prompt ids; it is too old (July 2025 is needed)", backend.name
            )
            await backend.client.delete_pending(taken.prompt_id)
            raise errors.Unsupported("this ComfyUI is too old for the bridge: it is from before July 2025")

    @staticmethod
    def _doubt(backend: Backend, active: Active, error: errors.BridgeError) -> None:
        """Leave it to the queue and the history to tell whether ComfyUI has the prompt."""
        logger.info("the submission of %s to %s is in doubt: %s", active.job.id, backend.name, error.message)
        active.ambiguous = active.submitted = True
        backend.suspicious.set()

    async def _known(self, backend: Backend, job: Job) -> bool:
        """Tell whether the server holds an earlier attempt, or ran it well.

        One that ended otherwise it is made to forget: that history entry would be taken for the new attempt's.
        """
        client = backend.client
        try:
            if isinstance(job.error, dict) and job.error.get("code") == errors.OutOfMemory.code:
                await client.free(unload_models=True, free_memory=True)
            while await client.knows(job.id):
                entry = await client.history(job.id)
                if entry is None or entry.status_str == "success":
                    return True
                await client.delete_history(job.id)
        except (errors.BackendOffline, errors.TimedOut) as error:
            raise Again(error, counts=False) from None
        return False

    async def _follow(self, backend: Backend, active: Active) -> None:
        """Take up an attempt that the server has already, as after a restart of the bridge."""
        job = active.job
        logger.info("%s has the job %s already", backend.name, job.id)
        job.backend, job.submitted = backend.name, True
        await self._store.save(job)
        active.epoch = backend.epoch
        active.submitted = active.ambiguous = active.missed = True
        backend.suspicious.set()

    async def _uploaded(self, backend: Backend, value: ImageValue) -> str:
        key = _key(value)
        name = backend.uploaded.pop(key, None)
        if name is None:
            name = await inputs.upload(backend.client, self._store, value)
        backend.uploaded[key] = name
        if len(backend.uploaded) > _UPLOADED:
            del backend.uploaded[next(iter(backend.uploaded))]
        return name


def _key(value: ImageValue) -> str:
    """What an uploaded image was made of."""
    return f"{value.filename} {value.sha256} {value.mask}"


async def _may_have(client: ComfyClient, prompt_id: str) -> bool:
    """Tell whether the server knows a prompt; True too if it cannot be asked."""
    try:
        return await client.knows(prompt_id)
    except (errors.BackendOffline, errors.TimedOut):
        return True
