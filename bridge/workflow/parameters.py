"""The parameters of a workflow: its named, typed inputs.

From, in this order: what is declared beside the workflow, `node_mappings`, titles with a prefix, the graph itself. An
input belongs to the first that names it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bridge.errors import BadValue, IsLink, NoSuchInput
from bridge.workflow.graph import Graph, Target, is_link, named, slug
from bridge.workflow.kinds import MEDIA_TYPES, RANDOM, SEED_INPUTS, SEED_MAX, Spec, Type, guess, is_random, spec_of
from bridge.workflow.nodes import MEDIA_INPUTS, NO_MAPPINGS, TEXT_INPUTS, input_of, mapped
from bridge.workflow.outputs import ANSWER, Output, outputs
from bridge.workflow.sidecar import RESERVED
from bridge.workflow.titles import titled
from bridge.workflow.tracing import Tracer
from bridge.workflow.words import shown, title_of

__all__ = ["RESERVED", "STANDARD", "Output", "Parameter", "Target", "derive", "outputs"]

STANDARD = (
    *("prompt", "negative", "seed", "steps", "cfg", "sampler", "scheduler", "denoise", "width", "height", "batch"),
    *("image", "mask", "checkpoint", "lora"),
)
"""The standard names, in the order in which parameters are listed."""

_KINDS: dict[str, Type] = {
    **dict.fromkeys(("seed", "steps", "width", "height", "batch", "frames"), "integer"),
    **dict.fromkeys(("cfg", "denoise", "fps", "seconds"), "number"),
    **dict.fromkeys(("sampler", "scheduler", "checkpoint", "lora"), "choice"),
    **dict.fromkeys(("image", "mask"), "image"),
}
_ORDER = (*STANDARD, "video", "audio", "frames", "fps", "seconds", "lyrics", "color")
_TITLE_KINDS = {"IMAGE": "image", "MASK": "mask", "SEED": "seed", "MODEL": "checkpoint", "LORA": "lora"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named, typed input of a workflow; it may write several inputs of nodes (`targets`, at least one).

    `default` is the literal in the graph or what is declared, None when there is none; a seed's may be `"random"`.
    `choices` is empty when they are not known. One that is `hidden` can be set and is not shown to people.
    A parameter with `presets` has no targets: each of its choices stands for values of other parameters.
    """

    name: str
    title: str
    type: Type
    default: Any
    targets: tuple[Target, ...]
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    choices: tuple[Any, ...] = ()
    description: str = ""
    hidden: bool = False
    seed: bool = False
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Its entry in `bridge/workflows`; what is not known is left out."""
        document: dict[str, Any] = {
            "name": self.name,
            "title": self.title,
            "type": self.type,
            "default": self.default,
        }
        for key in ("min", "max", "step"):
            limit = getattr(self, key)
            if limit is not None:
                document[key] = limit
        if self.choices:
            document["choices"] = list(self.choices)
        if self.description:
            document["description"] = self.description
        if self.hidden:
            document["hidden"] = True
        if self.presets:
            document["presets"] = {choice: dict(values) for choice, values in self.presets.items()}
        document["targets"] = [target.to_json() for target in self.targets if target.node]
        return document


@dataclass(frozen=True, slots=True)
class Given:
    """The inputs that a declaration names for a parameter, and its type when it tells one."""

    targets: tuple[Target, ...]
    type: Type | None = None


NOTHING_GIVEN: Mapping[str, Given] = MappingProxyType({})


def derive(
    graph: Graph,
    mappings: Mapping[str, str] = NO_MAPPINGS,
    object_info: Mapping[str, Any] | None = None,
    *,
    given: Mapping[str, Given] = NOTHING_GIVEN,
) -> tuple[Parameter, ...]:
    """The parameters of a graph, in the order of `STANDARD`, then the ones that only a declaration names.

    `given` are the declared ones, checked. `mappings` is a table `{parameter: "<node>" or "<node>.<input>"}`; an entry
    takes its input from what titles and the graph would have named otherwise. Types and limits come from `object_info`
    (the body of `/object_info`) where it knows the class, else from the graph. Raises `UnknownNode`, `NoSuchInput`,
    `IsLink` or `BadValue` for an entry of `mappings` that cannot be; the sentence names the entry.
    """
    chosen: dict[str, str] = dict.fromkeys(given, "")
    found = [
        _parameter(graph, name, name, _kind_of_name(name), one.targets, object_info, one.type)
        for name, one in given.items()
    ]
    taken = {target for one in given.values() for target in one.targets}
    mapped_targets: set[Target] = set()
    for key in mappings:
        name = "" if key == ANSWER else _mapped_name(key)
        if chosen.get(name):
            raise BadValue(f"node_mappings.{key} and node_mappings.{chosen[name]} are the same name {name!r}.")
        if name and name not in chosen:
            target = mapped_target(graph, key, mappings)
            chosen[name] = key
            mapped_targets.add(target)
            found.append(_parameter(graph, name, key, _kind_of_name(name), (target,), object_info))
    taken |= mapped_targets
    for one in titled(graph, object_info)[0]:
        left = tuple(target for target in one.targets if target not in taken)
        if left and one.name not in chosen:
            chosen[one.name] = ""
            taken.update(left)
            kind = _TITLE_KINDS.get(one.prefix, one.name)
            found.append(_parameter(graph, one.name, one.label, kind, left, object_info, one.type))
    counts: dict[str, int] = {}
    for kind, targets in _findings(graph, object_info):
        left = tuple(target for target in dict.fromkeys(targets) if target not in taken)
        if left:
            taken.update(left)
            name = _free_name(kind, counts, chosen)
            found.append(_parameter(graph, name, name, kind, left, object_info))
    return tuple(sorted(found, key=_position))


def mapped_target(graph: Graph, key: str, mappings: Mapping[str, str]) -> Target:
    """The input that an entry of `node_mappings` names.

    `<node>.<input>`, or `<node>`: its text input, or its image input, or the only literal that it has.
    Raises `UnknownNode`, `NoSuchInput`, `IsLink`; the sentence names the entry.
    """
    node_id, name = mapped(graph, key, mappings)
    try:
        target = Target(node_id, main_input(graph, node_id) if name is None else name)
        input_of(graph, target.node, target.input)
    except (NoSuchInput, IsLink) as error:
        raise type(error)(f"node_mappings.{key}: {error.message}", node=error.node, details=error.details) from None
    return target


def main_input(graph: Graph, node_id: str) -> str:
    """The input that is meant when only the node is named: its text, its image, or its only literal.

    Raises `NoSuchInput` when that is not clear.
    """
    inputs: dict[str, Any] = graph[node_id]["inputs"]
    literals = [name for name, value in inputs.items() if not is_link(value)]
    for names in (TEXT_INPUTS, MEDIA_INPUTS):
        first = next((name for name in names if name in inputs), "")
        if isinstance(inputs.get(first), str) or (first and not literals):
            return first
    if len(literals) == 1:
        return literals[0]
    example = literals[0] if literals else "text"
    raise NoSuchInput(
        f"{named(graph, node_id)} has {len(literals)} inputs that could be meant; "
        f"write '<node>.<input>', such as {shown(f'{node_id}.{example}')}.",
        node=node_id,
    )


def _mapped_name(key: str) -> str:
    name = slug(key)
    if not name or name in RESERVED:
        raise BadValue(f"node_mappings.{key} cannot be the name of a parameter; use letters, digits, - and _.")
    return name


def _findings(graph: Graph, object_info: Mapping[str, Any] | None) -> Iterator[tuple[str, Sequence[Target]]]:
    """What the graph shows: a kind and the inputs of one parameter of it."""
    tracer = Tracer(graph, object_info)
    for kind, texts in zip(("prompt", "negative"), tracer.texts(), strict=True):
        # The encoders of one model take the same text twice or more: that is one text to a person.
        for group in tracer.alike(texts):
            yield "lyrics" if group[0].input == "lyrics" else kind, group
    for group in tracer.seeds():
        yield "seed", group
    for kind, name, types in (
        ("steps", "steps", (int,)),
        ("cfg", "cfg", (int, float)),
        ("sampler", "sampler_name", (str,)),
        ("scheduler", "scheduler", (str,)),
        ("denoise", "denoise", (int, float)),
    ):
        found = tracer.stages(name, *types)
        if kind == "cfg" and not found:
            found = tracer.guidance()
        for group in found:
            yield kind, group
    for size in tracer.sizes():
        yield from size.items()
    for group in tracer.frame_rates():
        yield "fps", group
    for kind, target in tracer.files():
        yield kind, (target,)
    for group in tracer.checkpoints():
        yield "checkpoint", group
    for target in tracer.loras():
        yield "lora", (target,)


def _free_name(kind: str, counts: dict[str, int], chosen: Collection[str]) -> str:
    """`seed`, then `seed_2`, …, without the names that are chosen already."""
    while True:
        counts[kind] = counts.get(kind, 0) + 1
        name = kind if counts[kind] == 1 else f"{kind}_{counts[kind]}"
        if name not in chosen:
            return name


def _kind_of_name(name: str) -> str:
    """`seed` for `seed_2`."""
    kind, _, number = name.rpartition("_")
    return kind if kind in _ORDER and number.isdecimal() else name


def _position(parameter: Parameter) -> tuple[int, int]:
    kind = _kind_of_name(parameter.name)
    if kind not in _ORDER:
        return len(_ORDER), 0
    return _ORDER.index(kind), 1 if kind == parameter.name else int(parameter.name[len(kind) + 1 :][:9])


def _parameter(
    graph: Graph,
    name: str,
    label: str,
    kind: str,
    targets: tuple[Target, ...],
    object_info: Mapping[str, Any] | None,
    declared: Type | None = None,
) -> Parameter:
    values = [graph[target.node]["inputs"][target.input] for target in targets]
    default = values[0]
    specs = [
        spec_of(graph[target.node]["class_type"], target.input, value, object_info)
        for target, value in zip(targets, values, strict=True)
    ]
    type_ = _type(kind, default, specs[0]) if declared in (None, "choice") else declared
    told = [spec.type for target, spec in zip(targets, specs, strict=True) if _is_known(graph, target, object_info)]
    if type_ == "number" and "integer" in told:
        type_ = "integer"
    if declared == "choice" and type_ == "text":
        type_ = "choice"
    low, high = _narrowest(specs) if type_ in ("integer", "number") else (None, None)
    seed = type_ == "integer" and (kind == "seed" or any(target.input in SEED_INPUTS for target in targets))
    if seed:
        low, high = (0 if low is None else low), (SEED_MAX if high is None else high)
        if any(is_random(graph[target.node], target.input) for target in targets):
            default = RANDOM
    return Parameter(
        name=name,
        title=title_of(name) if label == name else label,
        type=type_,
        default=default,
        targets=targets,
        min=low,
        max=high,
        step=specs[0].step if type_ in ("integer", "number") else None,
        choices=specs[0].choices if type_ == "choice" else (),
        seed=seed,
    )


def _is_known(graph: Graph, target: Target, object_info: Mapping[str, Any] | None) -> bool:
    return graph[target.node]["class_type"] in (object_info or {})


def _type(kind: str, default: object, spec: Spec) -> Type:
    """What `/object_info` says, or what the name says if the literal agrees, or what the literal is."""
    by_name = _KINDS.get(kind)
    if by_name in MEDIA_TYPES and isinstance(default, str):
        return spec.type if spec.type in MEDIA_TYPES and spec.type is not None else by_name or "image"
    agrees = guess("", "", default)
    fits = {"integer": ("integer",), "number": ("integer", "number"), "choice": ("text",)}.get(by_name or "", ())
    if by_name is not None and agrees in fits and spec.type in (None, "integer", "number", "text"):
        # A scheduler that is a plain text to `/object_info` is one.
        return by_name
    return spec.type or "text"


def _narrowest(specs: Sequence[Spec]) -> tuple[int | float | None, int | float | None]:
    lows = [spec.min for spec in specs if spec.min is not None]
    highs = [spec.max for spec in specs if spec.max is not None]
    return max(lows, default=None), min(highs, default=None)
