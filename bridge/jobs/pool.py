"""The ComfyUI servers together: who takes the next job, and what they can be asked as one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bridge.comfyui.shapes import FileRef
from bridge.errors import BackendOffline, NodeErrors, TimedOut
from bridge.jobs.backend import Backend
from bridge.jobs.model import Job
from bridge.workflow.graph import Graph
from bridge.workflow.needs import lacking

_AWAY = (BackendOffline, TimedOut)


class Pool:
    """Several backends. depth: how many prompts of ours may be inside one of them."""

    def __init__(self, backends: list[Backend], *, depth: int) -> None:
        self.backends = backends
        self._depth = depth

    def choose(self, job: Job, graph: Graph) -> Backend | None:
        """Return the backend for a job: the one with the least in it, then the one that has its models loaded.

        None: none is free that can run it. Raises NodeErrors if no backend can ever run it, which names what is
        missing.
        """
        now = asyncio.get_running_loop().time()
        several = len(self.backends) > 1  # a single one says best itself what it lacks
        free = [
            backend
            for backend in self.backends
            if self._is_free(backend, now)
            and job.id not in backend.leftovers  # what ends there would end this attempt too
            and not (several and backend.catalogue is not None and lacking(graph, backend.catalogue))
        ]
        if not free and several:
            self._check_possible(graph)
        # The server keeps only the last prompt's nodes: another workflow would load its models again.
        return min(free, key=lambda one: (len(one.active), one.last_workflow != job.workflow), default=None)

    def _check_possible(self, graph: Graph) -> None:
        missing = {}
        for backend in self.backends:
            if backend.catalogue is None:
                return
            missing[backend.name] = lacking(graph, backend.catalogue)
            if not missing[backend.name]:
                return
        words = "; ".join(f"{name} lacks {', '.join(lacks[:3])}" for name, lacks in missing.items())
        raise NodeErrors(f"no backend can run this graph: {words}", details={"missing": missing})

    def free(self) -> bool:
        """Tell whether some backend takes a job now."""
        now = asyncio.get_running_loop().time()
        return any(self._is_free(backend, now) for backend in self.backends)

    def takes(self, backend: Backend) -> bool:
        """Tell whether this backend takes a job now."""
        return self._is_free(backend, asyncio.get_running_loop().time())

    def _is_free(self, backend: Backend, now: float) -> bool:
        return (
            backend.online and not backend.stuck and backend.rested_until <= now and len(backend.active) < self._depth
        )

    def named(self, name: str | None) -> Backend | None:
        """Return the backend of that name."""
        return next((backend for backend in self.backends if backend.name == name), None)

    def holding(self, job_id: str) -> Backend | None:
        """Return the backend that a job is in."""
        return next((backend for backend in self.backends if job_id in backend.active), None)

    def others_online(self, backend: Backend) -> bool:
        """Tell whether another backend could take this one's jobs."""
        return any(other.online and not other.stuck for other in self.backends if other is not backend)

    @property
    def online(self) -> int:
        """How many are there."""
        return sum(backend.online for backend in self.backends)

    async def file_exists(self, file: FileRef) -> bool | None:
        """Ask for a file; None if nobody can tell. With several backends, one that has it is enough."""
        answers: set[bool | None] = set()
        for backend in self.backends:
            try:
                answers.add(await backend.client.exists(file) if backend.online else None)
            except _AWAY:
                answers.add(None)
        return True if True in answers else (None if None in answers else False)

    async def free_memory(self, *, unload_models: bool, free_memory: bool) -> list[str]:
        """Free the memory of every backend that answers; return their names."""
        done = []
        for backend in self.backends:
            try:
                await backend.client.free(unload_models=unload_models, free_memory=free_memory)
                done.append(backend.name)
            except _AWAY:
                continue
        return done

    async def make_room(self, patience: float) -> None:
        """Have every backend unload its models, and wait until the memory is free, at most `patience` seconds."""
        before = await self._free_memory()
        await self.free_memory(unload_models=True, free_memory=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while await self._free_memory() <= before:  # noqa: ASYNC110  ComfyUI has no event for it
                    await asyncio.sleep(patience / 10)

    async def _free_memory(self) -> int:
        """Return how many bytes of the devices of all backends are free."""
        devices = [one for backend in (await self.health()).values() for one in backend.get("devices", ())]
        return sum(one["vram_free"] for one in devices if isinstance(one["vram_free"], int))

    def counts(self) -> list[dict[str, Any]]:
        """Return what is known of each backend without asking it; frames and connects are since the start."""
        return [
            {
                "name": backend.name,
                "online": backend.online,
                "jobs": len(backend.active),
                "frames": backend.frames,
                "connects": backend.connects,
            }
            for backend in self.backends
        ]

    async def health(self) -> dict[str, Any]:
        """Return each backend's state, version and the memory of its devices (bytes), by its name."""
        documents = await asyncio.gather(*(self._health(backend) for backend in self.backends))
        return {backend.name: document for backend, document in zip(self.backends, documents, strict=True)}

    async def _health(self, backend: Backend) -> dict[str, Any]:
        document: dict[str, Any] = {
            "url": backend.client.url,
            "state": "online" if backend.online else "offline",
            "stuck": backend.stuck,
            "jobs": len(backend.active),
        }
        if not backend.online:
            return document
        try:
            stats = await backend.client.system_stats()
        except _AWAY as error:
            return document | {"error": error.message}
        devices = stats.get("devices")
        return document | {
            "comfyui_version": stats["system"].get("comfyui_version"),
            "ram_total": stats["system"].get("ram_total"),
            "ram_free": stats["system"].get("ram_free"),
            "devices": [_device(one) for one in devices if isinstance(one, dict)] if isinstance(devices, list) else [],
        }


def _device(device: dict[str, Any]) -> dict[str, Any]:
    return {key: device.get(key) for key in ("name", "type", "vram_total", "vram_free")}
