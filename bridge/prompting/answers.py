"""What a writer answered, read with patience: models wrap their JSON in words, fences and thoughts. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bridge.prompting.model import Written

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_ATTEMPTS = 50
_DECODER = json.JSONDecoder(strict=False)  # models break lines inside of texts
_FENCED = re.compile(r"```\w*\n?(.*?)(?:```|$)", re.DOTALL)
_PROMPTS = ("prompt", "positive_prompt", "positive")
_NEGATIVES = ("negative", "negative_prompt")
_STRING = re.compile(r'"prompt"\s*:\s*"((?:[^"\\]|\\.)*)')
_CUT_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\u[0-9a-fA-F]{0,3}$")


def read_answer(text: str) -> Written | None:
    """Return the prompt that a text holds as JSON; None if it holds none.

    The JSON may stand alone, in a code fence, among other words, or inside of other JSON; of several objects the first
    with a prompt counts.
    """
    text = without_thoughts(text)
    start = text.find("{")
    for _ in range(_ATTEMPTS):
        if start < 0:
            break
        try:
            document, _ = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            document = None
        written = read_document(document)
        if written is not None:
            return written
        start = text.find("{", start + 1)
    return None


def read_document(document: object) -> Written | None:
    """Return the prompt in a JSON object: ours (`prompt`, `negative`, `title`) or the runner's (`positive_prompt`)."""
    if not isinstance(document, Mapping):
        return None
    prompt = _unfenced(_first(document, _PROMPTS))
    if not prompt:
        return None
    model = document.get("model")
    return Written(
        prompt,
        _first(document, _NEGATIVES),
        _text(document.get("title")),
        model if isinstance(model, str) and model else None,
    )


def read_failure(document: object) -> str | None:
    """Return the reason that a JSON object gives for a failure: `error`, or a `STATUS` without a prompt."""
    if not isinstance(document, Mapping):
        return None
    error = document.get("error")
    if isinstance(error, Mapping):
        error = error.get("message") or error.get("code")
    if isinstance(error, str) and error.strip():
        return error.strip()[:500]
    status = document.get("STATUS", document.get("status"))
    return status.strip()[:500] if isinstance(status, str) and status.strip() else None


def as_it_is(text: str) -> Written | None:
    """Return a text that is no JSON as the prompt itself, without the model's thoughts and without a code fence.

    Of JSON that was cut off this is what it says of the prompt. None for an empty text, and for JSON without a prompt:
    an image model would paint its brackets.
    """
    plain = _unfenced(without_thoughts(text))
    try:
        document = json.loads(plain, strict=False)
    except (ValueError, RecursionError):
        plain = (prompt_so_far(plain) or plain) if "{" in plain else plain
    else:
        if isinstance(document, (dict, list)):
            return None
        plain = document.strip() if isinstance(document, str) else plain
    return Written(_clean(plain), is_plain=True) if plain else None


def prompt_so_far(text: str) -> str:
    """Return what a JSON answer that is still being written says of the prompt; empty before its first word."""
    found = _STRING.search(text)
    if found is None:
        return ""
    raw = _CUT_ESCAPE.sub(r"\1", found[1])
    try:
        return _clean(json.loads(f'"{raw}"', strict=False))
    except ValueError:  # an escape that JSON does not know
        return raw


def joined(*parts: str) -> str:
    """Join lists of words with commas, each entry once, in the order of their first coming."""
    entries: dict[str, str] = {}
    for part in parts:
        for entry in part.split(","):
            word = entry.strip()
            if word:
                entries.setdefault(word.lower(), word)
    return ", ".join(entries.values())


def without_thoughts(text: str) -> str:
    """Return what a model says without what it thinks aloud before."""
    text = _THOUGHTS.sub("", text)
    # Some templates open the thoughts themselves, so that only their end is in the answer; some answers end in them.
    return text.rpartition("</think>")[2].partition("<think>")[0].strip()


def _unfenced(text: str) -> str:
    """Return what stands in the code fence of a text, if it has just one."""
    found = _FENCED.findall(text)
    return str(found[0] if len(found) == 1 else text).strip()


def _first(document: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        text = _text(document.get(name))
        if text:
            return text
    return ""


def _text(value: object) -> str:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, list):
        return joined(*(entry for entry in value if isinstance(entry, str)))
    return ""


def _clean(text: str) -> str:
    """Without half surrogates, which cannot be stored or sent."""
    return text.encode(errors="replace").decode().strip()
