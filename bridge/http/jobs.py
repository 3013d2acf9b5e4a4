"""The routes of jobs: a graph in, a job out, its outputs, its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from bridge import requests
from bridge.errors import BadPayload, BridgeError, FileMissing, Internal
from bridge.http import bodies, ranges
from bridge.http.answers import answer, encoded, failure, refusal
from bridge.http.context import Context, note_jobs
from bridge.http.schemas import ERRORS, JOB_ANSWER, RUN_GRAPH, WAIT
from bridge.http.waiting import Watch

Data = dict[str, Any]


class Answers:
    """Answers with jobs: at once or at their end, with addresses, base64 or the picture itself."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._core = context.core

    async def accepted(self, request: Request, job_ids: Sequence[str], options: bodies.Options, data: Data) -> Response:
        """Answer a request that made jobs (`data`: the core's answer); 202 until they have ended, then 200."""
        note_jobs(request, job_ids)
        if options.wait is None:
            return await self._answer(job_ids, (), options, data, over=False)
        keep = options.base64 or options.image
        with self._context.ends.watching(job_ids, keep=keep) as watches:
            over = await self.wait(request, watches, options.wait)
            return await self._answer(job_ids, watches, options, data, over=over)

    async def wait(self, request: Request, watches: Sequence[Watch], seconds: float) -> bool:
        """Wait for the end of jobs; give up when the time is up, the caller hangs up, or the bridge stops.

        Tells whether they have ended. Whoever hangs up ends no job.
        """
        with self._context.leaving(request) as leaving:
            return await self._context.ends.wait(watches, seconds, *leaving)

    async def one(self, job_id: str, options: bodies.Options) -> Response:
        """Answer with one job as it stands."""
        document = await self._core.job(requests.JobRequest(prompt_id=job_id))
        over = document["finished_at"] is not None
        if options.image:
            return await self._picture(document, None) if over else answer(document, 202)
        return answer(await self.filled(document, {}) if options.base64 else document)

    async def _answer(
        self, job_ids: Sequence[str], watches: Sequence[Watch], options: bodies.Options, data: Data, *, over: bool
    ) -> Response:
        ended = {watch.job_id: watch.over.result() for watch in watches if watch.over.done()}
        documents = [
            ended.get(job_id) or await self._core.job(requests.JobRequest(prompt_id=job_id)) for job_id in job_ids
        ]
        if over and options.image:
            return await self._picture(documents[0], watches[0])
        if over and options.base64:
            documents = [
                await self.filled(document, watch.outputs) for document, watch in zip(documents, watches, strict=True)
            ]
        status = 200 if over else 202
        headers = {"Location": f"/api/jobs/{job_ids[0]}"}
        if len(documents) == 1:
            return answer(documents[0], status, headers)
        return answer({**data, "jobs": documents}, status, headers)

    async def filled(self, document: Data, known: Mapping[int, bytes]) -> Data:
        """Return a job with the bytes of its outputs, as `data` in base64; `error` says why some are missing."""
        outputs = []
        for output in document["outputs"]:
            try:
                data = known.get(output["n"]) or await self._bytes(document["id"], output["n"])
            except BridgeError as error:
                outputs.append({**output, "error": error.to_json()})
                continue
            outputs.append({**output, "data": await encoded(data)})
        return {**document, "outputs": outputs}

    async def _bytes(self, job_id: str, n: int) -> bytes:
        return (await self._context.kept.output(job_id, n))[1]

    async def _picture(self, document: Data, watch: Watch | None) -> Response:
        """Answer with the picture that stands for the job, or with why there is none."""
        error = document["error"]
        if document["status"] != "completed":
            code, message = (error["code"], error["message"]) if error else ("internal", "the job has no picture")
            return refusal(code, message, details={**((error or {}).get("details") or {}), "job": document})
        chosen = picture_of(document, None if watch is None else watch.answer)
        if chosen is None:
            return failure(FileMissing("the job made no picture", details={"job": document}))
        data = (watch.outputs.get(chosen["n"]) if watch is not None else None) or await self._bytes(
            document["id"], chosen["n"]
        )
        return ranges.file(data, chosen, job_id=document["id"])

    async def output(self, request: Request, job_id: str, n: int) -> Response:
        """Answer with the bytes of an output."""
        document = await self._core.job(requests.JobRequest(prompt_id=job_id))
        job_id = document["id"]
        if ranges.unchanged(request, job_id, n):
            return Response(status_code=304, headers={"ETag": ranges.etag(job_id, n)})
        output, data = await self._context.kept.output(job_id, n)
        return ranges.file(data, output, job_id=job_id, request=request)


def picture_of(job: Mapping[str, Any], wanted: int | None) -> Mapping[str, Any] | None:
    """Return the picture that stands for a job: output `wanted`, else the first that is no temporary file."""
    pictures = [one for one in job["outputs"] if str(one["content_type"]).startswith("image/")]
    saved = [one for one in pictures if one["type"] != "temp"]
    return next((one for one in pictures if one["n"] == wanted), next(iter(saved or pictures), None))


async def once(context: Context, command: str, transaction: str | None, run: Callable[[], Awaitable[Data]]) -> Data:
    """Run a command, or return what it answered when it came with this transaction before.

    Raises what the command raises; who sent it meanwhile too gets an error of the same code and words.
    """
    if transaction is None:
        return await run()

    async def reply() -> Data:
        try:
            return {"status": "ok", "data": await run()}
        except BridgeError as error:
            return {"status": "error", "error": error.to_json()}

    told = await context.core.transactions.once(command, transaction, reply)
    if told["status"] != "ok":
        raise _again(told["error"])
    data: Data = told["data"]
    return data


def _again(error: Mapping[str, Any]) -> BridgeError:
    """Return the error that a transaction has had."""
    kinds: list[type[BridgeError]] = [BridgeError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.code == error["code"] and kind is not BridgeError:
            return kind(error["message"], node=error.get("node"), details=error.get("details"))
    return Internal(error["message"])


def transaction_of(request: Request, document: Data) -> str | None:
    """Take the transaction out of a body, or out of the header `Idempotency-Key`. Raises BadPayload."""
    key = document.pop("transaction", request.headers.get("idempotency-key"))
    if key is None:
        return None
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise BadPayload("transaction must be a text or a whole number")
    return str(key)


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api", tags=["jobs"], responses=ERRORS)
    core, answers = context.core, Answers(context)

    @routes.post("/jobs", status_code=202, responses=JOB_ANSWER, openapi_extra=RUN_GRAPH)
    async def run_graph(request: Request) -> Response:
        """Run a whole graph in ComfyUI's API format, as it is; or a chain, whose `steps` run workflows.

        `?wait=30` answers 200 with the job once it has ended, 202 if the time is up. `?base64=1` puts the bytes of
        the outputs into the answer; with `Accept: image/*` the picture itself is the answer.
        """
        document = await bodies.document(request)
        options = bodies.options(request, document)
        transaction = transaction_of(request, document)
        command = "api/jobs"
        key = None if transaction is None else (command, transaction)
        if "steps" in document and "prompt" not in document:
            chain = requests.parse(requests.Queue, document)
            data = await once(context, command, transaction, lambda: core.queue(chain, transaction=key))
        else:
            asked = requests.parse(requests.RunGraph, document)
            data = await once(context, command, transaction, lambda: core.run_graph(asked, transaction=key))
        return await answers.accepted(request, data["prompt_ids"], options, data)

    @routes.get("/jobs")
    async def jobs(
        status: str | None = None, workflow: str | None = None, batch_id: str | None = None, limit: str = "100"
    ) -> Response:
        """List jobs, newest first: those that wait and run, then those that ended last."""
        asked = {"status": status, "workflow": workflow, "batch_id": batch_id, "limit": limit}
        asked = {name: value for name, value in asked.items() if value is not None}
        found = await core.job_list(requests.parse(requests.JobList, asked))
        counts = {name: value for name, value in core.queue_state().items() if name.endswith("_count")}
        return answer({"jobs": found, **counts})

    @routes.get("/jobs/{job_id}", openapi_extra={"parameters": WAIT})
    async def job(request: Request, job_id: str) -> Response:
        """Return a job. `?wait=30`: once it has ended, or 202 when the time is up."""
        options = bodies.options(request)
        if options.wait is None or "wait" not in request.query_params:
            note_jobs(request, [job_id])
            return await answers.one(job_id, options)
        document = await core.job(requests.JobRequest(prompt_id=job_id))
        return await answers.accepted(request, [document["id"]], options, {})

    @routes.delete("/jobs/{job_id}", status_code=202, openapi_extra={"parameters": WAIT})
    async def end(request: Request, job_id: str) -> Response:
        """End a job, waiting or running. `?wait=10`: 200 once it has ended."""
        options = bodies.options(request)
        data = await core.interrupt(requests.parse(requests.Interrupt, {"prompt_id": job_id}))
        return await answers.accepted(request, data["prompt_ids"], bodies.Options(options.wait), data)

    @routes.head("/jobs/{job_id}/outputs/{n}", include_in_schema=False)
    @routes.get("/jobs/{job_id}/outputs/{n}", responses=_bytes_of("The output"))
    async def output(request: Request, job_id: str, n: int) -> Response:
        """Return the bytes of an output."""
        note_jobs(request, [job_id])
        return await answers.output(request, job_id, n)

    @routes.get("/jobs/{job_id}/preview", responses=_bytes_of("The latest preview"))
    async def preview(request: Request, job_id: str) -> Response:
        """Return the latest preview of a job that runs."""
        document = await core.job(requests.JobRequest(prompt_id=job_id))
        note_jobs(request, [document["id"]])
        feed = context.feeds.of(document["id"])
        found = None if feed is None else feed.preview
        if found is None:
            raise FileMissing(f"the job {job_id} has no preview just now: it is {document['status']}")
        headers = {"Cache-Control": "no-store", "X-Node": found.node or "", "X-Seq": str(found.seq)}
        return Response(found.image, media_type=found.content_type, headers=headers)

    return routes


def _bytes_of(words: str) -> dict[int | str, dict[str, Any]]:
    schema = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"description": words, "content": {"image/*": schema, "application/octet-stream": schema}}}
