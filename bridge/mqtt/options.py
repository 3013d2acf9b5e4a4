"""Where the broker is and how to speak to it: the settings of section `mqtt`, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from bridge.errors import SettingsError
from bridge.mqtt.outbox import Limits

Protocol = Literal["5", "3.1.1"]

_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's address, taken apart; `path` is the websocket's."""

    scheme: str
    host: str
    port: int
    path: str = "/mqtt"
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme in {"mqtts", "wss"}

    @property
    def websocket(self) -> bool:
        """Whether MQTT goes through a websocket."""
        return self.scheme in {"ws", "wss"}

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path if self.websocket else ''}"


def parse_url(url: str) -> Address:
    """Take `mqtt://`, `mqtts://`, `ws://` or `wss://[user[:password]@]host[:port][/path]` apart.

    Raises `SettingsError` with a sentence that never repeats the password.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"mqtt.url is no address: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise SettingsError("mqtt.url must look like mqtt://host:1883 (or mqtts://, ws://, wss://)")
    if parts.query or parts.fragment:
        raise SettingsError("mqtt.url must end after the path, without ? and #")
    if port == 0:
        raise SettingsError("mqtt.url has port 0; a port is 1 to 65535")
    if parts.path.strip("/") and parts.scheme in {"mqtt", "mqtts"}:
        raise SettingsError(f"mqtt.url has a path, which only ws:// and wss:// have; remove {parts.path}")
    return Address(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        path=parts.path if parts.path.strip("/") else "/mqtt",
        username=_credential(parts, "username"),
        password=_credential(parts, "password"),
    )


def _credential(parts: SplitResult, name: Literal["username", "password"]) -> str | None:
    value = parts.username if name == "username" else parts.password
    return unquote(value) if value else None


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What a `Connection` needs to know. Checked when made: raises `SettingsError`.

    `username` and `password` win over those in `url`. `tls_ca`, `tls_cert` and `tls_key` are paths of PEM
    files, read at each connect, so renewed ones are taken; without `tls_ca` the system's authorities
    are trusted. `protocol` is the one that is tried first. Times are seconds: `keepalive` (an
    integer, as on the wire; 1.5 of it without a sign of life end a connection), `timeout` of one
    attempt to connect, and the longest `pause` between two attempts.
    """

    url: str = field(repr=False)
    client_id: str
    protocol: Protocol = "5"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls_ca: str | PathLike[str] | None = None
    tls_cert: str | PathLike[str] | None = None
    tls_key: str | PathLike[str] | None = None
    session: Literal["clean", "durable"] = "clean"
    keepalive: int = 60
    timeout: float = 10.0
    pause: float = 30.0
    limits: Limits = field(default_factory=Limits)
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", parse_url(self.url))
        if not self.client_id:
            raise SettingsError("mqtt.client_id must not be empty")
        if self.protocol not in {"5", "3.1.1"}:
            raise SettingsError('mqtt.protocol must be "5" or "3.1.1"')
        if self.session not in {"clean", "durable"}:
            raise SettingsError('mqtt.session must be "clean" or "durable"')
        if not 1 <= self.keepalive <= 65535:
            raise SettingsError("mqtt.keepalive must be 1 to 65535 seconds")
        if self.tls_key and not self.tls_cert:
            raise SettingsError("mqtt.tls_key is set and mqtt.tls_cert is not; a client certificate needs both")
        if (self.tls_ca or self.tls_cert) and not self.address.secure:
            raise SettingsError(
                f"mqtt.tls_ca and mqtt.tls_cert need TLS: mqtt.url must begin with "
                f"{'wss' if self.address.websocket else 'mqtts'}://"
            )
        if self.credentials[1] is not None and self.credentials[0] is None:
            raise SettingsError("mqtt.password is set and mqtt.username is not; MQTT needs both")

    @property
    def credentials(self) -> tuple[str | None, str | None]:
        """User name and password to log in with."""
        username = self.address.username if self.username is None else self.username
        password = self.address.password if self.password is None else self.password
        return username, password
