"""Payloads: JSON, msgpack or plain, told apart by the content type and the first byte. Pure."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgpack

from bridge.errors import BadPayload
from bridge.workflow.words import shown

JSON = "application/json"
MSGPACK = "application/msgpack"
_MSGPACK_TYPES = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})


def is_msgpack(content_type: str | None) -> bool:
    """Tell whether a content type says msgpack."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() in _MSGPACK_TYPES


def read(payload: bytes, content_type: str | None) -> Any:
    """Return the JSON value of a payload, or the payload itself, stripped, where it is plain.

    A payload whose first non-blank byte is `{` or `[` must be JSON. Raises BadPayload.
    """
    if is_msgpack(content_type):
        try:
            return msgpack.unpackb(payload, strict_map_key=True)
        except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
            raise BadPayload(f"the payload is not msgpack: {str(error) or type(error).__name__}") from None
    if payload.removeprefix(codecs.BOM_UTF8).lstrip()[:1] not in {b"{", b"["}:
        return payload
    try:
        value = json.loads(payload.removeprefix(codecs.BOM_UTF8), object_pairs_hook=_object)
        if b"\\ud" in payload.lower():  # half of a surrogate pair is no text that could be stored or sent
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadPayload("the payload has a text that ends within a character (half a surrogate pair)") from None
    except UnicodeDecodeError:
        raise BadPayload("the payload begins like JSON and is not text in UTF-8") from None
    except RecursionError:
        raise BadPayload("the payload is nested too deep") from None
    except json.JSONDecodeError as error:
        raise BadPayload(f"the payload begins like JSON and is none: {error}") from None
    except ValueError:
        raise BadPayload("the payload has a number with too many digits") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise BadPayload(f"the payload has {shown(twice)} more than once in one object")
    return document


def text(payload: bytes) -> str:
    """Return a plain payload as text, without a byte order mark. Raises BadPayload."""
    try:
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadPayload("the payload is not text in UTF-8") from None


def dump(document: Mapping[str, Any], *, as_msgpack: bool = False) -> bytes:
    """Write a document as JSON, or as msgpack."""
    if as_msgpack:
        packed: bytes = msgpack.packb(document, default=str)
        return packed
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
