"""Finding a node by what people call it, and the input that a text or an image goes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bridge.errors import BadValue, IsLink, NoSuchInput, UnknownNode
from bridge.workflow.graph import Graph, Target, is_link, named, own_title, slug
from bridge.workflow.words import did_you_mean, kind_of, listed, shown

TEXT_INPUTS: tuple[str, ...] = (
    *("text", "value", "text_positive", "text_negative", "prompt", "system"),
    *("style", "style_name", "key", "url", "model"),
)
MEDIA_INPUTS: tuple[str, ...] = (
    *("image", "mask", "video", "audio", "file", "model_file"),
    *("image_path", "video_path", "audio_file", "filename", "path"),
)

_OFTEN_NO_TEXT = frozenset({"style", "key", "url", "model"})

NO_MAPPINGS: Mapping[str, str] = MappingProxyType({})
HOW_TO_NAME = "A node is named by its id, its title, or its class when there is just one of it."


def find_node(graph: Graph, ref: str | int, *, mappings: Mapping[str, str] = NO_MAPPINGS) -> str:
    """The id of the node that `ref` names.

    In this order: an id (`6`, `"6"`, `"12:5"`), a key of `mappings` (whose value is a node or `<node>.<input>`),
    a title, a title as a slug, a class that just one node has.
    Raises `UnknownNode` when there is none (with near names) or several (with all of them), `BadValue` when
    `ref` is neither a text nor a whole number.
    """
    if isinstance(ref, bool) or not isinstance(ref, (str, int)):
        raise BadValue(f"a node cannot be named by {kind_of(ref)}. {HOW_TO_NAME}")
    name = ref if isinstance(ref, str) else shown(ref)
    if name not in graph and name in mappings:
        return mapped(graph, name, mappings)[0]
    return _one_of(graph, name, mappings)


def address(graph: Graph, text: str) -> tuple[str, str | None]:
    """`<node>` or `<node>.<input>` as `(node id, input or None)`.

    Names and inputs may hold dots: the whole text as a node comes first, then each split from the last dot on,
    and one whose input exists comes before one whose input does not. Raises `UnknownNode`.
    """
    if candidates(graph, text):
        return _one_of(graph, text, NO_MAPPINGS), None
    found: tuple[str, str | None] | None = None
    for left, right in dotted(text):
        if not candidates(graph, left):
            continue
        node_id = _one_of(graph, left, NO_MAPPINGS)
        if right in graph[node_id]["inputs"]:
            return node_id, right
        found = found or (node_id, right)
    if found:
        return found
    splits = dotted(text)
    return _one_of(graph, splits[0][0] if splits else text, NO_MAPPINGS), None


def mapped(graph: Graph, key: str, mappings: Mapping[str, str]) -> tuple[str, str | None]:
    """Where an entry of `node_mappings` points: `(node id, input or None)`. Raises `UnknownNode` naming the entry."""
    try:
        return address(graph, str(mappings[key]))
    except UnknownNode as error:
        raise UnknownNode(f"node_mappings.{key} names a node that is not there: {error.message}") from None


def dotted(text: str) -> list[tuple[str, str]]:
    """The ways to read a text as `<node>.<input>`, the one split at the last dot first."""
    parts = text.split(".")[-64:]
    head = text[: len(text) - len(".".join(parts))]
    splits = [(head + ".".join(parts[:at]), ".".join(parts[at:])) for at in range(len(parts) - 1, 0, -1)]
    return [(left, right) for left, right in splits if left and right]


def candidates(graph: Graph, name: str) -> list[str]:
    """The ids of the nodes that the name fits, by the first of id, title, slugged title and class that fits any."""
    if name in graph:
        return [name]
    as_slug = slug(name)

    def has_slug(node: Mapping[str, Any]) -> bool:
        return bool(as_slug) and slug(own_title(node) or "") == as_slug

    tests: Sequence[Callable[[Mapping[str, Any]], bool]] = (
        lambda node: own_title(node) == name.strip() != "",
        has_slug,
        lambda node: node["class_type"] == name,
    )
    for test in tests:
        found = [node_id for node_id, node in graph.items() if test(node)]
        if found:
            return found
    return []


def matching(graph: Graph, text: str) -> tuple[Target, ...]:
    """The inputs of `<class>.<input>` or `<prefix>_.<input>`: of every node of the class, or whose title begins so.

    Nodes whose input is fed by another node are passed over. Nothing when the text is none of the two, or when an id
    or a title is meant; raises `IsLink` when every node that matches has its input fed.
    """
    for left, right in dotted(text):
        named_so = [node_id for node_id, node in graph.items() if left in (node_id, own_title(node))]
        if named_so:
            return ()
        found = [node_id for node_id, node in graph.items() if node["class_type"] == left]
        if not found and left.endswith("_"):
            found = [node_id for node_id, node in graph.items() if (own_title(node) or "").startswith(left)]
        having = [node_id for node_id in found if right in graph[node_id]["inputs"]]
        free = [Target(node_id, right) for node_id in having if not is_link(graph[node_id]["inputs"][right])]
        if free:
            return tuple(free)
        if having:
            input_of(graph, having[0], right)
        if found:
            input_of(graph, found[0], right)
    return ()


def input_of(graph: Graph, node_id: str, name: str) -> Any:
    """The literal of an input. Raises `NoSuchInput`, or `IsLink` when another node feeds it."""
    inputs = graph[node_id]["inputs"]
    if name not in inputs:
        raise NoSuchInput(
            f"{named(graph, node_id)} has no input {shown(name)}."
            f"{did_you_mean(name, inputs)}{_its_inputs(graph, node_id)}",
            node=node_id,
        )
    if is_link(inputs[name]):
        raise IsLink(
            f"input {shown(name)} of {named(graph, node_id)} is fed by {named(graph, inputs[name][0])}; "
            "set an input of that node instead.",
            node=node_id,
            details={"input": name, "source": inputs[name][0]},
        )
    return inputs[name]


def text_input(graph: Graph, node_id: str) -> str:
    """The name of the input that a text for this node goes to: the first of `TEXT_INPUTS` that it has.

    Raises `IsLink` when that one is fed by another node, `NoSuchInput` when there is none or it holds no text.
    """
    return _first_input(graph, node_id, TEXT_INPUTS, "a text")


def image_input(graph: Graph, node_id: str) -> str:
    """The name of the input that an image (or another file) for this node goes to: the first of `MEDIA_INPUTS`.

    Raises as `text_input` does.
    """
    return _first_input(graph, node_id, MEDIA_INPUTS, "an image or another file")


def _first_input(graph: Graph, node_id: str, names: Sequence[str], what: str) -> str:
    inputs = graph[node_id]["inputs"]
    for name in names:
        # A linked `model` carries no text, unlike a linked `text`: such a node simply has no input for one.
        if name in inputs and not (name in _OFTEN_NO_TEXT and is_link(inputs[name])):
            value = input_of(graph, node_id, name)
            if value is not None and not isinstance(value, str):
                raise NoSuchInput(
                    f"{named(graph, node_id)} has no input for {what}: its {shown(name)} holds {kind_of(value)}."
                    f"{_its_inputs(graph, node_id)}",
                    node=node_id,
                )
            return name
    raise NoSuchInput(f"{named(graph, node_id)} has no input for {what}.{_its_inputs(graph, node_id)}", node=node_id)


def _its_inputs(graph: Graph, node_id: str) -> str:
    settable = [name for name, value in graph[node_id]["inputs"].items() if not is_link(value)]
    linked = [name for name, value in graph[node_id]["inputs"].items() if is_link(value)]
    sentence = f" It has {listed(settable)}." if settable else " It has no input that can be set."
    return sentence + (f" Fed by other nodes: {listed(linked)}." if linked else "")


def _one_of(graph: Graph, name: str, mappings: Mapping[str, str]) -> str:
    found = candidates(graph, name)
    if len(found) == 1:
        return found[0]
    if found:
        options = listed(named(graph, node_id) for node_id in found)
        raise UnknownNode(
            f"{shown(name)} names {len(found)} nodes: {options}. Name one by its id.", details={"nodes": found}
        )
    titles = [own_title(node) or "" for node in graph.values()]
    words = [*mappings, *filter(None, titles), *(node["class_type"] for node in graph.values())]
    near = did_you_mean(name, dict.fromkeys(words))
    known = "" if near else f" There are {listed(named(graph, node_id) for node_id in graph)}."
    raise UnknownNode(f"there is no node {shown(name)}.{near}{known} {HOW_TO_NAME}")
