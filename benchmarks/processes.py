"""The processes that are measured: mosquitto, stand-in ComfyUIs and the bridge, on free ports of loopback.

Each is a context manager that ends its process, by its id, and no other.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bridge

PATIENCE = 30.0
"""Seconds that a process may take to start, and to stop."""

_ROOT = Path(bridge.__file__).resolve().parents[1]
_MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
max_queued_messages 100000
max_inflight_messages 200
set_tcp_nodelay true
log_type error
log_type warning
"""
_BRIDGE = """
[comfyui]
urls = [{comfyui}]
[mqtt]
url = "mqtt://127.0.0.1:{broker}"
[workflows]
dir = {workflows}
[store]
url = {store}
[http]
port = {http}
[relay]
port = {relay}
[log]
level = "warning"
"""


class Failed(Exception):
    """A process that did not start, or is needed and not installed; the message says which and why."""


def mosquitto_command() -> str:
    """Return where mosquitto is. Raises Failed."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
    if found is None:
        raise Failed("mosquitto is not installed; on Debian and Ubuntu: apt install mosquitto")
    return found


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Running:
    """A process, and the port that it listens on (0: none)."""

    process: subprocess.Popen[bytes]
    port: int = 0

    @property
    def memory(self) -> float:
        """Its resident memory in MB (10^6 bytes)."""
        return resident_bytes(self.process.pid) / 1e6


@contextmanager
def mosquitto(folder: Path) -> Iterator[Running]:
    """Run a broker that takes anybody, set up otherwise as the project's mosquitto.conf."""
    port = free_port()
    configuration = folder / "mosquitto.conf"
    lines = _MOSQUITTO.format(port=port)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        lines += "user root\n"  # else it gives up its rights, and the folder is ours
    configuration.write_text(lines, encoding="utf-8")
    with _started([mosquitto_command(), "-c", str(configuration)], folder, "mosquitto") as process:
        _wait(process, folder / "mosquitto.log", lambda: _listens(port))
        yield Running(process, port)


@contextmanager
def stand_in(folder: Path, name: str) -> Iterator[Running]:
    """Run a stand-in ComfyUI whose sampler steps take no time beyond the drawing of their previews."""
    port = free_port()
    data = folder / name
    command = [sys.executable, "-m", "bridge.testing", "--port", str(port), "--step-delay", "0", "--data", str(data)]
    with _started(command, folder, name) as process:
        _wait(process, folder / f"{name}.log", lambda: _listens(port))
        yield Running(process, port)


@contextmanager
def bridge_daemon(
    folder: Path, *, broker: int, comfyui: int, workflows: Path, http: int, relay: int
) -> Iterator[Running]:
    """Run the bridge as users run it, with its store in `folder`. It is not online yet."""
    configuration = folder / "bridge.toml"
    configuration.write_text(
        _BRIDGE.format(
            comfyui=json.dumps(f"http://127.0.0.1:{comfyui}"),
            broker=broker,
            workflows=json.dumps(workflows.as_posix()),
            store=json.dumps(f"sqlite:///{(folder / 'store.db').as_posix()}"),
            http=http,
            relay=relay,
        ),
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "bridge", "run", "--config", str(configuration)]
    with _started(command, folder, "bridge") as process:
        yield Running(process, http)


@contextmanager
def paho_publisher(folder: Path, *, broker: int, topic: str, size: int, count: int, rate: float) -> Iterator[Running]:
    """Run `benchmarks.publisher`, which begins to publish as soon as it is connected."""
    options = {"port": broker, "topic": topic, "bytes": size, "count": count, "rate": rate}
    command = [sys.executable, "-m", "benchmarks.publisher"]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with _started(command, folder, "publisher") as process:
        yield Running(process)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process: from /proc on Linux, from ps elsewhere. Raises Failed."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    ps = shutil.which("ps")
    if ps is not None:
        answer = subprocess.run([ps, "-o", "rss=", "-p", str(pid)], capture_output=True, check=False)  # noqa: S603
        if answer.returncode == 0:
            return int(answer.stdout) * 1024
    raise Failed("this system does not tell the memory of a process: neither /proc nor ps")


@contextmanager
def _started(command: Sequence[str], folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)  # noqa: S603
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"{log.stem} did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
