"""The MQTT packets that a bridge is busy with, written and read by ourselves: PUBLISH out, PUBACK in. Pure.

A job is some forty of them, for which a general client takes longer than for all the rest of the job; everything
else, and what comes in, is left to it. Sections are those of MQTT 5.0; 3.1.1 has the same packets without properties
and reason codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from bridge.mqtt.message import Message

PUBACK = 0x40
PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"

_PUBLISH = 0x30
_LONGEST = 268_435_455
"""Bytes of a packet after its fixed header (2.1.4)."""


class Malformed(ValueError):
    """What was received is not MQTT."""


def publish_head(message: Message, *, qos: int, retain: bool, number: int | None, properties: bytes) -> bytes:
    """Return what stands before the payload in a PUBLISH (3.3).

    qos, retain: what the broker allows of the message's. number: the packet identifier, None with QoS 0. properties: as
    `pack_properties` gives them, empty on 3.1.1. Raises ValueError with words if there can be no such packet.
    """
    topic = message.topic.encode()
    if not topic or b"\0" in topic or b"+" in topic or b"#" in topic:
        raise ValueError("a topic is not empty and holds no NUL, + or #")
    rest = _sized(topic) + (b"" if number is None else number.to_bytes(2)) + properties
    size = len(rest) + len(message.payload)
    if size > _LONGEST:
        raise ValueError(f"MQTT has packets of at most {_LONGEST} bytes, this needs {size}")
    return bytes((_PUBLISH | qos << 1 | retain,)) + _variable(size) + rest


def puback(packet: bytes) -> tuple[int, int]:
    """Return the packet identifier and the reason code of a PUBACK (3.4). Raises Malformed."""
    if len(packet) < 4:
        raise Malformed("a PUBACK without a packet identifier")
    return int.from_bytes(packet[2:4]), packet[4] if len(packet) > 4 else 0


def pack_properties(message: Message) -> bytes:
    """Return the properties of a message as they stand in the packet (2.2.2, 3.3.2.3).

    Raises ValueError for one that is too long.
    """
    plain = _plain_properties(message.content_type, text=message.text)
    if message.response_topic is None and message.correlation is None and not message.user:
        return _variable(len(plain)) + plain
    data = bytearray(plain)
    if message.response_topic is not None:
        data += b"\x08" + _sized(message.response_topic.encode())
    if message.correlation is not None:
        data += b"\x09" + _sized(message.correlation)
    for name, value in message.user:
        data += b"\x26" + _string(name) + _string(value)
    return _variable(len(data)) + data


@lru_cache(maxsize=32)
def _plain_properties(content_type: str | None, *, text: bool) -> bytes:
    """What most messages have and nothing else: a handful of values."""
    return (b"\x01\x01" if text else b"") + (b"" if content_type is None else b"\x03" + _string(content_type))


class Packets:
    """Cuts a stream of bytes into packets: `feed` what was received, iterate over those that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begin = 0

    def __bool__(self) -> bool:
        """Whether there is something that was not yielded."""
        return len(self._buffer) > self._begin

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self._buffer += data

    def __iter__(self) -> Iterator[bytes]:
        """Yield each packet once, its fixed header included; whoever takes one may iterate too. Raises Malformed."""
        while (end := self._end()) is not None:
            with memoryview(self._buffer) as view:
                packet = bytes(view[self._begin : end])
            self._begin = end
            yield packet
        del self._buffer[: self._begin]
        self._begin = 0

    def _end(self) -> int | None:
        """Where the next packet ends; None while it is not complete."""
        buffer = self._buffer
        first = self._begin + 1
        size = 0
        for position in range(first, min(first + 4, len(buffer))):
            byte = buffer[position]
            size |= (byte & 127) << 7 * (position - first)
            if byte < 128:
                end = position + 1 + size
                return end if end <= len(buffer) else None
        if len(buffer) >= first + 4:
            raise Malformed("a length of more than four bytes")
        return None


def _variable(size: int) -> bytes:
    """A variable byte integer (1.5.5)."""
    data = bytearray()
    while size > 127:
        data.append(size & 127 | 128)
        size >>= 7
    data.append(size)
    return bytes(data)


def _string(text: str) -> bytes:
    """A string without control characters and half surrogates, for which brokers close the connection."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return _sized(text.encode())


def _sized(data: bytes) -> bytes:
    if len(data) > 65535:
        raise ValueError("MQTT has topics, names and values of at most 65535 bytes")
    return len(data).to_bytes(2) + data
