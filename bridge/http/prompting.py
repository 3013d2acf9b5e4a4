"""Prompts written from ideas, over HTTP: the answer is the result."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from bridge import requests
from bridge.errors import Cancelled
from bridge.http import bodies
from bridge.http.answers import answer
from bridge.http.context import Context
from bridge.http.schemas import ERRORS, body_of


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["prompting"], responses=ERRORS)

    @routes.post("/api/prompting/generate", openapi_extra=body_of(requests.WritePrompt))
    async def generate(request: Request) -> Response:
        """Have a prompt written for an idea, and with `then` a workflow queued with it. Going away cancels it."""
        asked = requests.parse(requests.WritePrompt, await bodies.document(request))
        return answer(await written(context, request, asked))

    return routes


async def written(context: Context, request: Request, asked: requests.WritePrompt) -> dict[str, Any]:
    """Return the result of writing a prompt, unless the caller goes or the bridge stops, which cancels it."""
    loop = asyncio.get_running_loop()
    writing = loop.create_task(context.core.generate_prompt(asked))
    try:
        with context.leaving(request) as leaving:
            await asyncio.wait({writing, *leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            raise Cancelled("the bridge stops")
        return writing.result()
    finally:
        writing.cancel()
