"""Prompts written from ideas, over HTTP: the answer is the result, or a stream that ends with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from bridge import requests
from bridge.errors import BadPayload, BadValue, Cancelled, UnknownIdea
from bridge.http import bodies
from bridge.http.answers import answer
from bridge.http.context import Context
from bridge.http.feeds import STREAM_HEADERS, sse
from bridge.http.jobs import once, transaction_of
from bridge.http.schemas import ERRORS, EVENT_STREAM, IDEA, body_of
from bridge.http.texts import Reader
from bridge.ideas import Outcome
from bridge.incoming import read_json

_COMMAND = "api/prompting/generate"
_FIELDS = frozenset({"idea", "style", "profile", "images", "then", "image_description", "transaction"})


@dataclass(frozen=True, slots=True)
class Asked:
    """An idea as it came. `image`: the bytes of a picture that was sent with it."""

    request: requests.WritePrompt
    image: bytes | None = None
    transaction: str | None = None


class Writing:
    """Has prompts written for requests.

    Whoever hangs up cancels the writing, unless the request has a transaction: then he may ask for it again.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._prompts = context.core.prompts

    async def result(self, request: Request, asked: Asked) -> dict[str, Any]:
        """Return what was written. Raises what kept it from being written, or queued."""
        idea_id = (await self._accept(asked))["id"]
        written = self._prompts.outcome(idea_id)
        try:
            with self._context.leaving(request) as leaving:
                await asyncio.wait({written, *leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not written.done() or written.cancelled():
                raise Cancelled("the bridge stops")
            document, error = written.result()
        finally:
            written.cancel()
            self._leave(idea_id, asked)
        if error is not None:
            raise error
        return document

    async def stream(self, request: Request, asked: Asked) -> Response:
        """Answer with server-sent events: `accepted`, `text` as it comes, and last `result`, be it an error."""
        reader = self._context.texts.opened()
        try:
            accepted = await self._accept(asked)
            written = self._prompts.outcome(accepted["id"])
        except BaseException:
            self._context.texts.close(reader)
            raise
        reader.idea = accepted["id"]

        def left() -> None:
            self._context.texts.close(reader)
            written.cancel()
            self._leave(accepted["id"], asked)

        return _Stream(self._told(request, accepted, reader, written), left)

    async def _accept(self, asked: Asked) -> dict[str, Any]:
        key = None if asked.transaction is None else (_COMMAND, asked.transaction)
        accept = self._prompts.accept
        return await once(
            self._context,
            _COMMAND,
            asked.transaction,
            lambda: accept(asked.request, image=asked.image, transaction=key),
        )

    def _leave(self, idea_id: str, asked: Asked) -> None:
        """Cancel an idea that nobody waits for; nothing if its result is out."""
        if asked.transaction is None:
            self._context.tasks.spawn(self._cancel(idea_id), "the end of an idea whose caller left")

    async def _cancel(self, idea_id: str) -> None:
        with contextlib.suppress(UnknownIdea):
            await self._prompts.cancel(requests.CancelPrompt(id=idea_id))

    async def _told(
        self, request: Request, accepted: dict[str, Any], reader: Reader, written: asyncio.Future[Outcome]
    ) -> AsyncIterator[bytes]:
        yield sse("accepted", accepted)
        with self._context.leaving(request) as leaving:
            while not written.done() and not any(task.done() for task in leaving):
                await self._news(reader, written, *leaving)
                text = _text(reader)
                if text or not written.done():
                    yield text or b": keep-alive\n\n"
            if written.done() and not written.cancelled():
                yield _text(reader) + sse("result", written.result()[0])

    async def _news(self, reader: Reader, *others: asyncio.Future[Any]) -> None:
        """Wait for a piece, for one of the others, or until the silence is to be broken."""
        news = asyncio.get_running_loop().create_task(reader.wait())
        try:
            await asyncio.wait({news, *others}, timeout=self._context.keep_alive, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()


def _text(reader: Reader) -> bytes:
    """Return what is to be read as an event; nothing for nothing."""
    taken = reader.take()
    return b"" if taken is None else sse("text", {"id": reader.idea, "text": taken[0], "prompt": taken[1]})


class _Stream(StreamingResponse):
    """Server-sent events; `left` is called at their end, also where they never began."""

    def __init__(self, chunks: AsyncIterator[bytes], left: Callable[[], None]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers=STREAM_HEADERS)
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


async def _read(request: Request, *, max_bytes: int) -> Asked:
    """Read an idea: JSON, or a form, in which `image` is a picture."""
    if not bodies.is_form(request):
        document = await bodies.document(request)
        transaction = transaction_of(request, document)
        return Asked(requests.parse(requests.WritePrompt, document), transaction=transaction)
    document = await bodies.form(request, fields=_FIELDS, max_bytes=max_bytes)
    transaction = transaction_of(request, document)
    values = document.pop("values")
    image = values.pop("image", None)
    if values:
        raise BadPayload(f"{', '.join(values)}: the form may have {', '.join(sorted(_FIELDS))} and image")
    for name in ("then", "image_description"):
        if name in document:
            document[name] = read_json(document[name], where=name)
    if isinstance(image, str):
        raise BadValue("image must be a file; an address belongs into images")
    return Asked(requests.parse(requests.WritePrompt, document), image, transaction)


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/prompting", tags=["prompting"], responses=ERRORS)
    prompts, writing = context.core.prompts, Writing(context)

    @routes.post("/generate", responses=EVENT_STREAM, openapi_extra=IDEA)
    async def generate(request: Request) -> Response:
        """Have a prompt written for an idea, and with `then` a workflow queued with it.

        With `Accept: text/event-stream` the answer is a stream: `accepted`, the model's words as they come as `text`,
        and last `result`, after which it ends. Going away cancels the writing, unless there is a `transaction`.
        """
        asked = await _read(request, max_bytes=context.settings.http.max_body)
        if bodies.wants(request, "text/event-stream"):
            return await writing.stream(request, asked)
        return answer(await writing.result(request, asked))

    @routes.get("")
    async def about() -> Response:
        """Return who writes prompts and whether he is there, his models, and what is set for ideas."""
        return answer(prompts.about())

    @routes.patch("", openapi_extra=body_of(requests.PromptValues))
    async def set_values(request: Request) -> Response:
        """Set what ideas have that do not say it themselves: an empty text is none."""
        return answer(await prompts.set(requests.parse(requests.PromptValues, await bodies.document(request))))

    @routes.post("/cancel", openapi_extra=body_of(requests.CancelPrompt))
    async def cancel(request: Request) -> Response:
        """Stop the writing of an idea (`id`), of all, or the download of a model (`model`)."""
        return answer(await prompts.cancel(requests.parse(requests.CancelPrompt, await bodies.document(request))))

    @routes.post("/pull", status_code=202, openapi_extra=body_of(requests.PullModel))
    async def pull(request: Request) -> Response:
        """Have Ollama download a model; `/api/events` tells how far it is."""
        return answer(await prompts.pull(requests.parse(requests.PullModel, await bodies.document(request))), 202)

    return routes
