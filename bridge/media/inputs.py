"""Images on their way in: checked when they are set, uploaded to the backend that runs the job."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from typing import Protocol

from bridge.comfyui.shapes import FileRef
from bridge.errors import BadValue, TooLarge
from bridge.jobs.model import ImageValue
from bridge.media import kinds


class Uploader(Protocol):
    """The part of a ComfyUI client that uploads."""

    async def upload_image(self, data: bytes, filename: str) -> FileRef:
        """Upload an image; the returned name is the one to use."""

    async def upload_mask(self, data: bytes, filename: str, *, original: FileRef) -> FileRef:
        """Upload a mask for an image that was uploaded."""


class MediaSource(Protocol):
    """The part of a store that keeps bytes."""

    async def media(self, sha256: str) -> bytes:
        """Return the bytes of that name."""


def decode_base64(text: str, *, field: str, max_bytes: int) -> bytes:
    """Decode base64, with or without `data:…;base64,` before it. Raises BadValue, TooLarge."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) > (max_bytes // 3 + 1) * 4 + 4096:
        raise TooLarge(f"{field} has more than {max_bytes} bytes (media.max_input)")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadValue(f"{field} is not base64") from None


def check_image(data: bytes, *, field: str, max_bytes: int) -> str:
    """Return the content type of an image. Raises TooLarge, and BadValue for what is none."""
    if len(data) > max_bytes:
        raise TooLarge(f"{field} has {len(data)} bytes; at most {max_bytes} are taken (media.max_input)")
    if not data:
        raise BadValue(f"{field} is empty; the bytes of a JPEG, PNG or WebP image are needed")
    content_type = kinds.image_type(data)
    if content_type is None:
        raise BadValue(f"{field} is not an image; a JPEG, PNG or WebP is needed")
    return content_type


async def upload(client: Uploader, store: MediaSource, value: ImageValue) -> str:
    """Upload an image, and its mask, to a backend; return what the node's input is to hold.

    The bytes' hash makes the name, so that an image that ComfyUI has already is not kept there twice.
    """
    if value.sha256 is None:
        original = reference(value.filename)
        image = None
    else:
        image = await store.media(value.sha256)
        original = await client.upload_image(image, value.filename)
    if value.mask is None:
        return _name(original)
    mask = await asyncio.to_thread(as_alpha, await store.media(value.mask), image)
    return _name(await client.upload_mask(mask, f"mask-{value.mask[:16]}.png", original=original))


def as_alpha(mask: bytes, image: bytes | None) -> bytes:
    """Turn a mask into the PNG that ComfyUI's `/upload/mask` wants: the alpha channel 0 where the mask is set.

    A mask with transparency is taken as it is; of another one, white is what is masked. It is scaled to the image,
    since ComfyUI refuses another size. Raises BadValue if one of them cannot be read.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415  50 ms at the start that most runs never need

    try:
        with Image.open(io.BytesIO(mask)) as opened:
            rgba = opened.convert("RGBA")
        alpha = rgba.getchannel("A")
        if alpha.getextrema() == (255, 255):
            alpha = ImageOps.invert(rgba.convert("L"))
        if image is not None:
            with Image.open(io.BytesIO(image)) as opened:
                alpha = alpha.resize(opened.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadValue(f"the mask cannot be used: {error}") from None
    black = Image.new("RGBA", alpha.size)
    black.putalpha(alpha)
    out = io.BytesIO()
    black.save(out, "PNG", compress_level=1)
    return out.getvalue()


def reference(filename: str) -> FileRef:
    """Read a name as ComfyUI's loaders do: `sub/a.png`, `a.png [output]`."""
    kind = "input"
    for one in ("input", "output", "temp"):
        if filename.endswith(f" [{one}]"):
            filename, kind = filename[: -len(one) - 3], one
    subfolder, _, name = filename.rpartition("/")
    return FileRef(name, subfolder, kind)


def _name(file: FileRef) -> str:
    name = f"{file.subfolder}/{file.filename}" if file.subfolder else file.filename
    return name if file.type == "input" else f"{name} [{file.type}]"
