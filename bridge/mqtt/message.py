"""The MQTT message as the rest of the bridge sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT message, in or out.

    The fields from `content_type` on are MQTT 5 properties: they are written only on a connection that
    speaks MQTT 5, and empty on what a 3.1.1 connection received. `user` are the user properties in
    their order, `text` is the payload format indicator (the payload is UTF-8).
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    user: tuple[tuple[str, str], ...] = ()
    text: bool = False


def pack_properties(message: Message) -> bytes:
    """The MQTT 5 properties of a message as they stand in the packet (MQTT 5, sections 2.2.2 and 3.3.2.3).

    Raises `ValueError` for one that is too long.
    """
    data = bytearray()
    if message.text:
        data += b"\x01\x01"
    if message.content_type is not None:
        data += b"\x03" + _string(_printable(message.content_type))
    if message.response_topic is not None:
        data += b"\x08" + _string(message.response_topic)
    if message.correlation is not None:
        data += b"\x09" + _sized(message.correlation)
    for name, value in message.user:
        data += b"\x26" + _string(_printable(name)) + _string(_printable(value))
    length, size = bytearray(), len(data)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes(length + data)


def _string(text: str) -> bytes:
    return _sized(text.encode())


def _sized(data: bytes) -> bytes:
    if len(data) > 65535:
        raise ValueError("an MQTT 5 property holds at most 65535 bytes")
    return len(data).to_bytes(2) + data


def _printable(text: str) -> str:
    """Without control characters and half surrogates, for which brokers close the connection."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
