"""What describes a node class: its inputs and outputs, in the terms of /object_info."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.testing.folders import Folders

Inputs = Mapping[str, list[Any]]


@dataclass(frozen=True, slots=True)
class NodeClass:
    """One node class: its inputs (name to [type or choices, options]), outputs, and how it behaves.

    `loads` names the input that takes a file of the input folder; it is checked by opening, not by its list.
    `fresh` nodes are never cached.
    """

    name: str
    display: str
    category: str
    required: Inputs
    outputs: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    optional: Inputs | None = None
    hidden: Mapping[str, str] | None = None
    is_output: bool = False
    loads: str | None = None
    fresh: bool = False
    module: str = "nodes"

    def info(self, folders: Folders) -> dict[str, Any]:
        """The entry of /object_info."""
        groups: dict[str, dict[str, Any]] = {"required": dict(self.required)}
        if self.optional:
            groups["optional"] = dict(self.optional)
        if self.hidden:
            groups["hidden"] = dict(self.hidden)
        if self.loads:
            options = groups["required"][self.loads]
            groups["required"][self.loads] = [folders.input_names(), *options[1:]]
        return {
            "input": groups,
            "input_order": {group: list(names) for group, names in groups.items()},
            "output": list(self.outputs),
            "output_is_list": [False] * len(self.outputs),
            "output_name": list(self.output_names or self.outputs),
            "name": self.name,
            "display_name": self.display,
            "description": "",
            "python_module": self.module,
            "category": self.category,
            "output_node": self.is_output,
        }


def integer(default: int, low: int, high: int, **more: Any) -> list[Any]:
    """An INT input."""
    return ["INT", {"default": default, "min": low, "max": high, **more}]


def decimal(default: float, low: float, high: float, step: float, **more: Any) -> list[Any]:
    """A FLOAT input."""
    return ["FLOAT", {"default": default, "min": low, "max": high, "step": step, **more}]


SEED = integer(0, 0, 2**64 - 1, control_after_generate=True)
STEPS = integer(20, 1, 10000)
CFG = decimal(8.0, 0.0, 100.0, 0.1, round=0.01)
SAVED = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
UNIQUE = {"unique_id": "UNIQUE_ID"}
EXTRAS = "comfy_extras."

PREFIX = ["STRING", {"default": "ComfyUI"}]
UPLOAD = [[], {"image_upload": True}]
SIDE = integer(512, 16, 16384, step=8)
BATCH = integer(1, 1, 4096)
FPS = decimal(6.0, 0.01, 1000.0, 0.01)
