"""The HTTP face as a whole: its ports, its servers, its share of what the hub tells."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from bridge import events
from bridge.core import Core
from bridge.errors import SettingsError
from bridge.http.addresses import check_listening
from bridge.http.app import application, relay_application
from bridge.http.context import Context, made
from bridge.http.protocols import HandshakeNoise, http_protocol
from bridge.http.security import HEAD_BYTES
from bridge.jobs.store import Store
from bridge.settings import Settings

logger = logging.getLogger(__name__)

_BACKLOG = 2048
_GRACE = 1
"""Seconds that answers under way have once everybody was told to end."""
_STOPPED = 2.5
"""Seconds after which a server that does not stop is cancelled."""
_PATIENCE = 3.0
"""Seconds in which a predecessor may still give up its port."""
_NOISE = HandshakeNoise()
_MESSAGES = 65_536
"""Upper size of what a client of the relay says."""


class HttpFace:
    """Speaks HTTP for the core. Within `listening` the ports are ours; `run` serves on them."""

    def __init__(self, settings: Settings, core: Core, store: Store, hub: events.Hub) -> None:
        self._settings = settings
        self._core = core
        self._hub = hub
        self._context: Context = made(settings, core, store)
        self._sockets: dict[int, list[socket.socket]] = {}
        self.output_url = self._context.addresses.output

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports that it listens on."""
        return tuple(port for port in (self._settings.http.port, self._settings.relay.port) if port)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen to the hub and hold the ports. Raises SettingsError if another program has one, or nobody should."""
        check_listening(self._settings)
        context = self._context
        with contextlib.ExitStack() as stack:
            stack.callback(self._let_go)
            for port in self.ports:
                self._sockets[port] = await self._bound(port)
            if self._settings.http.port:
                self._core.addresses["http"] = context.addresses.base
            if context.addresses.relay is not None:
                self._core.addresses["relay"] = context.addresses.relay
            self._core.health_parts["deliveries"] = context.deliveries.health
            # The one that ends a waiting request comes last: what it asks for then is there.
            for part in (context.metrics, context.kept, context.feeds, context.texts, context.relay, context.ends):
                stack.enter_context(self._hub.subscribed(part.listen))
            yield

    def _let_go(self) -> None:
        for sockets in self._sockets.values():
            for one in sockets:
                one.close()
        self._sockets.clear()

    async def run(self) -> None:
        """Serve until cancelled; then open streams end, waiting requests are answered, and clients are sent away."""
        context = self._context
        context.closing.clear()
        context.feeds.open()
        context.relay.open()
        apps = {}
        if self._settings.http.port:
            apps[self._settings.http.port] = application(context)
        if self._settings.relay.port:
            apps[self._settings.relay.port] = relay_application(context)
        servers = [_Server(_config(app)) for app in apps.values()]
        logging.getLogger("uvicorn.error").addFilter(_NOISE)
        tasks = set()
        for port, server in zip(apps, servers, strict=True):
            sockets = self._sockets.pop(port, None) or _bind(self._settings.http.host, port)
            tasks.add(asyncio.get_running_loop().create_task(server.serve(sockets), name=f"http {port}"))
        for name in ("http", "relay"):
            if name in self._core.addresses:
                logger.info("%s at %s", name, self._core.addresses[name])
        context.tasks.spawn(context.deliveries.take_up(), "what is owed from before")
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            context.closing.set()
            context.feeds.close()
            context.relay.close()
            for server in servers:
                server.should_exit = True
            _, late = await asyncio.wait(tasks, timeout=_STOPPED)
            for task in late:
                task.cancel()
            failures = await asyncio.gather(*tasks, return_exceptions=True)
            await context.tasks.close()
        raise next((one for one in failures if isinstance(one, Exception)), RuntimeError("a server ended by itself"))

    async def _bound(self, port: int) -> list[socket.socket]:
        host = self._settings.http.host
        name = "http.port" if port == self._settings.http.port else "relay.port"
        loop = asyncio.get_running_loop()
        limit = loop.time() + _PATIENCE
        while True:
            try:
                return _bind(host, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE and loop.time() < limit:
                    await asyncio.sleep(0.1)
                    continue
                reason = "another program has it" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
                raise SettingsError(
                    f"{name}: nothing can listen on port {port} of http.host {host}: {reason}; "
                    f"choose another one, or 0 to do without"
                ) from None


class _Server(uvicorn.Server):
    """A server that leaves the signals alone: cancellation is what stops it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=http_protocol(),
        h11_max_incomplete_event_size=HEAD_BYTES,
        ws="websockets-sansio",
        ws_max_size=_MESSAGES,
        ws_per_message_deflate=False,
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="warning",  # its messages of lower levels hold addresses with their tokens
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
    )


def _bind(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for each address of a host. Raises OSError."""
    bound: list[socket.socket] = []
    failure: OSError | None = None
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            bound.append(sock)
            if os.name == "posix":  # elsewhere it would let others take the port from us
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind(address)
                sock.listen(_BACKLOG)
            except OSError as error:
                bound.pop().close()
                if error.errno != errno.EADDRNOTAVAIL:  # a host may have an address that this machine lacks
                    raise
                failure = error
                continue
            sock.setblocking(False)  # noqa: FBT003  a socket's signature
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    if not bound:
        raise failure or OSError(errno.EADDRNOTAVAIL, f"{host} is no address of this machine")
    return bound
