"""The process around a command: settings, log, event loop, signals."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.cli.arguments import Options
from bridge.settings import LogSettings, Settings, load

INTERRUPTED = 130
_QUIET = {"httpcore": logging.WARNING, "httpx": logging.WARNING, "stamina": logging.ERROR}
"""The first two show addresses, which may hold a key; the third says neither what is tried again nor why."""


def settings_of(options: Options, *, config: Path | None = None) -> Settings:
    """Return the settings as file, environment and command line say; `config` where no file was named.

    Raises SettingsError.
    """
    return load(config=options.config or config, overrides=options.overrides())


def set_up_log(settings: LogSettings) -> None:
    """Log to standard error: of the bridge what the settings say, of the libraries what they warn of."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if settings.format == "json" else _Text())
    level = settings.level.upper()
    others = logging.INFO if settings.level == "debug" else max(logging.WARNING, logging.getLevelName(level))
    logging.basicConfig(handlers=[handler], level=others, force=True)
    logging.getLogger("bridge").setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, others))


def set_up_client_log(options: Options, settings: LogSettings) -> None:
    """Keep the log out of what a client shows, unless a level was asked for."""
    if options.has("log.level"):
        set_up_log(settings)
    else:
        logging.getLogger("bridge").setLevel(logging.CRITICAL)


def run(main: Coroutine[Any, Any, int], *, is_daemon: bool = False) -> int:
    """Run a command until it ends, or SIGINT or SIGTERM cancels it; a second signal ends the process at once.

    Returns the exit code; 130 when it was interrupted, but 0 for a daemon that SIGTERM ends: that is how it should end.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_until_stopped(main, is_daemon=is_daemon))


async def _until_stopped(main: Coroutine[Any, Any, int], *, is_daemon: bool) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    caught: list[int] = []

    def stop(number: int) -> None:
        caught.append(number)
        for one in handled:
            loop.remove_signal_handler(one)
            signal.signal(one, signal.SIG_DFL)
        if task is not None:
            task.cancel()

    handled: list[int] = []
    for number in _signals():
        # Windows has no such handlers; asyncio.Runner turns Ctrl-C into a cancellation there.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop, number)
            handled.append(number)
    try:
        return await main
    except asyncio.CancelledError:
        if not caught:
            raise
        return 0 if is_daemon and caught[0] != signal.SIGINT else INTERRUPTED
    finally:
        if not caught:
            for number in handled:
                loop.remove_signal_handler(number)


def _signals() -> list[int]:
    numbers = [int(signal.SIGINT), int(signal.SIGTERM)]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # nohup
        numbers.append(int(hangup))
    return numbers


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return asyncio.SelectorEventLoop  # the default one cannot watch the sockets of MQTT
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")


class _Json(logging.Formatter):
    """One object a line, with the names of `bridge/log`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        document = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)
