"""Requests in the way of ai-dock's wrapper, each a job of ours: on their way in, how they stand, their cancelling."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge import requests
from bridge.core import Core
from bridge.delivery import buckets
from bridge.errors import AlreadyOver, BadValue, BridgeError, QueueFull
from bridge.http import wrapper_shapes as shapes
from bridge.http.answers import encoded
from bridge.http.waiting import Kept, Watch
from bridge.http.wrapper_asked import Asked
from bridge.http.wrapper_shapes import Document, Input
from bridge.jobs.model import ImageValue
from bridge.jobs.store import Store
from bridge.settings import Settings
from bridge.workflow.graph import Target

FOREVER = 10 * 365 * 86400.0
"""Seconds; some event loops know no infinity."""
_REMEMBERED = 10_000
_DOWNLOADS = 4
_MOST_FILES = 100


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a Result is wanted."""

    base64: bool = False
    comfyui_response: bool = False


class Wrapper:
    """Takes requests and knows how they stand. What is owed for none ends with the process, but for its job."""

    def __init__(
        self,
        settings: Settings,
        core: Core,
        store: Store,
        kept: Kept,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._core = core
        self._store = store
        self._kept = kept
        self._clock = clock
        self._max_base64 = settings.http.wrapper_max_inline
        self._asked: OrderedDict[str, Asked] = OrderedDict()
        self._random = random.SystemRandom()
        self.stages: Counter[str] = Counter()
        """How many requests are in `preprocess` and `postprocess`."""

    # In

    async def accept(self, wanted: Input, *, base64: bool) -> Asked:
        """Make a job of a request. One that cannot be one has its `error`. Raises QueueFull."""
        began = time.monotonic()
        asked = Asked(
            id=wanted.request_id,
            queued_at=self._clock(),
            base64=base64 or wanted.return_outputs_as_base64,
            bucket=wanted.s3 if wanted.s3 is not None and wanted.s3.complete else None,
            hook=wanted.webhook if wanted.webhook is not None and wanted.webhook.url else None,
        )
        if asked.id:  # it can be cancelled already
            self.remember(asked)
        self.stages["preprocess"] += 1
        try:
            if asked.bucket is not None:
                buckets.check_available()
            asked.become(await self._submit(asked, wanted))
        except QueueFull:
            self._asked.pop(asked.id, None)
            raise
        except BridgeError as error:
            asked.error = error.message
            asked.id = asked.id or asked.key
        finally:
            self.stages["preprocess"] -= 1
            asked.prepared = time.monotonic() - began
        self.remember(asked)
        return asked

    def remember(self, asked: Asked) -> None:
        """Remember a request; the newest ten thousand are."""
        self._asked[asked.id] = asked
        self._asked.move_to_end(asked.id)
        if len(self._asked) > _REMEMBERED:
            self._asked.popitem(last=False)

    async def _submit(self, asked: Asked, wanted: Input) -> str:
        owed = asked.note() if asked.is_owed else None
        if wanted.modifier:
            workflow = self._core.workflow(shapes.workflow_named(wanted.modifier, self._core.workflow_names()))
            given = shapes.draw(shapes.values_of(workflow, wanted.modifications), self._random)
            run = requests.parse(requests.Queue, {"values": given})
            data = await self._core.queue(run, workflow=workflow.name, alias=wanted.request_id or None, owed=owed)
        else:
            graph = wanted.workflow_json
            shapes.draw_inputs(graph, self._random)
            files = await self._fetched(dict(shapes.addresses(graph)))
            if asked.is_cancelled:
                raise AlreadyOver("the request was cancelled before it was queued")
            run_graph = requests.parse(requests.RunGraph, {"prompt": graph, "id": wanted.request_id or None})
            data = await self._core.run_graph(run_graph, files=files, owed=owed)
        job_id: str = data["prompt_ids"][0]
        if asked.is_cancelled:
            await self._end(job_id)
        return job_id

    async def _fetched(self, addresses: Mapping[Target, str]) -> dict[Target, ImageValue]:
        """Fetch the files that inputs name by address, each address once."""
        distinct = set(addresses.values())
        if len(distinct) > _MOST_FILES:
            raise BadValue(f"workflow_json names {len(distinct)} addresses; at most {_MOST_FILES} are fetched")
        limit = asyncio.Semaphore(_DOWNLOADS)

        async def one(address: str) -> ImageValue:
            async with limit:
                return await self._core.fetch_file(address)

        try:
            async with asyncio.TaskGroup() as group:
                files = {address: group.create_task(one(address)) for address in distinct}
        except* BridgeError as failed:
            raise failed.exceptions[0] from None  # the others were cancelled
        return {target: files[address].result() for target, address in addresses.items()}

    # How it stands

    async def job(self, asked: Asked | None, request_id: str) -> Document | None:
        """Return the job of a request; None for one that is none, or none yet. Raises UnknownPrompt."""
        if asked is not None and asked.job_id is None:
            return None
        name = request_id if asked is None or asked.job_id is None else asked.job_id
        return await self._core.job(requests.JobRequest(prompt_id=name))

    async def result(
        self, request_id: str, wishes: Wishes, *, asked: Asked | None = None, watch: Watch | None = None
    ) -> tuple[Document, int]:
        """Return the Result of a request as it stands, and the status of an answer with it. Raises UnknownPrompt.

        watch: of its job, where somebody waited for it: then what it knows need not be asked for.
        """
        asked = asked or self._asked.get(request_id)
        known = {} if watch is None else watch.outputs
        job = watch.over.result() if watch is not None and watch.over.done() else await self.job(asked, request_id)
        if job is None:
            return self._without_job(request_id, asked)
        if asked is None:
            note = await self._store.delivery(job["id"])
            asked = None if note is None else Asked.of_note(job["id"], note)
        over = job["finished_at"] is not None and (asked is None or asked.over.done())
        result = self._outline(request_id, job, asked)
        if over:
            outputs = [one for one in job["outputs"] if one["type"] != "temp"]
            with_base64 = wishes.base64 or (asked is not None and asked.base64)
            result["output"] = [
                await self._output(job["id"], one, asked, with_base64=with_base64, known=known) for one in outputs
            ]
            if wishes.comfyui_response:
                result["comfyui_response"] = await self._response(job)
        return result, shapes.http_status(result, (job["error"] or {}).get("code"))

    def _outline(self, request_id: str, job: Document, asked: Asked | None) -> Document:
        status, message = shapes.status_of(job), shapes.message_of(job)
        if status == "completed" and asked is not None and not asked.over.done():
            status, message = "generated", "Uploading outputs..."
        timings = shapes.timings_of(
            job,
            queued_at=shapes.moment(job["created_at"]) if asked is None else asked.queued_at,
            prepared=0.0 if asked is None else asked.prepared,
            posted=None if asked is None else asked.posted,
        )
        return shapes.plain_result(request_id, status, message) | {"timings": timings}

    def _without_job(self, request_id: str, asked: Asked | None) -> tuple[Document, int]:
        error = None if asked is None else asked.error
        if asked is not None and asked.is_cancelled:
            status, message = "cancelled", "Request cancelled"
        elif error is not None:
            status, message = "failed", f"Preprocessing failed: {error}"
        else:
            status, message = "pending", "Request accepted"
        queued_at = self._clock() if asked is None else asked.queued_at
        timings = shapes.timings_of(None, queued_at=queued_at, prepared=0.0, posted=None)
        result = shapes.plain_result(request_id, status, message) | {"timings": timings}
        return result, shapes.http_status(result)

    async def _output(
        self, job_id: str, output: Document, asked: Asked | None, *, with_base64: bool, known: Mapping[int, bytes]
    ) -> Document:
        n = output["n"]
        shown = shapes.output_of(output) | ({} if asked is None else asked.uploads.get(n, {}))
        if not with_base64:
            return shown
        if (output["bytes"] or 0) > self._max_base64:
            return {**shown, "error": f"it has {output['bytes']} bytes; at most {self._max_base64} are given as base64"}
        try:
            data = known.get(n) or await self.bytes_of(job_id, n)
        except BridgeError as error:
            return {**shown, "error": error.message}
        if len(data) > self._max_base64:
            return {**shown, "error": f"it has {len(data)} bytes; at most {self._max_base64} are given as base64"}
        return {**shown, "data": await encoded(data), "mimetype": output["content_type"]}

    async def bytes_of(self, job_id: str, n: int) -> bytes:
        """Return the bytes of an output. Raises as `Core.output`."""
        return (await self._kept.output(job_id, n))[1]

    async def _response(self, job: Document) -> Document:
        """Return what ComfyUI remembers of a job; `{}` if it cannot be asked, or has forgotten it."""
        try:
            entry = await self._core.history(requests.JobRequest(prompt_id=job["id"]))
        except BridgeError:
            return {}
        if entry is None:
            return {}
        nodes = list(entry.outputs)
        return {
            entry.prompt_id: {
                "outputs": entry.outputs,
                "status": {
                    "status_str": entry.status_str,
                    "completed": entry.completed,
                    "messages": list(entry.messages),
                },
            },
            "execution_details": {
                "prompt_id": entry.prompt_id,
                "nodes_executed": nodes,
                "progress_updates": [],
                "completed": entry.completed,
                "error": None if job["error"] is None else job["error"]["message"],
            },
        }

    def queue_info(self) -> dict[str, int]:
        """Return how many requests are in each of the wrapper's stages."""
        return {
            "preprocess_queue_size": self.stages["preprocess"],
            "generation_queue_size": self._core.queue_state()["waiting_count"],
            "postprocess_queue_size": self.stages["postprocess"],
        }

    def place(self, job: Mapping[str, Any] | None) -> Document:
        """Return where a request is, and how many seconds it may wait there."""
        queue = self._core.queue_state()
        waiting = queue["waiting_count"]
        if job is None or job["status"] != "queued" or not job["position"]:
            stage = "preprocessing" if job is None else "postprocessing" if job["finished_at"] else "processing"
            return {"current_queue": stage, "position": 0, "queue_size": waiting, "estimated_wait_time": 0}
        listed = [one["estimate"] for one in queue["waiting"] if one["id"] == job["id"]]
        return {
            "current_queue": "generation",
            "position": job["position"],
            "queue_size": waiting,
            "estimated_wait_time": listed[0] if listed else None,
        }

    # Its end

    async def cancel(self, request_id: str) -> Document:
        """End a request, waiting or running, and return the answer. Raises UnknownPrompt."""
        asked = self._asked.get(request_id)
        job = await self.job(asked, request_id)
        if job is None and asked is not None and asked.error is None:
            asked.is_cancelled = True
        elif job is None:
            return {"message": f"Request {request_id} is already failed", "status": "failed"}
        elif job["finished_at"] is not None or not await self._end(job["id"]):
            status = (await self.result(request_id, Wishes(), asked=asked))[0]["status"]
            return {"message": f"Request {request_id} is already {status}", "status": status}
        return {"message": f"Request {request_id} cancelled", "status": "cancelled"}

    async def _end(self, job_id: str) -> bool:
        try:
            await self._core.interrupt(requests.Interrupt(prompt_id=job_id))
        except AlreadyOver:
            return False
        return True
