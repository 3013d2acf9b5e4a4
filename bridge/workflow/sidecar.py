"""The file beside a workflow, `<name>.toml`: what its parameters, presets and outputs are. Pure.

Top level: `title`, `description`, `stall_timeout` (seconds), `outputs` (nodes; the first one is the answer).
`[parameters.<name>]`: `node` and `input`, or `targets`; `type`, `title`, `description`, `default`, `min`, `max`,
`step`, `choices`, `hidden`. Without a node it says more about a parameter that is found anyway.
`[presets.<name>.<choice>]`: values by parameter; `title` and `default` beside the choices.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from bridge.errors import BadValue, BridgeError
from bridge.workflow.graph import is_json, slug
from bridge.workflow.kinds import Type
from bridge.workflow.words import did_you_mean, kind_of, listed, shown

RESERVED = frozenset({"transaction"})
"""Keys of commands; no parameter has such a name."""

Place = tuple[str, str | None]
"""A node as a person names it, and its input, or None for the one that is clear."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is said of one parameter; None is: nothing. Without `places` it is about one that is found anyway."""

    name: str
    places: tuple[Place, ...] = ()
    type: Type | None = None
    title: str | None = None
    description: str = ""
    default: Any = None
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    choices: tuple[Any, ...] = ()
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Preset:
    """A choice that sets several parameters: the values by parameter of each choice."""

    name: str
    choices: Mapping[str, Mapping[str, Any]]
    title: str | None = None
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The whole file; `outputs` are nodes as a person names them."""

    where: str = ""
    title: str | None = None
    description: str = ""
    stall_timeout: float | None = None
    outputs: tuple[str, ...] = ()
    parameters: tuple[Declaration, ...] = ()
    presets: tuple[Preset, ...] = ()


def read_sidecar(text: str, where: str) -> tuple[Sidecar, tuple[BridgeError, ...]]:
    """The file without what is wrong in it, and a `BadValue` for each such thing that names file and key (or line)."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        return Sidecar(where), (BadValue(f"{where} is not TOML: {error}"),)
    except RecursionError:
        return Sidecar(where), (BadValue(f"{where} is not TOML that can be read: it is nested too deeply"),)
    reader = _Reader(where)
    wrong = is_json(_without_times(document))
    if wrong:
        return Sidecar(where), (BadValue(f"{where} {wrong}."),)
    found = reader.table(document, "", _TOP)
    parameters = [reader.declaration(name, table) for name, table in found.pop("parameters", {}).items()]
    presets = [reader.preset(name, table) for name, table in found.pop("presets", {}).items()]
    sidecar = Sidecar(
        where=where,
        parameters=tuple(one for one in parameters if one is not None),
        presets=tuple(one for one in presets if one is not None),
        **found,
    )
    return sidecar, tuple(reader.errors)


class _Wrong(Exception):
    """A value is not what its key takes; the text says what would be right."""


@dataclass(slots=True)
class _Reader:
    where: str
    errors: list[BridgeError] = field(default_factory=list)

    def complain(self, key: str, reason: str) -> None:
        self.errors.append(BadValue(f"{self.where}: {key} {reason}."))

    def table(self, document: Mapping[str, Any], prefix: str, fields: Mapping[str, Callable[[Any], Any]]) -> Any:
        """The known keys of a table, read; what is wrong is told and left out."""
        found: dict[str, Any] = {}
        for key, value in document.items():
            if key not in fields:
                hint = did_you_mean(key, fields) or f" There are {listed(fields)}."
                self.complain(prefix + key, f"is not known.{hint}".rstrip("."))
                continue
            try:
                found[key] = fields[key](value)
            except _Wrong as wrong:
                self.complain(prefix + key, f"{wrong}, and is {_got(value)}")
                found[key] = _Wrong
        return {key: value for key, value in found.items() if value is not _Wrong} if not prefix else found

    def declaration(self, name: str, table: Any) -> Declaration | None:
        """A table `[parameters.<name>]`; none when a key that matters is wrong."""
        prefix = f"parameters.{name}"
        if not self._is_table(prefix, table) or not self._is_name(prefix, name):
            return None
        found = self.table(table, f"{prefix}.", _PARAMETER)
        if _Wrong in found.values():
            return None
        node, key, places = found.pop("node", None), found.pop("input", None), found.pop("targets", ())
        if key is not None and node is None:
            self.complain(f"{prefix}.input", "needs a node beside it")
            return None
        if node is not None:
            places = ((node, key), *places)
        low, high = found.get("min"), found.get("max")
        if low is not None and high is not None and low > high:
            self.complain(f"{prefix}.min", f"is {shown(low)}, which is above max, {shown(high)}")
            return None
        return Declaration(name=name, places=places, **found)

    def preset(self, name: str, table: Any) -> Preset | None:
        """A table `[presets.<name>]` of tables, one for each choice."""
        prefix = f"presets.{name}"
        if not self._is_table(prefix, table) or not self._is_name(prefix, name):
            return None
        title, default, choices = None, None, {}
        for key, value in table.items():
            if isinstance(value, dict):
                choices[key] = value
            elif key == "title" and isinstance(value, str):
                title = value
            elif key == "default" and isinstance(value, str):
                default = value
            else:
                self.complain(f"{prefix}.{key}", "should be a table of values such as {steps = 40}")
        if not choices:
            self.complain(prefix, f"has no choice; write one as [{prefix}.high] with values below")
            return None
        if default is not None and default not in choices:
            self.complain(f"{prefix}.default", f"is {shown(default)}, which is none of {listed(choices)}")
            default = None
        return Preset(name, choices, title, default)

    def _is_table(self, key: str, value: Any) -> bool:
        if isinstance(value, dict):
            return True
        self.complain(key, f"should be a table, and is {_got(value)}")
        return False

    def _is_name(self, key: str, name: str) -> bool:
        if name and slug(name) == name and name not in RESERVED:
            return True
        self.complain(key, f"cannot be the name of a parameter; use a-z, 0-9, - and _{_as_slug(name)}")
        return False


def _as_slug(name: str) -> str:
    made = slug(name)
    return f", such as {shown(made)}" if made and made not in RESERVED else ""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Wrong("should be a text")
    return value.strip()


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong("should be a text")
    return value.strip()


def _node(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise _Wrong("should be a node: its id, its title or its class")
    return value.strip()


def _nodes(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise _Wrong("should be a list of nodes: ids, titles or classes")
    return tuple(dict.fromkeys(_node(one) for one in values))


def _targets(value: Any) -> tuple[Place, ...]:
    reason = 'should be a list such as ["6.text", {node = "Positive", input = "text"}]'
    places: list[Place] = []
    for one in value if isinstance(value, list) and value else [None]:
        if isinstance(one, dict) and one.keys() <= {"node", "input"} and "node" in one:
            places.append((_node(one["node"]), _text(one["input"]) if "input" in one else None))
        elif isinstance(one, str) and one.strip():
            places.append((one.strip(), None))
        else:
            raise _Wrong(reason)
    return tuple(places)


def _type(value: Any) -> Type:
    for known in get_args(Type):
        if value == known and isinstance(value, str):
            return known  # type: ignore[no-any-return]  # one of the Literal's own values
    near = did_you_mean(value, get_args(Type)) if isinstance(value, str) else ""
    raise _Wrong(f"should be one of {listed(get_args(Type))}{near}")


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _Wrong("should be a number")
    return value


def _above_zero(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e9:
        raise _Wrong("should be a number above 0")
    return float(value)


def _scalar(value: Any) -> Any:
    if not isinstance(value, (str, int, float)):
        raise _Wrong("should be a text, a number or a boolean")
    return value


def _choices(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value or any(not isinstance(one, (str, int, float)) for one in value):
        raise _Wrong("should be a list of texts or numbers")
    return tuple(dict.fromkeys(value))


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("should be true or false")
    return value


def _tables(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong("should hold a table for each name, such as [parameters.prompt]")
    return value


_TOP: Mapping[str, Callable[[Any], Any]] = {
    "title": _text,
    "description": _words,
    "stall_timeout": _above_zero,
    "outputs": _nodes,
    "parameters": _tables,
    "presets": _tables,
}
_PARAMETER: Mapping[str, Callable[[Any], Any]] = {
    "node": _node,
    "input": _text,
    "targets": _targets,
    "type": _type,
    "title": _text,
    "description": _words,
    "default": _scalar,
    "min": _number,
    "max": _number,
    "step": _above_zero,
    "choices": _choices,
    "hidden": _bool,
}


def _got(value: Any) -> str:
    return kind_of(value) if isinstance(value, (list, dict)) else shown(value)


def _without_times(value: Any) -> Any:
    """The document with TOML's dates and times as texts, so that a wrong key with one is told like any other."""
    if isinstance(value, dict):
        return {key: _without_times(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_times(one) for one in value]
    return value if isinstance(value, (str, int, float, bool)) else str(value)
