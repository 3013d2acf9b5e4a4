"""`comfy-bridge watch`: what happens on the running bridge, live, a line for each event."""

from __future__ import annotations

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


def main(options: Options) -> int:
    """Watch until Ctrl-C."""
    settings = process.settings_of(options)
    process.set_up_client_log(options, settings.log)
    return process.run(_watch(settings, everything=options.everything))


async def _watch(settings: Settings, *, everything: bool) -> int:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def show(line: Line) -> None:
        text = Text(time.strftime("%H:%M:%S "), style="dim")
        text.append(line.text, style=line.style)
        console.print(text)
        console.file.flush()

    base = settings.mqtt.base_topic
    narrator = Narrator(base)
    async with remote(settings.mqtt, "watch", ("#",) if everything else _EVENTS) as bridge:
        show(Line(f"watching {bridge.where}; Ctrl-C ends it", "dim"))
        while True:
            match await bridge.next():
                case Reconnected():
                    show(Line("the broker is there again", "green"))
                case Disconnected(reason):
                    show(Line(f"lost the broker: {reason}; waiting for it", "red"))
                case message:
                    line = describe_any(base, message) if everything else narrator.tell(message)
                    if line is not None:
                        show(line)
