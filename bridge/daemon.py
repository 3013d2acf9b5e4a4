"""The daemon: builds the parts, starts them in order, and stops them in reverse when it is cancelled.

Only wrong settings and a store that cannot be opened are fatal; a full disk is waited for. A face that fails is started
again with growing pauses and harms no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bridge import events
from bridge.comfyui.process import ComfyProcess
from bridge.core import Core
from bridge.errors import BridgeError, StoreFull
from bridge.jobs.backend import Backend
from bridge.jobs.runner import Runner
from bridge.jobs.store import Store
from bridge.jobs.warmup import warm_up
from bridge.library import Library
from bridge.mqtt.brokers import BrokerOptions
from bridge.mqtt.embedded import EmbeddedBroker
from bridge.mqtt.face import MqttFace
from bridge.settings import Settings
from bridge.tasks import supervise
from bridge.watching import watch_folder

if TYPE_CHECKING:
    from bridge.http.server import HttpFace

logger = logging.getLogger(__name__)

_PRUNE_EVERY = 3600.0
_FULL_PAUSE = 2.0


async def run(settings: Settings, *, on_ready: Callable[[Core], Awaitable[None]] | None = None) -> None:
    """Run the bridge until cancelled; `on_ready` is called once when everything is started.

    Raises SettingsError, StoreError, Unsupported: what keeps the bridge from starting at all.
    """
    hub = events.Hub()
    async with contextlib.AsyncExitStack() as stack:
        url = None
        broker = None
        if settings.mqtt.url == "embedded":
            broker = await stack.enter_async_context(EmbeddedBroker(_broker_options(settings)))
            url = broker.url
        store = await stack.enter_async_context(_opened(Store(settings.store.url, keep=settings.store.keep)))
        runner = Runner(settings, store, hub)
        core = Core(settings, store, Library(settings.workflows.dir), runner, hub)
        await core.start()
        stack.enter_context(hub.subscribed(core.listener))
        face = MqttFace(
            settings.mqtt, core, store, hub, homeassistant=settings.homeassistant, prompting=settings.prompting, url=url
        )
        await stack.enter_async_context(face.listening())
        core.health_parts["prompting"] = core.prompts.health
        http = None
        if settings.http.port or settings.relay.port:
            http = _http_face(settings, core, store, hub)
            await stack.enter_async_context(http.listening())
            if settings.http.port:
                runner.driver.output_url = http.output_url
        processes = _comfyui_processes(settings, runner)
        _warm_up(settings, core, runner)
        async with asyncio.TaskGroup() as group:
            started = asyncio.Event()
            group.create_task(runner.run(started.set), name="runner")
            await started.wait()
            for process in processes:
                group.create_task(process.run(), name="comfyui")
            if broker is not None:
                group.create_task(supervise("the embedded broker", broker.run), name="broker")
            faces = set()
            if http is not None:
                faces.add(group.create_task(supervise("the HTTP face", http.run), name="http"))
            # Its greeting says that everything is there.
            mqtt = group.create_task(supervise("the MQTT face", face.run), name="mqtt")
            faces.add(mqtt)
            group.create_task(core.drive(), name="chains")
            group.create_task(supervise("the prompt step", core.prompts.run), name="prompts")
            group.create_task(_housekeeping(core, store), name="housekeeping")
            if settings.workflows.watch:
                for folder in (settings.workflows.dir, settings.workflows.chains):
                    watch = functools.partial(watch_folder, folder, core.refresh)
                    group.create_task(supervise(f"the watch on {folder}", watch), name=f"watch {folder}")
            try:
                if on_ready is not None:
                    await on_ready(core)
                await mqtt
            finally:
                # The faces say goodbye while the rest is still there.
                for one in faces:
                    one.cancel()
                await asyncio.wait(faces)


@contextlib.asynccontextmanager
async def _opened(store: Store) -> AsyncIterator[Store]:
    """Open the store, once its disk has room: what starts us gives up on a bridge that ends at once a few times."""
    told = False
    async with contextlib.AsyncExitStack() as stack:
        while True:
            try:
                await stack.enter_async_context(store)
                break
            except StoreFull as error:
                if not told:
                    logger.error("%s; the bridge starts when there is room", error.message)
                told = True
                await asyncio.sleep(_FULL_PAUSE)
        yield store


async def _housekeeping(core: Core, store: Store) -> None:
    while True:
        try:
            gone = await store.prune(media_in_use=core.media_in_use())
            if gone:
                logger.info("%d old jobs were deleted from the store", gone)
        except BridgeError as error:
            logger.warning("the store could not be tidied: %s", error.message)
        await asyncio.sleep(_PRUNE_EVERY)


def _http_face(settings: Settings, core: Core, store: Store, hub: events.Hub) -> HttpFace:
    from bridge.http.server import HttpFace  # noqa: PLC0415  half a second that a bridge without it need not spend

    return HttpFace(settings, core, store, hub)


def _comfyui_processes(settings: Settings, runner: Runner) -> list[ComfyProcess]:
    """Return the ComfyUIs that are ours to run: `comfyui.command` has them in the order of `comfyui.urls`."""
    processes = []
    for backend, command in zip(runner.pool.backends, settings.comfyui.command, strict=False):
        if command:
            process = ComfyProcess(backend.name, command, functools.partial(_answers, backend))
            backend.restart = process.restart
            processes.append(process)
    return processes


async def _answers(backend: Backend) -> bool:
    try:
        await backend.client.system_stats()
    except BridgeError:
        return False
    return True


def _warm_up(settings: Settings, core: Core, runner: Runner) -> None:
    """Have each backend run the workflow `comfyui.warmup` before it counts as online."""
    name = settings.comfyui.warmup
    if name is None:
        return
    limit = settings.comfyui.stall_timeout

    async def warm(backend: Backend) -> None:
        try:
            graph = (await core.sample(name)).graph
        except BridgeError as error:
            logger.warning("comfyui.warmup: %s", error.message)
            return
        await warm_up(backend.client, graph, client_id=backend.socket.client_id, time_limit=limit)

    for backend in runner.pool.backends:
        backend.warm_up = warm


def _broker_options(settings: Settings) -> BrokerOptions:
    mqtt = settings.mqtt
    password = None if mqtt.password is None else mqtt.password.get_secret_value()
    beside = Path(settings.store.url.removeprefix("sqlite:///")).parent
    return BrokerOptions(
        beside / "broker", mqtt.embedded_port, mqtt.embedded_host, mqtt.broker_command, mqtt.username, password
    )
