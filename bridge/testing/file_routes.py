"""The HTTP routes of files: /view and the two uploads."""

from __future__ import annotations

import asyncio
import io
import json
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.web_request import FileField
from multidict import MultiMapping
from PIL import Image

from bridge.testing.folders import Escape

if TYPE_CHECKING:
    from bridge.testing.standin import StandIn

_ACTIVE_CONTENT = {"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}
Form = MultiMapping[str | bytes | bytearray | FileField]


class FileRoutes:
    """The handlers; each raises for what the real server answers with 500, and aiohttp makes the answer."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        self.folders = standin.folders

    def table(self) -> list[tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]]:
        """Method, path and handler of each route."""
        return [
            ("GET", "/view", self.view),
            ("POST", "/upload/image", self.upload_image),
            ("POST", "/upload/mask", self.upload_mask),
        ]

    async def view(self, request: web.Request) -> web.StreamResponse:
        """A file of the three folders, possibly as a smaller picture."""
        if self.standin.faults.view_error > 0:
            self.standin.faults.view_error -= 1
            raise RuntimeError("failed on purpose")
        query = request.query
        if "filename" not in query:
            return web.Response(status=404)
        path = self._find(query["filename"], query.get("type", "output"), query.get("subfolder", ""))
        if isinstance(path, int):
            return web.Response(status=path)
        if not path.is_file():
            return web.Response(status=404)
        disposition = {"Content-Disposition": f'filename="{path.name}"'}
        channel = query.get("channel", "rgba")
        if "preview" in query:
            body, kind = await asyncio.to_thread(_smaller, path, query["preview"], query.get("channel", ""))
            return web.Response(body=body, content_type=kind, headers=disposition)
        if channel in {"rgb", "a"}:
            body = await asyncio.to_thread(_channel, path, channel)
            return web.Response(body=body, content_type="image/png", headers=disposition)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if kind in _ACTIVE_CONTENT:
            kind = "application/octet-stream"
        return web.FileResponse(path, headers={**disposition, "Content-Type": kind})

    def _find(self, name: str, kind: str, subfolder: str) -> Path | int:
        name, folder = self.folders.annotated(name)
        if not name or name.startswith("/") or ".." in name:
            return 400
        folder = folder or self.folders.kind(kind)
        if folder is None:
            return 400
        try:
            return self.folders.within(self.folders.within(folder, subfolder), Path(name).name)
        except Escape:
            return 403

    async def upload_image(self, request: web.Request) -> web.Response:
        """Keep a file in one of the folders."""
        return await self._upload(await request.post(), lambda _form, data, path: _write(path, data))

    async def upload_mask(self, request: web.Request) -> web.Response:
        """Keep the named original with the uploaded picture's alpha channel."""
        return await self._upload(await request.post(), self._write_masked)

    async def _upload(self, form: Form, write: Callable[[Form, bytes, Path], None]) -> web.Response:
        field = form.get("image")
        kind = form.get("type") or "input"
        folder = self.folders.kind(str(kind))
        if folder is None:
            raise ValueError(f"there is no folder type {kind!r}")
        if not isinstance(field, FileField) or not field.filename:
            return web.Response(status=400)
        subfolder = str(form.get("subfolder", ""))
        data = await asyncio.to_thread(field.file.read)
        try:
            name = await asyncio.to_thread(
                self.folders.store,
                folder,
                subfolder,
                field.filename,
                data,
                overwrite=form.get("overwrite") in {"true", "1"},
                write=lambda path: write(form, data, path),
            )
        except Escape:
            return web.Response(status=400)
        self.standin.stats.uploads += 1
        return web.json_response({"name": name, "subfolder": subfolder, "type": str(kind)})

    def _write_masked(self, form: Form, data: bytes, path: Path) -> None:
        named = form.get("original_ref")
        if not isinstance(named, str):
            raise TypeError("original_ref is missing")
        reference = json.loads(named)
        original = self._find(reference["filename"], reference.get("type", "output"), reference.get("subfolder", ""))
        if isinstance(original, int) or not original.is_file():
            # Measured: nothing is written, and the answer is 200 all the same.
            return
        with Image.open(original) as opened, Image.open(io.BytesIO(data)) as mask:
            image = opened.convert("RGBA")
            image.putalpha(mask.convert("RGBA").getchannel("A"))
        image.save(path, "PNG", compress_level=4)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _smaller(path: Path, wanted: str, channel: str) -> tuple[bytes, str]:
    kind, *_, quality = [*wanted.split(";"), ""] if ";" not in wanted else wanted.split(";")
    if kind not in {"webp", "jpeg"} or "a" in channel:
        kind = "webp"
    buffer = io.BytesIO()
    with Image.open(path) as image:
        converted = image.convert("RGB") if kind == "jpeg" or channel == "rgb" else image.copy()
    converted.save(buffer, kind, quality=int(quality) if quality.isdigit() else 90)
    return buffer.getvalue(), f"image/{kind}"


def _channel(path: Path, channel: str) -> bytes:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        if channel == "rgb":
            picked = image.convert("RGB")
        else:
            alpha = image.convert("RGBA").getchannel("A")
            picked = Image.new("RGBA", image.size)
            picked.putalpha(alpha)
    picked.save(buffer, "PNG")
    return buffer.getvalue()
