"""A real Node-RED: one process, its admin API, and what its debug sidebar and its nodes' states show."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.support.brokers import free_port

FLOWS = Path(__file__).parents[2] / "flows"
MODULES = FLOWS / "node_modules"
PATIENCE = 20.0

Node = dict[str, Any]


def missing() -> str | None:
    """What there is to do before Node-RED can run here."""
    packages = json.loads((FLOWS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    if shutil.which("node") is None:
        return "node is not installed, and the flows are tested in a real Node-RED: run `make setup`"
    for name, version in packages.items():
        manifest = MODULES / name / "package.json"
        if not manifest.exists() or json.loads(manifest.read_text(encoding="utf-8"))["version"] != version:
            return f"{name} {version} is not in flows/node_modules: run `make setup` (npm install in flows/)"
    return None


def flow(name: str) -> list[Node]:
    """The nodes of a file in flows/."""
    nodes: list[Node] = json.loads((FLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return nodes


def names() -> list[str]:
    return sorted(path.stem for path in FLOWS.glob("[0-9]*.json"))


class NodeRed:
    """The process. `environment`: what the flows read."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.log = folder / "node-red.log"
        self._folder = folder
        self._environment = {**os.environ, **environment, "NODE_OPTIONS": "--no-deprecation"}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        problem = missing()
        assert problem is None, problem
        user = self._folder / "node-red"
        user.mkdir(parents=True)
        # Palettes are looked for in the user's folder.
        (user / "node_modules").symlink_to(MODULES, target_is_directory=True)
        settings = {
            "uiHost": "127.0.0.1",
            "uiPort": self.port,
            "userDir": str(user),
            "credentialSecret": False,
            "telemetry": {"enabled": False, "updateNotification": False},
            "externalModules": {"palette": {"allowInstall": False}, "modules": {"allowInstall": False}},
            "mqttReconnectTime": 200,
        }
        file = user / "settings.js"
        file.write_text(f"module.exports = {json.dumps(settings)}", encoding="utf-8")
        node = shutil.which("node")
        assert node
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [node, str(MODULES / "node-red" / "red.js"), "--settings", str(file)],
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        deadline = time.monotonic() + 3 * PATIENCE
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/flows/state").status_code == 200:
                    return
            assert self._process.poll() is None, self.words()
            assert time.monotonic() < deadline, self.words()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)

    def words(self) -> str:
        return self.log.read_text(encoding="utf-8")

    async def deploy(self, nodes: list[Node]) -> None:
        """Replace all flows. An unknown type, with which nothing would run, is an error here."""
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as http:
            listed = (await http.get("/nodes", headers={"Accept": "application/json"})).json()
            known = {kind for one in listed if one["enabled"] and not one.get("err") for kind in one["types"]}
            kinds = {node["type"] for node in nodes} - {"tab", "subflow"}
            lacking = {kind for kind in kinds if not kind.startswith("subflow:")} - known
            assert not lacking, f"Node-RED does not know {lacking}: {self.words()}"
            answer = await http.post("/flows", json=nodes)
            assert answer.status_code == 204, answer.text

    async def inject(self, node: str, payload: str | Mapping[str, Any] | None = None) -> None:
        """Press the button of an inject node; with another payload than its own."""
        body = {}
        if payload is not None:
            kind = "str" if isinstance(payload, str) else "json"
            value = payload if isinstance(payload, str) else json.dumps(payload)
            body = {"__user_inject_props__": [{"p": "payload", "v": value, "vt": kind}]}
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{self.url}/inject/{node}", json=body)
            assert answer.status_code == 200, answer.text

    async def get(self, path: str) -> httpx.Response:
        """Ask one of the flows' own addresses."""
        async with httpx.AsyncClient() as http:
            return await http.get(f"{self.url}{path}")


@dataclass(frozen=True, slots=True)
class Shown:
    """One message in the debug sidebar, or one state of a node. `size`: bytes of a Buffer, whose `value` is in hex."""

    node: str
    value: Any
    size: int | None = None


class Sidebar:
    """What the editor would show, as it comes."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._news = asyncio.Event()
        self.debug: list[Shown] = []
        self.states: list[Shown] = []

    async def read(self) -> None:
        async for raw in self._socket:
            document = json.loads(raw)
            for one in document if isinstance(document, list) else [document]:
                self._take(one.get("topic", ""), one.get("data"))
            self._news.set()

    def _take(self, topic: str, data: Any) -> None:
        if topic == "debug":
            kind = data.get("format", "")
            value = data.get("msg")
            if kind in {"Object", "number", "boolean"} or kind.startswith("array"):
                value = json.loads(value)
            size = int(kind[7:-1]) if kind.startswith("buffer[") else None
            self.debug.append(Shown(data["id"], value, size))
        elif topic.startswith("status/") and data:
            self.states.append(Shown(topic.removeprefix("status/"), str(data.get("text", "")).strip()))

    def of(self, node: str) -> list[Any]:
        """What a debug node has shown."""
        return [one.value for one in self.debug if one.node == node]

    async def until(self, found: Any, what: str, within: float = PATIENCE) -> Any:
        deadline = asyncio.get_running_loop().time() + within
        while True:
            self._news.clear()
            value = found()
            if value:
                return value
            assert asyncio.get_running_loop().time() < deadline, f"{what} was not shown; {self.summary()}"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._news.wait()

    async def first(self, node: str, number: int = 1) -> Shown:
        """Wait for the first (or a later) message of a debug node."""

        def found() -> Shown | None:
            mine = [one for one in self.debug if one.node == node]
            return mine[number - 1] if len(mine) >= number else None

        shown: Shown = await self.until(found, f"message {number} of {node}")
        return shown

    async def state(self, node: str, text: str) -> None:
        """Wait until a node's state has been this text."""
        await self.until(lambda: Shown(node, text) in self.states, f"{text!r} of {node}")

    async def connected(self, *nodes: str) -> None:
        """Wait until these mqtt nodes have their broker."""
        for node in nodes:
            await self.state(node, "node-red:common.status.connected")

    def summary(self) -> str:
        shown = [f"{one.node}: {str(one.value)[:120]}" for one in self.debug[-20:]]
        return "\n".join([*shown, *(f"[{one.node}] {one.value}" for one in self.states[-30:])])


@contextlib.asynccontextmanager
async def sidebar(node_red: NodeRed) -> AsyncIterator[Sidebar]:
    """The sidebar, from now on; the states of the nodes as they are, first."""
    async with connect(f"ws://127.0.0.1:{node_red.port}/comms", max_size=None) as socket:
        made = Sidebar(socket)
        reading = asyncio.create_task(made.read())
        for topic in ("debug", "status/#"):
            await socket.send(json.dumps({"subscribe": topic}))
        try:
            yield made
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
