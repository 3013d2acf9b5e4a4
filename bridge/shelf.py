"""All that can be run by name: the workflows, the chains, and which of them is the loaded one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from bridge import events
from bridge.folders import Folders
from bridge.jobs.store import Store
from bridge.library import Library, Problem
from bridge.settings import Settings
from bridge.workflow.workflow import Workflow

logger = logging.getLogger(__name__)

_LOADED = "loaded"


class Shelf:
    """The workflows and chains as they are now; `start` first. What changes is told by `WorkflowsChanged`."""

    def __init__(self, settings: Settings, library: Library, store: Store, hub: events.Hub) -> None:
        self._settings = settings
        self._store = store
        self._hub = hub
        self._folders = Folders(settings, library)
        self._reading = asyncio.Lock()
        self._learned = 0

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """All of them, by name."""
        return self._folders.workflows

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The files that cannot be used."""
        return self._folders.problems

    @property
    def loaded(self) -> str | None:
        """The loaded workflow: the wanted one, or the first by name while that is not there."""
        return self._folders.loaded

    def get(self, name: str | None) -> Workflow:
        """Return a workflow, or the loaded one. Raises UnknownWorkflow, or what keeps its file from being used."""
        return self._folders.get(name)

    def chain(self, steps: list[Any]) -> Workflow:
        """Return a chain that a command brings along. Raises BadValue, UnknownWorkflow naming the step."""
        return self._folders.chain(steps)

    async def load(self, name: str) -> Workflow:
        """Make a workflow the loaded one: at once, and written when this returns."""
        workflow, before = self.get(name), self._folders.wanted
        self._folders.wanted = workflow.name
        self._folders.build()
        if workflow.name != before:
            self._hub.publish(events.WorkflowsChanged())
            await self._store.set_fact(_LOADED, workflow.name)
        return workflow

    def learn(self, object_info: Mapping[str, Any]) -> None:
        """Take types, limits and choices from a backend's `/object_info`."""
        self._folders.learn(object_info)
        self._learned += 1
        self._hub.publish(events.WorkflowsChanged())

    def document(self) -> dict[str, Any]:
        """Return `bridge/workflows`: every workflow with its parameters and outputs, and what cannot be used."""
        return {
            "loaded": self.loaded,
            "workflows": [workflow.to_json() for workflow in self.workflows.values()],
            "problems": [{"path": problem.path, "error": problem.error.to_json()} for problem in self.problems],
        }

    def has_file(self, name: str) -> bool:
        """Tell whether there is a workflow of that name, even if nothing can be made of its file just now."""
        return name in self.workflows or any(problem.workflow == name for problem in self.problems)

    async def start(self) -> None:
        """Read the files, and which workflow was loaded last."""
        self._folders.wanted = self._settings.workflows.loaded or await self._store.fact(_LOADED)
        await self._read_aloud()
        if not self.workflows:
            logger.warning("there are no workflows in %s", self._settings.workflows.dir)

    async def reload(self) -> None:
        """Read all files anew, and log what cannot be used."""
        await self._read_aloud()
        self._hub.publish(events.WorkflowsChanged())

    async def _read_aloud(self) -> None:
        await self._read()
        for path, message in self._said():
            logger.warning("the workflow %s", _sentence(path, message))
        wanted = self._folders.wanted
        if wanted is not None and wanted != self.loaded:
            logger.warning("the workflow %s, which was to be loaded, is not there", wanted)

    async def refresh(self) -> None:
        """Take up what changed in the folders, and log it; nothing when nothing did."""
        before, problems, learned = self.workflows, set(self._said()), self._learned
        await self._read()
        now = self.workflows
        for path, message in self._said():
            if (path, message) not in problems:
                logger.warning("the workflow %s", _sentence(path, message))
        # What a backend has told meanwhile changes workflows too, but not their files.
        for name in sorted(before.keys() | now.keys()) if learned == self._learned else ():
            if before.get(name) != now.get(name):
                what = "is new" if name not in before else "is gone" if name not in now else "has changed"
                logger.info("the workflow %s %s", name, what)
        if before != now or problems != set(self._said()):
            self._hub.publish(events.WorkflowsChanged())

    async def _read(self) -> None:
        async with self._reading:
            await asyncio.to_thread(self._folders.read)
        self._folders.build()

    def _said(self) -> list[tuple[str, str]]:
        return [(problem.path, problem.error.message) for problem in self.problems]


def _sentence(path: str, message: str) -> str:
    return message if message.startswith(path) else f"{path}: {message}"
