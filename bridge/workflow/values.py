"""Values for the inputs of a workflow: what a key means, whether a value fits, a graph with the values in it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bridge.errors import BadValue, NoSuchInput, UnknownNode, UnknownParameter
from bridge.workflow.graph import Graph, copy_graph, copy_inputs, is_json, is_link, slug
from bridge.workflow.kinds import MEDIA_TYPES, RANDOM, SEED_INPUTS, SEED_MAX, Type, guess, is_whole
from bridge.workflow.nodes import (
    NO_MAPPINGS,
    address,
    candidates,
    dotted,
    find_node,
    image_input,
    input_of,
    matching,
    text_input,
)
from bridge.workflow.parameters import Parameter, Target
from bridge.workflow.words import did_you_mean, kind_of, listed, nearest, shown

_ON = frozenset({"true", "on", "yes", "1"})
_OFF = frozenset({"false", "off", "no", "0"})
_WHOLE = re.compile(r"[+-]?[0-9]{1,40}(\.0{0,20})?")
_NUMBER = re.compile(r"[+-]?([0-9]{1,310}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?")


def resolve(graph: Graph, parameters: Sequence[Parameter], key: str) -> tuple[Target, ...]:
    """The inputs that a key of `update/values` means: a parameter's, or those of `<node>.<input>`.

    The node is an id, a title, a slugged title; or a class (`KSampler.steps`) or what titles begin with up to an
    underscore (`SWITCH_.select`): then every node of that kind that has such an input of its own.
    Raises `UnknownParameter`, `UnknownNode`, `NoSuchInput`, `IsLink`; the sentences hold near names.
    """
    parameter = named_parameter(parameters, key)
    if parameter is not None:
        return parameter.targets
    if not isinstance(key, str):
        raise UnknownParameter(f"a key is {kind_of(key)}; it should be the name of a parameter or '<node>.<input>'.")
    several = matching(graph, key)
    if several:
        return several
    if candidates(graph, key) or not dotted(key):
        names = [parameter.name for parameter in parameters]
        have = f" There are {listed(names)}." if names else " The workflow has none."
        raise UnknownParameter(
            f"there is no parameter {shown(key)}.{did_you_mean(key, names) or have} "
            "Any other input is named '<node>.<input>'."
        )
    node_id, name = address(graph, key)
    if name is None:
        raise UnknownNode(f"there is no node for {shown(key)}.")
    input_of(graph, node_id, name)
    return (Target(node_id, name),)


def named_parameter(parameters: Iterable[Parameter], name: str | int) -> Parameter | None:
    """The parameter of that name, or whose name is its slug (`Positive Prompt`).

    What writes prompts knows nothing of titles: `prompt` is also the text that they name `positive`.
    """
    if not isinstance(name, str):
        return None
    as_slug = slug(name) if re.fullmatch(r"[\w -]+", name) else ""
    by_slug, positive = None, None
    for parameter in parameters:
        if parameter.name == name:
            return parameter
        if parameter.name == as_slug:
            by_slug = parameter
        if parameter.name == "positive" and parameter.type == "text":
            positive = parameter
    return by_slug or (positive if name == "prompt" else None)


def parameter_of(parameters: Iterable[Parameter], target: Target) -> Parameter | None:
    """The parameter that writes the input."""
    return next((parameter for parameter in parameters if target in parameter.targets), None)


def text_targets(
    graph: Graph,
    parameters: Sequence[Parameter],
    ref: str | int | None = None,
    *,
    mappings: Mapping[str, str] = NO_MAPPINGS,
) -> tuple[Target, ...]:
    """The inputs that a text goes to.

    `ref` is a node's id, a parameter of type text, or any other name of a node. Without it: the parameter
    `prompt` (or `positive`, as titles name it), or the one parameter of type text. Raises as `find_node` and
    `text_input` do.
    """
    if ref is None:
        return _only(parameters, frozenset({"text"}), ("prompt", "positive"), "text").targets
    parameter = None if _is_id(graph, ref) else named_parameter(parameters, ref)
    if parameter is not None:
        if parameter.type != "text":
            raise NoSuchInput(f"{parameter.name} is a parameter of type {parameter.type}; it takes no text.")
        return parameter.targets
    node_id = find_node(graph, ref, mappings=mappings)
    return (Target(node_id, text_input(graph, node_id)),)


def image_targets(
    graph: Graph,
    parameters: Sequence[Parameter],
    ref: str | int | None = None,
    *,
    mappings: Mapping[str, str] = NO_MAPPINGS,
) -> tuple[Target, ...]:
    """The inputs that an image (or another file) goes to; as `text_targets`, with the parameter `image`."""
    if ref is None:
        return _only(parameters, MEDIA_TYPES, ("image",), "image").targets
    parameter = None if _is_id(graph, ref) else named_parameter(parameters, ref)
    if parameter is not None and parameter.type in MEDIA_TYPES:
        return parameter.targets
    if parameter is not None and not candidates(graph, str(ref)):
        raise NoSuchInput(f"{parameter.name} is a parameter of type {parameter.type}; it takes no image.")
    node_id = find_node(graph, ref, mappings=mappings)
    return (Target(node_id, image_input(graph, node_id)),)


def assign(graph: Graph, parameters: Sequence[Parameter], values: Mapping[str, Any]) -> dict[Target, Any]:
    """Every value under each input that it is for, resolved and checked: all, or the first error.

    A later key wins over an earlier one of the same input.
    """
    assignments: dict[Target, Any] = {}
    for key, value in values.items():
        parameter = named_parameter(parameters, key)
        for target in resolve(graph, parameters, key):
            known = parameter or parameter_of(parameters, target)
            assignments[target] = check(graph, target, known, value)
    return assignments


def check(graph: Graph, target: Target, parameter: Parameter | None, value: Any) -> Any:
    """The value as the graph takes it, or `BadValue` naming what it is for, the limit and the value.

    Measured against the parameter, or without one against the literal that the input holds now. Texts that
    hold a number or a switch (`"20"`, `"7.5"`, `"ON"`) are read as such where one is expected, since plain MQTT
    payloads are texts. A seed takes `"random"` too, which stays as it is. The input must be a literal one
    (`NoSuchInput`, `IsLink`).
    """
    literal = _literal(graph, target)
    label = parameter.name if parameter is not None else f"{target.node}.{target.input}"
    wrong = "is null; leave the key out to keep what is set" if value is None else is_json(value)
    if wrong:
        raise BadValue(f"{label} {wrong}.", node=target.node)
    is_number = isinstance(literal, (int, float)) and not isinstance(literal, bool)
    seed = is_seed(parameter) if parameter is not None else target.input in SEED_INPUTS and is_number
    if seed and isinstance(value, str) and value.strip().lower() == RANDOM:
        return RANDOM
    if parameter is not None:
        return check_type(parameter, value, node=target.node)
    checked = _like(graph, target, label, literal, value)
    low, high = (0, SEED_MAX) if seed else (None, None)
    return _within(label, low, high, checked, value, target.node)


def check_type(parameter: Parameter, value: Any, *, node: str | None = None) -> Any:
    """The value as the parameter's type and limits want it, whatever its node holds now. Raises `BadValue`."""
    checked = _coerce(parameter.name, parameter.type, parameter.choices, value)
    return _within(parameter.name, parameter.min, parameter.max, checked, value, node)


def _within(label: str, low: float | None, high: float | None, checked: Any, value: Any, node: str | None) -> Any:
    if not isinstance(checked, bool) and isinstance(checked, (int, float)):
        if low is not None and checked < low:
            raise BadValue(f"{label} is at least {shown(low)}, and got {shown(value)}.", node=node)
        if high is not None and checked > high:
            raise BadValue(f"{label} is at most {shown(high)}, and got {shown(value)}.", node=node)
    return checked


def is_seed(parameter: Parameter) -> bool:
    """Whether the parameter is a seed, which takes `"random"` and counts up over a batch."""
    return parameter.type == "integer" and (
        parameter.seed or re.fullmatch(r"seed(_[0-9]+)?", parameter.name) is not None
    )


def apply(graph: Graph, assignments: Mapping[Target, Any]) -> Graph:
    """A new graph with the values in it; the given one stays as it is.

    The values are taken as they are (see `check`); a seed that is `RANDOM` must have been drawn before. A link
    is never overwritten: raises `UnknownNode`, `NoSuchInput`, `IsLink`.
    """
    result = copy_graph(graph)
    for target, value in assignments.items():
        _literal(result, target)
        result[target.node]["inputs"].update(copy_inputs({target.input: value}))
    return result


def _literal(graph: Graph, target: Target) -> Any:
    if target.node not in graph:
        raise UnknownNode(f"there is no node {shown(target.node)}.")
    return input_of(graph, target.node, target.input)


def _is_id(graph: Graph, ref: object) -> bool:
    if isinstance(ref, bool) or not isinstance(ref, (str, int)):
        return False
    return (ref if isinstance(ref, str) else shown(ref)) in graph


def _only(parameters: Sequence[Parameter], types: frozenset[str], first: tuple[str, ...], what: str) -> Parameter:
    fitting = [parameter for parameter in parameters if parameter.type in types]
    for name in first:
        for parameter in fitting:
            if parameter.name == name:
                return parameter
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise UnknownParameter(f"the workflow has no {what} parameter; load one that has, or name a node.")
    names = listed(parameter.name for parameter in fitting)
    raise UnknownParameter(f"the workflow has several {what} parameters ({names}); name one, or a node.")


def _coerce(label: str, kind: Type, choices: Sequence[Any], value: Any) -> Any:
    if kind == "integer":
        return _integer(label, value)
    if kind == "number":
        return _number(label, value)
    if kind == "boolean":
        return _boolean(label, value)
    if kind == "choice" and choices:
        return _choice(label, choices, value)
    if not isinstance(value, str):
        what = "the name of a file" if kind in MEDIA_TYPES else "a text"
        raise BadValue(f"{label} is {what}, and got {_got(value)}.")
    if kind in MEDIA_TYPES and not value.strip():
        raise BadValue(f"{label} is the name of a file, and got an empty text.")
    return value


def _like(graph: Graph, target: Target, label: str, literal: Any, value: Any) -> Any:
    """The value checked against what the input holds now."""
    if isinstance(literal, (list, dict)) or literal is None:
        if is_link(value) or (isinstance(value, (list, tuple)) and len(value) == 2 and _is_id(graph, value[0])):
            raise BadValue(f"{label} got a list that looks like a link to a node; links cannot be set.")
        if literal is not None and not isinstance(value, type(literal)):
            raise BadValue(f"{label} is {kind_of(literal)}, and got {_got(value)}.")
        if literal is None and isinstance(value, (list, dict)):
            raise BadValue(f"{label} is a text, a number or a boolean, and got {_got(value)}.")
        return value
    class_type = graph[target.node]["class_type"]
    kind = guess(class_type, target.input, literal) or "text"
    if kind == "integer" and not is_whole(class_type, target.input):
        # A file's 1 may be a 1.0; ComfyUI itself cuts the fraction where it takes whole numbers only.
        number = _number(label, value)
        return _integer(label, value) if number == math.floor(number) else number
    return _coerce(label, kind, (), value)


def _integer(label: str, value: Any) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    if isinstance(value, float) and value == math.floor(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue(f"{label} is a whole number, and got {_got(value)}.")
    return value


def _number(label: str, value: Any) -> float:
    number = value
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value.strip())
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise BadValue(f"{label} is a number, and got {_got(value)}.")
    try:
        as_float = float(number)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise BadValue(f"{label} is a finite number, and got {_got(value)}.")
    return as_float


def _boolean(label: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else str(value) if value in (0, 1) else ""
    if word in _ON:
        return True
    if word in _OFF:
        return False
    raise BadValue(f"{label} is true or false (ON or OFF), and got {_got(value)}.")


def _choice(label: str, choices: Sequence[Any], value: Any) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    as_text = value.strip() if isinstance(value, str) else str(value) if isinstance(value, float) else shown(value)
    for choice in choices:
        if str(choice) == as_text:
            return choice
    near = nearest(as_text, [str(choice) for choice in choices])
    some = f"nearest: {listed(near)}" if near else listed(str(choice) for choice in choices)
    raise BadValue(f"{label} is one of {len(choices)} choices, and {_got(value)} is none of them ({some}).")


def _got(value: Any) -> str:
    if isinstance(value, str):
        return "an empty text" if value == "" else shown(value)
    return kind_of(value) if isinstance(value, (list, dict)) else shown(value)
