"""Outputs on their way out: fetched by `/view`, measured, described."""

from __future__ import annotations

import io
import logging

from bridge.comfyui.client import ComfyClient
from bridge.errors import BridgeError
from bridge.jobs.lifecycle import Found
from bridge.jobs.model import Output
from bridge.media import kinds

logger = logging.getLogger(__name__)


async def fetch(client: ComfyClient, found: Found, n: int, *, max_bytes: int) -> tuple[Output, bytes | None]:
    """Fetch one output; never raises: an Output with `error` and no bytes says why they are missing."""
    url = client.view_url(found.file) if found.data is None else None
    content_type = found.content_type or kinds.type_of_name(found.file.filename)
    data = found.data
    try:
        if data is None:
            fetched = await client.view(found.file, max_bytes=max_bytes)
            data = fetched.data
            # ComfyUI names what it knows; for the rest the ending of the file tells more.
            if content_type == "application/octet-stream" and fetched.content_type:
                content_type = fetched.content_type
    except BridgeError as error:
        logger.warning("output %d, %s, cannot be fetched: %s", n, found.file.filename, error.message)
        output = _described(found, n, content_type, url, error=error)
        return output, None
    return _described(found, n, content_type, url, data=data), data


def _described(
    found: Found,
    n: int,
    content_type: str,
    url: str | None,
    *,
    data: bytes | None = None,
    error: BridgeError | None = None,
) -> Output:
    width, height = image_size(data) if data is not None and content_type.startswith("image/") else (None, None)
    return Output(
        n=n,
        node=found.node,
        filename=found.file.filename,
        subfolder=found.file.subfolder,
        type=found.file.type,
        content_type=content_type,
        url=url,
        bytes=None if data is None else len(data),
        width=width,
        height=height,
        error=None if error is None else error.to_json(),
    )


def image_size(data: bytes) -> tuple[int, int] | tuple[None, None]:
    """Return width and height in pixels, read from an image's header."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  PNG, by far the commonest, needs none of it

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None
