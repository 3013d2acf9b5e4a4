"""What a workflow needs that a ComfyUI does not have. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.cli.terminal import printable
from bridge.workflow.graph import Graph, is_link
from bridge.workflow.kinds import spec_of

_MODEL = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft", ".onnx")


def missing(graph: Graph, object_info: Mapping[str, Any]) -> list[str]:
    """Return a few words for each node class and each choice, mostly a model's file, that `/object_info` lacks.

    Images to load are not looked for: ComfyUI's list of them is stale, and a job brings its own.
    """
    lacking: dict[str, None] = {}
    for node_id, node in graph.items():
        class_type = node["class_type"]
        if class_type not in object_info:
            lacking[f"the node class {class_type} is unknown (node {node_id}); install the add-on that has it"] = None
            continue
        for name, value in node["inputs"].items():
            if is_link(value):
                continue
            spec = spec_of(class_type, name, value, object_info)
            if spec.type != "choice" or value in spec.choices:
                continue
            what = "model" if isinstance(value, str) and value.lower().endswith(_MODEL) else "choice"
            lacking[f"the {what} {value} is missing ({node_id}.{name}){_instead(spec.choices)}"] = None
    return [printable(words) for words in lacking]


def _instead(choices: tuple[Any, ...]) -> str:
    if not choices:
        return "; ComfyUI has none of that kind"
    names = ", ".join(str(choice) for choice in choices[:3])
    return f"; ComfyUI has {names}{', …' if len(choices) > 3 else ''}"
