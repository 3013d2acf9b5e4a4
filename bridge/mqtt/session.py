"""The MQTT session on a connection, by paho-mqtt: the only module that knows it.

paho connects, subscribes, and decodes what comes in, with the state of QoS 2. It is given the stream of one connection
at a time and never touches a socket; what goes out and its acknowledgements are not its business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions, Protocol
from bridge.mqtt.packets import pack_properties
from bridge.mqtt.stream import Stream

logger = logging.getLogger(__name__)

_EXPIRY = 7 * 24 * 3600
"""Seconds that the broker keeps a durable session, so that a bridge that is gone for good does not fill it."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the broker says to CONNECT: a reason code of MQTT 5, and what it allows (MQTT 5 section 3.2.2.3)."""

    reason: int
    receive_maximum: int | None
    packet_maximum: int | None
    maximum_qos: int
    retain_available: bool


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a session tells; called from within `Session.read`, but for `on_packet`.

    on_greeting: CONNACK came. on_subscribed: SUBACK came, with a reason code for each filter. on_goodbye: the session
    is over, with the reason code of the broker's DISCONNECT if there was one. on_packet: `Session.write` has something
    to write. on_close: the stream is about to be closed.
    """

    on_greeting: Callable[[Greeting], None]
    on_subscribed: Callable[[list[int]], None]
    on_message: Callable[[Message], None]
    on_goodbye: Callable[[int | None], None]
    on_packet: Callable[[], None]
    on_close: Callable[[], None]


class _Paho(paho.Client):
    """paho on a stream that is already connected."""

    stream: Stream | None = None

    def _create_socket(self) -> Any:  # the one thing of paho's inside that has no public door
        return self.stream


class _Packed(Properties):
    """Properties that are packed already."""

    def __init__(self, data: bytes) -> None:
        object.__setattr__(self, "data", data)

    def pack(self) -> bytes:
        return cast("bytes", object.__getattribute__(self, "data"))


class Session:
    """One session, over any number of connections if it is durable, else over one."""

    def __init__(self, options: ConnectionOptions, protocol: Protocol, will: Message | None) -> None:
        self.protocol = protocol
        self.durable = options.session == "durable"
        self._options = options
        is_5 = protocol == "5"
        self._client = client = _Paho(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if is_5 else not self.durable,
            protocol=MQTTProtocolVersion.MQTTv5 if is_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.username_pw_set(*options.credentials)
        if will is not None:
            properties = _Packed(pack_properties(will)) if is_5 else None
            client.will_set(will.topic, will.payload, will.qos, will.retain, properties)

    @property
    def keepalive(self) -> float:
        """Seconds: ours, or those that a broker of MQTT 5 has set."""
        return float(self._client.keepalive)

    def connect(self, stream: Stream, callbacks: Callbacks) -> None:
        """Begin on a connection: CONNECT is the first packet."""
        client, options = self._client, self._options
        client.on_connect = lambda _client, _userdata, _flags, reason, properties: callbacks.on_greeting(
            _greeting(reason.value, properties)
        )
        client.on_subscribe = lambda _client, _userdata, _mid, reasons, _properties: callbacks.on_subscribed(
            [reason.value for reason in reasons]
        )
        client.on_disconnect = lambda _client, _userdata, flags, reason, _properties: callbacks.on_goodbye(
            reason.value if flags.is_disconnect_packet_from_server else None
        )
        client.on_message = lambda _client, _userdata, message: _take(message, callbacks.on_message)
        client.on_socket_register_write = lambda *_: callbacks.on_packet()
        client.on_socket_close = lambda *_: callbacks.on_close()
        client.stream = stream
        host, port = options.address.host, options.address.port
        if self.protocol == "5":
            # Session Expiry Interval, MQTT 5 section 3.1.2.11.2
            properties = _Packed(b"\x05\x11" + _EXPIRY.to_bytes(4)) if self.durable else None
            client.connect(host, port, options.keepalive, clean_start=not self.durable, properties=properties)
        else:
            client.connect(host, port, options.keepalive)

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe with QoS 2; on MQTT 5 without our own messages, and with the retain flag of the publisher."""
        if self.protocol == "5":
            wanted = SubscribeOptions(qos=2, noLocal=True, retainAsPublished=True)
            self._client.subscribe([(name, wanted) for name in filters])
        else:
            self._client.subscribe([(name, 2) for name in filters])

    def read(self) -> bool:
        """Take the packet that the stream hands over, or its end; whether it was MQTT."""
        try:
            return self._client.loop_read() == MQTTErrorCode.MQTT_ERR_SUCCESS
        except Exception:
            logger.exception("paho-mqtt could not read what the broker sent")
            return False

    def write(self) -> None:
        """Put packets into the stream."""
        self._client.loop_write()

    def leave(self) -> None:
        """Forget the connection, whose stream is closed; nothing is called any more."""
        # paho learns of it the usual way: it reads the end of the stream.
        self._client.on_disconnect = None
        self._client.loop_read()


def _greeting(reason: int, properties: Properties | None) -> Greeting:
    return Greeting(
        reason,
        getattr(properties, "ReceiveMaximum", None),
        getattr(properties, "MaximumPacketSize", None),
        getattr(properties, "MaximumQoS", 2),
        bool(getattr(properties, "RetainAvailable", 1)),
    )


def _take(message: paho.MQTTMessage, on_message: Callable[[Message], None]) -> None:
    try:
        topic = message.topic
    except UnicodeDecodeError:
        logger.warning("Ignored a message whose topic is not UTF-8")
        return
    properties = message.properties
    try:
        on_message(
            Message(
                topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                content_type=getattr(properties, "ContentType", None),
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation=getattr(properties, "CorrelationData", None),
                user=tuple((name, value) for name, value in getattr(properties, "UserProperty", ())),
                text=getattr(properties, "PayloadFormatIndicator", 0) == 1,
            )
        )
    except Exception:
        logger.exception("A message on %s could not be handled", topic)
