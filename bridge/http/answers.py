"""Answers in JSON, and the one table of what status an error has."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from bridge.errors import BridgeError

JSON = "application/json"

STATUS: Mapping[str, int] = {
    "bad_payload": 400,
    "bad_value": 400,
    "no_such_input": 400,
    "is_link": 400,
    "ui_format": 400,
    "invalid_graph": 400,
    "unsupported": 400,
    "recipe_error": 400,
    "node_errors": 400,
    "unauthorized": 401,
    "not_allowed": 403,
    "unknown_command": 404,
    "unknown_workflow": 404,
    "unknown_node": 404,
    "unknown_parameter": 404,
    "unknown_prompt": 404,
    "unknown_idea": 404,
    "unknown_model": 404,
    "file_missing": 404,
    "already_over": 409,
    "interrupted": 409,
    "cancelled": 409,
    "deleted_elsewhere": 409,
    "expired": 410,
    "too_large": 413,
    "internal": 500,
    "execution_error": 502,
    "out_of_memory": 502,
    "lost": 502,
    "stuck": 502,
    "not_json": 502,
    "writer_failed": 502,
    "queue_full": 503,
    "backend_offline": 503,
    "writer_offline": 503,
    "store": 503,
    "timeout": 504,
}
"""The status of an answer by the code in it. 502 and 409 of a job's end are for those who asked for its picture."""

_BIG = 1_000_000

RETRY_AFTER = 5
"""Seconds, beside each 503."""


def dump(document: Any) -> bytes:
    """Write a document as JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


async def encoded(data: bytes) -> str:
    """Return bytes as base64; that of many is made in a thread."""
    encode = base64.b64encode
    return (encode(data) if len(data) < _BIG else await asyncio.to_thread(encode, data)).decode()


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON."""
    return Response(dump(document), status, headers, media_type=JSON)


def refusal(
    code: str,
    message: str,
    *,
    details: Mapping[str, Any] | None = None,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return `{"code", "error", "details"?}` with the status of the code, or another one where HTTP has its own."""
    document: dict[str, Any] = {"code": code, "error": message}
    if details:
        document["details"] = dict(details)
    status = status or STATUS.get(code, 500)
    more = dict(headers or {})
    if status == 503:
        more.setdefault("Retry-After", str(RETRY_AFTER))
    if status == 401:
        more.setdefault("WWW-Authenticate", "Bearer")
    return answer(document, status, more)


def failure(error: BridgeError) -> Response:
    """Return the answer to a request that failed; its details hold the node that the error is about."""
    return refusal(error.code, error.message, details=error.to_answer().get("details"))
