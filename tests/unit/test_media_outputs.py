"""Outputs on their way out, and images as commands give them."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from bridge.comfyui.client import ComfyClient, Fetched
from bridge.comfyui.shapes import FileRef
from bridge.errors import BackendOffline, BridgeError, FileMissing, TooLarge
from bridge.jobs.lifecycle import Found
from bridge.jobs.model import ImageValue
from bridge.jobs.store import Store
from bridge.media import outputs
from bridge.media.sources import Media
from bridge.requests import ImageSource, UpdateImage, parse
from bridge.settings import load


def picture(kind: str = "PNG", size: tuple[int, int] = (7, 5)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size).save(out, kind)
    return out.getvalue()


class Client:
    """A ComfyUI that has one file, or an error."""

    def __init__(self, answer: Fetched | BridgeError) -> None:
        self.answer = answer
        self.asked: list[tuple[FileRef, int]] = []

    def view_url(self, file: FileRef) -> str:
        return f"http://comfy/view?filename={file.filename}"

    async def view(self, file: FileRef, *, max_bytes: int) -> Fetched:
        self.asked.append((file, max_bytes))
        if isinstance(self.answer, BridgeError):
            raise self.answer
        return self.answer


async def fetch(found: Found, answer: Fetched | BridgeError) -> tuple[Any, bytes | None]:
    output, data = await outputs.fetch(cast("ComfyClient", Client(answer)), found, 3, max_bytes=1000)
    return output, data


@pytest.mark.parametrize(
    ("name", "server_says", "content_type"),
    [
        ("a.png", "image/png", "image/png"),
        ("a.webp", "image/webp", "image/webp"),
        ("a.flac", "application/octet-stream", "audio/flac"),
        ("a.opus", "audio/ogg", "audio/ogg"),
        ("a.webm", "video/webm", "video/webm"),
        ("a.unheard-of", "video/quicktime", "video/quicktime"),
        ("a.unheard-of", "", "application/octet-stream"),
    ],
)
async def test_the_content_type_of_an_output(name: str, server_says: str, content_type: str) -> None:
    output, data = await fetch(Found("9", FileRef(name, "sub", "output")), Fetched(b"bytes", server_says))
    assert data == b"bytes"
    assert (output.n, output.node, output.filename, output.subfolder, output.bytes) == (3, "9", name, "sub", 5)
    assert output.content_type == content_type
    assert output.url == f"http://comfy/view?filename={name}"
    assert output.error is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_an_image_is_measured(kind: str) -> None:
    name = f"a.{kind.lower()}"
    output, _ = await fetch(Found("9", FileRef(name)), Fetched(picture(kind), f"image/{kind.lower()}"))
    assert (output.width, output.height) == (7, 5)


async def test_what_is_no_image_has_no_size() -> None:
    output, _ = await fetch(Found("9", FileRef("a.mp4")), Fetched(picture(), "video/mp4"))
    assert (output.width, output.height) == (None, None)
    output, _ = await fetch(Found("9", FileRef("a.png")), Fetched(b"broken", "image/png"))
    assert (output.width, output.height) == (None, None)


async def test_the_image_of_a_websocket_node_is_at_hand() -> None:
    file = FileRef("websocket_2_00000.png", "", "websocket")
    output, data = await fetch(Found("2", file, picture(), "image/png"), FileMissing("not to be asked"))
    assert data == picture()
    assert (output.url, output.error, output.width) == (None, None, 7)


@pytest.mark.parametrize("error", [FileMissing("gone"), TooLarge("too much"), BackendOffline("away")])
async def test_an_output_that_cannot_be_had_says_why(error: BridgeError) -> None:
    output, data = await fetch(Found("9", FileRef("a.png")), error)
    assert data is None
    assert output.error == {"code": error.code, "message": error.message}
    assert (output.bytes, output.width) == (None, None)
    assert output.to_json()["error"]["code"] == error.code


# As commands give them


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path / 'x.db'}", keep=1e6) as opened:
        yield opened


def media(store: Store, tmp_path: Path, *, has: bool | None = True) -> Media:
    asked: list[FileRef] = []

    async def exists(file: FileRef) -> bool | None:
        asked.append(file)
        return has

    config = tmp_path / "config.toml"
    config.touch()
    return Media(load(environ={}, config=config), store, exists)


@pytest.mark.parametrize("has", [True, None])
async def test_a_name_is_taken_if_comfyui_has_it_or_cannot_tell(store: Store, tmp_path: Path, has: bool | None) -> None:
    made = await media(store, tmp_path, has=has).resolve(ImageSource(filename="sub/a.png"), None)
    assert made == "sub/a.png"


async def test_a_name_that_comfyui_does_not_have(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileMissing, match=r"no file 'a\.png \[output\]' in its output folder"):
        await media(store, tmp_path, has=False).resolve(ImageSource(filename="a.png [output]"), None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_bytes_are_kept_under_their_hash_with_the_right_ending(store: Store, tmp_path: Path, kind: str) -> None:
    made = await media(store, tmp_path).resolve(picture(kind), None)
    assert isinstance(made, ImageValue)
    assert made.sha256 is not None
    assert await store.media(made.sha256) == picture(kind)
    assert made.filename.endswith({"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}[kind])
    again = await media(store, tmp_path).resolve(ImageSource(base64=base64.b64encode(picture(kind)).decode()), None)
    assert again == made


async def test_a_mask_joins_the_image_that_is_there(store: Store, tmp_path: Path) -> None:
    source = parse(UpdateImage, {"mask": {"base64": base64.b64encode(picture()).decode()}})
    sources = media(store, tmp_path)
    by_name = await sources.resolve(source, "example.png")
    assert isinstance(by_name, ImageValue)
    assert (by_name.filename, by_name.sha256) == ("example.png", None)
    assert by_name.mask is not None
    by_bytes = await sources.resolve(source, ImageValue("x.png", "0" * 64, "1" * 64))
    assert by_bytes == ImageValue("x.png", "0" * 64, by_name.mask)
    with pytest.raises(BridgeError, match="no image yet"):
        await sources.resolve(source, None)


async def test_a_new_image_drops_the_old_mask(store: Store, tmp_path: Path) -> None:
    made = await media(store, tmp_path).resolve(picture(), ImageValue("x.png", "0" * 64, "1" * 64))
    assert isinstance(made, ImageValue)
    assert made.mask is None
