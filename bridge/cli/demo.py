"""`comfy-bridge demo`: the daemon with whatever is missing built in, in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bridge import daemon, requests
from bridge.cli import demo_broker, demo_words, process
from bridge.cli.arguments import Options
from bridge.cli.files import write_outputs
from bridge.cli.remote import Remote, remote
from bridge.cli.samples import copy_samples, sample_chains, samples
from bridge.cli.standin import standin
from bridge.cli.terminal import Failure, complain, printable, say
from bridge.cli.wire import document_of, levels, why
from bridge.comfyui.client import ComfyClient, TimeLimits
from bridge.core import Core
from bridge.errors import BridgeError
from bridge.mqtt.message import Message
from bridge.settings import Settings, load
from bridge.workflow.needs import catalogue, lacking

_COMFYUI = "http://127.0.0.1:8188"
_WORKFLOWS = ("txt2img", "hello")
"""What the first picture is drawn with: the first that the ComfyUI can run."""
_IDEA = "a lighthouse on a cliff at dawn, oil on canvas"
_EVENTS = ("bridge/state", "backend/+/state", "prompt/+/output/+", "prompt/+/result")


def main(options: Options) -> int:
    """Run the demo until Ctrl-C."""
    overrides = options.overrides()
    log = overrides.setdefault("log", {})
    if isinstance(log, dict):
        log.setdefault("level", "warning")
    settings = _load(options, overrides)
    process.set_up_log(settings.log)
    return process.run(_demo(options, overrides, settings), is_daemon=True)


def _load(options: Options, overrides: Mapping[str, Any]) -> Settings:
    # The settings of an installation are not those of a demo, so its config.toml has to be named.
    return load(config=options.config or Path(os.devnull), overrides=overrides)


async def _demo(options: Options, overrides: dict[str, Any], settings: Settings) -> int:
    data: Path = options.data
    try:
        (data / "pictures").mkdir(parents=True, exist_ok=True)
        copy_samples(samples(), data / "workflows")
        copy_samples(sample_chains(), data / "chains")
    except OSError as error:
        raise Failure(f"the folder {data} cannot be used: {error.strerror or error}; --data names another") from None
    broker = await demo_broker.choose(settings.mqtt, data / "broker", port=options.port)
    async with _comfyui(options, data) as (urls, what):
        overrides.setdefault("mqtt", {}).update(broker.settings)
        overrides.setdefault("comfyui", {})["urls"] = urls
        overrides.setdefault("store", {})["url"] = f"sqlite:///{data / 'comfy-bridge.db'}"
        if not options.has("workflows.dir"):
            overrides.setdefault("workflows", {}).update(
                dir=str(data / "workflows"), chains=str(data / "chains"), loaded=_WORKFLOWS[0]
            )
        for section in ("http", "relay"):
            _settle_port(options, overrides, settings, section)
        settings = _load(options, overrides)
        intro = demo_words.introduction(settings.mqtt, broker=broker.words, comfyui=f"{urls[0]} ({what})", data=data)
        await _serve(settings, data / "pictures", intro)
    return 0


def _settle_port(options: Options, overrides: dict[str, Any], settings: Settings, section: str) -> None:
    """Switch a port off that somebody else has: a demo is to run beside whatever runs."""
    if options.has(f"{section}.port"):
        return
    port = getattr(settings, section).port
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            say(f"Port {port} is taken, so the demo goes without it; another one: -o {section}.port=PORT")
            overrides.setdefault(section, {})["port"] = 0


@asynccontextmanager
async def _comfyui(options: Options, data: Path) -> AsyncIterator[tuple[list[str], str]]:
    """Give the addresses of the ComfyUI, and what it is."""
    if options.has("comfyui.urls"):
        urls = options.overrides()["comfyui"]["urls"]
        yield [urls] if isinstance(urls, str) else list(urls), "yours"
        return
    if await _is_comfyui(_COMFYUI):
        say(
            f"A ComfyUI answers at {_COMFYUI}; this demo draws with its stand-in, which needs no models. "
            f"To use yours: --comfyui-url {_COMFYUI}"
        )
    async with standin(data / "comfyui", step_delay=options.step_delay) as url:
        yield [url], "a stand-in"


async def _is_comfyui(url: str) -> bool:
    try:
        async with ComfyClient(url, limits=TimeLimits(connect=0.5, read=1.0, total=1.5)) as client:
            await client.system_stats()
    except BridgeError:
        return False
    return True


async def _serve(settings: Settings, pictures: Path, introduction: str) -> None:
    """Run the bridge, and watch it as a client of its broker."""
    ready: asyncio.Future[Core] = asyncio.get_running_loop().create_future()

    async def on_ready(core: Core) -> None:
        ready.set_result(core)

    async with asyncio.TaskGroup() as group:
        group.create_task(daemon.run(settings, on_ready=on_ready), name="daemon")
        core = await ready
        async with remote(settings.mqtt, "demo", _EVENTS) as client:
            await _Watcher(settings, core, pictures, introduction).watch(client)


class _Watcher:
    """Says what to type once the bridge is online, has the first picture drawn, and keeps all that are made."""

    def __init__(self, settings: Settings, core: Core, pictures: Path, introduction: str) -> None:
        self._settings = settings
        self._core = core
        self._pictures = pictures
        self._introduction: str | None = introduction
        self._drawn = False
        self._outputs: dict[str, dict[int, bytes]] = {}

    async def watch(self, client: Remote) -> None:
        while True:
            happening = await client.next()
            if isinstance(happening, Message):
                await self._feed(happening)

    async def _feed(self, message: Message) -> None:
        match levels(self._settings.mqtt.base_topic, message.topic):
            case ["bridge", "state"] if message.payload == b"online" and self._introduction is not None:
                if http := self._core.addresses.get("http"):
                    say(f"HTTP, with a form for each workflow: {http}/docs")
                say(self._introduction)
                self._introduction = None
            case ["prompt", prompt_id, "output", number] if number.isdigit():
                self._outputs.setdefault(prompt_id, {})[int(number)] = message.payload
            case ["prompt", prompt_id, "result"]:
                await self._keep(prompt_id, document_of(message))
        if self._introduction is None and not self._drawn and self._core.online():
            self._drawn = True
            await self._draw()

    async def _draw(self) -> None:
        try:
            name = await self._workflow()
            known = {parameter.name for parameter in self._core.workflow(name).parameters}
            values = {key: value for key, value in (("prompt", _IDEA), ("seed", "random")) if key in known}
            await self._core.queue(requests.Queue(workflow=name, values=values))
        except BridgeError as error:
            complain(f"The first picture cannot be drawn: {printable(error.message)}")

    async def _workflow(self) -> str | None:
        """Return the first workflow that the ComfyUI can run; None for the loaded one."""
        async with ComfyClient(self._settings.comfyui.urls[0]) as client:
            has = catalogue(await client.object_info())
        for name in _WORKFLOWS:
            if name in self._core.workflow_names() and not lacking(self._core.workflow(name).graph, has):
                return name
        return None

    async def _keep(self, prompt_id: str, result: Mapping[str, Any]) -> None:
        received = self._outputs.pop(prompt_id, {})
        limit = self._settings.media.max_output
        with contextlib.suppress(Failure):
            paths, problems = await write_outputs(self._pictures, result, received, max_bytes=limit)
            for path in paths:
                say(f"{result.get('workflow')}: {path}")
            for problem in problems:
                complain(printable(problem))
        reason = why(result)
        if reason or result.get("status") != "completed":
            complain(printable(f"{result.get('workflow')} {result.get('status')}") + (f": {reason}" if reason else ""))
