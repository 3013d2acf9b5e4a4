"""A small client of its own, so that the contract does not depend on the bridge's."""

from __future__ import annotations

import asyncio
import json
import random
import struct
import uuid
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
import websockets

PATIENCE = 60.0
Graph = dict[str, dict[str, Any]]
FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})


def unused_colour() -> int:
    """A colour that no other test has used, so that nothing is cached."""
    return random.randrange(1, 0xFFFFFF)


def unused_name(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def save_graph(*, size: int = 64, batch: int = 1, prefix: str = "contract", colour: int | None = None) -> Graph:
    inputs = {
        "width": size,
        "height": size,
        "batch_size": batch,
        "color": unused_colour() if colour is None else colour,
    }
    return {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def text_graph(value: str) -> Graph:
    return {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": value}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


def broken_graph(name: str) -> Graph:
    """A graph that passes validation and fails when it runs: `name` is an uploaded file which is no picture."""
    return {
        "10": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["10", 0]}},
    }


def sampler_graph(checkpoint: str, *, steps: int, size: int = 64) -> Graph:
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": random.randrange(2**60),
                "steps": steps,
                "cfg": 7.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "contract", "images": ["8", 0]}},
    }


@dataclass(frozen=True)
class Server:
    url: str
    kind: str
    checkpoint: str | None

    def slow_graph(self) -> Graph:
        """A graph that runs for some seconds and can be interrupted in between."""
        if self.checkpoint is not None:
            return sampler_graph(self.checkpoint, steps=200)
        graph = save_graph(size=64)
        for index in range(3, 120):
            side = 1024 if index % 2 else 64 + index
            scale = {"upscale_method": "lanczos", "width": side, "height": side, "crop": "disabled"}
            source = "1" if index == 3 else str(index - 1)
            graph[str(index)] = {"class_type": "ImageScale", "inputs": {"image": [source, 0], **scale}}
        graph["2"]["inputs"]["images"] = ["119", 0]
        return graph

    def peer(self, **options: Any) -> Peer:
        return Peer(self.url, **options)


@dataclass(frozen=True)
class Event:
    """A text frame (`kind` is its type) or a binary frame (`kind` is "binary", `data` its parts)."""

    kind: str
    data: Any
    raw: str | bytes = field(repr=False)


def parse(frame: str | bytes) -> Event:
    if isinstance(frame, str):
        document = json.loads(frame)
        return Event(document["type"], document["data"], frame)
    (kind,) = struct.unpack(">I", frame[:4])
    if kind == 1:
        return Event("binary", {"type": 1, "format": struct.unpack(">I", frame[4:8])[0], "image": frame[8:]}, frame)
    (length,) = struct.unpack(">I", frame[4:8])
    head, rest = frame[8 : 8 + length], frame[8 + length :]
    if kind == 3:
        return Event("binary", {"type": 3, "node": head.decode(), "text": rest.decode()}, frame)
    assert kind == 4
    return Event("binary", {"type": 4, "metadata": json.loads(head), "image": rest}, frame)


class Peer:
    """One client: an HTTP connection and a websocket with a client id of its own."""

    def __init__(self, url: str, *, client_id: str | None = None, flags: bool = False) -> None:
        self.client_id = unused_name("contract") if client_id is None else client_id
        self.http = httpx.AsyncClient(base_url=url, timeout=PATIENCE)
        self._url = f"{url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        self._flags = flags
        self.seen: list[Event] = []

    async def __aenter__(self) -> Self:
        # No limit to what waits to be read: a full buffer would hold up the closing handshake.
        self.socket = await websockets.connect(
            self._url, compression=None, max_size=None, max_queue=None, ping_interval=None
        )
        if self._flags:
            await self.socket.send(FLAGS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()
        await self.http.aclose()

    async def next(self, within: float = PATIENCE) -> Event:
        async with asyncio.timeout(within):
            event = parse(await self.socket.recv())
        self.seen.append(event)
        return event

    async def until(self, kind: str, **wanted: Any) -> Event:
        """Read until an event of this kind, whose data holds the wanted values, arrives."""
        async with asyncio.timeout(PATIENCE):
            while True:
                event = await self.next()
                if event.kind == kind and all(event.data.get(name) == value for name, value in wanted.items()):
                    return event

    async def submit(self, graph: Any, **fields: Any) -> httpx.Response:
        return await self.http.post("/prompt", json={"prompt": graph, "client_id": self.client_id, **fields})

    async def run(self, graph: Any, **fields: Any) -> tuple[str, list[Event]]:
        """Submit, and read to the end of that prompt; gives its id and its own events."""
        before = len(self.seen)
        answer = await self.submit(graph, **fields)
        assert answer.status_code == 200, answer.text
        prompt_id = answer.json()["prompt_id"]
        await self.until("executing", node=None, prompt_id=prompt_id)
        return prompt_id, [event for event in self.seen[before:] if event.kind != "status"]

    async def history(self, prompt_id: str) -> dict[str, Any]:
        document = (await self.http.get(f"/history/{prompt_id}")).json()
        entry = document[prompt_id]
        assert isinstance(entry, dict)
        return entry

    async def upload(self, name: str, data: bytes, **fields: str) -> httpx.Response:
        return await self.http.post("/upload/image", files={"image": (name, data, "image/png")}, data=fields)

    async def idle(self) -> None:
        """Wait until nothing runs and nothing waits."""
        async with asyncio.timeout(PATIENCE):
            while await self.remaining():  # noqa: ASYNC110 - another process, no event to wait for
                await asyncio.sleep(0.02)

    async def remaining(self) -> int:
        """How many prompts run and wait."""
        count = (await self.http.get("/prompt")).json()["exec_info"]["queue_remaining"]
        assert isinstance(count, int)
        return count


def shape(events: list[Event]) -> list[str]:
    """The events as short words: what happened, in order."""
    words = []
    for event in events:
        if event.kind == "progress_state":
            nodes = (f"{name}:{node['state']}" for name, node in event.data["nodes"].items())
            words.append(f"progress_state {' '.join(nodes)}")
        elif event.kind == "binary":
            words.append(f"binary {event.data['type']}")
        elif event.kind in {"executing", "executed"}:
            words.append(f"{event.kind} {event.data['node']}")
        else:
            words.append(event.kind)
    return words
