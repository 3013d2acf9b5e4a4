"""The address of a ComfyUI server, and what follows from it. Pure."""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from bridge import errors


@dataclass(frozen=True, slots=True)
class Address:
    """Where a ComfyUI is.

    `url` has neither credentials nor a slash at its end and may be shown to anybody; `headers` are to be sent with
    each request. `is_near` says that no proxy of the environment lies between: the host is loopback, private, or a
    name without a domain.
    """

    url: str
    headers: dict[str, str]
    is_near: bool

    @property
    def is_secure(self) -> bool:
        """Whether TLS is used."""
        return self.url.startswith("https:")

    def websocket(self, client_id: str) -> str:
        """Make the address of the websocket for this client id."""
        scheme, rest = ("wss", self.url[8:]) if self.is_secure else ("ws", self.url[7:])
        return f"{scheme}://{rest}/ws?clientId={quote(client_id, safe='')}"


def parse_address(url: str) -> Address:
    """Read `http[s]://[user:password@]host[:port][/prefix]`; `SettingsError` if it is something else."""
    wrong = errors.SettingsError(
        "The address of a ComfyUI must be like http://127.0.0.1:8188, https://user:password@host or http://host/prefix."
    )
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise wrong
    netloc = f"[{host}]" if ":" in host else host
    if port is not None:
        netloc = f"{netloc}:{port}"
    headers: dict[str, str] = {}
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    plain = urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
    return Address(plain, headers, _is_near(host))


def _is_near(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".lan"))
    return address.is_loopback or address.is_private or address.is_link_local
