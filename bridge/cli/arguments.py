"""The words of the command line: argparse, and nothing that is slow to import."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge import __version__

_SHORTCUTS = (
    ("--mqtt-url", "mqtt.url", "URL", "the broker: mqtt://, mqtts://, ws://, wss://HOST:PORT, or embedded"),
    ("--base-topic", "mqtt.base_topic", "TOPIC", "what all topics begin with (comfyui)"),
    ("--comfyui-url", "comfyui.urls", "URL", "a ComfyUI server; may be given again for a further one"),
    ("--workflows", "workflows.dir", "DIR", "the folder of the workflows (workflows)"),
    ("--store-url", "store.url", "URL", "where jobs and values are kept (sqlite:///comfy-bridge.db)"),
    ("--log-level", "log.level", "LEVEL", "debug, info, warning or error (info)"),
)
_LISTS = frozenset({"comfyui.urls"})


class Options(argparse.Namespace):
    """A command line that was read. What each command adds stands in `parse`."""

    command: str
    config: Path | None = None
    given: list[tuple[str, str]]
    """Settings by key (`mqtt.url`), in the order in which they were given."""

    def overrides(self) -> dict[str, Any]:
        """Return the settings that were given, nested like the settings file."""
        nested: dict[str, Any] = {}
        for key, text in self.given:
            *path, last = key.split(".")
            table = nested
            for part in path:
                inner = table.setdefault(part, {})
                if not isinstance(inner, dict):
                    inner = table[part] = {}
                table = inner
            if key in _LISTS and not text.startswith("["):
                table[last] = [*table.get(last, ()), text]
            else:
                table[last] = json.loads(text) if text.startswith("{") else text
        return nested

    def has(self, key: str) -> bool:
        """Tell whether a setting was given on the command line."""
        return any(one == key for one, _ in self.given)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read a command line. Exits with 2 and a sentence if it is wrong, with 0 after `--help` and `--version`."""
    given: list[tuple[str, str]] = []
    parser = _parser(given)
    options = parser.parse_args(arguments, namespace=Options(given=given))
    if getattr(options, "command", None) is None:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    return options


class _Setting(argparse.Action):
    """Notes a setting. All parsers share one list: an option may stand before the command or after it."""

    def __init__(self, *, given: list[tuple[str, str]], key: str | None, **options: Any) -> None:
        super().__init__(default=argparse.SUPPRESS, **options)
        self._given = given
        self._key = key

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's signature
        namespace: argparse.Namespace,  # noqa: ARG002
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        key, text = (self._key, str(values)) if self._key is not None else _pair(str(values), "section.key=value")
        if self._key is None and text.startswith("{"):
            try:
                json.loads(text)
            except ValueError as error:
                raise argparse.ArgumentError(
                    self, f"the value of {key} begins like JSON and is none: {error}"
                ) from None
        self._given.append((key, text))


def _pair(text: str, form: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}")
    return key.strip(), value


def _value(text: str) -> tuple[str, str]:
    return _pair(text, "key=value")


def _setting(text: str) -> str:
    key, _ = _pair(text, "section.key=value")
    if "." not in key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form section.key=value")
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _parser(given: list[tuple[str, str]]) -> argparse.ArgumentParser:
    settings = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = settings.add_argument_group("settings (they win over the environment, and that over the file)")
    group.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=argparse.SUPPRESS,
        help="the settings file (config.toml in the working directory, if it is there)",
    )
    for name, key, metavar, words in _SHORTCUTS:
        group.add_argument(name, action=_Setting, given=given, key=key, metavar=metavar, help=words)
    group.add_argument(
        "-o",
        "--option",
        action=_Setting,
        given=given,
        key=None,
        type=_setting,
        metavar="SECTION.KEY=VALUE",
        help="any other setting, for instance -o jobs.attempts=5",
    )
    parser = argparse.ArgumentParser(
        prog="comfy-bridge",
        description="A bridge between ComfyUI and MQTT.",
        epilog="Exit codes: 0, 1 failed, 2 wrong usage or settings, 130 interrupted.",
        parents=[settings],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"comfy-bridge {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")

    def command(name: str, words: str, more: str = "") -> argparse.ArgumentParser:
        description = f"{words[0].upper()}{words[1:]}. {more}".strip()
        return commands.add_parser(name, help=words, description=description, parents=[settings], allow_abbrev=False)

    command("run", "run the bridge until Ctrl-C or SIGTERM")
    _add_demo(command)
    command(
        "check",
        "look at settings, broker, ComfyUI, workflows, prompt writer, HTTP and store, and say what to do",
        "Needs no running bridge and does not disturb one. Exit code 1 when a line says FAIL.",
    )
    _add_workflows(command, settings)
    _add_submit(command)
    watch = command("watch", "show what happens on the running bridge, live")
    watch.add_argument("--all", action="store_true", dest="everything", help="every message, commands and events too")
    return parser


def _add_demo(command: Any) -> None:
    demo = command(
        "demo",
        "run the bridge with whatever is missing built in: broker, ComfyUI (a stand-in), workflows",
        "Draws a picture and prints what to type. config.toml is read only when --config names it.",
    )
    demo.add_argument(
        "--data", metavar="DIR", type=Path, default=Path("demo-data"), help="the folder for its files (demo-data)"
    )
    demo.add_argument(
        "--port",
        metavar="PORT",
        type=_port,
        default=1883,
        help="where a broker of this machine is looked for, else the built-in one is started (1883)",
    )
    demo.add_argument(
        "--step-delay",
        metavar="SECONDS",
        type=_seconds,
        default=0.25,
        help="how long a step of the stand-in takes (0.25)",
    )


def _add_workflows(command: Any, settings: argparse.ArgumentParser) -> None:
    workflows = command("workflows", "list the workflows, or show the parameters of one", "Needs no running bridge.")
    workflows.add_argument("--json", action="store_true", help="as JSON")
    workflows.set_defaults(name=None)
    verbs = workflows.add_subparsers(dest="verb", metavar="list | show NAME")
    for verb, words in (("list", "list the workflows"), ("show", "show the parameters of a workflow")):
        sub = verbs.add_parser(verb, help=words, description=f"{words.capitalize()}.", parents=[settings])
        sub.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as JSON")
        if verb == "show":
            sub.add_argument("name", metavar="NAME", help="the workflow")


def _add_submit(command: Any) -> None:
    submit = command(
        "submit",
        "run a workflow on the running bridge and write its files",
        "Ctrl-C, or the end of --timeout, interrupts the jobs.",
    )
    submit.add_argument("name", metavar="NAME", help="the workflow")
    submit.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="values",
        action="append",
        type=_value,
        default=[],
        help="a parameter or <node>.<input>, for this run only; =@FILE takes a picture or a text from a file, "
        "=@@… is a text that begins with @",
    )
    submit.add_argument("--count", metavar="N", type=_count, default=1, help="how many jobs; the seed counts up (1)")
    submit.add_argument("--out", metavar="DIR", type=Path, default=Path(), help="where the files go (here)")
    submit.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="how long to wait for the end (for ever)")
    submit.add_argument("--json", action="store_true", help="write each result as a line of JSON instead of the paths")
