"""The one way to fetch an address that came from outside.

Only http and https, only public addresses and those that `security.allowed_hosts` names, checked at the moment of
connecting (so that a name cannot change its mind in between) and again for each redirect, with limits of size and
time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from bridge.errors import BadValue, FileMissing, NotAllowed, TimedOut, TooLarge

_REDIRECTS = 5
_CHUNK = 65536
_BEGINNING = 2048
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PUBLIC = ipaddress.IPv6Network("2000::/3")
"""All that is given out of IPv6: what lies beside it leads into some network of ours, if anywhere."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file from an address."""

    data: bytes
    content_type: str


class Guard:
    """Fetches addresses from outside.

    allowed: host names, addresses and networks that may be fetched besides public ones.
    """

    def __init__(self, allowed: Sequence[str] = (), *, time_limit: float = 30.0) -> None:
        self._allowed = tuple(entry.lower() for entry in allowed)
        self._time_limit = time_limit

    async def fetch(self, address: str, *, max_bytes: int) -> Fetched:
        """Fetch an address.

        Raises BadValue (not an http address), NotAllowed, TooLarge, TimedOut, and FileMissing for everything that
        keeps the file from us.
        """
        with _told(_shown(address), self._time_limit):
            async with asyncio.timeout(self._time_limit):
                return await self._follow(address, max_bytes)

    async def send(
        self, method: str, address: str, data: bytes, *, headers: Mapping[str, str], time_limit: float
    ) -> tuple[int, bytes]:
        """Send bytes to an address; return the answer's status and how it begins. A redirect is not followed.

        An error names the address without its path. Raises BadValue, NotAllowed, TimedOut (after `time_limit`
        seconds), and FileMissing if nobody is there.
        """
        with _told(_place(address), time_limit):
            async with asyncio.timeout(time_limit), self._session() as session:
                url = _parsed(address)
                self._check_literal(url)
                async with session.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
                    return response.status, await response.content.read(_BEGINNING)

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(resolver=_CheckedResolver(self), use_dns_cache=False)
        return aiohttp.ClientSession(connector=connector, trust_env=False)

    async def _follow(self, address: str, max_bytes: int) -> Fetched:
        async with self._session() as session:
            url = _parsed(address)
            for _ in range(_REDIRECTS + 1):
                self._check_literal(url)
                async with session.get(url, allow_redirects=False) as response:
                    location = response.headers.get("Location")
                    if response.status in {301, 302, 303, 307, 308} and location:
                        url = _parsed(str(url.join(URL(location))))
                        continue
                    if response.status != 200:
                        raise FileMissing(f"{_shown(address)} answered {response.status} {response.reason}")
                    return Fetched(await _read(response, address, max_bytes), response.content_type)
        raise FileMissing(f"{_shown(address)} redirects more than {_REDIRECTS} times")

    def _check_literal(self, url: URL) -> None:
        # The resolver is not asked for an address that is a number already.
        host = url.host or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return
        self.check(host, host)

    def check(self, host: str, address: str) -> None:
        """Raise unless a connection to `address`, which `host` resolved to, is allowed."""
        if host.lower() in self._allowed:
            return
        ip = ipaddress.ip_address(address.split("%", 1)[0])
        if isinstance(ip, ipaddress.IPv6Address):
            ip = _inner(ip)
        if ip.is_global and not ip.is_multicast and (ip.version == 4 or ip in _PUBLIC):
            return
        for entry in self._allowed:
            try:
                if ip in ipaddress.ip_network(entry, strict=False):
                    return
            except ValueError:  # a host name
                continue
        raise _RefusedError(address)


@contextmanager
def _told(shown: str, time_limit: float) -> Iterator[None]:
    """Turn what goes wrong with an address into our errors; they name it as `shown`."""
    try:
        yield
    except TimeoutError:
        raise TimedOut(f"{shown} did not answer within {time_limit:g} s") from None
    except _RefusedError as error:
        raise NotAllowed(
            f"{shown} points to {error}, which is not a public address; "
            "name its host or network in security.allowed_hosts to allow it"
        ) from None
    except (aiohttp.ClientError, OSError) as error:
        raise FileMissing(f"{shown} cannot be fetched: {str(error) or type(error).__name__}") from None


class _RefusedError(Exception):
    """A connection to an address that is not allowed."""


class _CheckedResolver(AbstractResolver):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        for result in results:
            self._guard.check(host, result["host"])
        return results

    async def close(self) -> None:
        await self._resolver.close()


def _inner(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address that an IPv6 address leads to: mapped, 6to4, NAT64."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def _parsed(address: str) -> URL:
    try:
        url = URL(address.strip())
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadValue(f"{_shown(address)} is not an address that can be fetched: http://… or https://… is needed")
    return url


def _shown(address: str) -> str:
    """Return the address without credentials and query, which may hold secrets."""
    try:
        url = URL(address.strip()).with_user(None).with_query(None).with_fragment(None)
    except ValueError:
        return repr(re.sub(r"\S*@", "…@", address.partition("?")[0])[:100])
    return str(url)[:200]


def _place(address: str) -> str:
    """Return scheme, host and port of an address: the path of a webhook may be its secret."""
    return "/".join(_shown(address).split("/")[:3])


async def _read(response: aiohttp.ClientResponse, address: str, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        data += chunk
        if len(data) > max_bytes:
            raise TooLarge(f"{_shown(address)} has more than {max_bytes} bytes (media.max_input)")
    return bytes(data)
