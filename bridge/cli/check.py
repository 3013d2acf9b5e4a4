"""`comfy-bridge check`: settings, broker, ComfyUI and all the rest, a line each: right, or what to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bridge.cli import broker, process
from bridge.cli.arguments import Options
from bridge.cli.terminal import printable, say, size
from bridge.cli.workflows import read
from bridge.comfyui.client import ComfyClient, TimeLimits
from bridge.comfyui.socket import ComfySocket
from bridge.errors import BridgeError, SettingsError, StoreInUse
from bridge.http.addresses import Addresses, check_listening
from bridge.jobs.model import CHAIN
from bridge.jobs.store import Store
from bridge.mqtt.brokers import BrokerOptions, launch
from bridge.mqtt.embedded import check_port
from bridge.mqtt.link import Link
from bridge.mqtt.message import Message
from bridge.mqtt.reasons import LinkError
from bridge.mqtt.topics import Topics
from bridge.prompting.model import ModelInfo, Writer
from bridge.prompting.ollama import SUGGESTED
from bridge.prompting.profiles import Profiles
from bridge.prompting.writers import make_writer
from bridge.settings import Settings
from bridge.workflow.needs import catalogue, lacking

Verdict = Literal["ok", "warn", "FAIL"]

_ECHO = 3.0
_GREETING = 5.0
_NAMED = 3
"""How many of a prompt writer's models are named."""
_OLDEST = (0, 3, 45)
"""The first ComfyUI that keeps the prompt_id it is given (July 2025)."""


def main(options: Options) -> int:
    """Check everything; 1 when something keeps the bridge from working."""
    report = Report()
    try:
        settings = process.settings_of(options)
    except SettingsError as error:
        for line in error.message.splitlines():
            report.add("FAIL", "settings", line)
        return 1
    report.add("ok", "settings", _sources(options))
    process.set_up_client_log(options, settings.log)
    return process.run(_check(settings, report))


class Report:
    """Writes the lines, and remembers whether one says FAIL."""

    def __init__(self) -> None:
        self.failed = False

    def add(self, verdict: Verdict, part: str, text: str) -> None:
        """Write a line."""
        self.failed = self.failed or verdict == "FAIL"
        say(f"{verdict:<4}  {part:<9}  {printable(text)}")


async def _check(settings: Settings, report: Report) -> int:
    await _check_broker(settings, report)
    known: list[Mapping[str, Any]] = []
    for url in settings.comfyui.urls:
        known += [found async for found in _check_comfyui(url, report)]
    _check_workflows(settings, known, report)
    await _check_prompts(settings, report)
    _check_http(settings, report)
    await _check_store(settings, report)
    return int(report.failed)


def _sources(options: Options) -> str:
    file = options.config or Path("config.toml")
    sources = [str(file)] if file.exists() else []
    count = sum(name.upper().startswith("BRIDGE_") for name in os.environ)
    if count:
        sources.append(f"{count} from the environment")
    if options.given:
        sources.append(f"{len(options.given)} from the command line")
    return ", ".join(sources) or "the defaults (there is no config.toml here)"


# The broker


def _advice(reason: str, *, secure: bool) -> str:
    """Return what to do about a broker that cannot be used, where the reason does not say it."""
    if "mqtt." in reason:
        return ""
    if "refused" in reason:
        return "; is it started? (mqtt.url)"
    if "closed the connection" in reason and not secure:
        return "; is it an MQTT broker, and does it want TLS (mqtts://)? (mqtt.url)"
    if "is not MQTT" in reason:
        return "; is it a port for websockets (ws://)? (mqtt.url)"
    return " (mqtt.url)"


async def _check_broker(settings: Settings, report: Report) -> None:
    try:
        options = broker.client_options(settings.mqtt, "check")
    except SettingsError as error:
        report.add("FAIL", "broker", error.message)
        return
    topics = Topics(settings.mqtt.base_topic)
    try:
        link, refused = await broker.connect(options, subscriptions=topics.filters())
    except LinkError as error:
        if settings.mqtt.url == "embedded":
            _check_embedded(settings, report)
        else:
            advice = _advice(str(error), secure=options.address.secure)
            report.add("FAIL", "broker", f"{broker.unreachable(options, error)}{advice}")
        return
    await link.close()
    report.add("ok", "broker", f"{options.address}, MQTT {link.protocol}")
    limit = link.packet_maximum
    if limit is not None and limit < settings.mqtt.max_output:
        report.add("warn", "broker", f"it takes at most {size(limit)}: outputs above that are not published, only told")
    for name, reason in refused:
        report.add("FAIL", "broker", f"the subscription to {name} is refused: {reason}; see the broker's access list")
    if not refused:
        await _check_access(settings, report)


async def _check_access(settings: Settings, report: Report) -> None:
    """Publish to ourselves: brokers that speak 3.1.1 take what is not allowed and drop it in silence."""
    topic = Topics(settings.mqtt.base_topic).bridge(f"check/{secrets.token_hex(4)}")
    came = asyncio.Event()
    refusals: list[str] = []
    answered = asyncio.Event()

    def acknowledged(_number: int, refusal: str | None) -> None:
        refusals.extend([] if refusal is None else [refusal])
        answered.set()

    links: list[Link] = []
    try:
        listener, refused = await broker.connect(
            broker.client_options(settings.mqtt, "check"), subscriptions=[topic], on_message=lambda _: came.set()
        )
        links.append(listener)
        speaker, _ = await broker.connect(broker.client_options(settings.mqtt, "check"), on_acknowledged=acknowledged)
        links.append(speaker)
        speaker.send(Message(topic, b"check", qos=1))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ECHO):
                await answered.wait()
                if not refusals and not refused:
                    await came.wait()
    except LinkError as error:
        report.add("FAIL", "broker", f"a second connection failed: {error}")
        return
    finally:
        for link in links:
            await link.close()
    allow = f"its access list must let this user read and write {settings.mqtt.base_topic}/#"
    if refusals or refused:
        reason = next(iter([*refusals, *(reason for _, reason in refused)]))
        report.add("FAIL", "broker", f"a message on {topic} is refused: {reason}; {allow}")
    elif not came.is_set():
        report.add("FAIL", "broker", f"a message on {topic} does not come back; {allow}")
    else:
        report.add("ok", "broker", f"publishes and subscribes below {settings.mqtt.base_topic}/")


def _check_embedded(settings: Settings, report: Report) -> None:
    mqtt = settings.mqtt
    try:
        launch(BrokerOptions(Path(), mqtt.embedded_port, mqtt.embedded_host, mqtt.broker_command))
        check_port(mqtt.embedded_host, mqtt.embedded_port)
    except BridgeError as error:
        report.add("FAIL", "broker", error.message)
        return
    report.add("ok", "broker", f"the built-in one will be started on {mqtt.embedded_host}:{mqtt.embedded_port}")


# ComfyUI


async def _check_comfyui(url: str, report: Report) -> AsyncIterator[Mapping[str, Any]]:
    """Check a server; gives its `/object_info` if it has one."""
    limits = TimeLimits(connect=_GREETING, read=10.0, total=60.0)
    try:
        async with ComfyClient(url, limits=limits) as client:
            stats = await client.system_stats()
            _tell_system(client.url, stats.get("system") or {}, stats.get("devices") or [], report)
            await _check_socket(url, client.url, report)
            yield await client.object_info()
    except BridgeError as error:
        report.add("FAIL", "ComfyUI", f"{error.message} Is it started? (comfyui.urls)")


def _tell_system(url: str, system: Mapping[str, Any], devices: Any, report: Report) -> None:
    version = str(system.get("comfyui_version") or "of unknown version")
    names = [str(one.get("name")) for one in devices if isinstance(one, dict)] if isinstance(devices, list) else []
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if len(numbers) == 3 and numbers < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        report.add("FAIL", "ComfyUI", f"{url} is ComfyUI {version}; {oldest} (July 2025) or newer is needed: update it")
    else:
        report.add("ok", "ComfyUI", f"{url}, ComfyUI {version}{' on ' if names else ''}{', '.join(names)}")
    argv = system.get("argv")
    if isinstance(argv, list) and not _makes_previews([str(word) for word in argv]):
        report.add("warn", "previews", "none are made: start ComfyUI with --preview-method auto to see pictures grow")


def _makes_previews(argv: list[str]) -> bool:
    method = "none"
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--preview-method":
            method = following
        elif word.startswith("--preview-method="):
            method = word.partition("=")[2]
    return method != "none"


async def _check_socket(url: str, shown: str, report: Report) -> None:
    greeted = asyncio.Event()
    reasons: list[str] = []
    socket = ComfySocket(
        url, on_message=lambda _: None, on_connected=greeted.set, on_disconnected=reasons.append, previews=False
    )
    task = asyncio.get_running_loop().create_task(socket.run(), name="check socket")
    try:
        async with asyncio.timeout(_GREETING):
            await greeted.wait()
    except TimeoutError:
        report.add(
            "FAIL", "ComfyUI", f"the websocket of {shown} does not greet; a proxy before it must pass websockets on"
        )
    else:
        report.add("ok", "ComfyUI", "its websocket answers")
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# Workflows, store


def _check_workflows(settings: Settings, known: list[Mapping[str, Any]], report: Report) -> None:
    folders = read(settings)
    for object_info in known[:1]:
        folders.learn(object_info)
    for problem in folders.problems:
        if problem.path != "." or folders.workflows:
            report.add("warn", "workflow", f"{problem.path}: {problem.error.message}")
    servers = [catalogue(object_info) for object_info in known]
    for workflow in folders.workflows.values():
        # One server that can run it is enough; the nodes of a chain are workflows.
        graph = {} if workflow.kind == CHAIN else workflow.graph
        least = min((lacking(graph, has) for has in servers), key=len, default=())
        if least:
            report.add("warn", "workflow", f"{workflow.name}: ComfyUI lacks {'; '.join(least)}")
        else:
            names = ", ".join(parameter.name for parameter in workflow.parameters) or "no parameters"
            report.add("ok", "workflow", f"{workflow.name}: {names}")
    if not folders.workflows:
        report.add(
            "FAIL",
            "workflow",
            f"there is none in {settings.workflows.dir}: put graphs there that ComfyUI saved with "
            "Workflow > Export (API), or set workflows.dir",
        )
    elif settings.workflows.loaded is not None:
        try:
            folders.get(settings.workflows.loaded)
        except BridgeError as error:
            report.add("FAIL", "workflow", f"workflows.loaded: {error.message}")


# Prompts


async def _check_prompts(settings: Settings, report: Report) -> None:
    """Check who writes prompts; that nobody does keeps the bridge from nothing else."""
    try:
        Profiles(settings.ollama).check()
        writer = make_writer(settings)
        if writer is None:
            topic = Topics(settings.mqtt.base_topic).prompting_request()
            report.add("ok", "prompts", f"asked of the flow that answers {topic}")
            return
        await writer.open()
    except SettingsError as error:
        report.add("FAIL", "prompts", error.message)
        return
    try:
        models = await writer.models()
    except BridgeError as error:
        todo = "start it, or set ollama.url or prompting.writer; without it there is all but prompts from ideas"
        report.add("warn", "prompts", f"{error.message}; {todo}")
        return
    finally:
        await writer.close()
    if models is None:
        report.add("ok", "prompts", f"asked of {writer.where}, with the first idea")
        return
    _tell_models(settings, writer, models, report)


def _tell_models(settings: Settings, writer: Writer, models: Sequence[ModelInfo], report: Report) -> None:
    has = {name for model in models for name in (model.name, model.name.removesuffix(":latest"))}
    wanted = {
        "prompting.model": settings.prompting.model if writer.name == "openai" else None,
        "ollama.model": settings.ollama.model if writer.name == "ollama" else None,
        "ollama.vision_model": settings.ollama.vision_model if writer.name == "ollama" else None,
        **{f"ollama.profiles.{name}.model": one.model for name, one in settings.ollama.profiles.items()},
    }
    lacking = {key: model for key, model in wanted.items() if model is not None and model not in has}
    for key, model in lacking.items():
        todo = f"run: ollama pull {model}" if writer.name == "ollama" else f"it has {', '.join(sorted(has)) or 'none'}"
        report.add("warn", "prompts", f"{key}: {writer.where} does not have the model {model!r}; {todo}")
    if not models and not lacking:
        todo = f"run: ollama pull {SUGGESTED}" if writer.name == "ollama" else "name one in prompting.model"
        report.add("warn", "prompts", f"{writer.where} has no model yet; {todo}")
    elif not lacking:
        names = ", ".join(model.name for model in models[:_NAMED])
        more = f" and {len(models) - _NAMED} more" if len(models) > _NAMED else ""
        report.add("ok", "prompts", f"{writer.where}, with {names}{more}")


def _check_http(settings: Settings, report: Report) -> None:
    addresses, token = Addresses(settings), settings.http.token is not None
    where = [addresses.base] if settings.http.port else []
    where += [] if addresses.relay is None else [addresses.relay]
    if not where:
        report.add("ok", "HTTP", "switched off")
        return
    try:
        check_listening(settings)
    except SettingsError as error:
        report.add("FAIL", "HTTP", error.message)
    else:
        report.add("ok", "HTTP", f"{' and '.join(where)}, {'with' if token else 'without'} a token")


async def _check_store(settings: Settings, report: Report) -> None:
    url = settings.store.url
    path = Path(url.removeprefix("sqlite:///"))
    obstacle = _obstacle(path) if url.startswith("sqlite:///") else ""
    if obstacle is None:
        report.add("ok", "store", f"{path} (will be made)")
    elif obstacle:
        report.add("FAIL", "store", obstacle)
    else:
        try:
            async with Store(url, keep=settings.store.keep):
                report.add("ok", "store", str(path))
        except StoreInUse:
            report.add("ok", "store", f"{path} (a bridge runs on it)")
        except BridgeError as error:
            report.add("FAIL", "store", error.message)


def _obstacle(path: Path) -> str | None:
    """Return why a file that is not there cannot be made, None if it can, and nothing for one that is there."""
    if path.exists():
        return ""
    folder = next(one for one in path.absolute().parents if one.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return None
    return f"{path} cannot be made: {folder} is not a folder that can be written (store.url)"
