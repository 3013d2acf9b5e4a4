"""The folders of the workflows and of the chains as they were read last, and which workflow is the loaded one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.chain_library import ChainLibrary, as_workflow
from bridge.errors import UnknownWorkflow
from bridge.jobs.chains import read_chain
from bridge.library import Library, Problem
from bridge.settings import Settings
from bridge.workflow.words import did_you_mean, listed, shown
from bridge.workflow.workflow import Workflow


class Folders:
    """What can be run by name. `read`, which blocks, then `build`; `wanted` names the workflow to be loaded."""

    def __init__(self, settings: Settings, library: Library) -> None:
        self._settings = settings
        self._library = library
        self._chains = ChainLibrary(settings.workflows.chains)
        self.wanted: str | None = settings.workflows.loaded
        self.workflows: Mapping[str, Workflow] = {}
        """The workflows and the chains, by name, as they were built last: whatever is published asks for it."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The files that cannot be used."""
        return (*self._library.problems, *self._chains.problems)

    @property
    def loaded(self) -> str | None:
        """The loaded workflow: the wanted one, or the first by name while that is not there."""
        if self.wanted in self._library.workflows or self.wanted in self._chains.workflows:
            return self.wanted
        first = self._library.default()
        return None if first is None else first.name

    def get(self, name: str | None) -> Workflow:
        """Return a workflow, or the loaded one. Raises UnknownWorkflow, or what keeps its file from being used."""
        name = name or self.loaded
        if name is None:
            raise UnknownWorkflow(f"no workflow is loaded: {self._library.directory} holds none")
        chain = self._chains.workflows.get(name)
        if chain is not None:
            return chain
        for problem in self._chains.problems:
            if problem.workflow == name and name not in self._library.workflows:
                raise problem.error
        try:
            return self._library.get(name)
        except UnknownWorkflow:
            names = list(self.workflows)
            if not self._chains.workflows:
                raise
            raise UnknownWorkflow(
                f"there is no workflow {shown(name)}.{did_you_mean(name, names)} There are {listed(names)}.",
                details={"workflows": names[:100]},
            ) from None

    def chain(self, steps: list[Any]) -> Workflow:
        """Return a chain that a command brings along. Raises BadValue, UnknownWorkflow naming the step."""
        where = "the payload"
        return as_workflow("", where, read_chain({"steps": steps}, where=where), self._library.get)

    def read(self) -> None:
        """Read all files anew."""
        self._library.load()
        self._chains.load()

    def learn(self, object_info: Mapping[str, Any]) -> None:
        """Take types, limits and choices from a backend's `/object_info`."""
        self._library.learn(object_info)
        self.build()

    def build(self) -> None:
        """Make workflows of what was read."""
        loaded = self.loaded
        names = {key for key, value in self._settings.node_mappings.items() if isinstance(value, dict)}
        if loaded is not None:
            names.add(loaded)
        # The plain node_mappings are for the loaded one.
        mappings = {name: self._settings.mappings_for(name, loaded=name == loaded) for name in names}
        self._library.remap(mappings)
        self._chains.build(self._library.get, self._library.workflows)
        self.workflows = {**self._library.workflows, **self._chains.workflows}
