"""The server itself: starting, stopping, the worker, and the faults that need all of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Collection, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from bridge.testing.catalogue import CLASSES
from bridge.testing.execution import Executor
from bridge.testing.faults import Faults, Orders, Settings, Stats
from bridge.testing.file_routes import FileRoutes
from bridge.testing.folders import Folders
from bridge.testing.queue import PromptQueue
from bridge.testing.server import Routes, build_app
from bridge.testing.websocket import Sockets

_log = logging.getLogger(__name__)


class StandIn:
    """A stand-in ComfyUI on a real port: `async with StandIn() as comfy: ... comfy.url`.

    `port` 0 takes a free one. `step_delay` is the time of one sampler step in seconds. Files live in `data`, which is
    kept, or in a temporary folder, which is removed. Node classes in `without` are not there. `settings`, `faults` and
    `stats` may be read and changed while it runs; `obey` does the one-time faults. Leaving drops all connections
    without a close frame, as the real one does.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        step_delay: float = 0.0,
        preview_size: int = 512,
        preview_bytes: int = 0,
        previews: bool = True,
        max_upload_size: int = 104857600,
        data: Path | str | None = None,
        without: Collection[str] = (),
        die: Callable[[], None] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.settings = Settings(step_delay, preview_size, preview_bytes, previews, max_upload_size)
        self.faults = Faults()
        self.stats = Stats()
        self.classes = {name: node for name, node in CLASSES.items() if name not in without}
        self.die = die
        self.forget_cache = False
        self._data = None if data is None else Path(data)
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._current: asyncio.Task[dict[str, Any]] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._lost = False

    @property
    def url(self) -> str:
        """The base address, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            root = self._data
            if root is None:
                root = Path(tempfile.mkdtemp(prefix="comfy-standin-"))
                stack.callback(shutil.rmtree, root, ignore_errors=True)
            self.folders = Folders(root)
            self.folders.create()
            self.queue = PromptQueue(self._queue_changed)
            self.sockets = Sockets(self.faults, self.settings, self.stats, lambda: self.queue.remaining)
            self.executor = Executor(self.sockets, self.folders, self.settings, self.stats)
            routes, files = Routes(self), FileRoutes(self)
            app = build_app(self, [routes.table(), files.table(), routes.control()])
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=False)
            await self._runner.setup()
            stack.push_async_callback(self._runner.cleanup)
            await self._listen()
            stack.push_async_callback(self._stop_tasks)
            self.publisher = self._start(self.sockets.publish(), "stand-in publisher")
            self._worker = self._start(self._work(), "stand-in worker")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _queue_changed(self) -> None:
        self.sockets.status()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, self.host, self.port)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    def _start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s has died, as in the real server: %r", task.get_name(), error)

    async def _stop_tasks(self) -> None:
        self.sockets.drop_all()
        self._drop_http()
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        # Like the real worker thread it has no net: an error outside of a node ends it and nothing runs any more.
        while True:
            key, item = await self.queue.get()
            prompt_id = item[1]
            if self.forget_cache:
                self.executor.forget()
                self.forget_cache = False
            self.stats.started[prompt_id] = self.stats.started.get(prompt_id, 0) + 1
            self._current = asyncio.get_running_loop().create_task(self.executor.execute(item))
            try:
                result = await self._current
            except asyncio.CancelledError:
                if not self._current.cancelled() or not self._lost:
                    self._current.cancel()
                    raise
                self._lost = False
                self.sockets.last_node = None
                self.queue.done(key, None)
                continue
            self.queue.done(key, result)
            if result["status"]["completed"]:
                self.stats.executed[prompt_id] = self.stats.executed.get(prompt_id, 0) + 1
            if self.sockets.client_id is not None:
                over = {"node": None, "prompt_id": prompt_id}
                self.sockets.event("executing", over, self.sockets.client_id)

    def obey(self, orders: Orders) -> None:
        """Do one-time faults."""
        if orders.drop_sockets:
            self.sockets.drop_all()
        if orders.lose_prompt and self._current is not None and not self._current.done():
            self._lost = True
            self._current.cancel()
        if orders.kill_worker and self._worker is not None:
            self._worker.cancel()
            self._worker = self._start(self._dead_worker(), "stand-in dead worker")
        if orders.refuse_connections:
            self._start(self._refuse(orders.refuse_connections), "stand-in refusal")
        if orders.die and self.die is not None:
            self.die()

    async def _dead_worker(self) -> None:
        # The real one dies while it holds a prompt, which then stays in queue_running for ever.
        if not self.queue.running_ids():
            await self.queue.get()

    async def _refuse(self, seconds: float) -> None:
        # A moment for the answer to the request that asked for this.
        await asyncio.sleep(0.05)
        await self._site.stop()
        self._drop_http()
        await asyncio.sleep(seconds)
        await self._listen()

    def _drop_http(self) -> None:
        sockets = self.sockets.transports()
        for connection in list(self._runner.server.connections if self._runner.server else ()):
            transport = connection.transport
            if transport is not None and transport not in sockets:
                transport.abort()
