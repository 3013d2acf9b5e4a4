"""A whole bridge under test: in this process, or as a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bridge import daemon, settings
from bridge.testing import StandIn
from tests.support.brokers import Mosquitto, free_port
from tests.support.graphs import Graph, img2img, plain, sleep, story, txt2img
from tests.support.mqtt_eye import PATIENCE, Eye, watching

_numbers = itertools.count(1)


def workflows() -> dict[str, Graph]:
    return {"fox": txt2img(), "img": img2img(), "plain": plain(), "sleep": sleep(30.0, 600), "story": story()}


@dataclass
class Plan:
    """Where a bridge works and what it is told."""

    folder: Path
    broker: str
    comfy: str
    base: str = field(default_factory=lambda: f"comfy{next(_numbers)}")
    workflows: Mapping[str, Any] = field(default_factory=workflows)
    loaded: str | None = "fox"
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def overrides(self) -> dict[str, Any]:
        """The settings, as `bridge.settings.load` takes them; the workflows are written."""
        directory = self.folder / "workflows"
        directory.mkdir(parents=True, exist_ok=True)
        for name, graph in self.workflows.items():
            text = graph if isinstance(graph, str) else json.dumps(graph)
            (directory / f"{name}.json").write_text(text, encoding="utf-8")
        # A store of its own per base topic, so that two bridges of one test never share one.
        store = f"sqlite:///{self.folder / 'data' / self.base}.db"
        made: dict[str, dict[str, Any]] = {
            "comfyui": {"urls": [self.comfy]},
            "mqtt": {"url": self.broker, "base_topic": self.base},
            "workflows": {"dir": str(directory)} | ({"loaded": self.loaded} if self.loaded else {}),
            "store": {"url": store},
            "http": {"port": 0},
            "relay": {"port": 0},
        }
        for section, keys in self.more.items():
            made[section] = {**made.get(section, {}), **keys}
        return made


@contextlib.asynccontextmanager
async def bridge(plan: Plan) -> AsyncIterator[asyncio.Task[None]]:
    """A bridge in this process; stopped as Ctrl-C stops it."""
    ready = asyncio.Event()

    async def on_ready(_: object) -> None:
        ready.set()

    made = settings.load(environ={}, overrides=plan.overrides())
    task = asyncio.create_task(daemon.run(made, on_ready=on_ready))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield task
    finally:
        waiting.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Process:
    """A process that is killed or stopped by its id; what it says goes into a file."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        self._command = command
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, *self._command],
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        return self._end(signal.SIGTERM)

    def freeze(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process = None
        return code


class BridgeProcess(Process):
    """The bridge as a process of its own: `comfy-bridge run`."""

    def __init__(self, plan: Plan) -> None:
        plan.folder.mkdir(parents=True, exist_ok=True)
        file = plan.folder / f"{plan.base}.toml"
        lines = []
        for section, keys in plan.overrides().items():
            # Strings, numbers and lists are written in TOML as in JSON.
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        file.write_text("\n".join(lines), encoding="utf-8")
        super().__init__(plan.folder / f"{plan.base}.log", "-m", "bridge", "run", "--config", str(file))

    async def up(self, eye: Eye) -> None:
        """Start it, and wait until it says that it is there."""
        before = len(eye.of("bridge/state"))
        self.start()

        def is_up() -> bool:
            assert self.process
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            return any(one.payload == b"online" for one in eye.of("bridge/state")[before:])

        await eye.until(is_up, what="the bridge's start")


class ComfyProcess(Process):
    """The stand-in as a process of its own, on a port and with files that outlive it."""

    def __init__(self, folder: Path, *, step_delay: float = 0.0) -> None:
        self.port = free_port()
        super().__init__(
            folder / "comfy.log",
            *("-m", "bridge.testing", "--port", str(self.port), "--data", str(folder / "comfy")),
            *("--step-delay", str(step_delay)),
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def up(self) -> None:
        """Start it, and wait until it answers."""
        self.start()
        async with httpx.AsyncClient() as http:
            deadline = asyncio.get_running_loop().time() + PATIENCE
            while True:
                try:
                    await http.get(f"{self.url}/prompt")
                except httpx.TransportError:
                    assert asyncio.get_running_loop().time() < deadline, self.log.read_text(encoding="utf-8")
                    await asyncio.sleep(0.02)
                else:
                    return

    async def stats(self) -> dict[str, Any]:
        async with httpx.AsyncClient() as http:
            return dict((await http.get(f"{self.url}/standin/stats")).json())


@contextlib.contextmanager
def ended(*processes: Process) -> Iterator[None]:
    """See to it that they are gone afterwards."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()


@dataclass
class House:
    """A bridge in this process, its ComfyUI and an independent client."""

    plan: Plan
    comfy: StandIn
    eye: Eye
    frames: list[str]
    """Every text frame that the stand-in sent to a client, verbatim."""

    @property
    def base(self) -> str:
        return self.plan.base

    @property
    def backend(self) -> str:
        """The backend's name in topics."""
        return f"127-0-0-1-{self.comfy.port}"

    def graph(self, prompt_id: str) -> Graph:
        """What the stand-in ran."""
        graph: Graph = self.comfy.queue.history[prompt_id]["prompt"][2]
        return graph

    def frames_of(self, prompt_id: str) -> list[str]:
        return [frame for frame in self.frames if json.loads(frame)["data"].get("prompt_id") == prompt_id]

    async def run(self, payload: str | dict[str, Any] | None = None, *, workflow: str | None = None) -> str:
        """Queue a run that must complete, and return its id."""
        prompt_id = await self.eye.queue(payload, workflow=workflow)
        result = await self.eye.over(prompt_id)
        assert result["status"] == "completed", result
        return prompt_id


def tap(comfy: StandIn) -> list[str]:
    """Note every text frame that the stand-in sends to some client."""
    frames: list[str] = []
    send = comfy.sockets._send_to

    async def noted(socket: Any, frame: str | bytes) -> None:
        if isinstance(frame, str):
            frames.append(frame)
        await send(socket, frame)

    comfy.sockets._send_to = noted  # type: ignore[method-assign]
    return frames


@contextlib.asynccontextmanager
async def house(
    folder: Path,
    port: int,
    *,
    step_delay: float = 0.0,
    version: str = "5",
    online: bool = True,
    check: bool = True,
    **plan: Any,
) -> AsyncIterator[House]:
    """Everything together. `check`: every prompt that was seen has to have had its proper order at the end."""
    comfy = StandIn(data=folder / "comfy", step_delay=step_delay)
    async with comfy:
        frames = tap(comfy)
        made = Plan(folder, f"mqtt://127.0.0.1:{port}", comfy.url, **plan)
        async with watching(port, made.base, version=version) as eye, bridge(made):
            if online:
                await eye.payload("bridge/state", "online")
                await eye.payload(f"backend/127-0-0-1-{comfy.port}/state", "online")
            yield House(made, comfy, eye, frames)
            if check:
                await eye.settled()
                eye.check_prompts()


def start_mosquitto(folder: Path, **options: Any) -> Mosquitto:
    """Start a broker outside of any loop; `stop_mosquitto` ends it."""
    broker = Mosquitto(folder, **options)
    asyncio.run(broker.start())
    return broker


def stop_mosquitto(broker: Mosquitto) -> None:
    asyncio.run(broker.kill())
