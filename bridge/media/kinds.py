"""What kind of file some bytes are: by their first bytes, or by a file's name. Pure."""

from __future__ import annotations

import mimetypes
from pathlib import PurePosixPath

from bridge.comfyui.protocol import sniff_image

_ENDINGS = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
}
# What the standard table lacks, or has differently from system to system.
_TYPES = {
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".flac": "audio/flac",
    ".opus": "audio/ogg",
    ".ogg": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".mp4": "video/mp4",
    ".mkv": "video/x-matroska",
    ".glb": "model/gltf-binary",
    ".latent": "application/octet-stream",
    ".safetensors": "application/octet-stream",
}


def image_type(data: bytes) -> str | None:
    """Return the content type of an image by its first bytes; None if it is none that ComfyUI loads."""
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return "image/gif"
    if data[:2] == b"BM" and len(data) > 26:
        return "image/bmp"
    sniffed = sniff_image(data)
    return sniffed if sniffed.startswith("image/") else None


def ending(content_type: str) -> str:
    """Return the usual ending of a file's name, with its dot."""
    return _ENDINGS.get(content_type) or mimetypes.guess_extension(content_type) or ".bin"


def type_of_name(filename: str) -> str:
    """Return the content type that a file's name tells; `application/octet-stream` for an unknown ending."""
    suffix = PurePosixPath(filename).suffix.lower()
    return _TYPES.get(suffix) or mimetypes.guess_type(f"x{suffix}")[0] or "application/octet-stream"
