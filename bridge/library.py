"""The workflows: the files of one directory, read and understood."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bridge.errors import BridgeError, FileMissing, InvalidGraph, TooLarge, UnknownWorkflow
from bridge.workflow.graph import Graph, read_graph, slug
from bridge.workflow.nodes import NO_MAPPINGS
from bridge.workflow.outputs import ANSWER, Output, answer_node, outputs
from bridge.workflow.parameters import Parameter, derive
from bridge.workflow.words import did_you_mean, listed, shown

MAX_BYTES = 20_000_000
MAX_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Workflow:
    """A named graph with what can be set in it. The graph is shared: copy it before a change (`values.apply`).

    `path` is relative to the directory, with `/`; `answer` is the id of the node whose output is the answer,
    when `node_mappings.save_image` names one; `mappings` are the entries that could be used.
    """

    name: str
    path: str
    title: str
    graph: Graph
    parameters: tuple[Parameter, ...]
    outputs: tuple[Output, ...]
    kind: str = "workflow"
    answer: str | None = None
    mappings: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Its entry in `bridge/workflows`."""
        return {
            "name": self.name,
            "path": self.path,
            "title": self.title,
            "kind": self.kind,
            "parameters": [parameter.to_json() for parameter in self.parameters],
            "outputs": [output.to_json() for output in self.outputs],
        }


@dataclass(frozen=True, slots=True)
class Problem:
    """A file, or an entry of `node_mappings` for it, that could not be used. `path` as in `Workflow`."""

    path: str
    error: BridgeError


class Library:
    """The workflows in `directory` and its folders: every `*.json` that is not hidden and does not lead outside.

    A workflow's name is the slug of its path without ending, folders joined by `-`; of two files of one name the
    first by path is used. `mappings` holds the `node_mappings` of workflows by their names. Nothing is read before
    `load`; reading blocks, so call it in a thread. The tables are swapped in one step: other threads see the old
    or the new state.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, mappings: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.directory = Path(directory)
        self._mappings = dict(mappings or {})
        self._workflows: Mapping[str, Workflow] = MappingProxyType({})
        self._problems: tuple[Problem, ...] = ()
        self._object_info: Mapping[str, Any] = {}

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """All of them by name, in the order of the names."""
        return self._workflows

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What the last `load` or `reload` could not use."""
        return self._problems

    def load(self, *, mappings: Mapping[str, Mapping[str, str]] | None = None) -> tuple[Problem, ...]:
        """Read all files anew; `mappings` replace the ones of the constructor. Returns the problems.

        A file that is broken now and was good before keeps its old version; one that is gone is forgotten. A
        directory that is missing or cannot be read is a problem of path `.`, and what was there stays. Never raises
        for what a file holds.
        """
        if mappings is not None:
            self._mappings = dict(mappings)
        problems: list[Problem] = []
        try:
            files = sorted(self._files(problems), key=lambda found: found[0])
        except OSError as error:
            self._problems = (Problem(".", FileMissing(f"the directory of the workflows {_why(error)}.")),)
            return self._problems
        kept = {workflow.path: workflow for workflow in self._workflows.values()}
        found: dict[str, Workflow] = {}
        for path, file in files[:MAX_FILES]:
            name = slug(path[: -len(".json")].replace("/", "-"))
            other = found.get(name)
            if not name:
                reason = f"{path} has no letter and no digit in its name; rename it."
            elif other is not None:
                reason = f"{path} would have the name {name!r}, which {other.path} has already; rename one of them."
            else:
                workflow = self._read(name, path, file, kept.get(path), problems)
                if workflow is not None:
                    found[name] = workflow
                continue
            problems.append(Problem(path, InvalidGraph(reason)))
        if len(files) > MAX_FILES:
            reason = f"there are more than {MAX_FILES} workflows; the ones from {files[MAX_FILES][0]} on are not used."
            problems.append(Problem(".", TooLarge(reason)))
        self._workflows = MappingProxyType(dict(sorted(found.items())))
        self._problems = tuple(problems)
        return self._problems

    reload = load

    def learn(self, object_info: Mapping[str, Any]) -> None:
        """Take types, limits and choices from a server's `/object_info` (its parsed body), for later loads too."""
        self._object_info = object_info
        learned = {name: with_object_info(workflow, object_info) for name, workflow in self._workflows.items()}
        self._workflows = MappingProxyType(learned)

    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self._workflows)

    def get(self, name: str) -> Workflow:
        """The workflow of that name; its path does as well (`sdxl/txt2img`, `txt2img.json`).

        Raises `UnknownWorkflow` with near names.
        """
        workflows = self._workflows
        if name in workflows:
            return workflows[name]
        as_slug = slug(name.removesuffix(".json").replace("/", "-").replace("\\", "-"))
        if as_slug in workflows:
            return workflows[as_slug]
        if not workflows:
            raise UnknownWorkflow(f"there is no workflow {shown(name)}: the directory of the workflows has none.")
        raise UnknownWorkflow(
            f"there is no workflow {shown(name)}.{did_you_mean(name, workflows)} There are {listed(workflows)}.",
            details={"workflows": list(workflows)[:100]},
        )

    def default(self, loaded: str | None = None) -> Workflow | None:
        """The workflow that bare commands act on: the one named `loaded`, or the first by name, or none.

        Raises `UnknownWorkflow` when `loaded` is none of them.
        """
        if loaded:
            return self.get(loaded)
        return next(iter(self._workflows.values()), None)

    def _files(self, problems: list[Problem]) -> Iterator[tuple[str, Path]]:
        root = Path(os.path.realpath(self.directory))
        with os.scandir(root):
            pass  # os.walk passes over a directory that cannot be read
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(one for one in folders if not one.startswith("."))
            for file in sorted(files):
                if not file.startswith(".") and file.lower().endswith(".json"):
                    full = Path(folder) / file
                    path = _printable(full.relative_to(root).as_posix())
                    if Path(os.path.realpath(full)).is_relative_to(root):
                        yield path, full
                    else:
                        reason = f"{path} is a link to a file outside of the directory of the workflows."
                        problems.append(Problem(path, InvalidGraph(reason)))

    def _read(
        self, name: str, path: str, file: Path, kept: Workflow | None, problems: list[Problem]
    ) -> Workflow | None:
        try:
            graph = _graph(file, path)
        except BridgeError as error:
            problems.append(Problem(path, error))
            if kept is None:
                return None
            graph = kept.graph
        workflow, errors = build(name, path, graph, self._mappings.get(name, NO_MAPPINGS))
        problems += [Problem(path, error) for error in errors]
        return with_object_info(workflow, self._object_info) if self._object_info else workflow


def build(
    name: str, path: str, graph: Graph, mappings: Mapping[str, str] = NO_MAPPINGS
) -> tuple[Workflow, tuple[BridgeError, ...]]:
    """A workflow of a graph, without those entries of `mappings` that do not fit it, and why they do not."""
    errors: list[BridgeError] = []
    good: dict[str, str] = {}
    for key, value in mappings.items():
        try:
            if key == ANSWER:
                answer_node(graph, {key: value})
            else:
                derive(graph, {**good, key: value})
        except BridgeError as error:
            errors.append(error)
        else:
            good[key] = value
    workflow = Workflow(
        name=name,
        path=path,
        title=_title(path),
        graph=graph,
        parameters=derive(graph, good),
        outputs=outputs(graph, mappings=good),
        answer=answer_node(graph, good),
        mappings=MappingProxyType(good),
    )
    return workflow, tuple(errors)


def with_object_info(workflow: Workflow, object_info: Mapping[str, Any]) -> Workflow:
    """The workflow with types, limits, choices and outputs as `/object_info` (its parsed body) tells them."""
    return dataclasses.replace(
        workflow,
        parameters=derive(workflow.graph, workflow.mappings, object_info),
        outputs=outputs(workflow.graph, object_info, mappings=workflow.mappings),
    )


def _graph(file: Path, path: str) -> Graph:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise InvalidGraph(f"{path} is no ordinary file.")
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileMissing(f"{path} {_why(error)}.") from None
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{path} has more than {MAX_BYTES:,} bytes; a workflow in API format is far smaller.")
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidGraph(f"{path} is not text in UTF-8; save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        reason = "is empty" if not data.strip() else f"is not JSON: {error.msg} in line {error.lineno}"
        raise InvalidGraph(f"{path} {reason}; it should be a workflow in API format.") from None
    except (ValueError, RecursionError):
        raise InvalidGraph(f"{path} holds a number too long or nesting too deep for a workflow.") from None
    return read_graph(document, where=path)


def _title(path: str) -> str:
    words = path[: -len(".json")].replace("/", " / ").replace("_", " ").replace("-", " ").split()
    return " ".join(words) or path


def _printable(path: str) -> str:
    """The path as UTF-8 text: file names on Linux are bytes."""
    return path.encode("utf-8", "replace").decode("utf-8")


def _why(error: OSError) -> str:
    return f"cannot be read ({error.strerror or type(error).__name__})"
