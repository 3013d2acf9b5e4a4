"""Requests to one server: time limits, failures as the bridge's errors, and a second try where that is harmless."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import stamina
from yarl import URL

from bridge import errors
from bridge.comfyui.address import Address

_CONNECTIONS = 32
_KEEPALIVE = 5.0
_JSON_LIMIT = 512 * 1024 * 1024
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds: to get a connection, without a byte from the server, and for a whole call with its transfer."""

    connect: float = 5.0
    read: float = 30.0
    total: float = 300.0


@dataclass(frozen=True, slots=True)
class Response:
    """An answer of any status. `is_cut`: it has more than `max_bytes` bytes, and `body` is empty."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool = False


class ConnectionLost(errors.BackendOffline):
    """The connection broke after the request went out: whether the server acted on it is unknown."""


class HttpTransport:
    """The pooled connections to one server."""

    def __init__(self, address: Address, limits: TimeLimits) -> None:
        self._address = address
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None
        self._retrying = stamina.AsyncRetryingCaller(
            attempts=2, timeout=10.0, wait_initial=0.1, wait_max=1.0, wait_jitter=0.1
        ).on(ConnectionLost)

    async def open(self) -> None:
        """Make the pool; connections come with the requests."""
        # Reading the system's certificates takes many milliseconds; without TLS nobody looks at them.
        context = ssl.create_default_context() if self._address.is_secure else False
        limits = self._limits
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE),
            headers=self._address.headers,
            timeout=aiohttp.ClientTimeout(total=limits.total, sock_connect=limits.connect, sock_read=limits.read),
            trust_env=not self._address.is_near,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        idempotent: bool | None = None,
        max_bytes: int = _JSON_LIMIT,
        **content: Any,
    ) -> Response:
        """Send a request, read the answer. `content` is what aiohttp takes: `data`, `headers`, ….

        path: with its query, if there is one, percent-encoded. A request that is `idempotent` (GET and HEAD, unless
        told otherwise) is sent again if the connection broke in the middle of it, three times in all; a server
        that cannot be reached is left to the caller.
        """
        if idempotent is None:
            idempotent = method in ("GET", "HEAD")
        try:
            return await self._once(method, path, max_bytes, content)
        except ConnectionLost:
            if not idempotent:
                raise
        # stamina takes longer to begin than most answers of ComfyUI take to come.
        return await self._retrying(self._once, method, path, max_bytes, content)

    async def _once(self, method: str, path: str, max_bytes: int, content: dict[str, Any]) -> Response:
        if self._session is None:
            raise errors.Internal("The client of a ComfyUI is used before it was opened or after it was closed.")
        url = URL(f"{self._address.url}{path}", encoded=True)
        try:
            async with self._session.request(method, url, allow_redirects=False, **content) as response:
                return await _read(response, 0 if method == "HEAD" else max_bytes)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error, f"{method} {path.partition('?')[0]}") from error

    def _failure(self, error: Exception, call: str) -> errors.BridgeError:
        url = self._address.url
        match error:
            case aiohttp.ConnectionTimeoutError():
                return errors.BackendOffline(f"ComfyUI at {url} cannot be reached within {self._limits.connect:g} s.")
            case TimeoutError():
                return errors.TimedOut(f"ComfyUI at {url} did not answer {call} in time.")
            case aiohttp.ClientConnectorError():
                return errors.BackendOffline(f"ComfyUI at {url} cannot be reached: {why_unreachable(error)}.")
            case aiohttp.ClientResponseError():
                return errors.BackendOffline(f"The server at {url} does not look like ComfyUI: it does not speak HTTP.")
        return ConnectionLost(f"The connection to ComfyUI at {url} broke during {call}.")


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> Response:
    """Read no more than the limit, so that a file of any size never fills the memory."""
    chunks, size = list[bytes](), 0
    if max_bytes:
        if (response.content_length or 0) > max_bytes:
            return Response(response.status, response.headers, b"", is_cut=True)
        async for chunk in response.content.iter_chunked(_CHUNK):
            size += len(chunk)
            if size > max_bytes:
                return Response(response.status, response.headers, b"", is_cut=True)
            chunks.append(chunk)
    return Response(response.status, response.headers, b"".join(chunks))


def why_unreachable(error: aiohttp.ClientConnectorError) -> str:
    """Return why nothing is there, in the words of the operating system; aiohttp's own repeat the address."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is unknown"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"TLS fails ({error.os_error})"
    number = error.os_error.errno
    return os.strerror(number) if number is not None else str(error.os_error)
