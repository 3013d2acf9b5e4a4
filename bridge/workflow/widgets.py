"""Which value of a node of the editor belongs to which input. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

CONTROL = frozenset({"fixed", "increment", "decrement", "randomize", "increment-wrap"})
"""What the widget `control_after_generate` holds, which the editor puts behind seeds."""

_DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", _DYNAMIC})
# Types that have a widget of their own in the editor.
_OWN_WIDGETS = frozenset(
    {"BOUNDING_BOX", "BOUNDINGBOX", "COLOR", "CURVE", "LOAD_3D", "LOAD_3D_ANIMATION", "MARKDOWN", "WEBCAM"}
)
_UPLOADS = ("image_upload", "animated_image_upload", "video_upload", "audio_upload", "file_upload")
_UPLOAD_VALUES = ("image", "video", "audio", "file")
_SEEDS = ("seed", "noise_seed")
_DEEPEST = 8


def widget_values(info: Mapping[str, Any], values: Any, shown: Collection[str]) -> tuple[dict[str, Any], str | None]:
    """The values of a node by the names of its inputs, and what `control_after_generate` holds, if there is one.

    info: the class in `/object_info`. values: `widgets_values`, a list in the order of the widgets, or an object by
    their names. shown: the inputs that the file marks as widgets. What the file lacks has its default.
    """
    reader = _Reader(values, shown)
    for group in ("required", "optional"):
        reader.group(_fields(info, group), "", 0)
    return reader.found, reader.control


class _Reader:
    def __init__(self, values: Any, shown: Collection[str]) -> None:
        self.found: dict[str, Any] = {}
        self.control: str | None = None
        self._by_name = values if isinstance(values, dict) else None
        self._values = values if isinstance(values, list) else []
        self._at = 0
        self._shown = shown

    def group(self, fields: Mapping[str, Any], prefix: str, depth: int) -> None:
        upload = False
        for key, declared in fields.items():
            kind, options = _declared(declared)
            name = prefix + key
            if not self._is_widget(kind, options, name):
                continue
            value = self._next(name, kind, options)
            self.found[name] = value
            upload = upload or any(options.get(flag) is True for flag in _UPLOADS)
            if kind == _DYNAMIC and depth < _DEEPEST:
                for chosen in _dicts(options.get("options")):
                    if chosen.get("key") == value:
                        for part in ("required", "optional"):
                            self.group(_fields({"input": chosen.get("inputs")}, part), f"{name}.", depth + 1)
            else:
                self._pass_control(kind, options, key)
        if upload and self._peek() in _UPLOAD_VALUES and self._at < len(self._values) - 1:
            self._at += 1

    def _is_widget(self, kind: Any, options: Mapping[str, Any], name: str) -> bool:
        if options.get("forceInput") is True:
            return False
        if isinstance(kind, list) or name in self._shown or "widgetType" in options:
            return True
        return isinstance(kind, str) and (kind in _TYPES or kind in _OWN_WIDGETS)

    def _next(self, name: str, kind: Any, options: Mapping[str, Any]) -> Any:
        if self._by_name is not None:
            return self._by_name[name] if name in self._by_name else _default(kind, options)
        if self._at >= len(self._values):
            return _default(kind, options)
        self._at += 1
        return self._values[self._at - 1]

    def _pass_control(self, kind: Any, options: Mapping[str, Any], key: str) -> None:
        """Skip what the editor puts behind a seed; behind a choice there is a filter too."""
        said = options.get("control_after_generate")
        if not said and not (key in _SEEDS and kind == "INT"):
            return
        value = self._peek() if self._by_name is None else self._by_name.get("control_after_generate")
        if isinstance(value, bool):  # files from before 2023-08
            value = "randomize" if value else "fixed"
        if not isinstance(value, str) or value not in CONTROL:
            return
        self.control = value
        self._at += 1
        if kind not in ("INT", "FLOAT") and self._peek() == "":
            self._at += 1

    def _peek(self) -> Any:
        value = self._values[self._at] if self._at < len(self._values) else None
        return value if isinstance(value, (str, bool)) else None


def _fields(info: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The inputs of a group in the order of the editor."""
    inputs = info.get("input")
    fields = inputs.get(group) if isinstance(inputs, Mapping) else None
    if not isinstance(fields, Mapping):
        return {}
    orders = info.get("input_order")
    order = orders.get(group) if isinstance(orders, Mapping) else None
    names = [one for one in order if isinstance(one, str) and one in fields] if isinstance(order, list) else []
    return {name: fields[name] for name in dict.fromkeys([*names, *fields])}


def _declared(declared: Any) -> tuple[Any, Mapping[str, Any]]:
    if not isinstance(declared, (list, tuple)) or not declared:
        return None, {}
    return declared[0], declared[1] if len(declared) > 1 and isinstance(declared[1], Mapping) else {}


def _default(kind: Any, options: Mapping[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    listed = kind if isinstance(kind, list) else options.get("options")
    if isinstance(listed, list):
        first = listed[0] if listed else None
        return first.get("key") if isinstance(first, dict) else first
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(kind) if isinstance(kind, str) else None


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    return (one for one in value if isinstance(one, dict)) if isinstance(value, list) else iter(())
