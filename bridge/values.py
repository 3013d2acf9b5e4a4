"""What the workflows are set to: values by input, kept over restarts, and images that are still on their way."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge import events, requests
from bridge.jobs.model import ImageValue, value_from_json, value_to_json
from bridge.jobs.store import Store
from bridge.media.sources import Media
from bridge.workflow.graph import Target
from bridge.workflow.kinds import MEDIA_TYPES
from bridge.workflow.values import named_parameter, parameter_of
from bridge.workflow.workflow import Workflow

logger = logging.getLogger(__name__)

Values = dict[Target, Any]

_Key = str | Target
"""What is set: a parameter by its name, which stays when a file is exported again with other ids, or an input."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A change on its way; `entries` gives None if it could not be made."""

    number: int
    entries: asyncio.Future[dict[_Key, Any] | None]


@dataclass(slots=True)
class State:
    """What a workflow is set to. Changes are numbered as they were asked for: of two, the later one counts."""

    workflow: Workflow
    entries: dict[_Key, Any] = field(default_factory=dict)
    pending: list[_Pending] = field(default_factory=list)
    numbers: dict[_Key, int] = field(default_factory=dict)
    """Of the change that set each entry."""

    @property
    def values(self) -> Values:
        """The values by the inputs that the workflow has now."""
        targets = {parameter.name: parameter.targets for parameter in self.workflow.parameters}
        values: Values = {}
        for key, value in self.ordered():
            values.update(dict.fromkeys(targets.get(key, ()) if isinstance(key, str) else (key,), value))
        return values

    def ordered(self) -> list[tuple[_Key, Any]]:
        """Return the entries, later changes behind earlier ones."""
        return sorted(self.entries.items(), key=lambda entry: self.numbers.get(entry[0], 0))

    def snapshot(self) -> State:
        """Return a copy that later changes do not reach."""
        return State(self.workflow, dict(self.entries), list(self.pending), dict(self.numbers))

    def apply(self, number: int, entries: Mapping[_Key, Any]) -> None:
        """Set what no later change has set."""
        for key, value in entries.items():
            if number >= self.numbers.get(key, 0):
                self.entries[key] = value
                self.numbers[key] = number

    async def settled(self) -> Values:
        """Return the values of a snapshot, once all that was on its way has come."""
        for pending in self.pending:
            entries = await asyncio.shield(pending.entries)
            if entries is not None:
                self.apply(pending.number, entries)
        return self.values


def _entries(workflow: Workflow, values: Values) -> dict[_Key, Any]:
    """Values by parameter where they set all of one alike, else by input."""
    entries: dict[_Key, Any] = {}
    left: dict[_Key, Any] = dict(values.items())
    for parameter in workflow.parameters:
        given = [values[target] for target in parameter.targets if target in values]
        if given and len(given) == len(parameter.targets) and all(value == given[0] for value in given):
            entries[parameter.name] = given[0]
            for target in parameter.targets:
                left.pop(target, None)
    entries.update(left)
    return entries


class CurrentValues:
    """The values of all workflows. What a method changes, it changes before it waits for the first time."""

    def __init__(self, store: Store, hub: events.Hub, media: Media) -> None:
        self._store = store
        self._hub = hub
        self._media = media
        self._states: dict[str, State] = {}
        self._stored: dict[str, dict[_Key, Any]] = {}
        self._numbers = itertools.count(1)

    async def load(self) -> None:
        """Take up what the store remembers."""
        for name, entries in (await self._store.facts("values:")).items():
            stored = self._stored.setdefault(name, {})
            for *where, value in entries:
                key = where[0] if len(where) == 1 else Target(*where)
                stored[key] = value_from_json(value)

    def of(self, workflow: Workflow) -> State:
        """Return what a workflow is set to."""
        state = self._states.get(workflow.name)
        if state is None:
            state = self._states[workflow.name] = State(workflow, self._stored.pop(workflow.name, {}))
        state.workflow = workflow
        return state

    def media_in_use(self) -> set[str]:
        """Return the names of the bytes that values refer to."""
        entries = [*self._stored.values(), *(state.entries for state in self._states.values())]
        images = [value for one in entries for value in one.values() if isinstance(value, ImageValue)]
        return {sha for image in images for sha in (image.sha256, image.mask) if sha is not None}

    async def set(self, workflow: Workflow, values: Values) -> None:
        """Set inputs to checked values."""
        self.of(workflow).apply(next(self._numbers), _entries(workflow, values))
        await self._changed(workflow)

    async def set_images(self, workflow: Workflow, sources: Mapping[Target, Any], plain: Values | None = None) -> None:
        """Set image inputs to what sources give, together with checked values of others: all or none.

        From the call on, a snapshot waits for them.
        """
        state = self.of(workflow)
        before = state.snapshot()
        pending = _Pending(next(self._numbers), asyncio.get_running_loop().create_future())
        state.pending.append(pending)
        entries: dict[_Key, Any] | None = None
        try:
            entries = _entries(workflow, {**(plain or {}), **await self.resolve(workflow, sources, before)})
            state.apply(pending.number, entries)
        finally:
            state.pending.remove(pending)
            pending.entries.set_result(entries)
        await self._changed(workflow)

    async def resolve(self, workflow: Workflow, sources: Mapping[Target, Any], before: State) -> Values:
        """Return the images that sources give; `before` tells which image a mask without one is for."""
        made: Values = {}
        for target, source in sources.items():
            current = None
            if isinstance(source, requests.UpdateImage) and source.mask is not None:
                current = (await before.settled()).get(target, workflow.literal(target))
            made[target] = await self._media.resolve(source, current, field=f"{target.node}.{target.input}")
        return made

    async def _changed(self, workflow: Workflow) -> None:
        self._hub.publish(events.ValuesChanged(workflow.name))
        await self._save(workflow)

    def assignments(self, workflow: Workflow, values: Mapping[str, Any]) -> tuple[Values, dict[Target, Any]]:
        """Split values by name into plain ones, checked, and images that have yet to be had."""
        plain: dict[str, Any] = {}
        sources: dict[Target, Any] = {}
        for key, value in workflow.expand(values).items():
            targets = workflow.resolve(key)
            parameter = named_parameter(workflow.parameters, key) or parameter_of(workflow.parameters, targets[0])
            if parameter is None or parameter.type not in MEDIA_TYPES:
                plain[key] = value
            elif isinstance(value, str):
                checked = workflow.assign({key: value})
                sources.update({t: requests.ImageSource(filename=text) for t, text in checked.items()})
            elif isinstance(value, dict):
                sources.update(dict.fromkeys(targets, requests.parse(requests.UpdateImage, value, field=key)))
            elif isinstance(value, bytes):
                sources.update(dict.fromkeys(targets, value))
            else:
                plain[key] = value  # the check says what is wrong
        return workflow.assign(plain), sources

    async def _save(self, workflow: Workflow) -> None:
        entries = [
            [*((key,) if isinstance(key, str) else (key.node, key.input)), value_to_json(value)]
            for key, value in self.of(workflow).ordered()
        ]
        await self._store.set_fact(f"values:{workflow.name}", entries)

    def fitting(self, workflow: Workflow, values: Values) -> Values:
        """Return the values whose inputs the workflow still has: its file may have changed since."""
        return {target: value for target, value in values.items() if workflow.has(target)}
