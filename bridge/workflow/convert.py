"""A file of ComfyUI's editor made into a graph in API format, as the editor's own export does. Pure.

The editor keeps the values of a node in a list without names; their order is that of the inputs in `/object_info`, with
widgets of the editor's own in between. Nodes that exist in the editor only (reroutes, primitives, notes) are resolved,
bypassed ones passed through, muted ones left out, and subgraphs laid out flat: node 5 in subgraph 12 becomes `12:5`.
Follows `graphToPrompt` of ComfyUI_frontend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge.errors import InvalidGraph, UiFormat
from bridge.workflow.graph import EXPORT_HINT
from bridge.workflow.widgets import CONTROL, widget_values
from bridge.workflow.words import kind_of, listed, shown

_MUTED, _BYPASSED = 2, 4
_INPUTS, _OUTPUTS = "-10", "-20"
_REROUTES = frozenset({"Reroute", "Reroute (rgthree)", "SetNode"})
# Switches of an add-on that work on the editor's nodes and are none for ComfyUI, though links lead to them.
_SWITCHBOARD = frozenset(
    f"{name} (rgthree)"
    for name in (
        *("Fast Muter", "Fast Bypasser", "Fast Groups Muter", "Fast Groups Bypasser", "Fast Actions Button"),
        *("Mute / Bypass Relay", "Mute / Bypass Repeater", "Random Unmuter", "Node Collector", "Label", "Bookmark"),
    )
)
_VIRTUAL = _REROUTES | _SWITCHBOARD | {"PrimitiveNode", "GetNode", "Note", "MarkdownNote"}
_GROUP_NODES = ("workflow>", "workflow/")
_UNSEEN_LINKS = frozenset(
    {"Anything Everywhere", "Anything Everywhere?", "Anything Everywhere3", "Prompts Everywhere", "Seed Everywhere"}
)
_MOST_NODES = 20_000
_MOST_HOPS = 10_000
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class _Link:
    origin: str
    slot: int
    target: str
    target_slot: int


@dataclass(frozen=True, slots=True)
class _Node:
    id: str
    type: str
    mode: int
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    values: Any
    title: str | None
    properties: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Value:
    """An input turns out to hold a value and no link; `control` is what the editor does to it after a run."""

    value: Any
    control: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Scope:
    """The nodes of the file, or of one use of a subgraph in it."""

    prefix: str
    nodes: Mapping[str, _Node]
    links: Mapping[int, _Link]
    parent: _Scope | None = None
    instance: _Node | None = None
    names: tuple[str, ...] = ()
    """Of the inputs of the subgraph."""
    host: Mapping[str, Any] = field(default_factory=dict)
    """What this use of the subgraph sets them to."""
    overrides: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    """What it sets widgets of inner nodes to."""
    children: dict[str, _Scope] = field(default_factory=dict)


def convert(document: Mapping[str, Any], object_info: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The graph in API format of a file of the editor; `object_info` is the parsed body of `/object_info`.

    Raises `UiFormat`, with the menu entry to use instead, when a node's class is not known; `InvalidGraph` for a file
    that the editor could not have written. `where` begins the sentences.
    """
    if not object_info:
        raise UiFormat(
            f"{where} was saved for ComfyUI's editor; it is converted as soon as a ComfyUI is there. Without one its "
            f"API format is needed. {EXPORT_HINT}"
        )
    return _Converter(document, object_info, where).graph()


class _Converter:
    def __init__(self, document: Mapping[str, Any], object_info: Mapping[str, Any], where: str) -> None:
        self._document = document
        self._object_info = object_info
        self._where = where
        self._definitions = {
            str(one["id"]): one for one in _dicts(_get(document, "definitions", "subgraphs")) if "id" in one
        }
        self._count = 0

    def graph(self) -> dict[str, Any]:
        top = _Scope("", self._nodes(self._document), self._links(self._document))
        live = [(scope, node) for scope, node in self._expanded(top, 0) if node.type not in _VIRTUAL]
        live = [(scope, node) for scope, node in live if node.type in self._object_info or _is_wired(node)]
        unknown = dict.fromkeys(node.type for _, node in live if not isinstance(self._object_info.get(node.type), dict))
        self._refuse_what_only_the_editor_can(dict.fromkeys(node.type for _, node in live))
        if unknown:
            raise UiFormat(
                f"{self._where} was saved for ComfyUI's editor and cannot be converted: this ComfyUI does not know "
                f"{listed(shown(one) for one in unknown)}. Install what has them, or use the API format. {EXPORT_HINT}",
                details={"classes": list(unknown)[:100]},
            )
        if not live:
            raise InvalidGraph(f"{self._where} was saved for ComfyUI's editor and has no node that runs.")
        return {scope.prefix + node.id: self._converted(scope, node) for scope, node in live}

    def _refuse_what_only_the_editor_can(self, types: Iterable[str]) -> None:
        for kind in types:
            if kind.startswith(_GROUP_NODES) and kind not in self._object_info:
                raise UiFormat(
                    f"{self._where} has the group node {shown(kind[len(_GROUP_NODES[0]) :])}, the old form of a "
                    "subgraph, which only the editor can take apart. Have it converted to nodes there (right click on "
                    f"it) or use the API format. {EXPORT_HINT}",
                    details={"classes": [kind[:100]]},
                )
            if kind in _UNSEEN_LINKS:
                raise UiFormat(
                    f"{self._where} has links that only the editor knows ({shown(kind)}); its API format has them. "
                    f"{EXPORT_HINT}",
                    details={"classes": [kind]},
                )

    def _expanded(self, scope: _Scope, depth: int) -> Iterator[tuple[_Scope, _Node]]:
        """The nodes that run, those of subgraphs too."""
        if depth > _DEEPEST:
            raise InvalidGraph(f"{self._where} has subgraphs that are nested deeper than {_DEEPEST} levels.")
        for node in scope.nodes.values():
            self._count += 1
            if self._count > _MOST_NODES:
                raise InvalidGraph(f"{self._where} has more than {_MOST_NODES:,} nodes with those of its subgraphs.")
            if node.mode in (_MUTED, _BYPASSED):
                continue
            if node.type in self._definitions:
                yield from self._expanded(self._child(scope, node), depth + 1)
            else:
                yield scope, node

    def _child(self, scope: _Scope, node: _Node) -> _Scope:
        made = scope.children.get(node.id)
        if made is None:
            definition = self._definitions[node.type]
            names = tuple(str(one.get("name")) for one in _dicts(definition.get("inputs")))
            host, overrides = _host_values(node)
            host.update({key: value for (one, key), value in scope.overrides.items() if one == node.id})
            made = _Scope(
                prefix=f"{scope.prefix}{node.id}:",
                nodes=self._nodes(definition),
                links=self._links(definition),
                parent=scope,
                instance=node,
                names=names,
                host=host,
                overrides=overrides,
            )
            scope.children[node.id] = made
        return made

    def _converted(self, scope: _Scope, node: _Node) -> dict[str, Any]:
        info = self._object_info[node.type]
        values, control = widget_values(info, node.values, [str(one.get("name")) for one in node.inputs if _own(one)])
        for name in values:
            if (node.id, name) in scope.overrides:
                values[name] = scope.overrides[node.id, name]
        inputs: dict[str, Any] = {name: _wrapped(value) for name, value in values.items() if value is not None}
        for entry in node.inputs:
            key = entry.get("name")
            if not isinstance(key, str) or entry.get("link") is None:
                continue
            source = self._source(scope, entry.get("link"), entry.get("type"))
            if isinstance(source, _Value):
                inputs[key] = _wrapped(source.value)
                control = source.control or control
            elif source is not None:
                inputs[key] = list(source)
        meta: dict[str, str] = {"title": node.title or str(info.get("display_name") or node.type)}
        if control is not None:
            meta["control_after_generate"] = control
        return {"inputs": inputs, "class_type": node.type, "_meta": meta}

    def _source(self, scope: _Scope, link_id: Any, wanted: Any) -> tuple[str, int] | _Value | None:
        """Where a link comes from, through all that exists in the editor only; None when from nothing that runs."""
        for _ in range(_MOST_HOPS):
            link = scope.links.get(link_id) if isinstance(link_id, int) else None
            if link is None:
                return None
            if link.origin == _INPUTS and scope.parent is not None:
                entry = _outer_input(scope, link.slot)
                if entry.get("link") is None:
                    name = scope.names[link.slot] if link.slot < len(scope.names) else ""
                    return _Value(scope.host[name]) if scope.host.get(name) is not None else None
                scope, link_id = scope.parent, entry["link"]
                continue
            node = scope.nodes.get(link.origin)
            if node is None or node.mode == _MUTED:
                return None
            if node.mode == _BYPASSED:
                link_id = _link_of(node, _passed(node, link.slot, wanted))
            elif node.type in self._definitions:
                scope = self._child(scope, node)
                link_id = _leaving(scope, link.slot)
            elif node.type == "PrimitiveNode":
                return _primitive(node)
            elif node.type in _REROUTES:
                link_id = _link_of(node, 0)
            elif node.type == "GetNode":
                scope, link_id = _set_elsewhere(scope, node)
            else:
                return None if node.type in _VIRTUAL else (scope.prefix + node.id, link.slot)
        raise InvalidGraph(f"{self._where} has links that lead in a circle.")

    def _nodes(self, document: Mapping[str, Any]) -> dict[str, _Node]:
        found: dict[str, _Node] = {}
        entries = document.get("nodes")
        for entry in entries if isinstance(entries, list) else ():
            if not isinstance(entry, dict):
                raise InvalidGraph(f"{self._where} has {kind_of(entry)} among its nodes.")
            node_id, kind, mode = entry.get("id"), entry.get("type"), entry.get("mode")
            if isinstance(node_id, bool) or not isinstance(node_id, (int, str)) or not isinstance(kind, str):
                raise InvalidGraph(f"{self._where} has a node without id or type.")
            title, properties = entry.get("title"), entry.get("properties")
            found[str(node_id)[:200]] = _Node(
                id=str(node_id)[:200],
                type=kind,
                mode=mode if isinstance(mode, int) else 0,
                inputs=tuple(_dicts(entry.get("inputs"))),
                outputs=tuple(_dicts(entry.get("outputs"))),
                values=entry.get("widgets_values"),
                title=title if isinstance(title, str) and title.strip() else None,
                properties=properties if isinstance(properties, dict) else {},
            )
        return found

    def _links(self, document: Mapping[str, Any]) -> dict[int, _Link]:
        found: dict[int, _Link] = {}
        entries = document.get("links")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
                parts: Sequence[Any] = [entry.get(name) for name in names]
            else:
                parts = entry if isinstance(entry, list) else ()
            if len(parts) < 5 or not all(isinstance(parts[one], int) for one in (0, 2, 4)):
                continue
            found[parts[0]] = _Link(str(parts[1]), max(parts[2], 0), str(parts[3]), max(parts[4], 0))
        return found


def _host_values(node: _Node) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """What a use of a subgraph sets: its own inputs by name, and widgets of inner nodes.

    In the order of `proxyWidgets` where the file has it, else one for each input with a widget.
    """
    host: dict[str, Any] = {}
    inner: dict[tuple[str, str], Any] = {}
    values = node.values if isinstance(node.values, list) else []
    proxies = node.properties.get("proxyWidgets")
    if isinstance(proxies, list) and proxies:
        for proxy, value in zip(proxies, values, strict=False):
            if value is None or not isinstance(proxy, list) or len(proxy) < 2:
                continue
            if str(proxy[0]) == "-1":
                host[str(proxy[1])] = value
            else:
                inner[str(proxy[0]), str(proxy[1])] = value
        return host, inner
    names = [str(one.get("name")) for one in node.inputs if _own(one)]
    if len(values) > len(names):
        # Older files have the editor's own widget behind a seed here too.
        values = [one for at, one in enumerate(values) if not (at and isinstance(one, str) and one in CONTROL)]
    host.update({name: value for name, value in zip(names, values, strict=False) if value is not None})
    return host, inner


def _outer_input(scope: _Scope, slot: int) -> Mapping[str, Any]:
    """The input of the use of a subgraph that its inner input number `slot` stands for."""
    inputs = scope.instance.inputs if scope.instance is not None else ()
    name = scope.names[slot] if slot < len(scope.names) else None
    by_name = next((one for one in inputs if one.get("name") == name), None)
    return by_name or (inputs[slot] if slot < len(inputs) and name is None else {})


def _leaving(scope: _Scope, slot: int) -> int | None:
    """The link that feeds output number `slot` of a subgraph."""
    return next(
        (key for key, link in scope.links.items() if link.target == _OUTPUTS and link.target_slot == slot), None
    )


def _link_of(node: _Node, index: int | None) -> Any:
    return node.inputs[index].get("link") if index is not None and index < len(node.inputs) else None


def _passed(node: _Node, slot: int, wanted: Any) -> int | None:
    """Which input a bypassed node hands on as output number `slot`: the one of that number if it fits, else by type."""
    types = [one.get("type") for one in node.inputs]
    if wanted in ("*", "", None):
        return slot if slot < len(types) else 0
    own = node.outputs[slot].get("type") if slot < len(node.outputs) else wanted
    if slot < len(types) and _connects(types[slot], own) and _connects(types[slot], wanted):
        return slot
    if wanted in types:
        return types.index(wanted)
    return next((at for at, one in enumerate(types) if _connects(one, own) and _connects(one, wanted)), None)


def _connects(one: Any, other: Any) -> bool:
    names = [{part.strip().lower() for part in str(kind).split(",")} for kind in (one, other)]
    return bool(names[0] & names[1]) or any(kind in ("*", "", None, 0) for kind in (one, other))


def _primitive(node: _Node) -> _Value | None:
    values = node.values if isinstance(node.values, list) else []
    if not values or values[0] is None:
        return None
    control = values[1] if len(values) > 1 and isinstance(values[1], str) and values[1] in CONTROL else None
    return _Value(values[0], control)


def _set_elsewhere(scope: _Scope, node: _Node) -> tuple[_Scope, Any]:
    """The link into the SetNode of the same name, in this scope or around it."""
    name = _first(node.values)
    around: _Scope | None = scope
    while around is not None:
        for other in around.nodes.values():
            if other.type == "SetNode" and name is not None and _first(other.values) == name:
                return around, _link_of(other, 0)
        around = around.parent
    return scope, None


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else None


def _own(entry: Mapping[str, Any]) -> bool:
    """Whether an input of a node stands for a widget."""
    return isinstance(entry.get("widget"), dict)


def _is_wired(node: _Node) -> bool:
    """Whether something runs through a node: one of an unknown class without links is decoration."""
    return any(one.get("link") is not None for one in node.inputs) or any(one.get("links") for one in node.outputs)


def _wrapped(value: Any) -> Any:
    """A list would be taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _get(document: Mapping[str, Any], *keys: str) -> Any:
    value: Any = document
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
