"""A bridge with its HTTP face, its ComfyUI, and a client, on free ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bridge.testing import StandIn
from tests.support.bridge_process import Plan, bridge
from tests.support.brokers import free_port
from tests.support.graphs import Graph

NO_BROKER = "mqtt://127.0.0.1:1"
PATIENCE = 20.0


@dataclass
class HttpHouse:
    """What a test has at hand."""

    plan: Plan
    comfy: StandIn
    http: httpx.AsyncClient
    port: int
    relay: int
    task: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def run(self, workflow: str = "plain", body: Mapping[str, Any] | None = None, **query: Any) -> dict[str, Any]:
        """Run a workflow, and return the job of the answer."""
        answer = await self.http.post(f"/api/workflows/{workflow}/run", json=body or {}, params=query)
        assert answer.status_code in {200, 202}, answer.text
        return dict(answer.json())

    async def job(self, job_id: str) -> dict[str, Any]:
        return dict((await self.http.get(f"/api/jobs/{job_id}")).json())

    async def becomes(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until a job has one of these statuses."""
        limit = asyncio.get_running_loop().time() + PATIENCE
        while (job := await self.job(job_id))["status"] not in statuses:
            assert asyncio.get_running_loop().time() < limit, job
            await asyncio.sleep(0.02)
        return job

    async def becomes_known(self, name: str) -> None:
        """Wait until a job of that name was accepted."""
        limit = asyncio.get_running_loop().time() + PATIENCE
        while (await self.http.get(f"/api/jobs/{name}")).status_code == 404:
            assert asyncio.get_running_loop().time() < limit, name
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def http_house(
    folder: Path,
    *,
    step_delay: float = 0.0,
    broker: str = NO_BROKER,
    headers: Mapping[str, str] | None = None,
    online: bool = True,
    workflows: Mapping[str, Graph] | None = None,
    **more: Mapping[str, Any],
) -> AsyncIterator[HttpHouse]:
    """Everything together. `more`: settings by section."""
    comfy = StandIn(data=folder / "comfy", step_delay=step_delay)
    port, relay = free_port(), free_port()
    more["http"] = {"port": port, **more.get("http", {})}
    more["relay"] = {"port": relay, **more.get("relay", {})}
    async with comfy:
        plan = Plan(folder, broker, comfy.url, more=more)
        if workflows is not None:
            plan.workflows = workflows
        async with (
            bridge(plan) as task,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as http,
        ):
            house = HttpHouse(plan, comfy, http, port, relay, task)
            if online:
                await _online(house)
            yield house


async def _online(house: HttpHouse) -> None:
    limit = asyncio.get_running_loop().time() + PATIENCE
    while True:
        backends = (await house.http.get("/api/backends")).json()["backends"]
        if all(one["state"] == "online" for one in backends.values()):
            return
        assert asyncio.get_running_loop().time() < limit
        await asyncio.sleep(0.02)


@dataclass
class Told:
    """A server-sent event; `data` is its JSON."""

    event: str
    data: dict[str, Any]
    id: str | None


async def told(answer: httpx.Response) -> AsyncIterator[Told]:
    """Read server-sent events."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line and "data" in fields:
            yield Told(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))
        if not line:
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
