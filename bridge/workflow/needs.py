"""What a graph needs of a server: its node classes, and the choices (models among them) that its inputs name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from bridge.workflow.graph import Graph, is_link, named
from bridge.workflow.kinds import spec_of

Catalogue: TypeAlias = Mapping[str, Mapping[str, frozenset[str]]]
"""By node class: its inputs that take one of some names, and those names."""


def catalogue(object_info: Mapping[str, Any]) -> Catalogue:
    """What a server has, from its `/object_info` (the parsed body).

    The choices of inputs that take uploads are left out: that list is stale as soon as something is uploaded.
    """
    return {
        class_type: {
            name: frozenset(str(choice) for choice in spec.choices)
            for name in _inputs(declared)
            if (spec := spec_of(class_type, name, None, {class_type: declared})).type == "choice" and spec.choices
        }
        for class_type, declared in object_info.items()
    }


def lacking(graph: Graph, known: Catalogue) -> tuple[str, ...]:
    """What of a graph a server lacks, in words; empty if it can run it."""
    words = []
    for node_id, node in graph.items():
        inputs = known.get(node["class_type"])
        if inputs is None:
            words.append(f"the node class {node['class_type']} of {named(graph, node_id)}")
            continue
        for name, value in node["inputs"].items():
            if name in inputs and not is_link(value) and str(value) not in inputs[name]:
                words.append(f"{value!r} for {name} of {named(graph, node_id)}")
    return tuple(words)


def _inputs(declared: object) -> list[str]:
    groups = declared.get("input") if isinstance(declared, Mapping) else None
    if not isinstance(groups, Mapping):
        return []
    fields = [groups.get(group) for group in ("required", "optional")]
    return [name for one in fields if isinstance(one, Mapping) for name in one]
