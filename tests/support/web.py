"""A web server of the test's own, on loopback, for addresses that come from outside."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Web:
    """Where it is, and which paths were asked for."""

    port: int
    asked: list[str] = field(default_factory=list)

    def url(self, path: str = "/", *, host: str = "127.0.0.1", scheme: str = "http", user: str = "") -> str:
        """An address of it."""
        return f"{scheme}://{user + '@' if user else ''}{host}:{self.port}{path}"


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Web]:
    """Serve every path by one function."""
    found = Web(0)

    async def answer(request: web.Request) -> web.StreamResponse:
        found.asked.append(request.path_qs)
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.port = runner.addresses[0][1]
        yield found
    finally:
        await runner.cleanup()
