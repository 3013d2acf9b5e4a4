"""Handing a job to ComfyUI: images uploaded, the submission written, the graph posted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from bridge import errors
from bridge.comfyui.client import ConnectionLost
from bridge.comfyui.failures import refused_nodes
from bridge.jobs import documents
from bridge.jobs.backend import Active, Backend
from bridge.jobs.model import ImageValue, Job
from bridge.jobs.store import Store
from bridge.media import inputs

logger = logging.getLogger(__name__)


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
        if not active.reserved:
            await self._before_again(backend, job)
        graph = {node: {**entry, "inputs": dict(entry["inputs"])} for node, entry in active.payload.graph.items()}
        try:
            for node, name, value in active.payload.images:
                graph[node]["inputs"][name] = await self._uploaded(backend, value)
        except (errors.BackendOffline, errors.TimedOut) as error:
            raise Again(error, counts=False) from None
        if job.interrupting:
            raise errors.Lost("interrupted before it was submitted")
        if not active.reserved or job.client_id != backend.socket.client_id:
            job.attempts += not active.reserved
            reserve(job, backend)
            await self._store.save(job)
        active.epoch = backend.epoch
        backend.last_workflow = job.workflow
        await self._post(backend, active, graph)

    async def _post(self, backend: Backend, active: Active, graph: dict[str, Any]) -> None:
        job = active.job
        try:
            taken = await backend.client.submit(graph, prompt_id=job.id, client_id=job.client_id or "")
        except (ConnectionLost, errors.TimedOut) as error:
            # ComfyUI may have it: the queue and the history will tell.
            logger.info("the submission of %s to %s is in doubt: %s", job.id, backend.name, error.message)
            active.ambiguous = active.submitted = True
            backend.suspicious.set()
            return
        except errors.BackendOffline as error:
            job.submitted = False
            job.attempts -= 1
            raise Again(error, counts=False) from None
        except errors.InvalidGraph as error:
            job.submitted = False
            if (error.details or {}).get("status") == 500:  # the graph was checked: the server is not well
                raise Again(error, counts=True, backend_failed=True) from None
            raise
        active.submitted = True
        if taken.node_errors:
            active.life.error = refused_nodes(taken.node_errors)
        if taken.prompt_id != job.id:
            logger.warning(
                "ComfyUI at %s chooses its own prompt ids; it is too old (July 2025 is needed)", backend.name
            )
            await backend.client.delete_pending(taken.prompt_id)
            raise errors.Unsupported("this ComfyUI is too old for the bridge: it is from before July 2025")

    async def _before_again(self, backend: Backend, job: Job) -> None:
        """Make a server forget an earlier attempt: its history entry would be taken for the new one's."""
        if not job.attempts:
            return
        try:
            if isinstance(job.error, dict) and job.error.get("code") == errors.OutOfMemory.code:
                await backend.client.free(unload_models=True, free_memory=True)
            while await backend.client.history(job.id) is not None:
                await backend.client.delete_history(job.id)
        except (errors.BackendOffline, errors.TimedOut) as error:
            raise Again(error, counts=False) from None

    async def _uploaded(self, backend: Backend, value: ImageValue) -> str:
        key = f"{value.filename} {value.sha256} {value.mask}"
        name = backend.uploaded.get(key)
        if name is None:
            name = backend.uploaded[key] = await inputs.upload(backend.client, self._store, value)
        return name
