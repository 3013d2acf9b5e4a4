"""The MQTT face as a whole: the connection, what goes out and what comes in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bridge import events
from bridge.core import Core
from bridge.jobs.store import Store
from bridge.mqtt.commands import Commands
from bridge.mqtt.connection import Connection
from bridge.mqtt.homeassistant import HomeAssistant
from bridge.mqtt.log import LogForwarder
from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions
from bridge.mqtt.outbox import Limits, Policy
from bridge.mqtt.publisher import Publisher
from bridge.mqtt.topics import Topics
from bridge.mqtt.writer import MqttWriter
from bridge.settings import HomeAssistantSettings, MqttSettings, PromptingSettings

logger = logging.getLogger(__name__)

_HEALTH_EVERY = 60.0
_PROMPTING = PromptingSettings()
_GREETING = 2.0
"""Seconds that `online` waits for the rest of the greeting, on a connection that is never at rest."""
_GOODBYE = 5.0
"""Seconds that the broker has for what it should still get at the end."""


def connection_options(
    settings: MqttSettings, *, url: str | None = None, client_id: str | None = None
) -> ConnectionOptions:
    """Return the options of a connection as the settings say; `url` and `client_id` instead of theirs."""
    password = settings.password
    base = settings.base_topic.replace("/", "-")
    return ConnectionOptions(
        url=url or settings.url,
        client_id=client_id or settings.client_id or f"comfy-bridge-{socket.gethostname()}-{base}",
        protocol=settings.protocol,
        username=settings.username,
        password=None if password is None else password.get_secret_value(),
        tls_ca=settings.tls_ca,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        session=settings.session,
        keepalive=settings.keepalive,
        limits=Limits(keep_bytes=settings.outbox_bytes),
    )


class MqttFace:
    """Speaks MQTT for the core. url: the broker's address, where it is not the one of the settings."""

    def __init__(
        self,
        settings: MqttSettings,
        core: Core,
        store: Store,
        hub: events.Hub,
        *,
        homeassistant: HomeAssistantSettings,
        prompting: PromptingSettings = _PROMPTING,
        url: str | None = None,
    ) -> None:
        self._core = core
        self._hub = hub
        self._health_due = asyncio.Event()
        self._topics = Topics(settings.base_topic)
        self._publisher = Publisher(core, store, self._topics, settings, self._send, elsewhere=self._stays)
        self._homeassistant = HomeAssistant(core, store, self._topics, homeassistant, self._publisher)
        writer = None
        if prompting.writer == "mqtt":
            writer = MqttWriter(
                self._topics, self._put, connected=lambda: self._connection.connected, time_limit=prompting.timeout
            )
            core.prompts.use(writer)
        self._commands = Commands(
            core, self._topics, self._put, largest=lambda: self._connection.packet_maximum, prompt_writer=writer
        )
        self._connection = Connection(
            connection_options(settings, url=url),
            will=self._publisher.state(online=False),
            subscriptions=(*self._topics.filters(), *self._homeassistant.subscriptions),
            on_message=self._receive,
            on_connected=self._greet,
        )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Publish what happens, within the block: kept for the broker while it is away."""
        await self._publisher.start()
        await self._homeassistant.start()
        self._core.health_parts["mqtt"] = self._health
        with (
            self._hub.subscribed(self._publisher.listen),
            self._hub.subscribed(self._homeassistant.listen),
            self._hub.subscribed(self._listen),
            LogForwarder(self._publisher.log),
            contextlib.closing(self._homeassistant),
        ):
            yield

    async def run(self) -> None:
        """Serve until cancelled, then say goodbye."""
        health = asyncio.get_running_loop().create_task(self._publish_health(), name="health")
        connection = asyncio.get_running_loop().create_task(self._connection.run(), name="mqtt connection")
        try:
            await asyncio.wait({health, connection}, return_when=asyncio.FIRST_COMPLETED)
            await (connection if connection.done() else health)
        finally:
            await self._commands.close()
            self._publisher.say_goodbye()
            if self._connection.connected:
                await self._drain()
                await self._connection.disconnect()
            for task in (health, connection):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(health, connection, return_exceptions=True)

    async def _drain(self) -> None:
        deadline = asyncio.get_running_loop().time() + _GOODBYE
        while self._connection.connected and asyncio.get_running_loop().time() < deadline:
            if await self._connection.drain(_GOODBYE / 20):
                return

    def _send(self, message: Message, **options: Any) -> None:
        self._connection.publish(message, **options)

    def _put(self, message: Message, policy: Policy) -> None:
        self._send(message, policy=policy)

    def _receive(self, message: Message) -> None:
        if not self._homeassistant.receive(message):
            self._commands.handle(message, sees_own=self._connection.protocol != "5")

    def _stays(self, topic: str) -> bool:
        return self._homeassistant.keeps(topic)

    async def _greet(self) -> None:
        self._publisher.greet()
        # What is newer takes the place of what waits, at the end: `online` comes when nothing waits any more.
        await self._connection.drain(_GREETING)
        self._publisher.say_online()

    def _listen(self, event: events.Event) -> None:
        if isinstance(event, events.BackendState):
            self._health_due.set()

    async def _publish_health(self) -> None:
        while True:
            self._health_due.clear()
            try:
                self._publisher.publish_health(await self._core.health())
            except Exception:
                logger.exception("the health could not be told")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEALTH_EVERY):
                    await self._health_due.wait()

    def _health(self) -> dict[str, Any]:
        stats = self._connection.stats
        return {
            "connected": self._connection.connected,
            "protocol": self._connection.protocol,
            "reconnects": stats.reconnects,
            "published": stats.published,
            "received": stats.received,
            "dropped": stats.dropped,
            "queued": stats.queued,
        }
