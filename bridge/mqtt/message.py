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
