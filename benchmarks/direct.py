"""The direct client: what somebody would write who speaks to ComfyUI without a bridge, made as fast as it goes.

POST /prompt under an id of its own, one websocket (feature flags, no compression) read until `executing` with node
null, then GET /view of each output.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.workflows import Graph

_FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
_POSTS = 8
"""Requests at once in `run_all`; more make the server's single thread slower, not faster."""


class DirectClient:
    """One client of one ComfyUI; `direct_client` makes it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, socket: ClientConnection, client_id: str) -> None:
        self._url = url
        self._session = session
        self._socket = socket
        self._client_id = client_id

    async def run(self, graph: Graph) -> list[bytes]:
        """Run one graph; return the bytes of its outputs."""
        prompt_id = str(uuid.uuid4())
        await self._post(graph, prompt_id)
        files: list[Mapping[str, str]] = []
        while not self._over(await self._socket.recv(), {prompt_id: files}):
            pass
        return [await self._view(file) for file in files]

    async def run_all(self, graphs: Sequence[Graph]) -> list[bytes]:
        """Run many graphs, posted at once and followed on the one socket; return the bytes of all outputs."""
        prompts: dict[str, list[Mapping[str, str]]] = {str(uuid.uuid4()): [] for _ in graphs}
        free = asyncio.Semaphore(_POSTS)

        async def post(graph: Graph, prompt_id: str) -> None:
            async with free:
                await self._post(graph, prompt_id)

        async with asyncio.TaskGroup() as group:
            for graph, prompt_id in zip(graphs, prompts, strict=True):
                group.create_task(post(graph, prompt_id))
            views: list[asyncio.Task[bytes]] = []
            left = len(prompts)
            while left:
                over = self._over(await self._socket.recv(), prompts)
                if over:
                    left -= 1
                    views += [group.create_task(self._view(file)) for file in prompts[over]]
        return [view.result() for view in views]

    def _over(self, frame: str | bytes, prompts: Mapping[str, list[Mapping[str, str]]]) -> str | None:
        """Note the outputs that a frame names; return the prompt that it ends."""
        if isinstance(frame, bytes):
            return None
        document = json.loads(frame)
        data: dict[str, Any] = document["data"]
        prompt_id = str(data.get("prompt_id"))
        if prompt_id not in prompts:
            return None
        match document["type"]:
            case "executed" if data["output"]:
                prompts[prompt_id].extend(data["output"].get("images", ()))
            case "execution_error" | "execution_interrupted":
                raise RuntimeError(f"the stand-in could not run a graph: {frame[:500]}")
            case "executing" if data["node"] is None:
                return prompt_id
        return None

    async def _post(self, graph: Graph, prompt_id: str) -> None:
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": self._client_id}
        async with self._session.post(f"{self._url}/prompt", json=body) as response:
            answer = await response.json()
            if response.status != 200 or answer["node_errors"]:
                raise RuntimeError(f"the stand-in refused a graph: {answer}")

    async def _view(self, file: Mapping[str, str]) -> bytes:
        async with self._session.get(f"{self._url}/view", params=dict(file)) as response:
            response.raise_for_status()
            return await response.read()


@asynccontextmanager
async def direct_client(port: int) -> AsyncIterator[DirectClient]:
    """Connect to a ComfyUI on this machine."""
    url, client_id = f"127.0.0.1:{port}", uuid.uuid4().hex
    async with (
        aiohttp.ClientSession() as session,
        connect(f"ws://{url}/ws?clientId={client_id}", compression=None, max_size=None, max_queue=None) as socket,
    ):
        await socket.send(_FLAGS)
        yield DirectClient(f"http://{url}", session, socket, client_id)
