"""A `Connection` under test, with everything that it told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import aiomqtt

from bridge.mqtt.connection import Connection
from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions, Protocol
from bridge.mqtt.outbox import Limits, Policy
from tests.support.brokers import until

WILL = Message("bridge/state", b"offline", qos=1, retain=True)


class Side:
    """The connection, what it received, and how often it came and went."""

    def __init__(self, options: ConnectionOptions, subscriptions: Sequence[str] = ("in/#",)) -> None:
        self.received: list[Message] = []
        self.connects = 0
        self.losses: list[str] = []
        self.acknowledged: list[bytes] = []
        self.task: asyncio.Task[None] | None = None
        self.connection = Connection(
            options,
            will=WILL,
            subscriptions=subscriptions,
            on_message=self.received.append,
            on_connected=self._on_connected,
            on_disconnected=self.losses.append,
        )

    async def _on_connected(self) -> None:
        self.connects += 1
        self.connection.publish(Message("bridge/state", b"online", qos=1, retain=True), policy=Policy.KEEP)

    def keep(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.connection.publish(
            Message(topic, payload, qos=1, retain=retain),
            policy=Policy.KEEP,
            on_acknowledged=lambda: self.acknowledged.append(payload),
        )

    def latest(self, topic: str, payload: bytes) -> None:
        self.connection.publish(Message(topic, payload), policy=Policy.LATEST)

    def drop(self, topic: str, payload: bytes) -> None:
        self.connection.publish(Message(topic, payload), policy=Policy.DROP)

    async def up(self, within: float = 10.0) -> None:
        await until(lambda: self.connection.connected, within)

    async def start(self) -> None:
        self.task = asyncio.create_task(self.connection.run())

    async def cancel(self) -> None:
        """As a crash: the broker publishes the will."""
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
            self.task = None


@contextlib.asynccontextmanager
async def side(
    url: str,
    *,
    client_id: str = "bridge",
    protocol: Protocol = "5",
    subscriptions: Sequence[str] = ("in/#",),
    wait: bool = True,
    session: Literal["clean", "durable"] = "clean",
    keepalive: int = 60,
    timeout: float = 5.0,  # noqa: ASYNC109 - the option's name
    pause: float = 0.1,
    limits: Limits | None = None,
    username: str | None = None,
    password: str | None = None,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
) -> AsyncIterator[Side]:
    """A running connection; short pauses, so that tests need not wait."""
    options = ConnectionOptions(
        url,
        client_id,
        protocol=protocol,
        session=session,
        keepalive=keepalive,
        timeout=timeout,
        pause=pause,
        limits=limits or Limits(),
        username=username,
        password=password,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    made = Side(options, subscriptions)
    await made.start()
    try:
        if wait:
            await made.up()
        yield made
    finally:
        await made.cancel()


class Watcher:
    """Everything that an independent client (aiomqtt) saw, in order."""

    def __init__(self) -> None:
        self.messages: list[aiomqtt.Message] = []

    def payloads(self, topic: str) -> list[bytes]:
        return [message.payload for message in self.messages if message.topic.value == topic]


@contextlib.asynccontextmanager
async def watching(port: int, topic: str = "#", *, protocol: Protocol = "5") -> AsyncIterator[Watcher]:
    """An aiomqtt client that subscribes to a topic filter."""
    watcher = Watcher()
    async with peer(port, protocol) as client:
        await client.subscribe(topic, qos=1)

        async def read() -> None:
            async for message in client.messages:
                watcher.messages.append(message)

        task = asyncio.create_task(read())
        try:
            yield watcher
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await task


def peer(port: int, protocol: Protocol = "5", **options: Any) -> aiomqtt.Client:
    """An independent client."""
    version = aiomqtt.ProtocolVersion.V5 if protocol == "5" else aiomqtt.ProtocolVersion.V311
    return aiomqtt.Client("127.0.0.1", port, protocol=version, **options)
