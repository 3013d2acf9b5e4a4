"""`comfy-bridge demo`: the daemon with whatever is missing built in, in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bridge
from bridge import daemon, requests
from bridge.cli import broker, process
from bridge.cli.arguments import Options
from bridge.cli.files import write_outputs
from bridge.cli.needs import missing
from bridge.cli.remote import Remote, remote
from bridge.cli.standin import standin
from bridge.cli.submission import Run
from bridge.cli.terminal import Failure, complain, printable, say
from bridge.cli.wire import document_of, levels
from bridge.comfyui.client import ComfyClient, TimeLimits
from bridge.core import Core
from bridge.errors import BridgeError, SettingsError, Unsupported
from bridge.library import Library
from bridge.mqtt.brokers import BrokerOptions, find_nats_server, launch
from bridge.mqtt.embedded import EmbeddedBroker
from bridge.mqtt.link import LinkError, NotAccepted
from bridge.mqtt.message import Message
from bridge.settings import Settings, load

_HOST = "127.0.0.1"
_COMFYUI = "http://127.0.0.1:8188"
_IDEA = "a lighthouse on a cliff at dawn, oil on canvas"
_ALIVE = 2.0
_FIRST = 30.0


def main(options: Options) -> int:
    """Run the demo until Ctrl-C."""
    overrides = options.overrides()
    overrides.setdefault("log", {}).setdefault("level", "warning")
    process.set_up_log(load(config=options.config or Path(os.devnull), overrides=overrides).log)
    return process.run(_Demo(options, overrides).run(), is_daemon=True)


@dataclass(frozen=True, slots=True)
class _Broker:
    """The broker to use: its settings, and what it is for people."""

    settings: dict[str, Any]
    words: str


class _Demo:
    """One demo, from its parts to its end."""

    def __init__(self, options: Options, overrides: dict[str, Any]) -> None:
        self._options = options
        self._overrides = overrides
        self._data: Path = options.data
        self._core: asyncio.Future[Core] = asyncio.get_event_loop_policy().new_event_loop().create_future()

    async def run(self) -> int:
        """Return the exit code. Raises Failure, BridgeError."""
        raise NotImplementedError
