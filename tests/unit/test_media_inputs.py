"""Images on their way in: base64, checks, masks, uploads."""

from __future__ import annotations

import base64
import contextlib
import io
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bridge.comfyui.shapes import FileRef
from bridge.errors import BadValue, BridgeError, FileMissing, TooLarge
from bridge.jobs.model import ImageValue
from bridge.media import kinds
from bridge.media.inputs import as_alpha, check_image, decode_base64, reference, upload
from bridge.media.outputs import image_size


def picture(kind: str = "PNG", size: tuple[int, int] = (4, 3), color: float | str = "red", mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, kind)
    return out.getvalue()


def alpha_of(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return image.convert("RGBA").getchannel("A")


# Base64


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(b"hello").decode(),
        "data:image/png;base64," + base64.b64encode(b"hello").decode(),
        "aGVs\nbG8=\r\n",
        "  aGVs bG8=  ",
    ],
)
def test_base64_with_and_without_its_prefix(text: str) -> None:
    assert decode_base64(text, field="base64", max_bytes=100) == b"hello"


@pytest.mark.parametrize("text", ["hello world!", "aGVsbG8", "äöü", "data:image/png;base64,%%%", "aGVsbG8=x", "===="])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(BadValue, match=r"mask\.base64 is not base64"):
        decode_base64(text, field="mask.base64", max_bytes=100)


def test_too_much_base64_is_not_even_decoded() -> None:
    with pytest.raises(TooLarge, match="base64 has more than 1000 bytes"):
        decode_base64("A" * 10_000_000, field="base64", max_bytes=1000)


@given(st.text(max_size=40))
def test_arbitrary_text_is_bytes_or_a_bad_value(text: str) -> None:
    with contextlib.suppress(BadValue):
        assert isinstance(decode_base64(text, field="base64", max_bytes=1000), bytes)


# Images


@pytest.mark.parametrize(
    ("kind", "content_type", "ending"),
    [
        ("PNG", "image/png", ".png"),
        ("JPEG", "image/jpeg", ".jpg"),
        ("WEBP", "image/webp", ".webp"),
        ("GIF", "image/gif", ".gif"),
        ("BMP", "image/bmp", ".bmp"),
    ],
)
def test_an_image_is_known_by_its_first_bytes(kind: str, content_type: str, ending: str) -> None:
    data = picture(kind)
    assert check_image(data, field="the payload", max_bytes=10_000) == content_type
    assert kinds.ending(content_type) == ending
    assert image_size(data) == (4, 3)


@pytest.mark.parametrize("data", [b"hello", b"%PDF-1.7", b"\x00" * 100, b"GIF", b"BM", b"<svg></svg>", b"\x89PNG"])
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(BadValue, match="the payload is not an image; a JPEG, PNG or WebP is needed"):
        check_image(data, field="the payload", max_bytes=10_000)


def test_an_empty_image_and_one_that_is_too_large() -> None:
    with pytest.raises(BadValue, match="is empty"):
        check_image(b"", field="the payload", max_bytes=10)
    with pytest.raises(TooLarge, match=r"has 11 bytes; at most 10.*media\.max_input"):
        check_image(b"x" * 11, field="the payload", max_bytes=10)


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.png", "image/png"),
        ("a.PNG", "image/png"),
        ("a.webp", "image/webp"),
        ("a.flac", "audio/flac"),
        ("a.opus", "audio/ogg"),
        ("a.webm", "video/webm"),
        ("a.mp4", "video/mp4"),
        ("a.latent", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("", "application/octet-stream"),
        ("a/b.c/d", "application/octet-stream"),
    ],
)
def test_the_type_of_a_name(name: str, content_type: str) -> None:
    assert kinds.type_of_name(name) == content_type


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBP", b"hello"])
def test_the_size_of_what_is_cut_or_no_image(data: bytes) -> None:
    assert image_size(data) == (None, None)


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM"]))
def test_the_size_of_arbitrary_bytes_never_raises(rest: bytes, head: bytes) -> None:
    width, height = image_size(head + rest)
    assert (width is None) == (height is None)


def test_a_bomb_is_no_image() -> None:
    bomb = picture("GIF")
    bomb = bomb[:6] + b"\xff\xff\xff\xff" + bomb[10:]
    assert image_size(bomb) in {(None, None), (65535, 65535)}


# Masks


def test_white_of_a_mask_is_what_is_masked() -> None:
    mask = Image.new("L", (2, 1))
    mask.putpixel((0, 0), 255)
    out = io.BytesIO()
    mask.save(out, "PNG")
    alpha = alpha_of(as_alpha(out.getvalue(), None))
    assert (alpha.getpixel((0, 0)), alpha.getpixel((1, 0))) == (0, 255)


def test_transparency_of_a_mask_is_taken_as_it_is() -> None:
    mask = Image.new("RGBA", (2, 1), (255, 255, 255, 255))
    mask.putpixel((0, 0), (255, 255, 255, 0))
    out = io.BytesIO()
    mask.save(out, "PNG")
    alpha = alpha_of(as_alpha(out.getvalue(), None))
    assert (alpha.getpixel((0, 0)), alpha.getpixel((1, 0))) == (0, 255)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_an_empty_mask_masks_nothing(mode: str) -> None:
    alpha = alpha_of(as_alpha(picture(mode=mode, color=0), None))
    assert alpha.getextrema() == (255, 255)


def test_a_mask_is_scaled_to_its_image() -> None:
    mask = as_alpha(picture(size=(10, 10), color="white"), picture(size=(33, 17)))
    assert alpha_of(mask).size == (33, 17)
    assert alpha_of(mask).getextrema() == (0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_mask_of_another_kind(kind: str) -> None:
    assert alpha_of(as_alpha(picture(kind, color="white"), None)).getextrema() == (0, 0)


@pytest.mark.parametrize(
    ("mask", "image"),
    [(b"no image", None), (picture()[:40], None), (picture(), b"no image"), (b"", None)],
)
def test_a_mask_that_cannot_be_read(mask: bytes, image: bytes | None) -> None:
    with pytest.raises(BadValue, match="the mask cannot be used"):
        as_alpha(mask, image)


def test_a_mask_that_is_a_bomb_is_a_bad_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BadValue, match="the mask cannot be used"):
        as_alpha(picture(size=(20, 20)), None)


# Names


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.png", FileRef("a.png", "", "input")),
        ("sub/a.png", FileRef("a.png", "sub", "input")),
        ("x/y/a.png [output]", FileRef("a.png", "x/y", "output")),
        ("a.png [temp]", FileRef("a.png", "", "temp")),
        ("a.png [input]", FileRef("a.png", "", "input")),
        ("a.png[output]", FileRef("a.png[output]", "", "input")),
        ("a [b].png", FileRef("a [b].png", "", "input")),
    ],
)
def test_names_are_read_as_comfyui_reads_them(name: str, file: FileRef) -> None:
    assert reference(name) == file


# Upload


@dataclass
class Uploader:
    """A ComfyUI that renames what it has already."""

    calls: list[tuple[str, bytes, str]] = field(default_factory=list)
    originals: list[FileRef] = field(default_factory=list)
    subfolder: str = ""

    async def upload_image(self, data: bytes, filename: str) -> FileRef:
        self.calls.append(("image", data, filename))
        return FileRef(f"{len(self.calls)}-{filename}", self.subfolder, "input")

    async def upload_mask(self, data: bytes, filename: str, *, original: FileRef) -> FileRef:
        self.calls.append(("mask", data, filename))
        self.originals.append(original)
        return FileRef("clipspace.png", "clip", "input")


@dataclass
class Media:
    bytes_by_name: dict[str, bytes]

    async def media(self, sha256: str) -> bytes:
        if sha256 not in self.bytes_by_name:
            raise FileMissing("gone")
        return self.bytes_by_name[sha256]


async def test_the_returned_name_is_used() -> None:
    client = Uploader()
    assert await upload(client, Media({"s": b"image"}), ImageValue("a.png", "s")) == "1-a.png"
    assert client.calls == [("image", b"image", "a.png")]
    client.subfolder = "sub"
    assert await upload(client, Media({"s": b"image"}), ImageValue("a.png", "s")) == "sub/2-a.png"


async def test_a_mask_is_for_the_uploaded_image() -> None:
    client = Uploader()
    media = Media({"s": picture(size=(8, 8)), "m": picture(size=(2, 2), color="white")})
    assert await upload(client, media, ImageValue("a.png", "s", "m")) == "clip/clipspace.png"
    assert [kind for kind, _, _ in client.calls] == ["image", "mask"]
    assert client.originals == [FileRef("1-a.png", "", "input")]
    assert alpha_of(client.calls[1][1]).size == (8, 8)


async def test_a_mask_for_a_file_that_comfyui_has() -> None:
    client = Uploader()
    media = Media({"m": picture(color="white")})
    assert await upload(client, media, ImageValue("x/a.png [output]", None, "m")) == "clip/clipspace.png"
    assert [kind for kind, _, _ in client.calls] == ["mask"]
    assert client.originals == [FileRef("a.png", "x", "output")]


async def test_a_file_that_comfyui_has_is_not_uploaded() -> None:
    client = Uploader()
    for name in ("a.png", "x/a.png", "a.png [output]"):
        assert await upload(client, Media({}), ImageValue(name)) == name
    assert client.calls == []


async def test_bytes_that_are_gone_are_an_error() -> None:
    with pytest.raises(BridgeError) as caught:
        await upload(Uploader(), Media({}), ImageValue("a.png", "s"))
    assert caught.value.code == "file_missing"
