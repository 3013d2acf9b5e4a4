"""What flows between nodes, and what a node may use of the run it belongs to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from PIL import Image

from bridge.testing.drawing import Scene
from bridge.testing.faults import Settings
from bridge.testing.folders import Folders
from bridge.testing.websocket import Sockets

Ui = dict[str, Any] | None
Result = tuple[tuple[Any, ...], Ui]
Arguments = Mapping[str, Any]
T = TypeVar("T")

# Pictures up to this many pixels are worked on in place: a thread would take longer.
SMALL = 128 * 128


class Context(Protocol):
    """What a node may use of the run it belongs to."""

    settings: Settings
    folders: Folders
    sockets: Sockets
    node_id: str
    prompt_id: str
    graph: dict[str, Any]
    extra_data: Any

    def check(self) -> None:
        """Raise if the prompt has been interrupted."""

    def tick(self, value: float, total: float, image: bytes | None = None, image_format: int = 1) -> None:
        """Report progress, with a preview if there is one; raise if the prompt has been interrupted."""

    def preview(self, image: bytes) -> None:
        """Send a JPEG preview without any progress."""

    def wrote(self, subfolder: str, filename: str) -> None:
        """Count an output file."""

    async def draw(self, function: Callable[..., T], *args: Any) -> T:
        """Do slow picture work in a thread."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Images:
    """A batch of pictures of one size; printed as a tensor would be."""

    frames: tuple[Image.Image, ...]

    def __repr__(self) -> str:
        pixel = self.frames[0].convert("RGB").getpixel((0, 0))
        values = pixel if isinstance(pixel, tuple) else (0, 0, 0)
        row = "[" + ", ".join(f"{value / 255:.4f}" for value in values) + "]"
        block = f"[[{row},\n          {row},\n          ...,\n          {row}]]"
        return f"tensor([{block}])"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.frames[0].size


@dataclass(frozen=True, slots=True)
class Latent:
    """A latent batch: what it will show once it is decoded."""

    scene: Scene
    count: int
    sampled: bool = False
    picture: Image.Image | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """A piece of silence."""

    duration: float
    rate: int
    channels: int


async def pause(due: float) -> None:
    """Sleep until the monotonic time `due`."""
    await asyncio.sleep(max(0.0, due - time.monotonic()))
