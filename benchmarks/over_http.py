"""The bridge's other user: a graph by HTTP, the job in the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from benchmarks.processes import PATIENCE
from benchmarks.workflows import Graph, Workflow


class HttpClient:
    """Drives one bridge; `http_client` makes it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def run(self, graph: Graph, **query: Any) -> dict[str, Any]:
        """Run one graph; return the job in the answer, once it is over."""
        return await self._run("/api/jobs", {"prompt": graph}, query)

    async def run_workflow(self, workflow: Workflow, values: Mapping[str, Any], **query: Any) -> dict[str, Any]:
        """Run a workflow of the bridge; return the job in the answer, once it is over."""
        return await self._run(f"/api/workflows/{workflow.name}/run", {"values": values}, query)

    async def _run(self, path: str, body: Mapping[str, Any], query: Mapping[str, Any]) -> dict[str, Any]:
        async with self._session.post(f"{self._url}{path}", json=body, params={"wait": 60, **query}) as answer:
            job: dict[str, Any] = await answer.json()
        if answer.status != 200 or job["status"] != "completed":
            raise RuntimeError(f"the bridge could not run a graph: {answer.status} {str(job)[:500]}")
        return job

    async def generate(self, graph: Graph) -> dict[str, Any]:
        """Run one graph as a client of ai-dock's wrapper does; return the Result, once it is over."""
        body = {"input": {"workflow_json": graph}}
        async with self._session.post(f"{self._url}/generate/sync", json=body) as answer:
            result: dict[str, Any] = await answer.json()
        if answer.status != 200 or result["status"] != "completed":
            raise RuntimeError(f"the bridge could not run a graph: {answer.status} {str(result)[:500]}")
        return result

    async def set_image(self, workflow: Workflow, image: bytes) -> None:
        """Set the image of a workflow."""
        form = aiohttp.FormData()
        form.add_field("image", image, filename="noise.png", content_type="image/png")
        async with self._session.patch(f"{self._url}/api/workflows/{workflow.name}", data=form) as answer:
            if answer.status != 200:
                raise RuntimeError(f"the bridge did not take an image: {await answer.text()}")

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
