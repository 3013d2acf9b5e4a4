"""The bridge's other user: a graph by HTTP, the job in the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from benchmarks.processes import PATIENCE
from benchmarks.workflows import Graph


class HttpClient:
    """Drives one bridge; `http_client` makes it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def run(self, graph: Graph, **query: Any) -> dict[str, Any]:
        """Run one graph; return the job in the answer, once it is over."""
        async with self._session.post(
            f"{self._url}/api/jobs", json={"prompt": graph}, params={"wait": 60, **query}
        ) as answer:
            job: dict[str, Any] = await answer.json()
        if answer.status != 200 or job["status"] != "completed":
            raise RuntimeError(f"the bridge could not run a graph: {answer.status} {str(job)[:500]}")
        return job

    async def run_all(self, graphs: Sequence[Graph], *, at_once: int) -> list[dict[str, Any]]:
        """Run many graphs, so many requests at once."""
        free = asyncio.Semaphore(at_once)

        async def run(graph: Graph) -> dict[str, Any]:
            async with free:
                return await self.run(graph)

        return await asyncio.gather(*(run(graph) for graph in graphs))

    async def online(self) -> None:
        """Wait until the bridge is there, with its broker and its ComfyUI."""
        async with asyncio.timeout(PATIENCE):
            while True:
                if await self._ready():
                    return
                await asyncio.sleep(0.02)

    async def _ready(self) -> bool:
        try:
            async with self._session.get(f"{self._url}/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def http_client(port: int) -> AsyncIterator[HttpClient]:
    """Connect to the HTTP face of a bridge, and wait until the bridge is online."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = HttpClient(f"http://127.0.0.1:{port}", session)
        await client.online()
        yield client
