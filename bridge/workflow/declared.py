"""A graph with what is declared beside it: its parameters, presets, outputs, and what of the declarations is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.errors import BadValue, BridgeError, UnknownNode
from bridge.workflow.graph import Graph, Target, named
from bridge.workflow.kinds import MEDIA_TYPES, Type
from bridge.workflow.nodes import NO_MAPPINGS, address, find_node, input_of
from bridge.workflow.outputs import ANSWER, Output, answer_node, outputs
from bridge.workflow.parameters import Given, Parameter, derive, main_input
from bridge.workflow.sidecar import Declaration, Place, Preset, Sidecar
from bridge.workflow.titles import titled
from bridge.workflow.values import apply, check, check_type, is_seed
from bridge.workflow.words import did_you_mean, kind_of, listed, shown, title_of

_NUMBERS = ("integer", "number")


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of a graph.

    `graph` holds the declared defaults, `mappings` the entries that could be used; `chosen`: only `outputs` matter.
    """

    graph: Graph
    parameters: tuple[Parameter, ...]
    outputs: tuple[Output, ...]
    answer: str | None
    mappings: Mapping[str, str]
    chosen: bool
    errors: tuple[BridgeError, ...]


def describe(
    graph: Graph,
    mappings: Mapping[str, str] = NO_MAPPINGS,
    object_info: Mapping[str, Any] | None = None,
    sidecar: Sidecar = Sidecar(),  # noqa: B008  frozen
) -> Described:
    """Everything about a graph; each declaration that does not fit it is left out and is one of the errors."""
    errors: list[BridgeError] = []
    good: dict[str, str] = {}
    for key, value in mappings.items():
        try:
            if key == ANSWER:
                answer_node(graph, {key: value})
            else:
                derive(graph, {**good, key: value})
        except BridgeError as error:
            errors.append(error)
        else:
            good[key] = value
    given = _given(graph, sidecar, errors)
    covered = {target for one in given.values() for target in one.targets}
    wrong_titles = titled(graph, object_info)[1]
    errors += [one for one in wrong_titles if all(target.node != one.node for target in covered)]
    found = derive(graph, good, object_info, given=given)
    parameters, described_errors = with_declarations(found, sidecar, graph)
    errors += described_errors
    ids = chosen_outputs(graph, sidecar, errors)
    if ids:
        every = {one.node: one for one in outputs(graph, object_info)}
        outs = tuple(every.get(one) or outputs(graph, None, mappings={ANSWER: one})[0] for one in ids)
        answer: str | None = ids[0]
    else:
        outs, answer = outputs(graph, object_info, mappings=good), answer_node(graph, good)
    with_defaults = _with_defaults(graph, found, parameters)
    return Described(with_defaults, parameters, outs, answer, good, bool(ids), tuple(errors))


def with_declarations(
    parameters: Sequence[Parameter], sidecar: Sidecar, graph: Graph
) -> tuple[tuple[Parameter, ...], list[BridgeError]]:
    """The parameters with what the sidecar says of them, and its presets behind them; `graph` holds the literals."""
    errors: list[BridgeError] = []
    known = {parameter.name: parameter for parameter in parameters}
    for one in sidecar.parameters:
        if one.name in known:
            try:
                known[one.name] = _declared(known[one.name], one, graph)
            except BadValue as error:
                errors.append(BadValue(f"{sidecar.where}: parameters.{one.name}: {error.message}", node=error.node))
        elif not one.places:
            hint = did_you_mean(one.name, known) or (f" There are {listed(known)}." if known else "")
            errors.append(
                BadValue(f"{sidecar.where}: parameters.{one.name} is found nowhere; say which node it is for.{hint}")
            )
    presets = [_preset(preset, known, sidecar.where, graph, errors) for preset in sidecar.presets]
    for made in presets:
        if made is not None:
            known[made.name] = made
            for name, value in made.presets.get(str(made.default), {}).items():
                known[name] = dataclasses.replace(known[name], default=value)
    return tuple(known.values()), errors


def chosen_outputs(graph: Graph, sidecar: Sidecar, errors: list[BridgeError]) -> tuple[str, ...]:
    """The ids of the nodes that the sidecar names as outputs; what names none becomes an error."""
    found: list[str] = []
    for name in sidecar.outputs:
        try:
            found.append(find_node(graph, name))
        except UnknownNode as error:
            errors.append(UnknownNode(f"{sidecar.where}: outputs: {error.message}", details=error.details))
    return tuple(dict.fromkeys(found))


def _given(graph: Graph, sidecar: Sidecar, errors: list[BridgeError]) -> dict[str, Given]:
    found: dict[str, Given] = {}
    taken: dict[Target, str] = {}
    for one in sidecar.parameters:
        if not one.places:
            continue
        try:
            targets = tuple(dict.fromkeys(target for place in one.places for target in _targets(graph, place)))
            for target in targets:
                if target in taken:
                    raise BadValue(f"{target.node}.{target.input} belongs to {taken[target]} already")
                _check_type(graph, target, one.type)
        except BridgeError as error:
            where = f"{sidecar.where}: parameters.{one.name}"
            errors.append(type(error)(f"{where}: {error.message}", node=error.node, details=error.details))
            continue
        taken.update(dict.fromkeys(targets, one.name))
        found[one.name] = Given(targets, one.type)
    return found


def _targets(graph: Graph, place: Place) -> Iterator[Target]:
    node, name = place
    if name is None:
        node_id, name = address(graph, node)
    else:
        node_id = find_node(graph, node)
    target = Target(node_id, main_input(graph, node_id) if name is None else name)
    input_of(graph, target.node, target.input)
    yield target


def _check_type(graph: Graph, target: Target, wanted: Type | None) -> None:
    literal = graph[target.node]["inputs"][target.input]
    if isinstance(literal, (list, dict)) or literal is None:
        fits = wanted is None
    elif wanted in MEDIA_TYPES or wanted == "text":
        fits = isinstance(literal, str)
    elif wanted in _NUMBERS:
        fits = isinstance(literal, (int, float)) and not isinstance(literal, bool)
        fits = fits and (wanted == "number" or literal == int(literal))
    else:
        fits = wanted != "boolean" or isinstance(literal, bool) or literal in (0, 1)
    if not fits:
        holds = kind_of(literal) if isinstance(literal, (list, dict)) else f"{kind_of(literal)}, {shown(literal)}"
        at = f"{target.input} of {named(graph, target.node)}"
        raise BadValue(f"type is {wanted}, and {at} holds {holds}", node=target.node)


def _declared(parameter: Parameter, said: Declaration, graph: Graph) -> Parameter:
    """The parameter with what is said of it. Raises `BadValue` when that does not fit."""
    kind = said.type or parameter.type
    if said.choices and said.type is None and kind not in MEDIA_TYPES:
        kind = "choice"
    if kind == "integer" and parameter.type == "number" and said.type == "integer" and parameter.step is not None:
        parameter = dataclasses.replace(parameter, step=max(1, parameter.step))
    if not said.places and kind != parameter.type:
        for target in parameter.targets:
            _check_type(graph, target, kind)
    if (said.min, said.max, said.step) != (None, None, None) and kind not in _NUMBERS:
        raise BadValue(f"min, max and step are for numbers, and its type is {kind}")
    if said.choices and kind != "choice":
        raise BadValue(f"choices are for the type choice, and its type is {kind}")
    made = dataclasses.replace(
        parameter,
        type=kind,
        title=said.title or parameter.title,
        description=said.description or parameter.description,
        hidden=said.hidden,
        min=_inner(max, parameter.min, said.min),
        max=_inner(min, parameter.max, said.max),
        step=parameter.step if said.step is None else said.step,
        choices=said.choices or (parameter.choices if kind == "choice" else ()),
    )
    if made.min is not None and made.max is not None and made.min > made.max:
        raise BadValue(f"its node takes {shown(parameter.min)} to {shown(parameter.max)}; min and max lie outside")
    if said.default is not None:
        return dataclasses.replace(made, default=_checked(made, said.default, "default"))
    if made.default is not None and (said.choices or said.min is not None or said.max is not None):
        _checked(made, made.default, "the graph's own value; give a default too:")
    return made


def _inner(pick: Any, own: float | None, said: float | None) -> Any:
    return own if said is None else said if own is None else pick(own, said)


def _checked(parameter: Parameter, value: Any, what: str) -> Any:
    if value == "random" and is_seed(parameter):
        return value
    try:
        return check_type(parameter, value)
    except BadValue as error:
        raise BadValue(f"{what} {error.message}".removesuffix("."), node=error.node) from None


def _preset(
    preset: Preset, known: Mapping[str, Parameter], where: str, graph: Graph, errors: list[BridgeError]
) -> Parameter | None:
    """The preset as a parameter; its values checked like any others."""
    prefix = f"{where}: presets.{preset.name}"
    if preset.name in known:
        errors.append(BadValue(f"{prefix} has the name of a parameter; choose another."))
        return None
    choices: dict[str, dict[str, Any]] = {}
    for choice, values in preset.choices.items():
        made: dict[str, Any] = {}
        for name, value in values.items():
            parameter = known.get(name)
            try:
                if parameter is None or not parameter.targets:
                    raise BadValue(f"there is no such parameter.{did_you_mean(name, known)}")
                made[name] = check(graph, parameter.targets[0], parameter, value)
            except BridgeError as error:
                errors.append(BadValue(f"{prefix}.{choice}.{name}: {error.message}"))
        if made:
            choices[choice] = made
    if not choices:
        return None
    default = preset.default if preset.default in choices else None
    if default is None:
        default = preset_of(choices, {name: parameter.default for name, parameter in known.items()})
    return Parameter(
        preset.name,
        preset.title or title_of(preset.name),
        "choice",
        default,
        (),
        choices=tuple(choices),
        presets=choices,
    )


def preset_of(presets: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> str | None:
    """The choice whose values are all set, or none."""
    for choice, wanted in presets.items():
        if all(name in values and values[name] == value for name, value in wanted.items()):
            return choice
    return None


def _with_defaults(graph: Graph, found: Sequence[Parameter], declared: Sequence[Parameter]) -> Graph:
    """The graph with the defaults that a declaration has changed."""
    before = {parameter.name: parameter.default for parameter in found}
    changed = {
        target: one.default
        for one in declared
        if one.default != before.get(one.name) and not (is_seed(one) and isinstance(one.default, str))
        for target in one.targets
    }
    return apply(graph, changed) if changed else graph
