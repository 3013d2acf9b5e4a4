"""A ComfyUI graph in API format: reading it, its links, its titles.

The format is what ComfyUI's `POST /prompt` takes: `{node id: {"class_type", "inputs", "_meta"?}}`, where an
input is a literal or a link `[node id, output slot]`. `read_graph` is the one door: behind it, every node has
a `class_type` and an object of `inputs`, every link leads to a node, ids are strings, and everything is JSON.
"""

from __future__ import annotations

import copy
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from bridge.errors import InvalidGraph, UiFormat
from bridge.workflow.words import kind_of, shown

Graph: TypeAlias = dict[str, dict[str, Any]]

EXPORT_HINT = (
    "In ComfyUI's menu use Workflow > Export (API); in the old menu switch on the Dev mode options "
    "in the settings and use Save (API Format)."
)

# What tools write beside the nodes. ComfyUI would answer such an entry with a 500, so it is left out;
# any other entry that is no node is an error, since it is more likely a node gone wrong.
_BESIDE_NODES = frozenset(
    {"author", "client_id", "comment", "comments", "config", "description"}
    | {"note", "notes", "title", "definitions", "extra", "extra_data", "extra_pnginfo", "front", "groups", "id"}
    | {"last_link_id", "last_node_id", "links", "models", "number", "partial_execution_targets", "prompt_id"}
    | {"revision", "version", "workflow"}
)
_WRAPPERS = ("prompt", "output")
_OTHERS_WRAPPERS = ("input", "workflow", "workflow_json")
_MOST_WRAPPINGS = 3
_MAX_DEPTH = 64
_A_NODE = 'A node looks like {"class_type": "KSampler", "inputs": {…}}.'


@dataclass(frozen=True, slots=True)
class Target:
    """An input of a node."""

    node: str
    input: str

    def to_json(self) -> dict[str, str]:
        """`{"node", "input"}`; for a recipe, which has no nodes before it runs, `{"input"}`."""
        return {"node": self.node, "input": self.input} if self.node else {"input": self.input}


def read_graph(document: object, *, where: str = "the workflow") -> Graph:
    """The graph in a parsed JSON document, checked and normalised; the document stays untouched.

    `{"prompt": {…}}` (the body of `POST /prompt`, with whatever stands beside it), `{"output": {…}}` (what the
    editor's `graphToPrompt` gives) and `{"input": {"workflow": {…}}}` (what serverless workers take, with
    `workflow_json` too) are unwrapped. Node ids become strings, in links too; a missing `inputs`
    becomes `{}`; unknown keys of a node are kept; top-level entries that are no nodes and have one of the names
    that tools use (`version`, `extra_data`, … or `_…`) are left out.

    Raises `UiFormat` for a file of the editor, `InvalidGraph` for everything else that ComfyUI could not run
    as far as the graph alone shows it: its `node` is the node's id. `where` begins the sentences.
    """
    nodes = _unwrap(document, where)
    graph: Graph = {}
    for key, node in nodes.items():
        if _is_beside(key, node):
            continue
        node_id = _node_id(key, where)
        if node_id in graph:
            raise InvalidGraph(f"{where} has two nodes of id {shown(node_id)}; ids are unique.", node=node_id)
        graph[node_id] = _read_node(node_id, node, where)
    if not graph:
        raise InvalidGraph(f"{where} has no nodes. {_A_NODE}")
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            node["inputs"][name] = _read_input(graph, node_id, name, value, where)
    circle = _find_cycle(graph)
    if circle:
        path = " -> ".join(f"{one}" for one in (*circle[:8], *(["…"] if len(circle) > 8 else []), circle[0]))
        raise InvalidGraph(f"{where} has nodes that feed each other in a circle: {path}.", node=circle[0])
    return graph


def editors_file(document: object) -> Mapping[str, Any] | None:
    """The file of ComfyUI's editor that a parsed JSON document is, alone or as `{"workflow": …}`; None for a graph."""
    if not isinstance(document, dict):
        return None
    if any(isinstance(document.get(wrapper), dict) for wrapper in _WRAPPERS) or _has_nodes(document):
        return None
    inner = document if _is_editors(document) else document.get("workflow")
    return inner if isinstance(inner, dict) and _is_editors(inner) else None


def is_link(value: object) -> bool:
    """Whether the value of an input is a link `[node id, slot]` and no literal."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
        and value[1] >= 0
    )


def links(node: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """The links into a node: `(input, source node id, slot)`."""
    for name, value in node["inputs"].items():
        if is_link(value):
            yield name, value[0], value[1]


def own_title(node: Mapping[str, Any]) -> str | None:
    """The node's title as the file has it: `_meta.title`, or a `title` of the node itself (older exports)."""
    meta = node.get("_meta")
    for found in (meta.get("title") if isinstance(meta, Mapping) else None, node.get("title")):
        if isinstance(found, str) and found.strip():
            return found.strip()
    return None


def title(node: Mapping[str, Any]) -> str:
    """The node's title for people; its class when it has none."""
    return own_title(node) or str(node["class_type"])


def named(graph: Graph, node_id: str) -> str:
    """`node 6 (Positive)`, for sentences."""
    label = title(graph[node_id])
    return f"node {node_id} ({label if len(label) <= 60 else label[:59] + '…'})"


def copy_graph(graph: Graph) -> Graph:
    """A copy whose nodes and inputs can be changed without a trace in the original."""
    return {node_id: {**node, "inputs": copy_inputs(node["inputs"])} for node_id, node in graph.items()}


def copy_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a node's inputs; nested lists and objects are copied too."""
    return {
        name: list(value) if is_link(value) else copy.deepcopy(value) if isinstance(value, (list, dict)) else value
        for name, value in inputs.items()
    }


def flow_order(graph: Graph) -> list[str]:
    """The ids in the order in which data flows; nodes that do not depend on each other keep the document's order.

    The order does not change when the editor numbers its nodes anew. The graph must be free of circles.
    """
    order: list[str] = []
    done: set[str] = set()
    for start in graph:
        stack = [(start, False)]
        while stack:
            node_id, ready = stack.pop()
            if node_id in done:
                continue
            if ready:
                done.add(node_id)
                order.append(node_id)
                continue
            stack.append((node_id, True))
            sources = [source for _, source, _ in links(graph[node_id]) if source not in done]
            stack.extend((source, False) for source in reversed(sources))
    return order


@lru_cache(maxsize=512)
def slug(text: str) -> str:
    """The text in `[a-z0-9_-]`, for names and topics; empty when the text has no letter and no digit.

    Accents are dropped; a letter without a Latin form becomes `u` and its code point in hexadecimal digits, so
    that names in other scripts stay apart. `slug(slug(x)) == slug(x)`.
    """
    letters = []
    for char in unicodedata.normalize("NFKD", text.casefold()).casefold():
        if char.isascii():
            letters.append(char if char.isalnum() or char == "_" else "-")
        elif unicodedata.combining(char):
            continue
        else:
            letters.append(f"u{ord(char):x}" if char.isalnum() else "-")
    return re.sub("-+", "-", "".join(letters)).strip("-")


def is_json(value: object) -> str | None:
    """What is wrong with a value that should be JSON (a reason for a sentence), or None. Never recurses."""
    stack: list[tuple[object, int]] = [(value, 0)]
    while stack:
        one, depth = stack.pop()
        if depth > _MAX_DEPTH:
            return f"is nested deeper than {_MAX_DEPTH} levels"
        if isinstance(one, str):
            if not one.isascii() and any("\ud800" <= char <= "\udfff" for char in one):
                return "holds half of a surrogate pair, which no UTF-8 text can"
        elif isinstance(one, float):
            if not math.isfinite(one):
                return f"is or holds {one!r}, which JSON does not know; use a finite number"
        elif isinstance(one, (list, tuple)):
            stack.extend((item, depth + 1) for item in one)
        elif isinstance(one, dict):
            for key, item in one.items():
                if not isinstance(key, str):
                    return f"holds an object with a key that is {kind_of(key)}; keys are texts"
                stack += [(key, depth), (item, depth + 1)]
        elif one is not None and not isinstance(one, (bool, int)):
            return f"is or holds {kind_of(one)}, which JSON does not know"
    return None


def _unwrap(document: object, where: str) -> dict[Any, Any]:
    for _ in range(_MOST_WRAPPINGS):
        document = _inner(document)
    if not isinstance(document, dict):
        raise InvalidGraph(f"{where} is {kind_of(document)}; a graph is an object of nodes by their ids. {_A_NODE}")
    # A graph with the editor's file beside it is a graph.
    if not _has_nodes(document) and (_is_editors(document) or _is_editors(document.get("workflow"))):
        raise UiFormat(f"{where} was saved for ComfyUI's editor; its API format is needed. {EXPORT_HINT}")
    return document


def _inner(document: object) -> object:
    for wrapper in (*_WRAPPERS, *_OTHERS_WRAPPERS):
        inner = document.get(wrapper) if isinstance(document, dict) else None
        if not isinstance(inner, dict) or "class_type" in inner:
            continue
        if wrapper in _WRAPPERS or not (_has_nodes(document) or _is_editors(inner)):
            return inner
    return document


def _has_nodes(document: object) -> bool:
    return isinstance(document, dict) and any(
        isinstance(node, dict) and "class_type" in node for node in document.values()
    )


def _is_editors(document: object) -> bool:
    return isinstance(document, dict) and isinstance(document.get("nodes"), list)


def _is_beside(key: object, node: object) -> bool:
    if not isinstance(key, str) or (isinstance(node, dict) and "class_type" in node):
        return False
    return key in _BESIDE_NODES or key.startswith("_") or (key == "nodes" and isinstance(node, list))


def _node_id(key: object, where: str) -> str:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise InvalidGraph(f"{where} has a node whose id is {kind_of(key)}; ids are texts or whole numbers.")
    if isinstance(key, int):
        return shown(key)
    if not key or is_json(key):
        raise InvalidGraph(f"{where} has a node whose id is {shown(key)}; an id is a text of at least one character.")
    return key


def _read_node(node_id: str, node: object, where: str) -> dict[str, Any]:
    at = f"node {shown(node_id)} of {where}"
    if not isinstance(node, dict):
        raise InvalidGraph(f"{at} is {kind_of(node)}. {_A_NODE}", node=node_id)
    class_type = node.get("class_type")
    if not isinstance(class_type, str) or not class_type:
        has = "has no class_type" if class_type is None else f"has {kind_of(class_type)} as class_type"
        if class_type == "":
            has = "has an empty class_type"
        raise InvalidGraph(f"{at} {has}; it should be the name of the node's class. {_A_NODE}", node=node_id)
    inputs = node.get("inputs", {})
    if not isinstance(inputs, dict):
        raise InvalidGraph(f"{at} has {kind_of(inputs)} as inputs; it should be an object. {_A_NODE}", node=node_id)
    for name, value in inputs.items():
        if not isinstance(name, str):
            raise InvalidGraph(f"{at} has an input whose name is {kind_of(name)}; names are texts.", node=node_id)
        wrong = is_json(name) or is_json(value)
        if wrong:
            raise InvalidGraph(f"input {shown(name)} of {at} {wrong}.", node=node_id)
    kept = {key: value for key, value in node.items() if key not in ("inputs", "_meta")}
    if isinstance(node.get("_meta"), dict):
        kept["_meta"] = node["_meta"]
    wrong = is_json(kept)
    if wrong:
        raise InvalidGraph(f"{at} {wrong}.", node=node_id)
    return {**copy.deepcopy(kept), "inputs": dict(inputs)}


def _read_input(graph: Graph, node_id: str, name: str, value: object, where: str) -> object:
    """The input with a link in its normal form, or a copy of the literal."""
    if not isinstance(value, (list, tuple, dict)):
        return value
    if not isinstance(value, dict) and len(value) == 2:
        source, slot = value
        of_link = isinstance(source, (str, int)) and isinstance(slot, (int, float))
        if of_link and not isinstance(source, bool) and not isinstance(slot, bool):
            at = f"input {shown(name)} of node {shown(node_id)} of {where}"
            source_id = source if isinstance(source, str) else shown(source)
            if source_id not in graph:
                raise InvalidGraph(
                    f"{at} is linked to node {shown(source)}, which does not exist.",
                    node=node_id,
                    details={"input": name, "missing": str(source)[:60]},
                )
            if slot < 0 or slot != int(slot):
                raise InvalidGraph(
                    f"{at} is linked to output {shown(slot)} of node {shown(source)}; outputs count 0, 1, 2, …",
                    node=node_id,
                )
            return [source_id, int(slot)]
    return copy.deepcopy(value)


def _find_cycle(graph: Graph) -> list[str]:
    """The ids of one circle of links in their order, or nothing."""
    done: set[str] = set()
    for start in graph:
        if start in done:
            continue
        path: list[str] = [start]
        on_path = {start}
        pending = [iter([source for _, source, _ in links(graph[start])])]
        while pending:
            source = next(pending[-1], None)
            if source is None:
                pending.pop()
                on_path.discard(path[-1])
                done.add(path.pop())
            elif source in on_path:
                return path[path.index(source) :]
            elif source not in done:
                path.append(source)
                on_path.add(source)
                pending.append(iter([further for _, further, _ in links(graph[source])]))
    return []
