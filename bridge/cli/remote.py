"""The running bridge, as a client on its broker sees it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bridge.cli import broker
from bridge.cli.terminal import Failure
from bridge.mqtt import payloads
from bridge.mqtt.connection import Connection
from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions
from bridge.mqtt.outbox import Policy
from bridge.mqtt.reasons import LinkError
from bridge.settings import MqttSettings


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The broker is there again: what was published meanwhile was missed."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The broker is away; `reason` says why. It is waited for."""

    reason: str


Happening = Message | Reconnected | Disconnected


class Remote:
    """Use `remote()`. What happens comes out of `next`, in order."""

    def __init__(self, settings: MqttSettings, options: ConnectionOptions, subscriptions: Sequence[str]) -> None:
        self._base = settings.base_topic
        self.where = f"{options.address} (base topic {settings.base_topic})"
        self._happenings: asyncio.Queue[Happening] = asyncio.Queue()
        self._was_connected = False
        self._connection = Connection(
            options,
            will=None,
            subscriptions=subscriptions,
            on_message=self._happenings.put_nowait,
            on_connected=self._on_connected,
            on_disconnected=lambda reason: self._happenings.put_nowait(Disconnected(reason)),
        )

    async def next(self) -> Happening:
        """Return what happened next."""
        return await self._happenings.get()

    def send(self, command: str, document: Mapping[str, Any]) -> None:
        """Publish a command; `command` is its topic below the base topic."""
        message = Message(
            f"{self._base}/{command}", payloads.dump(document), qos=1, content_type=payloads.JSON, text=True
        )
        self._connection.publish(message, policy=Policy.KEEP)

    async def sent(self, seconds: float) -> bool:
        """Wait until the broker has all commands; tell whether it has."""
        return await self._connection.drain(seconds)

    async def _on_connected(self) -> None:
        if self._was_connected:
            self._happenings.put_nowait(Reconnected())
        self._was_connected = True

    async def run(self) -> None:
        """Hold the connection until cancelled."""
        await self._connection.run()

    async def close(self) -> None:
        """End the connection in good form."""
        await self._connection.disconnect()


@asynccontextmanager
async def remote(settings: MqttSettings, purpose: str, subscriptions: Sequence[str]) -> AsyncIterator[Remote]:
    """Connect as a client; `subscriptions` are topic filters below the base topic.

    Raises Failure if the broker cannot be used at the start; later it is waited for.
    """
    options = broker.client_options(settings, purpose)
    try:
        options = await broker.reach(options)
    except LinkError as error:
        raise Failure(broker.unreachable(options, error)) from None
    made = Remote(settings, options, [f"{settings.base_topic}/{one}" for one in subscriptions])
    task = asyncio.get_running_loop().create_task(made.run(), name="remote")
    try:
        yield made
    finally:
        await made.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
