"""The broker as the commands see it: where it is, whether it lets us in."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from bridge.mqtt.embedded import BrokerOptions, EmbeddedBroker
from bridge.mqtt.face import connection_options
from bridge.mqtt.link import Link
from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions, Protocol
from bridge.mqtt.outbox import Limits
from bridge.mqtt.reasons import LinkError, ProtocolRefused
from bridge.settings import MqttSettings

PATIENCE = 5.0
"""Seconds for an attempt to connect."""


def client_options(settings: MqttSettings, purpose: str) -> ConnectionOptions:
    """Return the options of a client of its own beside the bridge: another id, nothing kept at the broker.

    Raises SettingsError.
    """
    url = settings.url
    if url == "embedded":
        url = EmbeddedBroker(BrokerOptions(Path(), settings.embedded_port, settings.embedded_host)).url
    options = connection_options(settings, url=url, client_id=f"comfy-bridge-{purpose}-{secrets.token_hex(4)}")
    return dataclasses.replace(options, session="clean", timeout=PATIENCE, pause=5.0, limits=Limits())


async def connect(
    options: ConnectionOptions,
    *,
    subscriptions: Sequence[str] = (),
    on_message: Callable[[Message], None] = lambda _message: None,
    on_acknowledged: Callable[[int, str | None], None] = lambda _number, _refusal: None,
) -> tuple[Link, list[tuple[str, str]]]:
    """Connect once, with the version of MQTT that the broker speaks; return also the subscriptions it refused.

    Raises LinkError. The caller closes the link.
    """

    async def attempt(protocol: Protocol) -> Link:
        link = Link(options, protocol, on_message=on_message, on_acknowledged=on_acknowledged, on_room=lambda: None)
        await link.open(None)
        return link

    try:
        link = await attempt(options.protocol)
    except ProtocolRefused:
        if options.protocol == "3.1.1":
            raise
        link = await attempt("3.1.1")
    try:
        return link, await link.subscribe(subscriptions)
    except BaseException:
        link.abort()
        raise


async def reach(options: ConnectionOptions) -> ConnectionOptions:
    """Connect, close again, and return the options with the version of MQTT that the broker speaks.

    Raises LinkError.
    """
    link, _ = await connect(options)
    await link.close()
    return dataclasses.replace(options, protocol=link.protocol)


def unreachable(options: ConnectionOptions, error: LinkError) -> str:
    """Say that the broker cannot be used and why."""
    return f"the MQTT broker {options.address} cannot be used: {error}"
