"""`comfy-bridge workflows`: what there is in the folder, without a running bridge."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.cli import process
from bridge.cli.arguments import Options
from bridge.cli.terminal import columns, complain, printable, say
from bridge.errors import BridgeError
from bridge.library import Library, Workflow
from bridge.settings import Settings
from bridge.workflow.graph import slug
from bridge.workflow.parameters import Parameter

_LONGEST = 60


def main(options: Options) -> int:
    """List the workflows, or show one."""
    settings = process.settings_of(options)
    library = read(settings)
    return _show(library, options) if options.verb == "show" else _list(library, options, settings)


def read(settings: Settings) -> Library:
    """Read the folder as the bridge would, with the names of `node_mappings`."""
    library = Library(settings.workflows.dir)
    library.load()
    loaded = settings.workflows.loaded
    if loaded is None and library.names():
        loaded = library.names()[0]
    mappings = {name: settings.mappings_for(name, loaded=name == loaded) for name in library.names()}
    library.remap(mappings)
    return library


def problem_of(library: Library, name: str) -> BridgeError | None:
    """Return why the file of a workflow that is not there cannot be used, if there is such a file."""
    for problem in library.problems:
        stem = str(PurePosixPath(problem.path).with_suffix(""))
        if slug(stem.replace("/", "-")) == slug(name.removesuffix(".json").replace("/", "-")):
            return problem.error
    return None


def _list(library: Library, options: Options, settings: Settings) -> int:
    problems = [{"path": one.path, "error": one.error.to_json()} for one in library.problems]
    if options.json:
        workflows = [workflow.to_json() for workflow in library.workflows.values()]
        say(json.dumps({"workflows": workflows, "problems": problems}, ensure_ascii=False, indent=2))
        return 0
    rows = [
        (one.name, one.path, ", ".join(parameter.name for parameter in one.parameters))
        for one in library.workflows.values()
    ]
    if rows:
        _table(("name", "file", "parameters"), rows)
    for problem in library.problems:
        complain(f"{printable(problem.path)}: {printable(problem.error.message)}")
    if not rows:
        complain(f"there are no workflows in {settings.workflows.dir}")
        return 1
    return 0


def _show(library: Library, options: Options) -> int:
    try:
        workflow = library.get(options.name)
    except BridgeError as error:
        raise (problem_of(library, options.name) or error) from None
    if options.json:
        say(json.dumps(workflow.to_json(), ensure_ascii=False, indent=2))
        return 0
    say(f"{workflow.name} ({printable(workflow.path)}): {printable(workflow.title)}")
    if workflow.description:
        say(printable(workflow.description))
    rows = [_row(parameter) for parameter in workflow.parameters]
    if rows:
        _table(("parameter", "type", "default", "limits", "sets"), rows)
    else:
        say("It has no parameters.")
    made = [f"{output.title} (node {output.node}, {output.type})" for output in workflow.outputs]
    if workflow.kind == "workflow":  # what a recipe makes is known once it runs
        say(printable(f"It makes: {', '.join(made) or 'nothing that is saved'}"))
    say(_example(workflow))
    return 0


def _row(parameter: Parameter) -> tuple[str, str, str, str, str]:
    sets = [f"{target.node}.{target.input}" for target in parameter.targets if target.node]
    for choice, values in parameter.presets.items():
        sets.append(f"{choice}: {', '.join(f'{name}={_short(value)}' for name, value in values.items())}")
    name = f"{parameter.name} (hidden)" if parameter.hidden else parameter.name
    return name, parameter.type, _short(parameter.default), _limits(parameter), "; ".join(sets)


def _limits(parameter: Parameter) -> str:
    if parameter.choices:
        return _short(", ".join(str(choice) for choice in parameter.choices))
    low, high = parameter.min, parameter.max
    words = "" if low is None and high is None else f"{'' if low is None else low}…{'' if high is None else high}"
    return words if parameter.step is None else f"{words} step {parameter.step}".strip()


def _example(workflow: Workflow) -> str:
    first = next((one for one in workflow.parameters if one.type in {"text", "integer", "number"}), None)
    if first is None:
        return f"Run it: comfy-bridge submit {workflow.name}"
    value = "'a fox in the snow'" if first.type == "text" else first.default
    return f"Run it: comfy-bridge submit {workflow.name} --set {first.name}={value}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not sys.stdout.isatty():
        for line in columns([head, *rows]):
            say(line)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False).print(table)
