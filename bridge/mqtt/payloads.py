"""Payloads: JSON, msgpack or plain, told apart by the content type and the first byte. Pure."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import Any

import msgpack

from bridge.errors import BadPayload
from bridge.incoming import is_msgpack, read_json, read_msgpack

JSON = "application/json"
MSGPACK = "application/msgpack"
_WHERE = "the payload"


def read(payload: bytes, content_type: str | None) -> Any:
    """Return the JSON value of a payload, or the payload itself, stripped, where it is plain.

    A payload whose first non-blank byte is `{` or `[` must be JSON. Raises BadPayload.
    """
    if is_msgpack(content_type):
        return read_msgpack(payload, where=_WHERE)
    if payload.removeprefix(codecs.BOM_UTF8).lstrip()[:1] not in {b"{", b"["}:
        return payload
    return read_json(payload, where=_WHERE)


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
