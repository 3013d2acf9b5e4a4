"""Real brokers for tests, each private, on free ports of loopback; and a network that can be made bad."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.typing import Subprotocol

from bridge.mqtt.embedded import BrokerOptions, EmbeddedBroker

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def free_port() -> int:
    """A port of loopback that nobody listens on.

    It is below those that the system gives to clients: one of them could take it while its server is down, or connect
    to itself.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


async def until(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait for a condition; AssertionError if it does not come true."""
    deadline = asyncio.get_running_loop().time() + within
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {within} s"
        await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority of its own, the certificate of the broker (127.0.0.1, localhost) and one for a client."""

    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path

    @classmethod
    def make(cls, folder: Path, *names: str) -> Certificates:
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(*(folder / f"{name}.pem" for name in ("ca", "cert", "key", "client_cert", "client_key")))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(made.ca)
        for leaf, cert, key in (
            (authority.issue_cert(*(names or ("127.0.0.1", "localhost"))), made.cert, made.key),
            (authority.issue_cert("bridge@example.org", common_name="bridge"), made.client_cert, made.client_key),
        ):
            leaf.cert_chain_pems[0].write_to_path(cert)
            leaf.private_key_pem.write_to_path(key)
        return made


class Mosquitto:
    """A mosquitto process with a configuration of its own, that can be killed, frozen and started again."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        password: tuple[str, str] | None = None,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        websocket: bool = False,
        max_inflight: int | None = None,
        persistent: bool = False,
        lines: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self.log = folder / "mosquitto.log"
        self.tls = tls
        self.websocket = websocket
        self.process: subprocess.Popen[bytes] | None = None
        configuration = [f"allow_anonymous {'false' if password else 'true'}"]
        if websocket:  # mosquitto 2.0.11 does not start without a plain listener
            configuration += [f"listener {free_port()} 127.0.0.1", f"listener {self.port} 127.0.0.1"]
            configuration.append("protocol websockets")
        else:
            configuration.append(f"listener {self.port} 127.0.0.1")
        if password:
            passwords = folder / "passwords"
            passwords.write_text(f"{password[0]}:{password[1]}\n", encoding="utf-8")
            passwords.chmod(0o600)
            tool = shutil.which("mosquitto_passwd")
            assert tool, "mosquitto_passwd is not installed"
            subprocess.run([tool, "-U", str(passwords)], check=True)  # noqa: S603
            configuration.append(f"password_file {passwords}")
        if tls:
            configuration += [f"cafile {tls.ca}", f"certfile {tls.cert}", f"keyfile {tls.key}"]
            configuration.append(f"require_certificate {'true' if client_certificates else 'false'}")
        if max_inflight is not None:
            configuration.append(f"max_inflight_messages {max_inflight}")
        if persistent:
            configuration += ["persistence true", f"persistence_location {folder}/", "autosave_interval 1"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            configuration.append("user root")
        configuration += ["max_queued_messages 0", f"log_dest file {self.log}", *(lines or ["log_type all"])]
        self.configuration = folder / "mosquitto.conf"
        self.configuration.write_text("\n".join(configuration) + "\n", encoding="utf-8")

    @property
    def url(self) -> str:
        scheme = ("ws" if self.websocket else "mqtt") + ("s" if self.tls else "")
        return f"{scheme}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        assert MOSQUITTO, "mosquitto is not installed"
        self.process = subprocess.Popen(  # noqa: ASYNC220, S603
            [MOSQUITTO, "-c", str(self.configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await until(self._answers)

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    async def stop(self) -> None:
        """Ask it to stop, as a shutdown does."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def freeze(self) -> None:
        """It stays connected and does nothing."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    async def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
            await asyncio.to_thread(self.process.wait, 10)
            self.process = None


@contextlib.asynccontextmanager
async def mosquitto(
    folder: Path,
    *,
    port: int | None = None,
    password: tuple[str, str] | None = None,
    tls: Certificates | None = None,
    client_certificates: bool = False,
    websocket: bool = False,
    max_inflight: int | None = None,
    persistent: bool = False,
    lines: Sequence[str] = (),
) -> AsyncIterator[Mosquitto]:
    """A running mosquitto that is gone afterwards."""
    broker = Mosquitto(
        folder,
        port=port,
        password=password,
        tls=tls,
        client_certificates=client_certificates,
        websocket=websocket,
        max_inflight=max_inflight,
        persistent=persistent,
        lines=lines,
    )
    try:
        await broker.start()
        yield broker
    finally:
        await broker.kill()


@contextlib.asynccontextmanager
async def nats(folder: Path, *, port: int | None = None) -> AsyncIterator[EmbeddedBroker]:
    """A running nats-server, which speaks MQTT 3.1.1 only."""
    async with EmbeddedBroker(BrokerOptions(folder, port or free_port())) as broker:
        yield broker


class Proxy:
    """A TCP proxy between a client and a broker whose network can be stopped and cut."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.forwarded = 0
        """Bytes from the client to the broker."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._flowing_up = asyncio.Event()
        self._flowing_up.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def block(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        self._flowing.clear()

    def block_up(self) -> None:
        """Nothing gets through to the broker any more; what it sends does."""
        self._flowing_up.clear()

    def unblock(self) -> None:
        self._flowing.set()
        self._flowing_up.set()

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, upstream}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, upstream, up=True))
                group.create_task(self._copy(upstream_reader, writer, up=False))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers -= {writer, upstream}
            self._tasks.discard(task)
            writer.transport.abort()
            upstream.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while True:
            await self._flowing.wait()
            if up:
                await self._flowing_up.wait()
            data = await reader.read(65536)
            if not data:
                raise ConnectionError
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
            if up:
                self.forwarded += len(data)

    async def close(self) -> None:
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    """A running `Proxy` to a port of this machine."""
    made = Proxy(target)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def gateway(target: int, tls: Certificates | None = None) -> AsyncIterator[str]:
    """An MQTT websocket in front of a broker's plain port, as a reverse proxy; yields its address.

    mosquitto 2.0.11's own websocket sends 4 kB ten times a second. This one sends messages in fragments, and one MQTT
    packet in several messages.
    """

    async def serve(websocket: ServerConnection) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target)

        async def down() -> None:
            while data := await reader.read(100_000):
                await websocket.send([data[:10], data[10:]] if len(data) > 10 else data)
            await websocket.close()

        task = asyncio.create_task(down())
        try:
            async for message in websocket:
                assert isinstance(message, bytes)
                writer.write(message)
                await writer.drain()
        finally:
            task.cancel()
            writer.transport.abort()
            await asyncio.wait({task})

    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert, tls.key)
    async with serve_websocket(
        serve, "127.0.0.1", 0, ssl=context, subprotocols=[Subprotocol("mqtt")], max_size=None, close_timeout=1
    ) as server:
        yield f"ws{'s' if tls else ''}://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
