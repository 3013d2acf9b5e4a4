"""The processes of a house under chaos. Each is ended by its id, and notes when it could not serve."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bridge.mqtt.brokers import BrokerOptions, launch
from tests.support.brokers import free_port

ROOT = Path(__file__).parents[2]
_START = 20.0
_STOP = 20.0


@dataclass(slots=True)
class Outage:
    """A time (seconds since the epoch) in which something did not serve as it should; `end` is None while it lasts."""

    start: float
    what: str
    end: float | None = None

    def overlap(self, start: float, end: float) -> tuple[float, float]:
        """The part of [start, end] that it covers; empty if the second is not above the first."""
        return max(self.start, start), min(self.end if self.end is not None else end, end)


class Child:
    """A process that can be killed, frozen and started again on the same port and folder."""

    def __init__(self, name: str, log: Path, command: Sequence[str], *, port: int | None = None) -> None:
        self.name = name
        self.log = log
        self.port = port
        self.outages: list[Outage] = []
        self.kills: list[float] = []
        """When it ended without having been asked to."""
        self.codes: list[int] = []
        """Its exit codes after a polite request."""
        self._command = tuple(command)
        self._log_begin = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start it, and wait until its port answers (if it has one)."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - it returns at once
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        deadline = time.monotonic() + _START
        while not self._answers():
            assert self.alive, f"{self.name} does not start: {self.words()}"
            assert time.monotonic() < deadline, f"{self.name} does not answer: {self.words()}"
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End it at once, as a power cut does; a frozen one too."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Ask it to end; return its exit code. One that does not obey is killed, and that is an error."""
        return await self._end(signal.SIGTERM)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def outage(self, what: str, *, recovery: float = 0.0) -> AsyncIterator[None]:
        """Note that it does not serve within the block, nor for `recovery` seconds after it."""
        outage = Outage(time.time(), what)
        self.outages.append(outage)
        try:
            yield
        finally:
            outage.end = time.time() + recovery

    def words(self) -> str:
        """What it wrote last."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:] if self.log.exists() else ""

    def close(self) -> None:
        """End it whatever its state; for the end of a test."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(_STOP)
            self._process = None

    async def _end(self, number: signal.Signals) -> int:
        process = self._process
        if process is None:
            return 0
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            code = await asyncio.to_thread(process.wait, _STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait, _STOP)
            raise AssertionError(f"{self.name} did not end within {_STOP} s: {self.words()}") from None
        finally:
            self._process = None
            if number == signal.SIGKILL:
                self.kills.append(time.time())
        if number == signal.SIGTERM:
            self.codes.append(code)
        return code

    def _answers(self) -> bool:
        if self.port is None:
            return True
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


async def eventually(condition: Callable[[], Awaitable[object]], *, within: float, what: str) -> None:
    """Wait for a condition that has to be asked for."""
    deadline = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not come within {within} s"
        await asyncio.sleep(0.05)


class Server(Child):
    """A stand-in ComfyUI; its pictures are files that outlive it."""

    def __init__(self, folder: Path, name: str, *, step_delay: float = 0.0, more: Sequence[str] = ()) -> None:
        port = free_port()
        self.data = folder / name
        command = [sys.executable, "-m", "bridge.testing", "--port", str(port), "--data", str(self.data)]
        command += ["--step-delay", str(step_delay), *more]
        super().__init__(name, folder / f"{name}.log", command, port=port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def backend(self) -> str:
        """Its name in topics and documents."""
        return f"127-0-0-1-{self.port}"

    async def order(self, **faults: Any) -> None:
        """Break something inside of it; one that is gone or frozen is left alone."""
        async with httpx.AsyncClient(timeout=2.0) as http:
            with contextlib.suppress(httpx.TransportError):
                (await http.post(f"{self.url}/standin/faults", json=faults)).raise_for_status()

    async def stats(self) -> dict[str, Any]:
        """Its counters since its start."""
        async with httpx.AsyncClient(timeout=5.0) as http:
            return dict((await http.get(f"{self.url}/standin/stats")).json())

    def pictures(self) -> list[tuple[str, float]]:
        """Name prefix and time of each picture that it ever made, oldest first."""
        made = []
        for path in (self.data / "output").glob("*.png"):
            with contextlib.suppress(FileNotFoundError):
                made.append((path.name.rsplit("_", 2)[0], path.stat().st_mtime))
        return sorted(made, key=lambda one: one[1])


class BridgeChild(Child):
    """The bridge. `settings` is what its settings file says: values by section and key."""

    def __init__(self, folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        file = folder / "config.toml"
        lines = []
        for section, keys in settings.items():
            # Of these values TOML and JSON are written alike.
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        file.write_text("\n".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "bridge", "run", "--config", str(file)]
        super().__init__("bridge", folder / "bridge.log", command)

    async def booted(self) -> None:
        """Wait until it can be asked to end: before that a signal hits Python's own start."""
        deadline = time.monotonic() + _START
        while " starts\n" not in self.log.read_text(encoding="utf-8", errors="replace")[self._log_begin :]:
            assert self.alive, f"the bridge does not start: {self.words()}"
            assert time.monotonic() < deadline, f"the bridge does not start in time: {self.words()}"
            await asyncio.sleep(0.02)

    async def stop(self) -> int:
        """As of any process, once it has booted."""
        await self.booted()
        return await super().stop()


class Broker(Child):
    """An MQTT broker: nats-server keeps over a kill what it acknowledged, mosquitto over a polite end only."""

    def __init__(self, folder: Path, kind: str = "nats") -> None:
        self.survives_kills = kind == "nats"
        data = folder / "broker"
        data.mkdir(parents=True)
        options = BrokerOptions(data, free_port(), command=None if kind == "nats" else "mosquitto")
        made = launch(options)
        for path, text in made.files.items():
            # What was on its way to a client when it went is sent again that soon after its return.
            changed = text.replace('ack_wait: "10s"', 'ack_wait: "2s"')
            path.write_text(changed if kind == "nats" else f"{changed}set_tcp_nodelay true\n", encoding="utf-8")
        super().__init__("broker", folder / "broker.log", made.arguments, port=options.port)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def mqtt_port(self) -> int:
        assert self.port is not None
        return self.port
