"""What every benchmark plays on: a broker, two stand-in ComfyUIs and a bridge, fresh for each."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes, workflows


@dataclass(frozen=True, slots=True)
class Stage:
    """The ports and processes; the port of `bridge` is that of its HTTP face.

    The direct client has a ComfyUI of its own: with one for both, the bridge would have work while the direct
    client is measured, since ComfyUI tells every client of each change of its queue.
    """

    folder: Path
    broker: int
    direct: int
    bridge: processes.Running
    relay: int
    quick: bool

    def times(self, count: int) -> int:
        """Return a count, a smaller one for a quick run."""
        return max(1, count // 5) if self.quick else count


@contextmanager
def stage(*, quick: bool) -> Iterator[Stage]:
    """Start everything; end everything. Raises processes.Failed."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bridge-benchmark-")))
        workflows.write_all(folder / "workflows")
        broker = stack.enter_context(processes.mosquitto(folder))
        direct = stack.enter_context(processes.stand_in(folder, "comfyui-direct"))
        bridged = stack.enter_context(processes.stand_in(folder, "comfyui-bridge"))
        http, relay = processes.free_port(), processes.free_port()
        daemon = processes.bridge_daemon(
            folder,
            broker=broker.port,
            comfyui=bridged.port,
            workflows=folder / "workflows",
            http=http,
            relay=relay,
        )
        yield Stage(folder, broker.port, direct.port, stack.enter_context(daemon), relay, quick)
