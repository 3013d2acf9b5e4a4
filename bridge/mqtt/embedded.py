"""The built-in broker: a child process, started, watched and stopped by the bridge."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn, Self

from bridge.errors import SettingsError
from bridge.locks import take_lock
from bridge.mqtt.brokers import BrokerOptions, Launch, find_nats_server, launch
from bridge.mqtt.link import Link, LinkError
from bridge.mqtt.options import ConnectionOptions

__all__ = ["BrokerOptions", "EmbeddedBroker", "check_port", "find_nats_server"]

logger = logging.getLogger(__name__)

_START = 30.0
_STOP = 10.0
_POLL = 0.02
_WATCH = 0.25
_LONGEST_PAUSE = 30.0


class EmbeddedBroker:
    """A broker of our own while the context is open; `run` restarts it when it dies.

    Entering raises `SettingsError` (the port is taken, the folder cannot be written or is another bridge's, the
    broker does not start) and `Unsupported` (it is not installed).

    A bridge that is killed leaves its broker running, which then tells everyone that the bridge is offline (the will).
    The next bridge on the same folder knows it by the file `broker.json`, ends it and starts its own;
    its sessions and retained messages are in the folder. While a bridge lives it holds the lock
    `broker.lock`, so a broker in use is never taken for one that was left.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        self._launch: Launch | None = None
        self._lock: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for a client on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._options.host, self._options.host)  # noqa: S104
        return f"mqtt://[{host}]:{self._options.port}" if ":" in host else f"mqtt://{host}:{self._options.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process, None while it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._prepare)
            await self._start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def run(self) -> NoReturn:
        """Start the broker again, with growing pauses, whenever it dies; until cancelled."""
        pause, started = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(_WATCH)
            if self.pid is not None:
                continue
            if time.monotonic() - started > 2 * _LONGEST_PAUSE:
                pause = 0.0
            logger.error("the embedded broker died%s; starting it again", self._last_words())
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause or 0.5)
            started = time.monotonic()
            try:
                await self._start()
            except (SettingsError, OSError) as problem:
                logger.error("the embedded broker could not be started again: %s", problem)

    def _prepare(self) -> None:
        """Take the folder, end a broker that was left in it, write the configuration."""
        options = self._options
        options = BrokerOptions(
            options.data.resolve(), options.port, options.host, options.command, options.username, options.password
        )
        self._options = options
        self._launch = launch(options)
        try:
            options.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = take_lock(options.data / "broker.lock")
            if self._lock is None:
                raise SettingsError(
                    f"another bridge runs the embedded broker in {options.data}; give this one a folder of its own"
                )
            _end_left_broker(options.data / "broker.json")
            for path, text in self._launch.files.items():
                path.touch(mode=0o600)
                path.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise SettingsError(
                f"the embedded broker's folder {options.data} cannot be used: {error.strerror or error}"
            ) from error
        if options.host not in {"127.0.0.1", "::1", "localhost"} and options.username is None:
            logger.warning("the embedded broker at %s:%d is open to everyone", options.host, options.port)

    async def _start(self) -> None:
        """Start the process and wait until its port answers."""
        if self._launch is None:
            raise RuntimeError("enter the context first")
        options = self._options
        await asyncio.to_thread(check_port, options.host, options.port)
        with (options.data / "broker.err").open("wb") as output:
            try:
                # A session of its own: Ctrl-C must reach the bridge, which says goodbye through the broker.
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - it returns at once; the command is the user's
                    self._launch.arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=options.data,
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
            except OSError as error:
                raise SettingsError(
                    f"the embedded broker {self._launch.arguments[0]} cannot be run: {error.strerror or error}"
                ) from error
        record = {"pid": self._process.pid, "arguments": self._launch.arguments}
        (options.data / "broker.json").write_text(json.dumps(record), encoding="utf-8")
        deadline = time.monotonic() + _START
        while not await asyncio.to_thread(_answers, options.host, options.port):
            if self.pid is None:
                raise SettingsError(f"the embedded broker does not start{self._last_words()}")
            if time.monotonic() > deadline:
                await asyncio.to_thread(_stop, self._process)
                raise SettingsError(
                    f"the embedded broker does not listen on port {options.port} after {_START:g} s{self._last_words()}"
                )
            await asyncio.sleep(_POLL)
        await self._be_first_client()
        logger.info("the embedded broker listens on %s", self.url)

    async def _be_first_client(self) -> None:
        """Connect once: nats-server reads what is retained when its first client comes, often too late for that one."""
        options = self._options
        if options.command is not None:
            return
        first = Link(
            ConnectionOptions(
                url=self.url,
                client_id=f"comfy-bridge-first-{secrets.token_hex(4)}",
                username=options.username,
                password=options.password,
            ),
            "3.1.1",
            on_message=lambda _message: None,
            on_acknowledged=lambda _number, _refusal: None,
            on_room=lambda: None,
        )
        try:
            await first.open(None)
        except LinkError as error:
            logger.warning("the embedded broker does not let its first client in: %s", error)
        else:
            await first.close()

    async def _close(self) -> None:
        """Stop the broker; the stop is completed even when we are cancelled meanwhile."""
        try:
            if self._process is not None:
                await asyncio.shield(asyncio.to_thread(_stop, self._process))
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _last_words(self) -> str:
        """What the broker wrote last, as the end of a sentence."""
        for name in ("broker.err", "broker.log"):
            with contextlib.suppress(OSError):
                lines = (self._options.data / name).read_text(encoding="utf-8", errors="replace").split("\n")
                if last := [line.strip() for line in lines[-6:] if line.strip()]:
                    return f" ({' / '.join(last)})"
        return ""


def check_port(host: str, port: int) -> None:
    """Raise `SettingsError`, with what to do, if nobody could listen there."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":
                # Else a port counts as taken for a minute after its last connection; on Windows it hides a taken one.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE)}:
            raise SettingsError(
                f"port {port} is taken by another program: set mqtt.embedded_port to a free one, "
                f'or mqtt.url = "mqtt://{host}:{port}" if that is a broker to be used'
            ) from error
        raise SettingsError(
            f"the embedded broker cannot listen on {host}:{port} (mqtt.embedded_host, mqtt.embedded_port): "
            f"{error.strerror or error}"
        ) from error


def _answers(host: str, port: int) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        logger.warning("the embedded broker does not stop; it is killed")
        process.kill()
        process.wait()


def _end_left_broker(record: Path) -> None:
    """End the broker of a bridge that was killed, if it still runs and is certainly that one."""
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        pid, arguments = int(document["pid"]), [str(word) for word in document["arguments"]]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if pid <= 1 or not _is_running(pid, arguments):
        return
    logger.warning("ending the embedded broker (process %d) that a killed bridge left", pid)
    for how, patience in ((signal.SIGTERM, _STOP), (getattr(signal, "SIGKILL", signal.SIGTERM), _STOP)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        if _wait_for(lambda: not _is_running(pid, arguments), patience):
            return


def _wait_for(condition: Callable[[], bool], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _is_running(pid: int, arguments: list[str]) -> bool:
    """Whether the process exists and was called with exactly these arguments."""
    proc = Path("/proc")
    if (proc / "self" / "cmdline").exists():
        try:
            words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            return False
        return words == [os.fsencode(word) for word in arguments]
    if sys.platform == "win32":
        query = f"(Get-CimInstance Win32_Process -Filter ProcessId={pid}).CommandLine"
        command, expected = ["powershell", "-NoProfile", "-Command", query], subprocess.list2cmdline(arguments)
    else:
        command, expected = ["ps", "-ww", "-o", "args=", "-p", str(pid)], " ".join(arguments)
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=_STOP, check=False).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return False
    return shown.strip() == expected
