"""The routes of ai-dock's comfyui-api-wrapper, for the clients that were made for it: each answer is its Result."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response, StreamingResponse

from bridge.errors import BadPayload, QueueFull, UnknownPrompt
from bridge.http import wrapper_shapes as shapes
from bridge.http.answers import RETRY_AFTER, answer
from bridge.http.context import Context, note_jobs
from bridge.http.feeds import JobFeed
from bridge.http.schemas import Schema
from bridge.http.wrapper_asked import Asked
from bridge.http.wrapper_requests import FOREVER, Wishes
from bridge.http.wrapper_shapes import Document, Input
from bridge.incoming import read_json
from bridge.jobs.model import iso

_ON = frozenset({"1", "true", "yes", "on"})
_TICK = 1.0
"""Seconds after which a stream looks again, whatever was told."""
_PAUSE = 0.1
"""Seconds between two events of a stream at least."""
_STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class InvalidError(Exception):
    """A request is not as it should be; `answer` says how."""

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.answer = answer(document, 422)


class Routes:
    """Answers as the wrapper does."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._core = context.core
        self._wrapper = context.wrapper

    async def _read(self, request: Request) -> Input:
        try:
            return shapes.Body.model_validate(read_json(await request.body(), where="the body")).input
        except ValidationError as error:
            raise InvalidError(shapes.complaints(error)) from None
        except BadPayload as error:
            raise InvalidError({"detail": [_complaint("json_invalid", ["body"], error.message)]}) from None

    async def _accept(self, request: Request, wanted: Input) -> Asked:
        asked = await self._wrapper.accept(wanted, base64=_wishes(request).base64)
        if asked.job_id is not None:
            note_jobs(request, [asked.job_id])
        await self._context.deliveries.begin(asked)
        return asked

    async def generate(self, request: Request) -> Response:
        """Take a request: 202, or the Result of one that could not become a job."""
        wanted = await self._read(request)
        try:
            asked = await self._accept(request, wanted)
        except QueueFull:
            return self._full(wanted)
        if asked.job_id is None:
            return answer(*await self._wrapper.result(asked.id, Wishes(), asked=asked))
        timings = shapes.timings_of(None, queued_at=asked.queued_at, prepared=0.0, posted=None)
        result = shapes.plain_result(asked.id, "pending", "Request accepted") | {"timings": timings}
        return answer(result, 202)

    async def sync(self, request: Request) -> Response:
        """Take a request and wait for its end; whoever hangs up ends it."""
        patience = _timeout(request)
        wanted = await self._read(request)
        try:
            asked = await self._accept(request, wanted)
        except QueueFull:
            return self._full(wanted)
        wishes = _wishes(request)
        if asked.job_id is None:
            return answer(*await self._wrapper.result(asked.id, wishes, asked=asked))
        loop = asyncio.get_running_loop()
        ends, job_ids = self._context.ends, [asked.job_id]
        with self._context.leaving(request) as leaving, ends.watching(job_ids, keep=asked.base64) as watches:
            until = loop.time() + patience
            ended = await ends.wait(watches, patience, *leaving)
            if ended and not asked.over.done():
                left = max(0.0, until - loop.time())
                await asyncio.wait({asked.over, *leaving}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if leaving.gone.done() and not ended:
                await self._wrapper.cancel(asked.id)
                return Response(status_code=499)
            result, status = await self._wrapper.result(asked.id, wishes, asked=asked, watch=watches[0])
            return answer(result, status if ended and asked.over.done() else 202)

    async def stream(self, request: Request) -> Response:
        """Take a request and tell how it goes; whoever hangs up ends nothing."""
        wanted = await self._read(request)
        try:
            asked = await self._accept(request, wanted)
        except QueueFull as error:
            return answer({"detail": error.message}, 503, {"Retry-After": str(RETRY_AFTER)})
        told = self._told(asked, _wishes(request))
        return StreamingResponse(told, media_type="text/event-stream", headers=_STREAM)

    async def _told(self, asked: Asked, wishes: Wishes) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        began = spoke = loop.time()
        head = {"request_id": asked.id}
        yield _event({**head, "status": "queued", "message": "Request queued", "timestamp": iso(asked.queued_at)})
        before: tuple[object, ...] = ()
        while True:
            job = await self._wrapper.job(asked, asked.id)
            feed = self._feed(job)
            place = 0 if feed is None else feed.last
            result, _ = await self._wrapper.result(asked.id, Wishes(), asked=asked)
            elapsed = round(loop.time() - began, 3)
            if (job is None or job["finished_at"] is not None) and asked.over.done():
                wishes = Wishes(wishes.base64, comfyui_response=True)
                result, _ = await self._wrapper.result(asked.id, wishes, asked=asked)
                yield _event({**head, "status": "final_result", "result": result, "elapsed_time": elapsed})
                return
            if self._context.closing.is_set():
                yield _event({**head, "status": "error", "message": "Stream error: the bridge stops"})
                return
            now = (result["status"], result["message"])
            if now != before:
                before, spoke = now, loop.time()
                more = {"timestamp": iso(time.time()), "elapsed_time": elapsed}
                where = {"queue_info": self._wrapper.queue_info(), "queue_position": self._wrapper.place(job)}
                yield _event({**head, "status": now[0], "message": now[1], **more, **where})
            elif loop.time() - spoke >= self._context.keep_alive:
                spoke = loop.time()
                yield b": keep-alive\n\n"
            await asyncio.sleep(_PAUSE)
            if feed is not None and not feed.over:
                await feed.wait(place, _TICK)
            else:
                await asyncio.wait({asked.over}, timeout=_TICK)

    def _feed(self, job: Mapping[str, Any] | None) -> JobFeed | None:
        if job is None:
            return None
        feeds = self._context.feeds
        return feeds.of(job["id"]) or (feeds.opened(job["id"]) if job["finished_at"] is None else None)

    def _full(self, wanted: Input) -> Response:
        flying = self._core.queue_state()["waiting_count"]
        words = f"Worker at capacity ({flying} in flight); retry shortly"
        return answer(shapes.plain_result(wanted.request_id, "failed", words), 503, {"Retry-After": str(RETRY_AFTER)})

    async def result(self, request: Request, request_id: str) -> Response:
        """Return the Result of a request as it stands."""
        try:
            return answer(*await self._wrapper.result(request_id, _wishes(request)))
        except UnknownPrompt:
            return answer(shapes.plain_result(request_id, "failed", "Request ID not found"), 404)

    async def cancel(self, request_id: str) -> Response:
        """End a request."""
        try:
            return answer(await self._wrapper.cancel(request_id))
        except UnknownPrompt:
            return answer({"error": "Request ID not found"}, 404)

    def queue_info(self) -> Response:
        """Return how many requests are in each stage."""
        return answer(self._wrapper.queue_info())


def health(context: Context) -> Document:
    """Return the wrapper's part of `/health`, which needs no token: where one is set, no addresses are told."""
    core, addresses = context.core, context.settings.http.token is None
    known = core.info()["backends"]
    backends = [
        {
            "base": known[one["name"]] if addresses else one["name"],
            "http_ok": one["online"],
            "websocket_ok": one["online"],
            "gpu": _GPU,
            "healthy": one["online"],
        }
        for one in core.backends()
    ]
    up = sum(bool(one["healthy"]) for one in backends)
    queue = core.queue_state()
    return {
        "cache_type": "sqlite",
        "queues": {
            "preprocess": context.wrapper.stages["preprocess"],
            "generation": queue["waiting_count"],
            "postprocess": context.wrapper.stages["postprocess"],
        },
        "backends_healthy": f"{up}/{len(backends)}",
        "gpu": _GPU,
        "backends": backends,
    }


_GPU = {"unrecoverable": False, "reason": None}


def _wishes(request: Request) -> Wishes:
    def on(name: str) -> bool:
        return request.headers.get(name, "").strip().lower() in _ON

    return Wishes(on("x-return-outputs-as-base64"), on("x-include-comfyui-response"))


def _timeout(request: Request) -> float:
    """Return how many seconds a caller waits; no end unless they say so."""
    text = request.query_params.get("timeout")
    if text is None:
        return FOREVER
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InvalidError({"detail": [_complaint("float_parsing", ["query", "timeout"], "must be seconds, from 0")]})
    return min(seconds, FOREVER)


def _complaint(kind: str, where: list[str], words: str) -> Document:
    return {"type": kind, "loc": where, "msg": words}


def _event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode(errors="replace") + b"\n\n"


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["comfyui-api-wrapper"])
    here = Routes(context)
    words = "The Result says why"
    ends: dict[int | str, Schema] = {
        422: {"description": "The body is not as it should be: `detail`"},
        499: {"description": "Cancelled"},
        500: {"description": f"Failed. {words}"},
        502: {"description": f"ComfyUI could not be reached. {words}"},
        503: {"description": "The queue is full"},
    }
    unknown: dict[int | str, Schema] = {**ends, 404: {"description": "There is no such request"}}
    schema: Schema = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}
    waits = [{"name": "timeout", "in": "query", "schema": {"type": "number", "minimum": 0}}]

    @routes.post("/generate", status_code=202, responses=ends, openapi_extra=schema)
    async def generate(request: Request) -> Response:
        """Run a graph, or a workflow with modifications; the Result is at `/result/{request_id}`."""
        return await here.generate(request)

    @routes.post("/generate/sync", responses=ends, openapi_extra={**schema, "parameters": waits})
    async def sync(request: Request) -> Response:
        """Run it and wait for the Result. `?timeout=` seconds: 202 with the Result as it stands when they are over."""
        return await here.sync(request)

    @routes.post("/generate/stream", responses=ends, openapi_extra=schema)
    async def stream(request: Request) -> Response:
        """Run it and follow it by server-sent events, `data:` alone; the last has the Result."""
        return await here.stream(request)

    @routes.get("/result/{request_id:path}", responses=unknown)
    async def result(request: Request, request_id: str) -> Response:
        """Return the Result of a request as it stands."""
        return await here.result(request, request_id)

    @routes.post("/cancel/{request_id:path}", responses=unknown)
    async def cancel(request_id: str) -> Response:
        """End a request, waiting or running."""
        return await here.cancel(request_id)

    @routes.get("/queue-info")
    async def queue_info() -> Response:
        """Return how many requests are in each of the wrapper's stages."""
        return here.queue_info()

    return routes


_SCHEMA: Schema = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {
            "type": "object",
            "properties": {
                "request_id": {"type": "string", "maxLength": 200},
                "workflow_json": {"type": "object", "description": "A graph in ComfyUI's API format"},
                "modifier": {"type": "string", "description": "A workflow or recipe, instead of a graph"},
                "modifications": {"type": "object", "description": "Its values"},
                "s3": {"type": ["object", "null"]},
                "webhook": {"type": ["object", "null"]},
                "return_outputs_as_base64": {"type": "boolean"},
            },
        }
    },
}
