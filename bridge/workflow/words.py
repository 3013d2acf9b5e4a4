"""How values and choices are put into the sentences of errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 60
_LISTED = 12
_COMPARED = 2_000
_WRITTEN = {"cfg": "CFG", "fps": "FPS", "lora": "LoRA", "vae": "VAE"}


def title_of(name: str) -> str:
    """What people are shown of a name that is all there is: `lora_2` is `LoRA 2`."""
    words = name.replace("_", " ").replace("-", " ").lower().split()
    text = " ".join(_WRITTEN.get(word, word) for word in words)
    return text[:1].upper() + text[1:]


def shown(value: object) -> str:
    """The value for a sentence: quoted if it is a text, cut when long, never raising.

    Lone surrogates come out as escapes, so that the sentence can always be sent as UTF-8.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 256 else f"a number of {value.bit_length()} bits"
    if isinstance(value, float):
        return repr(value)
    return kind_of(value)


def kind_of(value: object) -> str:
    """The JSON type of a value with its article, such as `a text` or `an object`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "raw bytes"
    return f"a {type(value).__name__}"


def nearest(word: str, candidates: Iterable[str], *, count: int = 3) -> list[str]:
    """Those of the candidates that look like the word (upper and lower case are one), best first."""
    by_folded: dict[str, str] = {}
    for candidate in list(candidates)[:_COMPARED]:
        by_folded.setdefault(candidate[:_SHOWN].casefold(), candidate)
    matches = difflib.get_close_matches(word[:_SHOWN].casefold(), list(by_folded), n=count, cutoff=0.6)
    return [by_folded[match] for match in matches]


def listed(words: Iterable[str]) -> str:
    """The words for a sentence, joined by commas; a long list is cut and says by how much."""
    all_words = list(words)
    text = ", ".join(all_words[:_LISTED])
    return text if len(all_words) <= _LISTED else f"{text} and {len(all_words) - _LISTED} more"


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """` Did you mean 'a' or 'b'?`, with the leading blank, or nothing when nothing is near."""
    near = nearest(word, candidates)
    return f" Did you mean {' or '.join(shown(one) for one in near)}?" if near else ""
