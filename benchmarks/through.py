"""The bridge's user: commands on MQTT, results on MQTT."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks import mqtt
from benchmarks.processes import PATIENCE
from benchmarks.workflows import Workflow

_FINAL = ("completed", "failed", "interrupted")
_JOB = 60.0
"""Seconds that a job, or many at once, may take."""


@dataclass(slots=True)
class Job:
    """When what arrived (`time.perf_counter`), and the bytes of the outputs."""

    result_at: float = 0.0
    over_at: float = 0.0
    output: int = 0


class BridgeClient:
    """Drives one bridge; `bridge_client` makes it. Commands have QoS 1, and so have the subscriptions."""

    def __init__(self) -> None:
        self.client: mqtt.Client
        self._jobs: dict[str, Job] = {}
        self._wanted = 0
        self._over = asyncio.Event()
        self._online = asyncio.Event()
        self._states: dict[str, str] = {}
        self._problem: str | None = None

    async def run(self, workflow: Workflow, values: Mapping[str, Any]) -> Job:
        """Run one job; return when it is over."""
        return (await self.run_all(workflow, [values]))[0]

    async def run_all(self, workflow: Workflow, values: Sequence[Mapping[str, Any]]) -> list[Job]:
        """Send as many commands at once and return when all jobs are over."""
        self._jobs.clear()
        self._over.clear()
        self._wanted = len(values)
        for one in values:
            self.client.publish(f"comfyui/workflow/{workflow.name}/queue", json.dumps({"values": one}).encode())
        async with asyncio.timeout(_JOB):
            await self._over.wait()
        if self._problem is not None:
            raise RuntimeError(f"the bridge could not run a job: {self._problem}")
        return list(self._jobs.values())

    async def online(self) -> None:
        """Wait until the bridge and its backend are there."""
        async with asyncio.timeout(PATIENCE):
            await self._online.wait()

    def take(self, topic: str, payload: memoryview) -> None:
        """Take a message."""
        match topic.split("/")[1:]:
            case ["prompt", job_id, "output", _]:
                self._jobs.setdefault(job_id, Job()).output += len(payload)
            case ["prompt", job_id, "result"]:
                self._jobs.setdefault(job_id, Job()).result_at = time.perf_counter()
            case ["prompt", job_id, "status"]:
                self._take_status(self._jobs.setdefault(job_id, Job()), json.loads(payload.tobytes()))
            case ["response", *_]:
                answer = json.loads(payload.tobytes())
                if answer["status"] != "ok":
                    self._fail(answer["error"])
            case [("bridge" | "backend") as what, *_, "state"]:
                self._states[what] = str(payload, "utf-8")
                if [*self._states.values()] == ["online", "online"]:
                    self._online.set()

    def _take_status(self, job: Job, status: Mapping[str, Any]) -> None:
        if status["status"] not in _FINAL:
            return
        if status["status"] != "completed" or status["error"] is not None:
            self._fail(str(status["error"]))
        job.over_at = time.perf_counter()
        self._wanted -= 1
        if self._wanted == 0:
            self._over.set()

    def _fail(self, problem: str) -> None:
        self._problem = problem
        self._over.set()


@asynccontextmanager
async def bridge_client(port: int) -> AsyncIterator[BridgeClient]:
    """Connect to the broker of a bridge, and wait until the bridge is online."""
    bridge = BridgeClient()
    async with mqtt.connected(port, "benchmark", bridge.take) as client:
        bridge.client = client
        jobs = ("comfyui/prompt/+/status", "comfyui/prompt/+/result", "comfyui/prompt/+/output/+")
        answers = ("comfyui/response/#", "comfyui/bridge/state", "comfyui/backend/+/state")
        await client.subscribe(*jobs, *answers, qos=1)
        await bridge.online()
        yield bridge
