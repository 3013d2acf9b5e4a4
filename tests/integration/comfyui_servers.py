"""Servers that behave oddly, for the tests of the ComfyUI client and its websocket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from aiohttp import web

T = TypeVar("T")


@contextlib.asynccontextmanager
async def http_server(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve every path and method with `handler`; yields the port."""
    app = web.Application(client_max_size=10**9)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def tcp_server(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Serve raw connections; each is aborted when its handler returns. Yields the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def some(
    ask: Callable[[], Awaitable[T | None]], fits: Callable[[T], object] = lambda _: True, *, within: float = 10.0
) -> T:
    """Ask until the answer is there and fits; `TimeoutError` if that does not happen in time."""
    async with asyncio.timeout(within):
        while (answer := await ask()) is None or not fits(answer):  # noqa: ASYNC110  the server has no event for it
            await asyncio.sleep(0.002)
    return answer


async def until(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Wait for a condition; `TimeoutError` if it does not come true in time."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  conditions of many kinds
            await asyncio.sleep(0.002)


async def free_port() -> int:
    """A port on which nothing listens."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
