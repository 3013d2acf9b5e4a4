"""The workflows: the files of one directory, read and understood."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bridge.errors import BadValue, BridgeError, FileMissing, InvalidGraph, RecipeError, TooLarge, UnknownWorkflow
from bridge.recipes import Recipe, read_recipe, with_sidecar
from bridge.workflow.convert import convert
from bridge.workflow.declared import describe
from bridge.workflow.graph import Graph, editors_file, read_graph, slug
from bridge.workflow.nodes import NO_MAPPINGS
from bridge.workflow.sidecar import Sidecar, read_sidecar
from bridge.workflow.words import did_you_mean, listed, shown
from bridge.workflow.workflow import Workflow, from_graph

__all__ = ["MAX_BYTES", "MAX_FILES", "Library", "Problem", "Workflow", "build"]

MAX_BYTES = 20_000_000
MAX_FILES = 10_000

GRAPH, RECIPE, SIDECAR = ".json", ".py", ".toml"


@dataclass(frozen=True, slots=True)
class Problem:
    """A file, an entry beside it, or one of `node_mappings` for it, that could not be used. `path` as in `Workflow`.

    `workflow` is the name of the workflow that it is about.
    """

    path: str
    error: BridgeError
    workflow: str | None = None


@dataclass(frozen=True, slots=True)
class _Made:
    """A workflow with what it was made of, so that it is made once."""

    graph: Graph | None
    recipe: Recipe | None
    sidecar: Sidecar
    mappings: Mapping[str, str]
    object_info: Mapping[str, Any]
    workflow: Workflow
    wrong: tuple[BridgeError, ...]


@dataclass(slots=True)
class _Source:
    """A file of a workflow as it was read; `graph` and `recipe` are the last good ones."""

    name: str
    path: str
    data: bytes = b""
    error: BridgeError | None = None
    graph: Graph | None = None
    editor: Mapping[str, Any] | None = None
    """A file of the editor, which is converted when `/object_info` is known."""
    converted_for: Mapping[str, Any] | None = None
    """The `/object_info` that it was converted with."""
    not_converted: BridgeError | None = None
    recipe: Recipe | None = None
    sidecar: Sidecar = Sidecar()  # noqa: RUF009  frozen
    sidecar_errors: tuple[tuple[str, BridgeError], ...] = ()
    made: _Made | None = None


class Library:
    """The workflows in `directory` and its folders: every `*.json` and every recipe `*.py` that is not hidden.

    Files that lead outside and Python files that begin with `_` are none. A workflow's name is the slug of its path
    without ending, folders joined by `-`; of two files of one name the first by path is used. `<name>.toml` beside a
    file says more about it. Nothing is read before `load`; reading blocks, so call it in a thread, and not in two at
    once. The tables are swapped in one step: other threads see the old or the new state.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._mappings: Mapping[str, Mapping[str, str]] = {}
        self._sources: Mapping[str, _Source] = {}
        self._other_problems: tuple[Problem, ...] = ()
        self._workflows: Mapping[str, Workflow] = MappingProxyType({})
        self._problems: tuple[Problem, ...] = ()
        self._object_info: Mapping[str, Any] = {}

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """All of them by name, in the order of the names."""
        return self._workflows

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What the last `load` could not use."""
        return self._problems

    def load(self) -> tuple[Problem, ...]:
        """Read all files anew. Returns the problems.

        A file that is broken now and was good before keeps its old version; one that is gone is forgotten. A
        directory that is missing or cannot be read is a problem of path `.`, and what was there stays. A recipe is
        imported again when its file changed. Never raises for what a file holds.
        """
        problems: list[Problem] = []
        try:
            files = dict(sorted(self._files(problems), key=lambda found: found[0]))
        except OSError as error:
            self._problems = (Problem(".", FileMissing(f"the directory of the workflows {_why(error)}.")),)
            return self._problems
        if len(files) > MAX_FILES:
            first = list(files)[MAX_FILES]
            reason = f"there are more than {MAX_FILES} files of workflows; the ones from {first} on are not used."
            problems.append(Problem(".", TooLarge(reason)))
            files = dict(list(files.items())[:MAX_FILES])
        sidecars = {_stem(path): path for path in files if path.lower().endswith(SIDECAR)}
        files_of_sidecars = {path: files.pop(path) for path in sidecars.values()}
        by_path = {source.path: source for source in self._sources.values()}
        found: dict[str, _Source] = {}
        for path, file in files.items():
            stem = _stem(path)
            name = slug(stem.replace("/", "-"))
            other = found.get(name)
            if not name:
                reason = f"{path} has no letter and no digit in its name; rename it."
            elif other is not None:
                reason = f"{path} would have the name {name!r}, which {other.path} has already; rename one of them."
            else:
                source = _read(name, path, file, by_path.get(path))
                beside = sidecars.pop(stem, None)
                if beside is not None:
                    _read_beside(source, beside, files_of_sidecars[beside], by_path.get(path))
                found[name] = source
                continue
            problems.append(Problem(path, InvalidGraph(reason)))
        for stem, path in sidecars.items():
            reason = f"{path} stands beside no workflow; {stem}.json or {stem}.py is missing."
            problems.append(Problem(path, BadValue(reason)))
        self._sources = found
        self._other_problems = tuple(problems)
        self._build()
        return self._problems

    def learn(self, object_info: Mapping[str, Any]) -> None:
        """Take types, limits and choices from a server's `/object_info` (its parsed body), for later loads too.

        Files of the editor that could not be converted are tried again.
        """
        self._object_info = object_info
        self._build()

    def remap(self, mappings: Mapping[str, Mapping[str, str]]) -> None:
        """Take the `node_mappings` of workflows by their names, without reading any file."""
        self._mappings = dict(mappings)
        self._build()

    def _build(self) -> None:
        """Make workflows of the sources; once more when another thread brought something new in between."""
        while True:
            object_info, mappings, sources = self._object_info, self._mappings, self._sources
            problems = list(self._other_problems)
            made = [self._workflow(source, object_info, problems) for _, source in sorted(sources.items())]
            self._workflows = MappingProxyType({one.name: one for one in made if one is not None})
            self._problems = tuple(problems)
            if object_info is self._object_info and mappings is self._mappings and sources is self._sources:
                return

    def _workflow(self, source: _Source, object_info: Mapping[str, Any], problems: list[Problem]) -> Workflow | None:
        errors: list[tuple[str, BridgeError]] = []
        if source.error is not None:
            errors.append((source.path, source.error))
        if source.editor is not None and source.converted_for is not object_info:
            source.not_converted, source.converted_for = None, object_info
            try:
                source.graph = read_graph(convert(source.editor, object_info, where=source.path), where=source.path)
            except BridgeError as error:
                source.not_converted = error
        if source.not_converted is not None:
            errors.append((source.path, source.not_converted))
        errors += source.sidecar_errors
        made = source.made = _made(source, self._mappings.get(source.name, NO_MAPPINGS), object_info)
        if made is not None:
            errors += [(_place(error, source), error) for error in made.wrong]
        problems += [Problem(path, error, source.name) for path, error in errors]
        return None if made is None else made.workflow

    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self._workflows)

    def get(self, name: str) -> Workflow:
        """The workflow of that name; its path does as well (`sdxl/txt2img`, `txt2img.json`).

        Raises what keeps its file from being used, else `UnknownWorkflow` with near names.
        """
        workflows = self._workflows
        as_slug = slug(name.removesuffix(GRAPH).removesuffix(RECIPE).replace("/", "-").replace("\\", "-"))
        for one in (name, as_slug):
            if one in workflows:
                return workflows[one]
        for problem in self._problems:
            if problem.workflow is not None and problem.workflow in (name, as_slug):
                raise problem.error
        if not workflows:
            raise UnknownWorkflow(f"there is no workflow {shown(name)}: the directory of the workflows has none.")
        raise UnknownWorkflow(
            f"there is no workflow {shown(name)}.{did_you_mean(name, workflows)} There are {listed(workflows)}.",
            details={"workflows": list(workflows)[:100]},
        )

    def default(self) -> Workflow | None:
        """The workflow that bare commands act on while none is loaded: the first by name, or none."""
        return next(iter(self._workflows.values()), None)

    def _files(self, problems: list[Problem]) -> Iterator[tuple[str, Path]]:
        root = Path(os.path.realpath(self.directory))
        with os.scandir(root):
            pass  # os.walk passes over a directory that cannot be read
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(one for one in folders if not one.startswith("."))
            for file in sorted(files):
                if is_workflow_file(file):
                    full = Path(folder) / file
                    path = _printable(full.relative_to(root).as_posix())
                    if Path(os.path.realpath(full)).is_relative_to(root):
                        yield path, full
                    else:
                        reason = f"{path} is a link to a file outside of the directory of the workflows."
                        problems.append(Problem(path, InvalidGraph(reason)))


def is_workflow_file(name: str) -> bool:
    """Whether a file of that name belongs to a workflow."""
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  a name, no path
    return ending in (GRAPH, SIDECAR, RECIPE) and not name.startswith(("_", ".") if ending == RECIPE else ".")


def build(
    name: str,
    path: str,
    graph: Graph,
    mappings: Mapping[str, str] = NO_MAPPINGS,
    object_info: Mapping[str, Any] | None = None,
    sidecar: Sidecar = Sidecar(),  # noqa: B008  frozen
) -> tuple[Workflow, tuple[BridgeError, ...]]:
    """A workflow of a graph, without those declarations that do not fit it, and why they do not."""
    found = describe(graph, mappings, object_info, sidecar)
    return from_graph(name, path, found, sidecar), found.errors


def _made(source: _Source, mappings: Mapping[str, str], object_info: Mapping[str, Any]) -> _Made | None:
    graph, recipe, sidecar, made = source.graph, source.recipe, source.sidecar, source.made
    same = made is not None and made.graph is graph and made.recipe is recipe and made.object_info is object_info
    if made is not None and same and made.sidecar == sidecar and made.mappings == mappings:
        return made
    workflow: Workflow
    if recipe is not None:
        workflow, wrong = with_sidecar(recipe, sidecar)
    elif graph is not None:
        workflow, wrong = build(source.name, source.path, graph, mappings, object_info, sidecar)
    else:
        return None
    return _Made(graph, recipe, sidecar, mappings, object_info, workflow, wrong)


def _read(name: str, path: str, file: Path, before: _Source | None) -> _Source:
    """The file; what cannot be read or is broken keeps its last good version."""
    made = _Source(name, path)
    if before is not None:
        made.graph, made.editor, made.recipe, made.made = before.graph, before.editor, before.recipe, before.made
    try:
        made.data = _bytes(file, path)
        if before is not None and before.data == made.data and not _may_be_better(before.error):
            made.error, made.converted_for, made.not_converted = (
                before.error,
                before.converted_for,
                before.not_converted,
            )
        elif path.lower().endswith(RECIPE):
            made.recipe = read_recipe(name, path, file, made.data)
        else:
            document = _document(made.data, path)
            editor = editors_file(document)
            if editor is None:
                made.graph = read_graph(document, where=path)
            made.editor = editor
    except BridgeError as error:
        made.error = error
    return made


def _may_be_better(error: BridgeError | None) -> bool:
    """Whether a file that has not changed may be good now: a recipe whose import raised, for a package perhaps."""
    return isinstance(error, RecipeError) and bool(error.details)


def _read_beside(source: _Source, path: str, file: Path, before: _Source | None) -> None:
    """The file beside it; while it is no TOML the last good one stays."""
    try:
        text = _bytes(file, path).decode("utf-8-sig")
        sidecar, errors = read_sidecar(text, path)
    except UnicodeDecodeError:
        sidecar, errors = Sidecar(), (BadValue(f"{path} is not text in UTF-8; save it as UTF-8."),)
    except BridgeError as error:
        sidecar, errors = Sidecar(), (error,)
    if errors and sidecar == Sidecar(sidecar.where) and before is not None:
        sidecar = before.sidecar
    source.sidecar = sidecar
    source.sidecar_errors = tuple((path, error) for error in errors)


def _bytes(file: Path, path: str) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise InvalidGraph(f"{path} is no ordinary file.")
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileMissing(f"{path} {_why(error)}.") from None
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{path} has more than {MAX_BYTES:,} bytes; a workflow in API format is far smaller.")
    return data


def _document(data: bytes, path: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidGraph(f"{path} is not text in UTF-8; save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        reason = "is empty" if not data.strip() else f"is not JSON: {error.msg} in line {error.lineno}"
        raise InvalidGraph(f"{path} {reason}; it should be a workflow in API format.") from None
    except (ValueError, RecursionError):
        raise InvalidGraph(f"{path} holds a number too long or nesting too deep for a workflow.") from None


def _place(error: BridgeError, source: _Source) -> str:
    """The file that an error is about: the one beside the workflow says so itself."""
    where = source.sidecar.where
    return where if where and error.message.startswith(where) else source.path


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def _printable(path: str) -> str:
    """The path as UTF-8 text: file names on Linux are bytes."""
    return path.encode("utf-8", "replace").decode("utf-8")


def _why(error: OSError) -> str:
    return f"cannot be read ({error.strerror or type(error).__name__})"
