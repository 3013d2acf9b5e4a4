"""One MQTT connection, from CONNECT to its end: the only module that knows paho-mqtt.

paho connects, subscribes, and decodes what comes in, with the state of QoS 2. What goes out and its acknowledgements
(`bridge.mqtt.packets`), the socket, the keepalive and the reconnecting are ours, so everything runs in the event loop
and nothing blocks it. On Windows the loop must be a selector loop: the default one cannot watch sockets.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any, cast

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions, Protocol
from bridge.mqtt.packets import DISCONNECT, PINGREQ, PUBACK, Malformed, pack_properties, puback, publish_head
from bridge.mqtt.reasons import (
    UNAUTHORIZED,
    UNSUPPORTED_PROTOCOL,
    Ending,
    LinkError,
    NotAccepted,
    ProtocolRefused,
    broken,
    in_words,
)
from bridge.mqtt.stream import Stream, open_stream, tls_context

__all__ = ["Ending", "Link", "LinkError", "NotAccepted", "ProtocolRefused"]

logger = logging.getLogger(__name__)

_SESSION_EXPIRY = 7 * 24 * 3600
"""Seconds that the broker keeps a durable session, so that a bridge that is gone for good does not fill it."""

_FAILURE = 0x80
"""Reason codes from here on are failures (MQTT 5 section 2.4)."""

_GOODBYE = 3.0
"""Seconds to write what is buffered before a clean end."""


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


class Link:
    """One connection. `open` makes it; `ended` holds an `Ending` once it is over. Used once.

    `on_message(message)` and `on_room()` (something can be sent again) are called in the event loop, and so is
    `on_acknowledged(number, refusal)`, with the number that `send` returned and None, or the words in
    which the broker refused the message.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        protocol: Protocol,
        *,
        on_message: Callable[[Message], None],
        on_acknowledged: Callable[[int, str | None], None],
        on_room: Callable[[], None],
    ) -> None:
        self.protocol = protocol
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.receive_maximum: int | None = None
        self._options = options
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[tuple[ReasonCode, Properties | None]] = self._loop.create_future()
        self._subscribed: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._packet_maximum: int | None = None
        self._maximum_qos = 2
        self._retain_available = True
        self._number = 0
        self._unacknowledged: set[int] = set()
        self._write_scheduled = False
        self._watching = False
        self._keepalive = float(options.keepalive)
        self._alive = self._sent = self._pinged = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._client: _Paho
        self._stream: Stream

    async def open(self, will: Message | None, *, previous: Link | None = None) -> None:
        """Connect and log in. Raises `LinkError`, with everything closed again.

        A durable session goes on from the `previous` connection: it holds the messages of QoS 2 that the broker has not
        released yet.
        """
        self._client = self._prepare(will, previous)
        address = self._options.address
        stage = f"{address.host} does not answer"
        stream = None
        try:
            async with asyncio.timeout(self._options.timeout):
                context = await asyncio.to_thread(tls_context, self._options) if address.secure else None
                stream = await open_stream(address, context)
                stage = f"something at port {address.port} accepts connections and does not answer as an MQTT broker"
                self._start(stream)
                await self._either(self._answer)
                self._check_answer()
        except TimeoutError:
            raise LinkError(f"{stage} within {self._options.timeout:g} s") from None
        except OSError as error:
            raise LinkError(str(error)) from error
        finally:
            if not self.connected and stream is not None:
                self.abort()

    async def subscribe(self, filters: Sequence[str]) -> list[tuple[str, str]]:
        """Subscribe with QoS 2 and wait for the answer. Returns the filters that were refused, each with the reason.

        On MQTT 5 our own messages do not come back and the retain flag is that of the publisher. Raises `LinkError`.
        """
        if not filters:
            return []
        if self.protocol == "5":
            wanted = SubscribeOptions(qos=2, noLocal=True, retainAsPublished=True)
            self._client.subscribe([(name, wanted) for name in filters])
        else:
            self._client.subscribe([(name, 2) for name in filters])
        await self._either(self._subscribed, self._options.timeout)
        if self.ended.done():
            raise LinkError(self.ended.result().reason)
        if not self._subscribed.done():
            raise LinkError(f"the broker does not answer to SUBSCRIBE within {self._options.timeout:g} s")
        answers = zip(filters, self._subscribed.result(), strict=False)
        return [(name, in_words(reason.value)) for name, reason in answers if reason.is_failure]

    @property
    def connected(self) -> bool:
        """Whether the broker let us in and the connection stands."""
        return not self.ended.done() and self._answer.done() and not self._answer.result()[0].is_failure

    @property
    def room(self) -> int:
        """Bytes that may be sent before the buffer is full."""
        return self._options.limits.buffer - self._stream.unsent

    def make_room(self) -> bool:
        """Write now instead of in the next turn of the loop; whether there is room then.

        A burst of previews within one turn would else replace one another though the network takes them all.
        """
        if self.room <= 0 and not self._watching:
            self._flush()
        return self.room > 0

    def send(self, message: Message) -> int | None:
        """Publish; return the number to be acknowledged, or None if there will be none (QoS 0).

        Raises `ValueError` with words if it can never be sent on this connection.
        """
        qos, retain = min(message.qos, 1, self._maximum_qos), message.retain and self._retain_available
        properties = pack_properties(message) if self.protocol == "5" else b""
        number = self._next_number() if qos else None
        head = publish_head(message, qos=qos, retain=retain, number=number, properties=properties)
        size = len(head) + len(message.payload)
        if self._packet_maximum is not None and size > self._packet_maximum:
            raise ValueError(f"the broker takes at most {self._packet_maximum} bytes, this needs {size}")
        self._stream.send(head, message.payload)
        self._schedule_write()
        if number is not None:
            self._unacknowledged.add(number)
        return number

    def _next_number(self) -> int:
        """A packet identifier that is free (MQTT 5 section 2.2.1)."""
        while True:
            self._number = self._number % 65_535 + 1
            if self._number not in self._unacknowledged:
                return self._number

    async def close(self) -> None:
        """End cleanly, so that the broker does not publish the will: write what is buffered, DISCONNECT."""
        deadline = self._loop.time() + min(_GOODBYE, self._options.timeout)
        while not self.ended.done() and self._stream.unsent and self._loop.time() < deadline:
            await asyncio.wait({self.ended}, timeout=0.01)
        if not self.ended.done():
            # Not paho's: it closes the socket as soon as it has handed the packet over.
            self._stream.send(DISCONNECT)
            self._flush()
            await asyncio.wait({self.ended}, timeout=1)
        self.abort()

    def abort(self, reason: str = "closed by us") -> None:
        """Close at once, without a word: the broker publishes the will."""
        self._end(Ending(reason, by_broker=False))

    def _prepare(self, will: Message | None, previous: Link | None) -> _Paho:
        options = self._options
        durable = options.session == "durable"
        if durable and previous is not None and previous.protocol == self.protocol:
            client = previous._client  # noqa: SLF001 - another of this class
            client.drop_out_messages()
        else:
            client = _Paho(
                CallbackAPIVersion.VERSION2,
                client_id=options.client_id,
                clean_session=None if self.protocol == "5" else not durable,
                protocol=MQTTProtocolVersion.MQTTv5 if self.protocol == "5" else MQTTProtocolVersion.MQTTv311,
                reconnect_on_failure=False,
            )
            client.username_pw_set(*options.credentials)
            client.max_inflight_messages_set(65535)
            if will is not None:
                properties = _Packed(pack_properties(will)) if self.protocol == "5" else None
                client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_paho_message
        client.on_socket_register_write = self._on_paho_packet
        client.on_socket_close = self._unwatch
        return client

    def _start(self, stream: Stream) -> None:
        self._stream = self._client.stream = stream
        options = self._options
        host, port = options.address.host, options.address.port
        if self.protocol == "5":
            durable = options.session == "durable"
            # Session Expiry Interval, MQTT 5 section 3.1.2.11.2
            properties = _Packed(b"\x05\x11" + _SESSION_EXPIRY.to_bytes(4)) if durable else None
            self._client.connect(host, port, options.keepalive, clean_start=not durable, properties=properties)
        else:
            self._client.connect(host, port, options.keepalive)
        self._loop.add_reader(stream.fileno(), self._on_readable)
        self._on_timer()
        if stream.unread:
            self._loop.call_soon(self._feed)

    async def _either(self, future: asyncio.Future[Any], limit: float | None = None) -> None:
        """Wait for the future or the end of the connection."""
        futures: set[asyncio.Future[Any]] = {future, self.ended}
        await asyncio.wait(futures, timeout=limit, return_when=asyncio.FIRST_COMPLETED)

    def _check_answer(self) -> None:
        if not self._answer.done():
            ending = self.ended.result()
            words = ending.reason
            # Whether its alert is heard before the connection breaks is a matter of luck.
            if ending.by_broker and self._options.address.secure and "certificate" not in words:
                wish = "may not accept our" if self._options.tls_cert else "may want a client"
                words += f"; it {wish} certificate (mqtt.tls_cert and mqtt.tls_key)"
            if self.protocol == "5" and ending.by_broker:
                raise ProtocolRefused(words, certain=False)
            raise LinkError(words)
        reason, properties = self._answer.result()
        if reason.value == UNSUPPORTED_PROTOCOL and self.protocol == "5":
            raise ProtocolRefused("the broker does not speak MQTT 5", certain=True)
        if reason.is_failure:
            kind = NotAccepted if reason.value in UNAUTHORIZED else LinkError
            raise kind(f"the broker does not let us in: {in_words(reason.value)}")
        self.receive_maximum = getattr(properties, "ReceiveMaximum", None)
        self._packet_maximum = getattr(properties, "MaximumPacketSize", None)
        self._maximum_qos = getattr(properties, "MaximumQoS", 2)
        self._retain_available = bool(getattr(properties, "RetainAvailable", 1))
        self._keepalive = float(self._client.keepalive)  # a broker that speaks MQTT 5 may have set another

    def _on_paho_packet(self, *_: object) -> None:
        # Not now: paho calls this while it makes the packet.
        self._loop.call_soon(self._take_paho_packets)

    def _take_paho_packets(self) -> None:
        if not self.ended.done():
            self._client.loop_write()
            self._schedule_write()

    def _schedule_write(self) -> None:
        """Write at the end of this turn of the loop all that it gave at once."""
        if not self._write_scheduled and not self._watching:
            self._write_scheduled = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._write_scheduled = False
        if not self.ended.done():
            self._flush()

    def _on_writable(self) -> None:
        # The kernel's buffer was full: that it takes more now shows that the broker reads.
        if self._flush():
            self._alive = self._loop.time()

    def _flush(self) -> int:
        try:
            written = self._stream.flush()
        except OSError as error:
            self._fail(error)
            return 0
        if written:
            self._sent = self._loop.time()
        backlog = self._stream.unsent > 0
        if backlog != self._watching:
            self._watching = backlog
            if backlog:
                self._loop.add_writer(self._stream.fileno(), self._on_writable)
            else:
                self._loop.remove_writer(self._stream.fileno())
        self._on_room()
        return written

    def _on_readable(self) -> None:
        try:
            self._stream.fill()
        except OSError as error:
            self._fail(error)
            return
        self._alive = self._loop.time()
        self._feed()
        if not self.ended.done() and self._stream.pending():
            self._loop.call_soon(self._read_pending)

    def _read_pending(self) -> None:
        if not self.ended.done():
            self._on_readable()

    def _feed(self) -> None:
        """Let paho have what has come, and go on sending."""
        self._read()
        if not self.ended.done():
            if self._stream.unsent:  # the websocket answered a ping
                self._flush()
            self._on_room()

    def _read(self) -> None:
        """Take what has come; paho gets what is not an acknowledgement, and calls our callbacks."""
        try:
            for packet in self._stream.packets:
                if packet[0] == PUBACK:
                    self._on_puback(*puback(packet))
                else:
                    self._stream.hand_over(packet)
                    self._let_paho_read()
                if self.ended.done():
                    return
        except Malformed:
            self._end(self._not_mqtt())
            return
        if self._stream.received_eof:
            self._let_paho_read()

    def _let_paho_read(self) -> None:
        try:
            failed = self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS
        except Exception:
            logger.exception("paho-mqtt could not read what the broker sent")
            failed = True
        if failed:
            self._end(self._not_mqtt())

    def _not_mqtt(self) -> Ending:
        return Ending(f"what the broker sent is not MQTT {self.protocol}", by_broker=False)

    def _fail(self, error: OSError) -> None:
        """The connection is broken; the broker's last words may have arrived before."""
        try:
            self._stream.fill()
        except OSError as other:
            error = other if isinstance(other, ssl.SSLError) else error
        self._read()
        self._end(Ending(broken(error), by_broker=True))

    def _on_timer(self) -> None:
        """Keep the connection alive, and end it after 1.5 keepalives without a sign of life.

        paho's own keepalive counts only what it received, so it would end a long upload over a slow line.
        """
        now = self._loop.time()
        if now - self._alive > 1.4 * self._keepalive:
            self._end(Ending(f"no sign of life from the broker for {now - self._alive:.0f} s", by_broker=False))
            return
        half = self._keepalive / 2
        if now - self._pinged >= half and (now - self._alive >= half or now - self._sent >= half):
            self._pinged = now
            self._stream.send(PINGREQ)
            self._schedule_write()
        self._timer = self._loop.call_later(min(1.0, self._keepalive / 10), self._on_timer)

    def _on_connect(self, _client: object, _userdata: object, _flags: object, reason: Any, properties: Any) -> None:
        if not self._answer.done():
            self._answer.set_result((reason, properties))

    def _on_subscribe(self, _client: object, _userdata: object, _mid: int, reasons: Any, _properties: object) -> None:
        if not self._subscribed.done():
            self._subscribed.set_result(reasons)

    def _on_puback(self, number: int, reason: int) -> None:
        if number in self._unacknowledged:
            self._unacknowledged.discard(number)
            self._on_acknowledged(number, in_words(reason) if reason >= _FAILURE else None)

    def _on_disconnect(self, _client: object, _userdata: object, flags: Any, reason: Any, _properties: object) -> None:
        if flags.is_disconnect_packet_from_server:
            self._end(Ending(in_words(reason.value), by_broker=True, code=reason.value))
        elif self._stream.closed_by_peer:
            self._end(Ending("the broker closed the connection", by_broker=True))
        else:
            self._end(self._not_mqtt())

    def _on_paho_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            logger.warning("Ignored a message whose topic is not UTF-8")
            return
        properties = message.properties
        try:
            self._on_message(
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

    def _unwatch(self, *_: object) -> None:
        """Forget the socket; it is about to be closed, by us or by paho."""
        descriptor = self._stream.fileno()
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)

    def _end(self, ending: Ending) -> None:
        if self.ended.done():
            return
        self.ended.set_result(ending)
        if self._timer is not None:
            self._timer.cancel()
        self._unwatch()
        self._stream.close()
        # paho learns of it the usual way: it reads the end of the stream.
        self._client.on_disconnect = None
        self._client.loop_read()
