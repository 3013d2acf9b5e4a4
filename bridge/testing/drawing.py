"""The pictures: a background from the seed, the prompt's text on it, and previews that go from noise to clear."""

from __future__ import annotations

import colorsys
import functools
import io
import json
import random
import struct
import textwrap
import unicodedata
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_LARGEST_PIXELS = 64_000_000


@dataclass(frozen=True, slots=True)
class Scene:
    """What a sampler was asked for: everything that a picture shows.

    `source` is the input picture of img2img or inpainting, `denoise` how far the result moves away from it (0 to 1).
    """

    width: int
    height: int
    seed: int = 0
    text: str = ""
    note: str = ""
    source: Image.Image | None = None
    denoise: float = 1.0


def check_size(width: int, height: int) -> None:
    """Raise MemoryError for a picture that this process should not try to hold."""
    if width * height > _LARGEST_PIXELS:
        raise MemoryError(f"Allocation of a {width} x {height} picture")


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _colours(seed: int) -> bytes:
    rng = random.Random(seed)
    hue = rng.random()
    shades = [
        colorsys.hls_to_rgb((hue + shift) % 1, light, 0.55) for shift, light in ((0, 0.22), (0.08, 0.38), (0.3, 0.55))
    ]
    return bytes(round(255 * part) for shade in shades for part in shade)


def _background(scene: Scene) -> Image.Image:
    size = (scene.width, scene.height)
    # Rows of one colour: they are quick to fill and deflate to almost nothing.
    column = Image.frombytes("RGB", (1, 3), _colours(scene.seed)).resize((1, scene.height), Image.Resampling.BICUBIC)
    ground = column.resize(size, Image.Resampling.NEAREST)
    if scene.source is None:
        return ground
    source = scene.source.convert("RGB")
    if source.size != size:
        source = source.resize(size, Image.Resampling.BILINEAR)
    return Image.blend(source, ground, 0.6 * min(1.0, max(0.0, scene.denoise)))


def render(scene: Scene) -> Image.Image:
    """The finished picture, `width` x `height`, RGB."""
    check_size(scene.width, scene.height)
    image = _background(scene)
    size = max(10, min(scene.width, scene.height) // 18)
    margin = size
    columns = max(4, int((scene.width - 2 * margin) / (0.56 * size)))
    rows = max(1, int((scene.height - 3 * margin) / (1.25 * size)))
    text = _plain(scene.text[: columns * rows * 2])  # no more than fits, or a novel would take seconds
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, columns)][:rows]
    draw = ImageDraw.Draw(image)
    plate = (0, 0, 0)
    if lines:
        longest = max(len(line) for line in lines)
        right = min(scene.width - margin // 2, int(margin * 1.5 + 0.62 * size * longest))
        draw.rectangle((margin // 2, margin // 2, right, int(margin + 1.25 * size * len(lines))), fill=plate)
        for row, line in enumerate(lines):
            draw.text((margin, margin * 0.8 + 1.25 * size * row), line, font=_font(size), fill="white")
    if scene.note:
        small = max(9, size * 2 // 3)
        draw.rectangle((0, scene.height - 2 * small, scene.width, scene.height), fill=plate)
        draw.text((margin, scene.height - 1.7 * small), scene.note, font=_font(small), fill=(255, 214, 120))
    return image


def _plain(text: str) -> str:
    """Return a text with its letters without their marks: Pillow's own font has no others."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


@functools.lru_cache(maxsize=1)
def example_image() -> bytes:
    """A PNG to load, for workflows whose image nobody has set yet."""
    return png(render(Scene(512, 512, seed=1, text="an example")), {})


@functools.lru_cache(maxsize=16)
def _noise(size: tuple[int, int], pattern: int) -> Image.Image:
    rng = random.Random(pattern)
    grain = Image.frombytes("RGB", (64, 64), rng.randbytes(64 * 64 * 3))
    return grain.resize(size, Image.Resampling.BILINEAR)


def fitted(image: Image.Image, edge: int) -> Image.Image:
    """`image` fitted into a square of `edge`, enlarged too, as the real server fits its previews."""
    scale = min(edge / image.width, edge / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.convert("RGB")
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def preview(clear: Image.Image, step: int, steps: int, seed: int, exactly: int = 0) -> bytes:
    """The JPEG of sampler step `step` of `steps`; `exactly` bytes long if that is not 0."""
    share = step / max(1, steps)
    mixed = Image.blend(_noise(clear.size, (seed + step) % 8), clear, share) if share < 1 else clear
    if not exactly:
        return jpeg(mixed, 95)
    for quality in (95, 60, 20, 1):
        data = jpeg(mixed, quality)
        if len(data) <= exactly:
            return padded(data, exactly)
    return padded(tiny_jpeg(), exactly)


def jpeg(image: Image.Image, quality: int) -> bytes:
    """`image` as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@functools.lru_cache(maxsize=1)
def tiny_jpeg() -> bytes:
    """The smallest useful JPEG, for frames whose size matters and whose content does not."""
    return jpeg(Image.new("L", (8, 8), 128), 50)


def padded(data: bytes, size: int) -> bytes:
    """`data` with zero bytes after its end-of-image mark, which every JPEG reader ignores, up to `size` bytes."""
    return data + bytes(max(0, size - len(data)))


def png(image: Image.Image, texts: Mapping[str, Any]) -> bytes:
    """`image` as PNG with `texts` as JSON in text chunks, as the real SaveImage embeds the graph."""
    image = image if image.mode in {"L", "RGB", "RGBA"} else image.convert("RGB")
    width, height = image.size
    bands = len(image.getbands())
    # A row needs a leading filter byte 0: one more byte of stride puts it at the end, the shift before the next row.
    raw = b"\0" + image.tobytes("raw", image.mode, width * bands + 1)[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[bands], 0, 0, 0)
    chunks = [(b"IHDR", header)]
    for key, value in texts.items():
        # tEXt ends its keyword with a zero byte and allows it 1 to 79 characters.
        keyword = str(key).encode("latin-1", "replace").replace(b"\0", b"")[:79]
        if keyword:
            chunks.append((b"tEXt", keyword + b"\0" + json.dumps(value).encode("ascii")))
    chunks += [(b"IDAT", zlib.compress(raw, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
