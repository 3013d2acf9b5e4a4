"""Images as commands give them (a file in ComfyUI, an address, base64, bytes) made into values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from bridge.comfyui.shapes import FileRef
from bridge.errors import BadValue, FileMissing, NotAllowed
from bridge.jobs.model import ImageValue
from bridge.jobs.store import Store
from bridge.media import kinds
from bridge.media.guard import Guard
from bridge.media.inputs import check_image, decode_base64, reference
from bridge.requests import ImageSource, UpdateImage
from bridge.settings import Settings


class Media:
    """Makes values of images. `exists` asks ComfyUI for a file, and gives None if it cannot tell."""

    def __init__(self, settings: Settings, store: Store, exists: Callable[[FileRef], Awaitable[bool | None]]) -> None:
        self._limit = settings.media.max_input
        self._guard = Guard(settings.security.allowed_hosts, time_limit=settings.media.fetch_timeout)
        self._store = store
        self._exists = exists

    def check(self, data: bytes, *, field: str = "the payload") -> str:
        """Return the content type of an image's bytes. Raises BadValue, TooLarge."""
        return check_image(data, field=field, max_bytes=self._limit)

    async def resolve(
        self, source: ImageSource | bytes, before: Any, *, field: str = "the payload"
    ) -> ImageValue | str:
        """Return the value for an image input; `field` names it in errors.

        before: what the input holds now; a mask without an image is for that one.
        Raises BadPayload, BadValue, FileMissing, NotAllowed, TooLarge, TimedOut.
        """
        if isinstance(source, bytes):
            return await self._kept(source, self.check(source, field=field))
        mask = source.mask if isinstance(source, UpdateImage) else None
        if mask is not None and not any((source.filename, source.url, source.base64)):
            image: ImageValue | str = before if isinstance(before, (ImageValue, str)) else ""
        else:
            image = await self._image(source)
        if mask is None:
            return image
        sha256 = await self._store.put_media(await self._bytes(mask, "mask."))
        if isinstance(image, ImageValue):
            return ImageValue(image.filename, image.sha256, sha256)
        if not image:
            raise BadValue("mask: the node has no image yet that it could be for; give an image too")
        return ImageValue(image, None, sha256)

    async def fetched(self, address: str) -> ImageValue:
        """Fetch a file of any kind for an input of a graph, and keep its bytes. Raises as `Guard.fetch`."""
        found = await self._guard.fetch(address, max_bytes=self._limit)
        kind = kinds.image_type(found.data) or found.content_type
        if kind == "application/octet-stream":
            kind = kinds.type_of_name(urlsplit(address).path)
        return await self._kept(found.data, kind)

    async def _image(self, source: ImageSource) -> ImageValue | str:
        if source.given() != "filename":
            data = await self._bytes(source, "")
            return await self._kept(data, kinds.image_type(data) or "")
        filename = source.filename or ""
        file = reference(filename)
        path = f"{file.subfolder}/{file.filename}".replace("\\", "/")
        if filename.startswith(("/", "\\")) or ":" in filename or ".." in path.split("/"):
            raise NotAllowed(f"filename {filename!r} leads out of ComfyUI's folders; name a file inside of them")
        if await self._exists(file) is False:
            raise FileMissing(
                f"ComfyUI has no file {filename!r} in its {file.type} folder; "
                "upload it there, or give the image as url or base64"
            )
        return filename

    async def _bytes(self, source: ImageSource, prefix: str) -> bytes:
        match source.given():
            case "base64":
                data = decode_base64(source.base64 or "", field=f"{prefix}base64", max_bytes=self._limit)
            case "url":
                data = (await self._guard.fetch(source.url or "", max_bytes=self._limit)).data
            case given:
                raise BadValue(f"{prefix}{given}: a mask is given as url or base64")
        check_image(data, field=f"{prefix}{source.given()}", max_bytes=self._limit)
        return data

    async def _kept(self, data: bytes, content_type: str) -> ImageValue:
        sha256 = await self._store.put_media(data)
        return ImageValue(f"{sha256[:32]}{kinds.ending(content_type)}", sha256)
