"""`comfy-bridge workflows`: what there is in the folder, without a running bridge."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.chain_library import ChainWorkflow
from bridge.cli import process
from bridge.cli.arguments import Options
from bridge.cli.terminal import columns, complain, printable, say
from bridge.folders import Folders
from bridge.library import Library
from bridge.settings import Settings
from bridge.workflow.parameters import Parameter
from bridge.workflow.workflow import Workflow

_LONGEST = 60


def main(options: Options) -> int:
    """List the workflows, or show one."""
    settings = process.settings_of(options)
    folders = read(settings)
    return _show(folders, options) if options.verb == "show" else _list(folders, options, settings)


def read(settings: Settings) -> Folders:
    """Read the folders as the bridge would."""
    folders = Folders(settings, Library(settings.workflows.dir))
    folders.read()
    folders.build()
    return folders


def _list(folders: Folders, options: Options, settings: Settings) -> int:
    problems = [{"path": one.path, "error": one.error.to_json()} for one in folders.problems]
    if options.json:
        workflows = [workflow.to_json() for workflow in folders.workflows.values()]
        say(json.dumps({"workflows": workflows, "problems": problems}, ensure_ascii=False, indent=2))
        return 0
    rows = [
        (one.name, one.path, ", ".join(parameter.name for parameter in one.parameters))
        for one in folders.workflows.values()
    ]
    if rows:
        _table(("name", "file", "parameters"), rows)
    for problem in folders.problems:
        complain(f"{printable(problem.path)}: {printable(problem.error.message)}")
    if not rows:
        complain(f"there are no workflows in {settings.workflows.dir}")
        return 1
    return 0


def _show(folders: Folders, options: Options) -> int:
    workflow = folders.get(options.name)
    if options.json:
        say(json.dumps(workflow.to_json(), ensure_ascii=False, indent=2))
        return 0
    say(f"{workflow.name} ({printable(workflow.path)}): {printable(workflow.title)}")
    if workflow.description:
        say(printable(workflow.description))
    if isinstance(workflow, ChainWorkflow):
        say("Steps: " + ", ".join(f"{step.name} ({step.workflow})" for step in workflow.chain.steps))
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
