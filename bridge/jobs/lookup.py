"""Jobs as they are asked for: by id or by the name that a caller chose, in lists, and the bytes of their outputs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from bridge.comfyui.shapes import FileRef, HistoryEntry
from bridge.errors import BackendOffline, FileMissing, UnknownPrompt
from bridge.jobs import documents
from bridge.jobs.lifecycle import WEBSOCKET
from bridge.jobs.model import Output
from bridge.jobs.runner import Documents, Runner
from bridge.jobs.store import Store
from bridge.requests import JobList

_ALIASES = 10_000
_LOOKED_THROUGH = 2_000
"""How many of the jobs that ended last a filter looks through."""


class Lookup:
    """Finds jobs. `load` first."""

    def __init__(self, store: Store, runner: Runner, *, max_bytes: int) -> None:
        self._store = store
        self._runner = runner
        self._max_bytes = max_bytes
        self._aliases: OrderedDict[str, str] = OrderedDict()

    async def load(self) -> None:
        """Take up the names of the jobs of before."""
        for alias, job_id in await self._store.aliases():
            self.name(alias, job_id)

    def name(self, alias: str, job_id: str) -> None:
        """Remember a name for a job; the newest ten thousand are kept."""
        self._aliases[alias] = job_id
        self._aliases.move_to_end(alias)
        if len(self._aliases) > _ALIASES:
            self._aliases.popitem(last=False)

    def resolve(self, name: str) -> str:
        """Return the id of the job of that name; an id stands for itself."""
        return self._aliases.get(name, name)

    async def documents(self, request: JobList, chains: Documents) -> list[dict[str, Any]]:
        """Return jobs in full, newest first: those that wait and run, then those that ended last.

        chains: the ones that run, which the runner does not know.
        """

        def meant(document: dict[str, Any]) -> bool:
            return (
                request.status in {None, str(document["status"])}
                and request.workflow in {None, document["workflow"]}
                and request.batch_id in {None, document.get("batch_id")}
            )

        filtered = (request.status, request.workflow, request.batch_id) != (None, None, None)
        found = [one for one in self._runner.job_documents(None if filtered else request.limit, chains) if meant(one)]
        if len(found) < request.limit:
            known = {document["id"] for document in found}
            for job in await self._store.finished(_LOOKED_THROUGH if filtered else request.limit):
                document = documents.job(job)
                if job.id not in known and meant(document):
                    found.append(document)
        return found[: request.limit]

    async def output(self, job_id: str, n: int) -> tuple[Output, bytes]:
        """Fetch the bytes of an output from the backend that ran the job.

        Raises UnknownPrompt; FileMissing if there is no such output, or ComfyUI no longer has it; BackendOffline,
        TimedOut, TooLarge.
        """
        job = await self._runner.find(job_id)
        if job is None:
            raise UnknownPrompt(f"there is no job {job_id!r}")
        output = next((one for one in job.outputs if one.n == n), None)
        if output is None:
            made = f"it has {len(job.outputs)}" if job.status.final else "it has not ended"
            raise FileMissing(f"the job {job.id} has no output {n}: {made}")
        if output.type == WEBSOCKET:
            raise FileMissing(f"output {n} of the job {job.id} was sent once and stored nowhere (SaveImageWebsocket)")
        backend = self._runner.pool.named(job.backend)
        if backend is None:
            raise BackendOffline(f"the backend {job.backend}, which has the output, is not in comfyui.urls any more")
        file = FileRef(output.filename, output.subfolder, output.type)
        fetched = await backend.client.view(file, max_bytes=self._max_bytes)
        if output.bytes not in {None, len(fetched.data)}:
            raise FileMissing(f"output {n} of the job {job.id} is gone: ComfyUI has another file of that name now")
        return output, fetched.data

    async def history(self, job_id: str) -> HistoryEntry | None:
        """Return what the backend that ran a job remembers of it. Raises UnknownPrompt, BackendOffline, TimedOut."""
        job = await self._runner.find(job_id)
        if job is None:
            raise UnknownPrompt(f"there is no job {job_id!r}")
        backend = self._runner.pool.named(job.backend)
        return None if backend is None else await backend.client.history(job.id)
