"""The nodes of a graph that give something back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from bridge.workflow.graph import Graph, links, title
from bridge.workflow.nodes import NO_MAPPINGS, find_node, mapped

OutputType: TypeAlias = Literal["image", "video", "audio", "text", "file"]

ANSWER = "save_image"
"""The key of `node_mappings` that names the output which is the answer; no parameter has this name."""

_CLASSES: tuple[tuple[re.Pattern[str], OutputType], ...] = (
    (re.compile(r"^(Save|Preview).*(Video|WEBM|WebM|MP4)|VideoCombine$"), "video"),
    (re.compile(r"^(Save|Preview).*Audio"), "audio"),
    (re.compile(r"^(PreviewAny|PreviewText|SaveText|ShowText|DisplayText|easy showAnything)"), "text"),
    (re.compile(r"^(Save|Preview)(Latent|GLB|3D|LoRA|SVG)"), "file"),
    (re.compile(r"^(VAE|CLIP|Checkpoint|Model|Lora|ImageOnlyCheckpoint)Save$"), "file"),
    (re.compile(r"^(Save|Preview|MaskPreview)|^(Image|Mask) (Save|Preview)|^ETN_Send"), "image"),
)
_FROM_INPUT: tuple[tuple[str, OutputType], ...] = (
    ("images", "image"),
    ("image", "image"),
    ("video", "video"),
    ("audio", "audio"),
    ("text", "text"),
    ("source", "text"),
)


@dataclass(frozen=True, slots=True)
class Output:
    """A node that gives something back; `type` says what is to be expected, the answer itself may differ."""

    node: str
    title: str
    type: OutputType

    def to_json(self) -> dict[str, str]:
        """Its entry in `bridge/workflows`."""
        return {"node": self.node, "title": self.title, "type": self.type}


def outputs(
    graph: Graph, object_info: Mapping[str, Any] | None = None, *, mappings: Mapping[str, str] = NO_MAPPINGS
) -> tuple[Output, ...]:
    """The output nodes in the order of the document.

    Those that `/object_info` marks as `output_node`; for a class that it does not hold, the known output classes;
    when that gives none, the nodes that nothing is linked to. The node that `mappings` names as `save_image`
    comes first, whatever its class.
    """
    fed = {source for node in graph.values() for _, source, _ in links(node)}
    found = [node_id for node_id, node in graph.items() if is_output(node["class_type"], object_info)]
    if not found:
        found = [node_id for node_id in graph if node_id not in fed]
    answer = answer_node(graph, mappings)
    if answer is not None:
        found = [answer, *(node_id for node_id in found if node_id != answer)]
    return tuple(Output(node_id, title(graph[node_id]), _type(graph[node_id])) for node_id in found)


def is_output(class_type: str, object_info: Mapping[str, Any] | None = None) -> bool:
    """Whether nodes of that class give something back."""
    declared = (object_info or {}).get(class_type)
    if isinstance(declared, Mapping) and isinstance(declared.get("output_node"), bool):
        return bool(declared["output_node"])
    return _class_output(class_type) is not None


def answer_node(graph: Graph, mappings: Mapping[str, str]) -> str | None:
    """The id of the node whose output is the answer, when `mappings` names one. Raises `UnknownNode`."""
    if ANSWER not in mappings:
        return None
    return find_node(graph, mapped(graph, ANSWER, mappings)[0])


def live_nodes(graph: Graph, object_info: Mapping[str, Any] | None = None) -> set[str]:
    """The ids of the nodes that some output can depend on; ComfyUI runs no others.

    Without `/object_info` an end of the graph of an unknown class counts as an output.
    """
    fed = {source for node in graph.values() for _, source, _ in links(node)}
    known = object_info or {}
    stack = [
        node_id
        for node_id, node in graph.items()
        if is_output(node["class_type"], known) or (node_id not in fed and node["class_type"] not in known)
    ]
    live: set[str] = set()
    while stack:
        node_id = stack.pop()
        if node_id not in live:
            live.add(node_id)
            stack.extend(source for _, source, _ in links(graph[node_id]))
    return live or set(graph)


def _class_output(class_type: str) -> OutputType | None:
    return next((kind for pattern, kind in _CLASSES if pattern.search(class_type)), None)


def _type(node: Mapping[str, Any]) -> OutputType:
    known = _class_output(node["class_type"])
    if known is not None:
        return known
    return next((kind for name, kind in _FROM_INPUT if name in node["inputs"]), "file")
