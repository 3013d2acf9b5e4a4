"""Why a connection is refused or ends, in words that say what to do.

The numbers are MQTT 5's reason codes (section 2.4); 3.1.1's return codes are mapped to them.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

FAILURE = 0x80
"""Reason codes from here on are failures."""

UNSUPPORTED_PROTOCOL = 0x84
TAKEN_OVER = 0x8E

UNAUTHORIZED = frozenset({0x85, 0x86, 0x87, 0x8A, 0x8C})
"""Not before a person changed something."""

INNOCENT = frozenset({0x87, 0x88, 0x89, 0x8B, 0x8D, TAKEN_OVER, 0x98, 0x9C, 0x9D, 0xA0})
"""Reasons of a broker to close a connection that have nothing to do with a message."""

_WORDS = {
    0x80: "unspecified error",
    0x83: "the broker does not accept it (implementation specific error)",
    0x85: "the client id is not acceptable; change mqtt.client_id",
    0x86: "wrong user name or password; check mqtt.username and mqtt.password",
    0x87: "not authorized; check mqtt.username and mqtt.password, and the broker's access list",
    0x88: "the broker is not available",
    0x89: "the broker is busy",
    0x8A: "this client is banned",
    0x8B: "the broker is shutting down",
    0x8D: "the broker heard nothing from us (keepalive timeout)",
    TAKEN_OVER: "another client connected with the same client id",
    0x8F: "the topic filter is not acceptable",
    0x90: "the topic name is not acceptable",
    0x93: "more messages in flight than the broker takes",
    0x95: "the packet is larger than the broker takes",
    0x97: "a quota of the broker is used up",
    0x98: "the broker's administrator ended the connection",
    0x99: "the payload is not what its properties say",
    0x9A: "the broker does not support retained messages",
    0x9B: "the broker does not support this QoS",
    0x9F: "the broker limits the rate of connections",
}


class LinkError(Exception):
    """The connection could not be made; the message says why in words."""


class NotAccepted(LinkError):
    """The broker does not let us in: a person has to change something."""


class ProtocolRefused(LinkError):
    """The broker does not speak MQTT 5: it said so (`certain`), or just closed the connection."""

    def __init__(self, message: str, *, certain: bool) -> None:
        super().__init__(message)
        self.certain = certain


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a connection ended: in words, whether the broker closed it, and with which MQTT 5 reason."""

    reason: str
    by_broker: bool
    code: int | None = None


def in_words(code: int) -> str:
    """What the code says."""
    return _WORDS.get(code) or f"reason 0x{code:02X}"


def broken(error: OSError) -> str:
    """How a connection broke."""
    if isinstance(error, ssl.SSLError):
        if error.reason and "CERTIFICATE_REQUIRED" in error.reason:
            return "the broker wants a client certificate: set mqtt.tls_cert and mqtt.tls_key"
        if error.reason and ("CERTIFICATE" in error.reason or "UNKNOWN_CA" in error.reason):
            return f"the broker does not accept our certificate ({error.reason}); check mqtt.tls_cert and mqtt.tls_key"
        return f"TLS failed: {error.reason or error}"
    return f"the connection broke: {error.strerror or error}"
