"""What the workflows are set to: values by input, kept over restarts, and images that are still on their way."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge import errors, events, requests
from bridge.jobs.model import ImageValue
from bridge.jobs.store import Store
from bridge.library import Workflow
from bridge.media.sources import Media
from bridge.workflow.graph import Target
from bridge.workflow.kinds import MEDIA_TYPES
from bridge.workflow.nodes import input_of
from bridge.workflow.values import assign, named_parameter, parameter_of, resolve

logger = logging.getLogger(__name__)

Values = dict[Target, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A change on its way; `values` gives None if it could not be made."""

    number: int
    values: asyncio.Future[Values | None]


@dataclass(slots=True)
class State:
    """What a workflow is set to. Changes are numbered as they were asked for: of two, the later one counts."""

    values: Values = field(default_factory=dict)
    pending: list[_Pending] = field(default_factory=list)
    numbers: dict[Target, int] = field(default_factory=dict)
    """Of the change that set each input."""

    def snapshot(self) -> State:
        """Return a copy that later changes do not reach."""
        return State(dict(self.values), list(self.pending), dict(self.numbers))

    def apply(self, number: int, values: Values) -> None:
        """Set the inputs that no later change has set."""
        for target, value in values.items():
            if number >= self.numbers.get(target, 0):
                self.values[target] = value
                self.numbers[target] = number

    async def settled(self) -> Values:
        """Return the values of a snapshot, once all that was on its way has come."""
        for pending in self.pending:
            values = await asyncio.shield(pending.values)
            if values is not None:
                self.apply(pending.number, values)
        return self.values


class CurrentValues:
    """The values of all workflows. What a method changes, it changes before it waits for the first time."""

    def __init__(self, store: Store, hub: events.Hub, media: Media) -> None:
        self._store = store
        self._hub = hub
        self._media = media
        self._states: dict[str, State] = {}
        self._numbers = itertools.count(1)

    async def load(self) -> None:
        """Take up what the store remembers."""
        for name, entries in (await self._store.facts("values:")).items():
            state = self._states.setdefault(name, State())
            for node, key, value in entries:
                state.values[Target(node, key)] = ImageValue.from_json(value) or value

    def of(self, workflow: Workflow) -> State:
        """Return what a workflow is set to."""
        return self._states.setdefault(workflow.name, State())

    def media_in_use(self) -> set[str]:
        """Return the names of the bytes that values refer to."""
        images = [v for state in self._states.values() for v in state.values.values() if isinstance(v, ImageValue)]
        return {sha for image in images for sha in (image.sha256, image.mask) if sha is not None}

    async def set(self, workflow: Workflow, values: Values) -> None:
        """Set inputs to checked values."""
        self.of(workflow).apply(next(self._numbers), values)
        await self._changed(workflow)

    async def set_images(self, workflow: Workflow, sources: Mapping[Target, Any], plain: Values | None = None) -> None:
        """Set image inputs to what sources give, together with checked values of others: all or none.

        From the call on, a snapshot waits for them.
        """
        state = self.of(workflow)
        before = state.snapshot()
        pending = _Pending(next(self._numbers), asyncio.get_running_loop().create_future())
        state.pending.append(pending)
        values: Values | None = None
        try:
            values = {**(plain or {}), **await self.resolve(workflow, sources, before)}
            state.apply(pending.number, values)
        finally:
            state.pending.remove(pending)
            pending.values.set_result(values)
        await self._changed(workflow)

    async def resolve(self, workflow: Workflow, sources: Mapping[Target, Any], before: State) -> Values:
        """Return the images that sources give; `before` tells which image a mask without one is for."""
        made: Values = {}
        for target, source in sources.items():
            current = None
            if isinstance(source, requests.UpdateImage) and source.mask is not None:
                literal = workflow.graph[target.node]["inputs"].get(target.input)
                current = (await before.settled()).get(target, literal)
            made[target] = await self._media.resolve(source, current)
        return made

    async def _changed(self, workflow: Workflow) -> None:
        self._hub.publish(events.ValuesChanged(workflow.name))
        await self._save(workflow)

    def assignments(self, workflow: Workflow, values: Mapping[str, Any]) -> tuple[Values, dict[Target, Any]]:
        """Split values by name into plain ones, checked, and images that have yet to be had."""
        plain: dict[str, Any] = {}
        sources: dict[Target, Any] = {}
        for key, value in values.items():
            targets = resolve(workflow.graph, workflow.parameters, key)
            parameter = named_parameter(workflow.parameters, key) or parameter_of(workflow.parameters, targets[0])
            if parameter is None or parameter.type not in MEDIA_TYPES:
                plain[key] = value
            elif isinstance(value, str):
                checked = assign(workflow.graph, workflow.parameters, {key: value})
                sources.update({t: requests.ImageSource(filename=text) for t, text in checked.items()})
            elif isinstance(value, dict):
                sources.update(dict.fromkeys(targets, requests.parse(requests.UpdateImage, value)))
            else:
                plain[key] = value  # the check says what is wrong
        return assign(workflow.graph, workflow.parameters, plain), sources

    async def _save(self, workflow: Workflow) -> None:
        entries = [
            [target.node, target.input, value.to_json() if isinstance(value, ImageValue) else value]
            for target, value in self.of(workflow).values.items()
        ]
        await self._store.set_fact(f"values:{workflow.name}", entries)

    def fitting(self, workflow: Workflow, values: Values) -> Values:
        """Return the values whose inputs the workflow still has: its file may have changed since."""
        fitting = {}
        for target, value in values.items():
            try:
                if target.node in workflow.graph:
                    input_of(workflow.graph, target.node, target.input)
                    fitting[target] = value
            except errors.BridgeError as error:
                logger.debug("a value of %s no longer fits: %s", workflow.name, error.message)
        return fitting

    def shown(self, workflow: Workflow, values: Values) -> dict[str, Any]:
        """Return values as JSON: by parameter, and any other input as `<node>.<input>`."""
        document: dict[str, Any] = {}
        named: set[Target] = set()
        for parameter in workflow.parameters:
            value = values.get(parameter.targets[0], parameter.default)
            document[parameter.name] = value.to_json() if isinstance(value, ImageValue) else value
            named.update(parameter.targets)
        for target, value in values.items():
            if target not in named:
                shown = value.to_json() if isinstance(value, ImageValue) else value
                document[f"{target.node}.{target.input}"] = shown
        return document
