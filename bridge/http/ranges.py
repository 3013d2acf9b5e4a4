"""Answers that are files: type, name, tag, and a part of it where one is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

_SHOWN = ("image/", "video/", "audio/")
_ACTIVE = frozenset({"image/svg+xml"})


def etag(job_id: str, n: int) -> str:
    """Return the tag of an output: a job's outputs never change."""
    return f'"{job_id}-{n}"'


def unchanged(request: Request, job_id: str, n: int) -> bool:
    """Tell whether the caller has the output already."""
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return etag(job_id, n) in known


def file(data: bytes, output: Mapping[str, Any], *, job_id: str, request: Request | None = None) -> Response:
    """Answer with an output; with the part of it that the request's `Range` names."""
    content_type, filename = str(output["content_type"]), str(output["filename"])
    shown = content_type.startswith(_SHOWN) and content_type not in _ACTIVE
    headers = {
        "ETag": etag(job_id, int(output["n"])),
        "Cache-Control": "private, max-age=86400",
        "Content-Disposition": f"{'inline' if shown else 'attachment'}; filename*=UTF-8''{quote(filename, safe='')}",
        "Accept-Ranges": "bytes",
        # A file from outside must never act as a page of ours.
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Job-Id": job_id,
    }
    part = _range(request, len(data), headers["ETag"])
    if part is None:
        return Response(data, headers=headers, media_type=content_type)
    first, last = part
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(data[first : last + 1], 206, headers, media_type=content_type)


def _range(request: Request | None, size: int, tag: str) -> tuple[int, int] | None:
    """Return the first and the last byte that are asked for; None: all. First beyond last: there are no such."""
    if request is None or request.headers.get("if-range", tag) != tag:
        return None
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", "").replace(" ", ""))
    if match is None or not any(match.groups()):
        return None
    begin, end = match.groups()
    if not begin:
        return max(0, size - int(end)), (size - 1 if int(end) else -1)
    first, last = int(begin), min(int(end), size - 1) if end else size - 1
    if end and int(end) < first:
        return None
    return (first, last) if first < size else (1, 0)
