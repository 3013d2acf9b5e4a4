"""What a request says: JSON, msgpack or a form, and the options in its address."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from bridge.errors import BadPayload, BadValue
from bridge.incoming import is_msgpack, read_json, read_msgpack

LONGEST_WAIT = 3600.0
IMAGE_WAIT = 300.0
"""Seconds that a request for the picture itself waits where it does not say how long."""
_FIELDS = 200
_YES = frozenset({"1", "true", "yes", "on", ""})
_NO = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Options:
    """How an answer is wanted. wait: seconds, None for at once; image: the picture itself."""

    wait: float | None
    base64: bool = False
    image: bool = False


def options(request: Request, document: dict[str, Any] | None = None) -> Options:
    """Read `wait` and `base64`, out of the address or out of the body (they are taken from it), and `Accept`."""
    asked: dict[str, Any] = {}
    for name in ("wait", "base64"):
        if document is not None and name in document:
            asked[name] = document.pop(name)
        if name in request.query_params:
            asked[name] = request.query_params[name]
    image = wants(request, "image/")
    wait = _seconds(asked["wait"]) if "wait" in asked else None
    if image and wait is None:
        wait = IMAGE_WAIT
    return Options(wait, flag("base64", asked.get("base64", False)), image)


def wants(request: Request, kind: str) -> bool:
    """Tell whether an `Accept` names a kind (`image/` for every image) and not JSON before it."""
    for part in request.headers.get("accept", "").split(","):
        named = part.partition(";")[0].strip().lower()
        if named.startswith(kind):
            return True
        if named in {"application/json", "*/*", "text/html", "application/*"}:
            return False
    return False


def flag(name: str, value: object) -> bool:
    """Read a switch. Raises BadValue."""
    word = str(value).strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise BadValue(f"{name} must be 1 or 0")


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_WAIT:
        raise BadValue(f"wait must be seconds, from 0 to {LONGEST_WAIT:g}")
    return seconds


def is_form(request: Request) -> bool:
    """Tell whether the body is a form with files."""
    return _type(request) == "multipart/form-data"


async def document(request: Request) -> dict[str, Any]:
    """Read a JSON object (msgpack where the content type says so); nothing stands for `{}`. Raises BadPayload."""
    data = await request.body()
    if not data.strip():
        return {}
    read = read_msgpack if is_msgpack(request.headers.get("content-type")) else read_json
    value = read(data, where="the body")
    if not isinstance(value, dict):
        raise BadPayload("the body must be a JSON object")
    return value


async def form(request: Request, *, fields: Collection[str], max_bytes: int) -> dict[str, Any]:
    """Read a form as the JSON object that it stands for: `fields` are its own, the rest goes into `values`.

    A file becomes bytes, a field `values` is JSON. Raises BadPayload.
    """
    boundary = re.search(r'boundary="?([^";,]+)', request.headers["content-type"])
    body = await request.body()
    # Of a form that was cut the parser would drop the last part without a word.
    if boundary is None or not body.rstrip().endswith(b"--" + boundary[1].strip().encode() + b"--"):
        raise BadPayload("the form cannot be read: its end is missing")
    made: dict[str, Any] = {}
    values: dict[str, Any] = {}
    try:
        async with request.form(max_files=_FIELDS, max_fields=_FIELDS, max_part_size=max_bytes) as parts:
            for name, part in parts.multi_items():
                if name in values or name in made:
                    raise BadPayload(f"{name} is in the form twice")
                if isinstance(part, UploadFile):
                    values[name] = await part.read()
                elif not part.isascii() and part.encode() not in body:
                    # The parser reads what is no UTF-8 as Latin-1.
                    raise BadPayload(f"{name} is not text in UTF-8")
                elif name == "values":
                    made[name] = read_json(part or "{}", where=name)
                elif name in fields:
                    made[name] = part
                else:
                    values[name] = part
    except HTTPException as error:
        raise BadPayload(f"the form cannot be read: {error.detail}") from None
    given = made.pop("values", {})
    if not isinstance(given, dict):
        raise BadPayload("values must be a JSON object")
    return {**made, "values": {**given, **values}}


def _type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
