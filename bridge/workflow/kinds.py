"""What type an input has, told from the graph or from ComfyUI's `/object_info`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Type: TypeAlias = Literal["text", "integer", "number", "boolean", "choice", "image", "video", "audio", "file"]
MEDIA_TYPES: frozenset[str] = frozenset({"image", "video", "audio", "file"})

SEED_INPUTS = frozenset({"seed", "noise_seed"})
SEED_MAX = 2**64 - 1
RANDOM: Final = "random"
"""The value of a seed that is drawn anew for each job."""

_WHOLE = SEED_INPUTS | {"steps", "width", "height", "length", "batch_size", "color", "start_at_step", "end_at_step"}
# The editor writes 8.0 as 8, so a whole number in a file does not make the input a whole number.
_FRACTIONS = re.compile(
    r"cfg|denoise|strength|weight|guidance|shift|percent|scale|factor|ratio|opacity|gamma|sigma|duration"
    r"|^eta$|^rho$|^fps$|^frame_rate$|^megapixels$|^temperature$|^top_p$|^noise$",
    re.IGNORECASE,
)
_WIDGETS: dict[str, Type] = {"INT": "integer", "FLOAT": "number", "STRING": "text", "BOOLEAN": "boolean"}
_UPLOADS: tuple[tuple[str, Type], ...] = (
    ("image_upload", "image"),
    ("animated_image_upload", "image"),
    ("video_upload", "video"),
    ("audio_upload", "audio"),
    ("file_upload", "file"),
)
_CLASS_MEDIA: tuple[tuple[re.Pattern[str], frozenset[str], Type], ...] = (
    (re.compile("^LoadImage"), frozenset({"image"}), "image"),
    (re.compile("LoadVideo"), frozenset({"video", "file"}), "video"),
    (re.compile("LoadAudio"), frozenset({"audio", "audio_file", "file"}), "audio"),
    (re.compile("^Load(3D|Latent)"), frozenset({"model_file", "latent"}), "file"),
)


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of an input; `type` is None when nothing is."""

    type: Type | None = None
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    choices: tuple[Any, ...] = ()


def spec_of(class_type: str, name: str, value: object, object_info: Mapping[str, Any] | None = None) -> Spec:
    """The type and the limits of an input that holds the literal `value`.

    From `/object_info` (the parsed body) when it knows the input, else from names and the value.
    """
    known = _declared(class_type, name, object_info or {})
    spec = known if known.type is not None else Spec(guess(class_type, name, value))
    if name in SEED_INPUTS and spec.type == "integer":
        low = 0 if spec.min is None else spec.min
        return Spec("integer", low, SEED_MAX if spec.max is None else spec.max, spec.step)
    return spec


def guess(class_type: str, name: str, value: object) -> Type | None:
    """The type of an input from its class, its name and the literal that it holds."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return next(
            (kind for classes, names, kind in _CLASS_MEDIA if name in names and classes.search(class_type)), "text"
        )
    if isinstance(value, int):
        if is_whole(class_type, name):
            return "integer"
        return "number" if class_type == "PrimitiveFloat" or _FRACTIONS.search(name) else "integer"
    return "number" if isinstance(value, float) else None


def is_random(node: Mapping[str, Any], name: str) -> bool:
    """Whether the graph says of a seed that it is drawn anew for each run.

    It holds -1 (the Seed node of rgthree and others), or the editor's `control_after_generate` is `randomize`: as an
    input of the node, or in its `_meta`, where the conversion of a file of the editor puts it.
    """
    inputs, meta = node["inputs"], node.get("_meta")
    said = [inputs.get("control_after_generate"), meta.get("control_after_generate") if meta else None]
    return inputs.get(name) == -1 or "randomize" in said


def is_whole(class_type: str, name: str) -> bool:
    """Whether the input surely takes whole numbers only."""
    return name in _WHOLE or class_type == "PrimitiveInt"


def _declared(class_type: str, name: str, object_info: Mapping[str, Any]) -> Spec:
    """The input as `/object_info` declares it: `[type, options?]`, where the type of old combos is their list."""
    node = object_info.get(class_type)
    groups = node.get("input") if isinstance(node, Mapping) else None
    for group in ("required", "optional"):
        fields = groups.get(group) if isinstance(groups, Mapping) else None
        declared = fields.get(name) if isinstance(fields, Mapping) else None
        if isinstance(declared, (list, tuple)) and declared:
            options = declared[1] if len(declared) > 1 and isinstance(declared[1], Mapping) else {}
            return _read_declared(declared[0], options)
    return Spec()


def _read_declared(kind: object, options: Mapping[str, Any]) -> Spec:
    for flag, media in _UPLOADS:
        if options.get(flag) is True:
            return Spec(media)
    if isinstance(kind, (list, tuple)) or kind == "COMBO":
        listed = kind if isinstance(kind, (list, tuple)) else options.get("options")
        choices = tuple(one for one in listed if isinstance(one, (str, int, float))) if isinstance(listed, list) else ()
        return Spec("choice", choices=choices)
    if not isinstance(kind, str) or kind not in _WIDGETS:
        return Spec()
    widget = _WIDGETS[kind]
    if widget not in ("integer", "number"):
        return Spec(widget)
    return Spec(widget, _number(options.get("min")), _number(options.get("max")), _number(options.get("step")))


def _number(value: object) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None
