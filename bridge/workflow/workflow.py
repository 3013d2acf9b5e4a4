"""A named workflow: what can be set in it, and the graph that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.errors import BridgeError, UnknownNode
from bridge.jobs.model import ImageValue, Payload, value_to_json
from bridge.workflow import values as given
from bridge.workflow.declared import Described, preset_of
from bridge.workflow.graph import Graph, Target
from bridge.workflow.nodes import input_of
from bridge.workflow.outputs import Output
from bridge.workflow.parameters import Parameter
from bridge.workflow.sidecar import Sidecar


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph with a name. The graph is shared: `instantiate` gives a copy with values in it.

    `path` is relative to the directory, with `/`; `answer` is the id of the node whose output is the answer, where
    something names it; `mappings` are the entries of `node_mappings` that could be used; `output_nodes` are the ids of
    the outputs that matter, none when all do; `stall_timeout` is seconds, None for that of the settings.
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
    description: str = ""
    stall_timeout: float | None = None
    output_nodes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Its entry in `bridge/workflows`."""
        return {
            "name": self.name,
            "path": self.path,
            "title": self.title,
            **({"description": self.description} if self.description else {}),
            "kind": self.kind,
            "parameters": [parameter.to_json() for parameter in self.parameters],
            "outputs": [output.to_json() for output in self.outputs],
        }

    def resolve(self, key: str) -> tuple[Target, ...]:
        """The inputs that a key of `update/values` means. Raises as `bridge.workflow.values.resolve`."""
        parameter = given.named_parameter(self.parameters, key)
        if parameter is not None and parameter.presets:
            names = dict.fromkeys(name for values in parameter.presets.values() for name in values)
            return tuple(dict.fromkeys(target for name in names for target in self.resolve(name)))
        return given.resolve(self.graph, self.parameters, key)

    def text_targets(self, ref: str | int | None = None) -> tuple[Target, ...]:
        """The inputs that a text goes to. Raises as `bridge.workflow.values.text_targets`."""
        return given.text_targets(self.graph, self.parameters, ref, mappings=self.mappings)

    def image_targets(self, ref: str | int | None = None) -> tuple[Target, ...]:
        """The inputs that an image goes to. Raises as `bridge.workflow.values.image_targets`."""
        return given.image_targets(self.graph, self.parameters, ref, mappings=self.mappings)

    def expand(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with each preset replaced by what it stands for; what is given beside it wins. Raises BadValue."""
        from_presets: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        for key, value in values.items():
            parameter = given.named_parameter(self.parameters, key)
            if parameter is not None and parameter.presets:
                from_presets.update(parameter.presets[given.check_type(parameter, value)])
            else:
                plain[key] = value
        if not from_presets:
            return plain
        said = {target for key in plain for target in self.resolve(key)}
        kept = {key: value for key, value in from_presets.items() if not said & set(self.resolve(key))}
        return {**kept, **plain}

    def assign(self, values: Mapping[str, Any]) -> dict[Target, Any]:
        """Every value, checked, under each input that it is for: all, or the first error."""
        return given.assign(self.form(), self.parameters, self.expand(values))

    def literal(self, target: Target) -> Any:
        """What an input holds where nothing is set. Raises `UnknownNode`, `NoSuchInput`, `IsLink`."""
        graph = self.form()
        if target.node not in graph:
            raise UnknownNode(f"{self.name} has no node {target.node}.")
        return input_of(graph, target.node, target.input)

    def has(self, target: Target) -> bool:
        """Whether there is such an input, and no other node feeds it."""
        try:
            self.literal(target)
        except BridgeError:
            return False
        return True

    def shown(self, values: Mapping[Target, Any]) -> dict[str, Any]:
        """Values as JSON: by parameter, and any other input as `<node>.<input>`."""
        document: dict[str, Any] = {}
        of_parameters: set[Target] = set()
        for parameter in self.parameters:
            value = values.get(parameter.targets[0], parameter.default) if parameter.targets else None
            document[parameter.name] = value_to_json(value)
            of_parameters.update(parameter.targets)
        for parameter in self.parameters:
            if parameter.presets:
                document[parameter.name] = preset_of(parameter.presets, document)
        for target, value in values.items():
            if target not in of_parameters:
                document[f"{target.node}.{target.input}"] = value_to_json(value)
        return document

    async def instantiate(self, values: Mapping[Target, Any]) -> Payload:
        """What one job runs: the graph with the values in it. Random seeds must have been drawn before."""
        images = tuple((target.node, target.input, v) for target, v in values.items() if isinstance(v, ImageValue))
        plain = {target: value for target, value in values.items() if not isinstance(value, ImageValue)}
        graph = given.apply(self.graph, plain)
        return Payload(graph, images, self.answer, self.output_nodes, self.stall_timeout)

    def form(self) -> Graph:
        """The nodes whose inputs can be set."""
        return self.graph


def from_graph(name: str, path: str, found: Described, sidecar: Sidecar) -> Workflow:
    """The workflow of a described graph."""
    return Workflow(
        name=name,
        path=path,
        title=sidecar.title or title_of(path),
        graph=found.graph,
        parameters=found.parameters,
        outputs=found.outputs,
        answer=found.answer,
        mappings=found.mappings,
        description=sidecar.description,
        stall_timeout=sidecar.stall_timeout,
        output_nodes=tuple(one.node for one in found.outputs) if found.chosen else (),
    )


def title_of(path: str) -> str:
    """The title of a workflow that has none, from its path."""
    stem = path.rpartition(".")[0] or path
    words = stem.replace("/", " / ").replace("_", " ").replace("-", " ").split()
    return " ".join(words) or path
