"""The chains: TOML files of one folder, each made a workflow like any other."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.errors import BadValue, BridgeError, FileMissing, UnknownWorkflow
from bridge.jobs.chains import Chain, Step, read_chain
from bridge.jobs.model import CHAIN
from bridge.library import Problem
from bridge.workflow.graph import Target, slug
from bridge.workflow.parameters import Parameter
from bridge.workflow.values import is_seed
from bridge.workflow.workflow import Workflow, title_of

_MAX_FILE = 1_000_000


@dataclass(frozen=True, slots=True)
class ChainWorkflow(Workflow):
    """A chain as a workflow like any other: its nodes are the steps, their inputs the parameters that can be set."""

    chain: Chain = field(default_factory=lambda: Chain("", "", ()))


def as_workflow(name: str, path: str, chain: Chain, get: Callable[[str], Workflow]) -> ChainWorkflow:
    """Make a workflow of a chain. Raises what is wrong with a step (UnknownWorkflow, UnknownParameter, …) naming it."""
    graph: dict[str, dict[str, Any]] = {}
    shown: dict[str, Parameter] = {}
    presets: list[Parameter] = []
    last: Workflow | None = None
    for step in chain.steps:
        try:
            workflow = last = get(step.workflow)
        except UnknownWorkflow as error:
            raise UnknownWorkflow(f"{path}: step {step.name!r}: {error.message}") from None
        values = _values(path, step, workflow)
        inputs: dict[str, Any] = {}
        for parameter in workflow.parameters:
            if parameter.name in step.references:
                continue
            default = values.get(parameter.name, parameter.default)
            inputs[parameter.name] = default
            target = (Target(step.name, parameter.name),)
            if parameter.presets:
                # What it stands for is worked out when the step runs.
                presets.append(dataclasses.replace(parameter, default=default, targets=target, presets={}))
                continue
            # Of two steps with the same parameter the first has its plain name.
            label = parameter.name if parameter.name not in shown else f"{step.name}_{parameter.name}"
            shown[label] = dataclasses.replace(parameter, name=label, default=default, targets=target)
        graph[step.name] = {"class_type": step.workflow, "inputs": inputs, "_meta": {"title": step.name}}
    if chain.parameters is not None:
        shown = dict(_chosen(path, chain.parameters, graph, [*shown.values(), *presets]))
    return ChainWorkflow(
        name=name,
        path=path,
        title=chain.title or title_of(path),
        graph=graph,
        parameters=tuple(shown.values()),
        outputs=last.outputs if last is not None else (),
        kind=CHAIN,
        description=chain.description,
        chain=chain,
    )


def _values(path: str, step: Step, workflow: Workflow) -> Mapping[str, Any]:
    """What a step sets, with its presets replaced by what they stand for. Raises what is wrong with a key."""
    try:
        for key in (*step.values, *step.references):
            workflow.resolve(key)
        return {**step.values, **workflow.expand(step.values)}
    except BridgeError as error:
        raise type(error)(f"{path}: step {step.name!r}: values: {error.message}") from None


def _chosen(
    path: str, wanted: Mapping[str, tuple[str, str]], graph: Mapping[str, Any], parameters: list[Parameter]
) -> Mapping[str, Parameter]:
    chosen = {}
    for name, (step, key) in wanted.items():
        target = Target(step, key)
        found = next((one for one in parameters if target in one.targets), None)
        if found is None:
            have = ", ".join(graph[step]["inputs"]) or "none"
            raise BadValue(
                f"{path}: parameters.{name}: the step {step!r} has no parameter {key!r} to set; it has {have}"
            )
        title = found.title if found.name == key else name
        chosen[name] = dataclasses.replace(found, name=name, title=title)
    settable = {target for parameter in chosen.values() for target in parameter.targets}
    for parameter in parameters:
        # The other seeds are drawn and counted too, and the result says what they were.
        if is_seed(parameter) and parameter.name not in chosen and not settable & set(parameter.targets):
            chosen[parameter.name] = dataclasses.replace(parameter, hidden=True)
    return chosen


class ChainLibrary:
    """The chains in a folder: every `*.toml` that is not hidden. `load` blocks; `build` makes workflows of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._chains: dict[str, tuple[str, Chain]] = {}
        self._broken: list[Problem] = []
        self.problems: list[Problem] = []
        self.workflows: dict[str, ChainWorkflow] = {}

    def load(self) -> None:
        """Read all files anew; one that is broken keeps its last good version."""
        chains: dict[str, tuple[str, Chain]] = {}
        self._broken = []
        for file in sorted(self.directory.glob("*.toml")) if self.directory.is_dir() else ():
            name, path = slug(file.stem), file.name
            if not name or file.name.startswith("."):
                continue
            try:
                chains[name] = (path, _read(file))
            except BridgeError as error:
                self._broken.append(Problem(path, error, name))
                if name in self._chains:
                    chains[name] = self._chains[name]
        self._chains = chains

    def build(self, get: Callable[[str], Workflow], taken: Mapping[str, Workflow]) -> None:
        """Make workflows of the chains. get: gives the workflow of a step; taken: names that are workflows already."""
        made: dict[str, ChainWorkflow] = {}
        self.problems = list(self._broken)
        for name, (path, chain) in self._chains.items():
            try:
                if name in taken:
                    raise BadValue(f"{path} would have the name {name!r}, which {taken[name].path} has already")
                made[name] = as_workflow(name, path, chain, get)
            except BridgeError as error:
                self.problems.append(Problem(path, error, name))
        self.workflows = made


def _read(file: Path) -> Chain:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE)
        return read_chain(tomllib.loads(data.decode("utf-8-sig")), where=file.name)
    except OSError as error:
        raise FileMissing(f"{file.name} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BadValue(f"{file.name} is not text in UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadValue(f"{file.name} is not TOML: {error}") from None
