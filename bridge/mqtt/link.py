"""One MQTT connection, from CONNECT to its end.

The session is paho's (`bridge.mqtt.session`). What goes out and its acknowledgements (`bridge.mqtt.packets`), the
socket, the keepalive and the reconnecting are ours, so everything runs in the event loop and nothing blocks it.
On Windows the loop must be a selector loop: the default one cannot watch sockets.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions, Protocol
from bridge.mqtt.packets import DISCONNECT, PINGREQ, PUBACK, Malformed, pack_properties, puback, publish_head
from bridge.mqtt.reasons import (
    FAILURE,
    UNAUTHORIZED,
    UNSUPPORTED_PROTOCOL,
    Ending,
    LinkError,
    NotAccepted,
    ProtocolRefused,
    broken,
    in_words,
)
from bridge.mqtt.session import Callbacks, Greeting, Session
from bridge.mqtt.stream import Stream, open_stream, tls_context

__all__ = ["Ending", "Link", "LinkError", "NotAccepted", "ProtocolRefused"]

_GOODBYE = 3.0
"""Seconds to write what is buffered before a clean end."""


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
        self.packet_maximum: int | None = None
        """Bytes of a packet that the broker takes; None: it names no limit."""
        self._options = options
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._greeting: asyncio.Future[Greeting] = self._loop.create_future()
        self._subscribed: asyncio.Future[list[int]] = self._loop.create_future()
        self._maximum_qos = 1
        """Of what we send: QoS 2 would cost twice the packets, and who reads us reads a message twice well."""
        self._retain_available = True
        self._number = 0
        self._unacknowledged: set[int] = set()
        self._write_scheduled = False
        self._watching = False
        self._keepalive = float(options.keepalive)
        self._alive = self._sent = self._pinged = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.session: Session
        self._stream: Stream

    async def open(self, will: Message | None, *, previous: Link | None = None) -> None:
        """Connect and log in. Raises `LinkError`, with everything closed again.

        A durable session goes on from the `previous` connection: it holds the messages of QoS 2 that the broker has not
        released yet.
        """
        session = None if previous is None else previous.session
        if session is None or not session.durable or session.protocol != self.protocol:
            session = Session(self._options, self.protocol, will)
        self.session = session
        address = self._options.address
        stage = f"{address.host} does not answer"
        stream = None
        try:
            async with asyncio.timeout(self._options.timeout):
                context = await asyncio.to_thread(tls_context, self._options) if address.secure else None
                stream = await open_stream(address, context)
                stage = f"something at port {address.port} accepts connections and does not answer as an MQTT broker"
                self._start(stream)
                await self._either(self._greeting)
                self._check_greeting()
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
        self.session.subscribe(filters)
        await self._either(self._subscribed, self._options.timeout)
        if self.ended.done():
            raise LinkError(self.ended.result().reason)
        if not self._subscribed.done():
            raise LinkError(f"the broker does not answer to SUBSCRIBE within {self._options.timeout:g} s")
        answers = zip(filters, self._subscribed.result(), strict=False)
        return [(name, in_words(reason)) for name, reason in answers if reason >= FAILURE]

    @property
    def connected(self) -> bool:
        """Whether the broker let us in and the connection stands."""
        return not self.ended.done() and self._greeting.done() and self._greeting.result().reason < FAILURE

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
        qos, retain = min(message.qos, self._maximum_qos), message.retain and self._retain_available
        properties = pack_properties(message) if self.protocol == "5" else b""
        number = self._next_number() if qos else None
        head = publish_head(message, qos=qos, retain=retain, number=number, properties=properties)
        size = len(head) + len(message.payload)
        if self.packet_maximum is not None and size > self.packet_maximum:
            raise ValueError(f"the broker takes at most {self.packet_maximum} bytes, this needs {size}")
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
            self._stream.send(DISCONNECT)
            self._flush()
            await asyncio.wait({self.ended}, timeout=1)
        self.abort()

    def abort(self, reason: str = "closed by us") -> None:
        """Close at once, without a word: the broker publishes the will."""
        self._end(Ending(reason, by_broker=False))

    def _start(self, stream: Stream) -> None:
        self._stream = stream
        callbacks = Callbacks(
            on_greeting=self._on_greeting,
            on_subscribed=self._on_subscribed,
            on_message=self._on_message,
            on_goodbye=self._on_goodbye,
            on_packet=self._on_packet,
            on_close=self._unwatch,
        )
        self.session.connect(stream, callbacks)
        self._loop.add_reader(stream.fileno(), self._on_readable)
        self._on_timer()
        if stream.unread:
            self._loop.call_soon(self._feed)

    async def _either(self, future: asyncio.Future[Any], limit: float | None = None) -> None:
        """Wait for the future or the end of the connection."""
        futures: set[asyncio.Future[Any]] = {future, self.ended}
        await asyncio.wait(futures, timeout=limit, return_when=asyncio.FIRST_COMPLETED)

    def _check_greeting(self) -> None:
        if not self._greeting.done():
            ending = self.ended.result()
            words = ending.reason
            # Whether its alert is heard before the connection breaks is a matter of luck.
            if ending.by_broker and self._options.address.secure and "certificate" not in words:
                wish = "may not accept our" if self._options.tls_cert else "may want a client"
                words += f"; it {wish} certificate (mqtt.tls_cert and mqtt.tls_key)"
            if self.protocol == "5" and ending.by_broker:
                raise ProtocolRefused(words, certain=False)
            raise LinkError(words)
        greeting = self._greeting.result()
        reason = greeting.reason
        if reason == UNSUPPORTED_PROTOCOL and self.protocol == "5":
            raise ProtocolRefused("the broker does not speak MQTT 5", certain=True)
        if reason >= FAILURE:
            kind = NotAccepted if reason in UNAUTHORIZED else LinkError
            raise kind(f"the broker does not let us in: {in_words(reason)}")
        self.receive_maximum = greeting.receive_maximum
        self.packet_maximum = greeting.packet_maximum
        self._maximum_qos = min(self._maximum_qos, greeting.maximum_qos)
        self._retain_available = greeting.retain_available
        self._keepalive = self.session.keepalive

    def _on_packet(self) -> None:
        # Not now: it is told while the packet is made.
        self._loop.call_soon(self._take_packets)

    def _take_packets(self) -> None:
        if not self.ended.done():
            self.session.write()
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
        """Take what has come, and go on sending."""
        self._read()
        if not self.ended.done():
            if self._stream.unsent:  # the websocket answered a ping
                self._flush()
            self._on_room()

    def _read(self) -> None:
        try:
            for packet in self._stream.packets:
                if packet[0] == PUBACK:
                    self._on_puback(*puback(packet))
                else:
                    self._stream.hand_over(packet)
                    self._let_read()
                if self.ended.done():
                    return
        except Malformed:
            self._end(self._not_mqtt())
            return
        if self._stream.received_eof:
            self._let_read()

    def _let_read(self) -> None:
        if not self.session.read():
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

        What the kernel takes counts as one: a long upload over a slow line hears nothing for a while.
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

    def _on_greeting(self, greeting: Greeting) -> None:
        if not self._greeting.done():
            self._greeting.set_result(greeting)

    def _on_subscribed(self, reasons: list[int]) -> None:
        if not self._subscribed.done():
            self._subscribed.set_result(reasons)

    def _on_puback(self, number: int, reason: int) -> None:
        if number in self._unacknowledged:
            self._unacknowledged.discard(number)
            self._on_acknowledged(number, in_words(reason) if reason >= FAILURE else None)

    def _on_goodbye(self, reason: int | None) -> None:
        if reason is not None:
            self._end(Ending(in_words(reason), by_broker=True, code=reason))
        elif self._stream.closed_by_peer:
            self._end(Ending("the broker closed the connection", by_broker=True))
        else:
            self._end(self._not_mqtt())

    def _unwatch(self) -> None:
        """Forget the socket; it is about to be closed, by us or by the session."""
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
        self.session.leave()
