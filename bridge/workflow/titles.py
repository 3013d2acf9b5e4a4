"""Parameters that titles of nodes declare: `TEXT_positive`, `IMAGE_source`, `SWITCH_1`, `SEED`. Pure.

The prefix gives the kind, what follows the underscore the name. A title without a name takes the one of its kind, a
number is put behind it (`switch_1`). Nodes of the same title are one parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.errors import BadValue, BridgeError
from bridge.workflow.graph import Graph, Target, is_link, own_title, slug
from bridge.workflow.kinds import Type
from bridge.workflow.nodes import MEDIA_INPUTS, TEXT_INPUTS
from bridge.workflow.outputs import is_output
from bridge.workflow.sidecar import RESERVED
from bridge.workflow.words import listed, shown

_ENCODERS = ("text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama")
_VALUES = ("value", "Value", "int", "float", "number", "Number")
_SWITCHES = ("select", "switch", "boolean", "bool", "enabled", "enable", "condition", "value", "input", "index")
_MODELS = ("ckpt_name", "unet_name", "model_name", "gguf_name", "name", "model")
_CHOICES = ("choice", "select", "option", "sampler_name", "scheduler", "value")


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    type: Type | None
    inputs: tuple[str, ...]
    fits: Callable[[object], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, int, float))


_KINDS: Mapping[str, _Kind] = {
    "TEXT": _Kind("text", "text", (*TEXT_INPUTS, *_ENCODERS, "string"), _is_text),
    "IMAGE": _Kind("image", "image", MEDIA_INPUTS, _is_text),
    "MASK": _Kind("mask", "image", MEDIA_INPUTS, _is_text),
    "VIDEO": _Kind("video", "video", MEDIA_INPUTS, _is_text),
    "AUDIO": _Kind("audio", "audio", MEDIA_INPUTS, _is_text),
    "SWITCH": _Kind("switch", None, _SWITCHES, _is_scalar),
    "SEED": _Kind("seed", "integer", ("seed", "noise_seed", *_VALUES), _is_whole),
    "MODEL": _Kind("checkpoint", "choice", _MODELS, _is_text),
    "LORA": _Kind("lora", "choice", ("lora_name", "lora"), _is_text),
    "NUMBER": _Kind("number", None, _VALUES, _is_number),
    "INT": _Kind("integer", "integer", _VALUES, _is_whole),
    "FLOAT": _Kind("float", "number", _VALUES, _is_number),
    "CHOICE": _Kind("choice", "choice", _CHOICES, _is_scalar),
}
_TITLE = re.compile(rf"({'|'.join(_KINDS)})(?:_(.+))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Titled:
    """A parameter that titles declare; `type` None leaves it to the value and to `/object_info`."""

    name: str
    label: str
    prefix: str
    type: Type | None
    targets: tuple[Target, ...]


def titled(graph: Graph, object_info: Mapping[str, Any] | None = None) -> tuple[list[Titled], list[BridgeError]]:
    """The parameters in the order of the document, and why some titles that look like one are none."""
    found: dict[str, Titled] = {}
    errors: list[BridgeError] = []
    for node_id, node in graph.items():
        title = own_title(node) or ""
        match = _TITLE.fullmatch(title)
        if match is None or is_output(node["class_type"], object_info):
            continue
        prefix, suffix = match[1], (match[2] or "").strip()
        name = slug(suffix)
        if name.isdecimal() or not name:
            name = f"{prefix.lower()}_{name}" if name else _KINDS[prefix].name
        inputs = _inputs(_KINDS[prefix], node["inputs"], suffix)
        targets = tuple(Target(node_id, one) for one in inputs)
        before = found.get(name)
        at = f"node {shown(node_id)}, whose title {shown(title)} names the parameter {shown(name)},"
        if name in RESERVED:
            errors.append(BadValue(f"{at} cannot have that name; rename it.", node=node_id))
        elif not targets:
            literals = [one for one, value in node["inputs"].items() if not is_link(value)]
            has = f"has {listed(literals)}" if literals else "has no input that can be set"
            errors.append(BadValue(f"{at} has no input for that: it {has}; a sidecar can name one.", node=node_id))
        elif before is None:
            label = suffix if suffix and not name.endswith(f"_{suffix}") else name
            found[name] = Titled(name, label, prefix, _KINDS[prefix].type, targets)
        elif before.prefix != prefix:
            errors.append(BadValue(f"{at} is of another kind than an earlier one of that name.", node=node_id))
        else:
            found[name] = Titled(name, before.label, prefix, before.type, (*before.targets, *targets))
    return list(found.values()), errors


def _inputs(kind: _Kind, inputs: Mapping[str, Any], suffix: str) -> list[str]:
    """The input that is meant: the one of that name, the first that the kind knows, or the only one that fits.

    Encoders take one text twice.
    """
    fitting = [name for name, value in inputs.items() if not is_link(value) and kind.fits(value)]
    if suffix in fitting:
        return [suffix]
    for name in kind.inputs:
        if name in fitting:
            if name not in _ENCODERS:
                return [name]
            return [one for one in _ENCODERS if one in fitting and inputs[one] == inputs[name]]
    return fitting if len(fitting) == 1 else []
