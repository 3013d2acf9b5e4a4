"""An address that takes an idea by POST and answers with a prompt: a Node-RED flow, a script."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from bridge import errors
from bridge.prompting.answers import as_it_is, read_answer, read_document, read_failure
from bridge.prompting.model import ModelInfo, OnText, Question, Written
from bridge.prompting.web import Web

_PAGE = re.compile(r"\s*<(!doctype|html|\?xml)", re.IGNORECASE)


def asked(question: Question) -> dict[str, Any]:
    """Return a question as JSON, for whoever answers without our help.

    Ours and, as `image_description`, the shape of the flows that were made for the runner.
    """
    document: dict[str, Any] = {
        "id": question.id,
        "idea": question.idea,
        "style": question.style,
        "profile": question.profile,
        "system": question.system,
        "image_description": question.description
        or {"description": question.idea, "visualCue": question.style, "moodCue": ""},
    }
    if question.model is not None:
        document["model"] = question.model
    if question.temperature is not None:
        document["temperature"] = question.temperature
    if question.options:
        document["options"] = dict(question.options)
    if question.images:
        document["images"] = [base64.b64encode(image).decode() for image in question.images]
    return document


def answered(answer: object, who: str) -> Written:
    """Return the prompt that an answer holds: JSON, ours or the runner's, or a plain text.

    Raises WriterFailed with the reason that the answer gives for a failure.
    """
    if isinstance(answer, str) and _PAGE.match(answer):
        raise errors.WriterFailed(f"{who} answered with a web page; its address may be wrong")
    written = read_answer(answer) if isinstance(answer, str) else read_document(answer)
    if written is None and isinstance(answer, str):
        # A plain text stays what it is; so does one in JSON.
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(answer)
        written = as_it_is(answer) if isinstance(answer, str) else None
    if written is not None:
        return replace(written, is_plain=False)
    reason = read_failure(answer)
    if reason is not None:
        raise errors.WriterFailed(f"{who} failed: {reason}")
    raise errors.WriterFailed(f'{who} answered without a prompt; {{"prompt": "…", "negative": "…"}} is needed')


class AddressWriter:
    """Prompts by an http address. key: sent as bearer token."""

    name = "http"

    def __init__(self, url: str, *, key: str | None = None) -> None:
        parts = urlsplit(url)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        base = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        self._web = Web(base, name="the prompt writer", headers=headers)
        self._path = urlunsplit(("", "", parts.path or "/", parts.query, ""))

    @property
    def where(self) -> str:
        """Who is asked, and at what address."""
        return self._web.name

    async def open(self) -> None:
        """Make the pool; connections come with the questions."""
        await self._web.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._web.close()

    async def write(self, question: Question, on_text: OnText) -> Written:
        """Post the idea, and take the answer; its prompt comes as one piece of text."""
        written = answered(await self._web.text(self._path, asked(question)), self._web.name)
        on_text(written.prompt)
        return written

    async def models(self) -> tuple[ModelInfo, ...] | None:
        """Return None: nobody says what a question to such an address would cause."""
        return None

    async def settle(self, model: str | None) -> None:
        """Return at once: nothing is known of its memory."""
