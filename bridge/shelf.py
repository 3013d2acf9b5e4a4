"""All that can be run by name: the workflows, the chains, and which of them is the loaded one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from bridge.chain_library import ChainLibrary, as_workflow
from bridge.errors import UnknownWorkflow
from bridge.jobs.chains import read_chain
from bridge.library import Library, Problem
from bridge.settings import Settings
from bridge.workflow.workflow import Workflow

logger = logging.getLogger(__name__)


class Shelf:
    """The workflows and chains as they are now. `wanted` names the one that bare commands act on."""

    def __init__(self, settings: Settings, library: Library) -> None:
        self._settings = settings
        self._library = library
        self._chains = ChainLibrary(settings.workflows.chains)
        self._reading = asyncio.Lock()
        self.wanted: str | None = None

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """All of them, by name."""
        return {**self._library.workflows, **self._chains.workflows}

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
        return self._library.get(name)

    def chain(self, steps: list[Any]) -> Workflow:
        """Return a chain that a command brings along. Raises BadValue, UnknownWorkflow naming the step."""
        where = "the payload"
        return as_workflow("", where, read_chain({"steps": steps}, where=where), self._library.get)

    def load(self, name: str) -> Workflow:
        """Make a workflow the loaded one, at once."""
        workflow = self.get(name)
        self.wanted = workflow.name
        self._build()
        return workflow

    def learn(self, object_info: Mapping[str, Any]) -> None:
        """Take types, limits and choices from a backend's `/object_info`."""
        self._library.learn(object_info)
        self._build()

    def has_file(self, name: str) -> bool:
        """Tell whether there is a workflow of that name, even if nothing can be made of its file just now."""
        return name in self.workflows or any(problem.workflow == name for problem in self.problems)

    async def read(self) -> None:
        """Read all files anew, and log what cannot be used."""
        await self._read()
        for problem in self.problems:
            logger.warning("the workflow %s: %s", problem.path, problem.error.message)
        if self.wanted is not None and self.wanted != self.loaded:
            logger.warning("the workflow %s, which was to be loaded, is not there", self.wanted)

    async def refresh(self) -> bool:
        """Take up what changed in the folders, and log it; False if nothing did."""
        before, problems = self.workflows, set(self._said())
        await self._read()
        now = self.workflows
        for path, message in self._said():
            if (path, message) not in problems:
                logger.warning("the workflow %s: %s", path, message)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                what = "is new" if name not in before else "is gone" if name not in now else "has changed"
                logger.info("the workflow %s %s", name, what)
        return before != now or problems != set(self._said())

    async def _read(self) -> None:
        async with self._reading:
            await asyncio.to_thread(self._library.load)
            await asyncio.to_thread(self._chains.load)
        self._build()

    def _build(self) -> None:
        loaded = self.loaded
        names = {key for key, value in self._settings.node_mappings.items() if isinstance(value, dict)}
        if loaded is not None:
            names.add(loaded)
        # The plain node_mappings are for the loaded one.
        mappings = {name: self._settings.mappings_for(name, loaded=name == loaded) for name in names}
        self._library.remap(mappings)
        self._chains.build(self._library.get, self._library.workflows)

    def _said(self) -> list[tuple[str, str]]:
        return [(problem.path, problem.error.message) for problem in self.problems]
