"""`comfy-bridge watch`: what happens on the running bridge, live, a line for each event."""

from __future__ import annotations

import asyncio
import time

from rich.console import Console
from rich.text import Text

from bridge.cli import process
from bridge.cli.arguments import Options
from bridge.cli.events import Line, Narrator, describe_any
from bridge.cli.remote import Disconnected, Reconnected, remote
from bridge.settings import Settings

_EVENTS = (
    "bridge/state",
    "bridge/log",
    "backend/+/state",
    "ollama/state",
    "prompt/+/status",
    "prompt/+/result",
    "response/#",
)
_RETAINED = 2.0
"""Seconds in which a broker hands out what a bridge that was ever there has left."""


def main(options: Options) -> int:
    """Watch until Ctrl-C."""
    settings = process.settings_of(options)
    process.set_up_client_log(options, settings.log)
    return process.run(_watch(settings, everything=options.everything))


async def _watch(settings: Settings, *, everything: bool) -> int:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def show(line: Line) -> None:
        console.print(Text.assemble((time.strftime("%H:%M:%S "), "dim"), (line.text, line.style)))
        console.file.flush()

    base = settings.mqtt.base_topic
    narrator = Narrator(base)
    async with remote(settings.mqtt, "watch", ("#",) if everything else _EVENTS) as bridge:
        show(Line(f"watching {bridge.where}; Ctrl-C ends it", "dim"))
        patience: float | None = _RETAINED
        while True:
            try:
                async with asyncio.timeout(patience):
                    happening = await bridge.next()
            except TimeoutError:
                patience = None
                show(Line("nothing is known of a bridge here: is it started, on this broker and base topic?", "yellow"))
                continue
            patience = None
            match happening:
                case Reconnected():
                    show(Line("the broker is there again", "green"))
                case Disconnected(reason):
                    show(Line(f"lost the broker: {reason}; waiting for it", "red"))
                case message:
                    line = describe_any(base, message) if everything else narrator.tell(message)
                    if line is not None:
                        show(line)
