"""Server-sent events: of one job, and of everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from bridge import requests
from bridge.errors import BadValue
from bridge.http.context import Context
from bridge.http.feeds import STREAM_HEADERS, Entry, History, sse
from bridge.http.schemas import EVENT_STREAM

_RETRY = b"retry: 2000\n\n"
_QUEUE_EVERY = 0.25
"""Seconds between two `queue` events for one reader."""


class Streams:
    """Writes streams from the feeds."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._core = context.core
        self._feeds = context.feeds
        self._keep_alive = context.keep_alive

    async def job(self, job_id: str, last_event_id: str | None, *, images: bool) -> Response:
        """Stream a job's events until after its result; 204 for a reader that has had it. Raises UnknownPrompt."""
        document = await self._core.job(requests.JobRequest(prompt_id=job_id))
        job_id = document["id"]
        place = self._feeds.place(last_event_id)
        feed = self._feeds.of(job_id)
        if feed is None and document["finished_at"] is None:
            feed = self._feeds.opened(job_id)
        if feed is None or (feed.over and place is not None and place >= feed.last):
            # Told to come back, a browser would ask for ever.
            return Response(status_code=204) if last_event_id is not None else _streaming(self._ended(document))
        return _streaming(self._job(job_id, feed, place, images=images))

    async def _ended(self, document: Mapping[str, Any]) -> AsyncIterator[bytes]:
        yield sse("status", _status_of(document))
        yield sse("result", document, f"{self._feeds.boot}-0")

    async def _job(self, job_id: str, feed: History, place: int | None, *, images: bool) -> AsyncIterator[bytes]:
        yield _RETRY
        if feed.over and place is None:
            place = 0
        elif place is None or not feed.complete_after(place):
            place = feed.last
            document = await self._core.job(requests.JobRequest(prompt_id=job_id))
            yield sse("status", _status_of(document), self._id(place))
        async for chunk in self._follow(feed, place, images=images):
            yield chunk

    async def everything(self, last_event_id: str | None, *, images: bool) -> Response:
        """Stream what happens to all jobs and to the bridge, a snapshot first, without an end."""
        return _streaming(self._everything(self._feeds.place(last_event_id), images=images))

    async def _everything(self, place: int | None, *, images: bool) -> AsyncIterator[bytes]:
        yield _RETRY
        history = self._feeds.everything
        if place is None or not history.complete_after(place):
            place = history.last
            yield sse("snapshot", self._snapshot(), self._id(place))
        async for chunk in self._follow(history, place, images=images):
            yield chunk

    async def _follow(self, history: History, place: int, *, images: bool) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        queue_at = 0.0
        queue_due = False
        while not self._feeds.closing:
            patience = max(0.0, queue_at - loop.time()) if queue_due else self._keep_alive
            came = await history.wait(place, patience)
            if self._feeds.closing:
                return
            if history is self._feeds.everything and not history.complete_after(place):
                yield sse("snapshot", self._snapshot(), self._id(place))
            chunk = b""
            for entry in history.after(place) if came else ():
                place = entry.seq
                if entry.kind == "queue":
                    queue_due = True
                else:
                    chunk += self._write(entry, images=images)
            if queue_due and loop.time() >= queue_at:
                queue_due, queue_at = False, loop.time() + _QUEUE_EVERY
                chunk += sse("queue", self._core.queue_state(), self._id(place))
            if chunk or not came:
                yield chunk or b": keep-alive\n\n"
            if history.over and place >= history.last:
                return

    def _write(self, entry: Entry, *, images: bool) -> bytes:
        document: Mapping[str, Any] | None = entry.document
        if entry.kind == "preview" and images:
            document = self._feeds.with_image(entry.document)
        elif entry.kind == "workflows":
            document = self._core.workflows()
        elif entry.kind == "values":
            document = {**entry.document, "values": self._core.values(str(entry.document["workflow"]))}
        return b"" if document is None else sse(entry.kind, document, self._id(entry.seq))

    def _snapshot(self) -> dict[str, Any]:
        return {
            "queue": self._core.queue_state(),
            "backends": self._core.backends(),
            "workflows": self._core.workflows(),
            "values": {name: self._core.values(name) for name in self._core.workflow_names()},
        }

    def _id(self, place: int) -> str:
        return f"{self._feeds.boot}-{place}"


def _streaming(chunks: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(chunks, media_type="text/event-stream", headers=STREAM_HEADERS)


def _status_of(document: Mapping[str, Any]) -> dict[str, Any]:
    names = ("id", "status", "workflow", "position", "percent", "node", "title", "seq", "error", "batch_id")
    return {name: document[name] for name in names if name in document}


def router(context: Context) -> APIRouter:
    """Return the routes of the streams."""
    routes = APIRouter(prefix="/api", tags=["events"])
    streams = Streams(context)

    @routes.get("/jobs/{job_id}/events", responses={**EVENT_STREAM, 204: {"description": "Nothing follows"}})
    async def job_events(request: Request, job_id: str, previews: str = "url") -> Response:
        """Follow a job: `status`, `progress`, `preview`, `output` and, last, `result`.

        `Last-Event-ID` resumes. `?previews=data` puts the previews' images into the events, in base64.
        """
        return await streams.job(job_id, _place(request), images=_images(previews))

    @routes.get("/events", responses=EVENT_STREAM)
    async def all_events(request: Request, previews: str = "url") -> Response:
        """Follow everything: a `snapshot`, then what happens to all jobs, the queue, backends and workflows."""
        return await streams.everything(_place(request), images=_images(previews))

    return routes


def _place(request: Request) -> str | None:
    return request.headers.get("last-event-id") or request.query_params.get("last_event_id")


def _images(previews: str) -> bool:
    if previews not in {"url", "data"}:
        raise BadValue('previews must be "url" or "data"')
    return previews == "data"
