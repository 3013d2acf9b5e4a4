"""Asking a chat model: a system prompt and an idea, and one more try where the answer is no JSON. Pure."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from bridge.errors import WriterFailed
from bridge.prompting.answers import as_it_is, read_answer, without_thoughts
from bridge.prompting.model import OnText, Question, Written

MAX_TEXT = 20_000
"""Characters after which an answer is cut off: a model that does not stop by itself."""

_REPAIR = (
    "That was not the JSON object that was asked for. Give the same prompt again as one JSON object and nothing else, "
    'no other words and no code fence: {"prompt": "…", "negative": "…", "title": "…"}'
)


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a chat. `images` in base64."""

    role: str
    text: str
    images: tuple[str, ...] = ()


Complete = Callable[[list[Said], OnText], Awaitable[str]]
"""Has the model answer a chat, and returns the whole of what `on_text` got."""


async def write_by_chat(question: Question, complete: Complete, on_text: OnText) -> Written:
    """Return what a chat model writes. Raises WriterFailed for one that gives no prompt, and what `complete` raises.

    An answer that is no JSON is sent back once; if the second is none either, the first is taken as it is.
    """
    images = tuple(base64.b64encode(image).decode() for image in question.images)
    messages = [Said("system", question.system), Said("user", question.text(), images)]
    first = await complete(messages, on_text)
    written = read_answer(first)
    if written is not None:
        return replace(written, model=None)
    said = without_thoughts(first)
    if not said:
        raise WriterFailed("the model answered with nothing")
    second = await complete([*messages, Said("assistant", said), Said("user", _REPAIR)], on_text)
    written = read_answer(second)
    if written is not None:
        return replace(written, model=None)
    plain = as_it_is(first) or as_it_is(second)
    if plain is None:
        raise WriterFailed("the model answered without a prompt, and again when it was asked once more")
    return plain
