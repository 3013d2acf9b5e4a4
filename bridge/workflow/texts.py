"""Which inputs of a graph hold its texts, the positive ones and the negative ones: links are followed, names read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from bridge.workflow.graph import Graph, Target, is_link, own_title
from bridge.workflow.outputs import is_output

# The input of a text encoder that matters most comes first.
_ENCODER_TEXTS = (
    *("text", "prompt", "user_prompt", "text_g", "t5xxl", "text_l", "clip_l", "clip_g", "t5", "llama", "bert", "mt5xl"),
    *("tags", "lyrics", "string"),
)
_STRINGS = (
    *("text", "value", "string", "string_a", "string_b", "prompt", "text_a", "text_b", "text1", "text2"),
    *("wildcard_text", "populated_text"),
)
_PROMPTS = ("prompt", "text", "text_positive", "positive_prompt", "positive", "user_prompt", "string", "value")
_NEGATIVES = ("negative_prompt", "text_negative", "negative")
_SIDES = ("positive", "negative")
_A_TEXT = re.compile(r"(^|_)(prompt|text)s?(_(start|additional|end|\d+))?$", re.IGNORECASE)
# What switches, joins and shows of texts call their inputs.
_HANDS_ON = re.compile(r"text|string|prompt|value|^any|^input|^on_|^(true|false|if)|^source$", re.IGNORECASE)
_CONDITIONING = re.compile(r"(^|_)cond", re.IGNORECASE)  # and no start_second
_NO_PROMPT = re.compile(r"^(Save|Preview)|Saver|Show|Display|Lora|Metadata|Math")
_HOLDS_TEXT = re.compile(r"Text|String|Prompt", re.IGNORECASE)


class Texts:
    """Looks for the texts of one graph. order: its nodes in the order of data; samplers: those that sample."""

    def __init__(
        self, graph: Graph, order: Sequence[str], samplers: Collection[str], object_info: Mapping[str, Any] | None
    ) -> None:
        self._graph = graph
        self._order = order
        self._samplers = samplers
        self._object_info = object_info

    def find(self) -> tuple[list[Target], list[Target]]:
        """Return the inputs with the positive texts, and with the negative ones."""
        guiders = {self._inputs(one)["guider"][0] for one in self._order if is_link(self._inputs(one).get("guider"))}
        roots = [node_id for node_id in self._order if node_id in guiders or node_id in self._samplers]
        positive, negative = self._from(roots)
        if not positive and not negative:
            positive, negative = self._by_titles(*self._from(self._order))
        if not positive and not negative:
            positive, negative = self._loose()
        known = set(positive)
        return positive, [target for target in negative if target not in known]

    def _inputs(self, node_id: str) -> Mapping[str, Any]:
        inputs: Mapping[str, Any] = self._graph[node_id]["inputs"]
        return inputs

    def _from(self, roots: Iterable[str]) -> tuple[list[Target], list[Target]]:
        found: dict[str, dict[Target, None]] = {side: {} for side in _SIDES}
        seen: dict[str, set[str]] = {side: set() for side in _SIDES}
        for node_id in roots:
            inputs = self._inputs(node_id)
            for side in _SIDES:
                for name in _conditionings(inputs, side):
                    if side == "positive" or _is_of(side, name) or "embeds" in name or "pipe" in name:
                        found[side].update(dict.fromkeys(self._conditioning(inputs[name][0], side, seen[side])))
        return list(found["positive"]), list(found["negative"])

    def _conditioning(self, start: str, side: str, seen: set[str]) -> list[Target]:
        """The texts of one side behind a link of conditioning, through whatever passes conditioning on.

        seen: the nodes that were passed through already, whose texts are known.
        """
        found: list[Target] = []
        stack = [start]
        while stack:
            node_id = stack.pop()
            if node_id in seen or self._graph[node_id]["class_type"] == "ConditioningZeroOut":
                continue
            seen.add(node_id)
            inputs = self._inputs(node_id)
            own = [name for name in inputs if isinstance(inputs[name], str) and _is_text_of(side, name)]
            further = _conditionings(inputs, side)
            if own:
                found.append(Target(node_id, own[0]))
            elif further:
                stack.extend(inputs[name][0] for name in reversed(further))
            else:
                found += self._encoder(node_id, side)
        return found

    def _encoder(self, node_id: str, side: str) -> list[Target]:
        inputs = self._inputs(node_id)
        names = [name for name in _ENCODER_TEXTS if isinstance(inputs.get(name), str) or is_link(inputs.get(name))]
        if not names:
            names = [name for name in inputs if _A_TEXT.search(name) and not _is_of(_other(side), name)]
            names = [name for name in names if inputs[name] != ""] or names[:1]
        found: list[Target] = []
        for name in names:
            if isinstance(inputs[name], str):
                found.append(Target(node_id, name))
            elif is_link(inputs[name]):
                found += self._strings(inputs[name][0], side)
        return found

    def _strings(self, start: str, side: str) -> list[Target]:
        """The nodes that hold a text which arrives over links; a text that is itself linked comes before literals."""
        found: list[Target] = []
        beside: list[Target] = []
        seen: set[str] = set()
        stack = [start]
        while stack:
            node_id = stack.pop()
            if node_id in seen:
                continue
            seen.add(node_id)
            inputs = self._inputs(node_id)
            shows = is_output(self._graph[node_id]["class_type"], self._object_info)
            linked = [name for name in inputs if is_link(inputs[name]) and (shows or _hands_on(name, side))]
            linked.sort(key=lambda name: _STRINGS.index(name) if name in _STRINGS else len(_STRINGS))
            own = [*(name for name in inputs if _is_text_of(side, name)), *_STRINGS]
            own = [name for name in own if isinstance(inputs.get(name), str)][:1]
            if linked:
                stack.extend(inputs[name][0] for name in reversed(linked))
            if not shows:  # what it shows is what it has shown last
                (beside if linked else found).extend(Target(node_id, name) for name in own)
        return found or beside[:1]

    def _by_titles(self, positive: list[Target], negative: list[Target]) -> tuple[list[Target], list[Target]]:
        """Texts that no sampler leads to, some perhaps on the wrong side."""
        wrong = [target for target in positive if self._looks_negative(target.node)]
        return [target for target in positive if target not in wrong], [*negative, *wrong]

    def _loose(self) -> tuple[list[Target], list[Target]]:
        """The texts of a graph without a sampler, told apart by the names of the inputs and by titles."""
        positive: list[Target] = []
        negative: list[Target] = []
        for node_id in self._order:
            inputs, class_type = self._inputs(node_id), str(self._graph[node_id]["class_type"])
            if _NO_PROMPT.search(class_type) or is_output(class_type, self._object_info):
                continue
            names = _PROMPTS if _HOLDS_TEXT.search(class_type) else _PROMPTS[:-2]
            own = next((name for name in names if isinstance(inputs.get(name), str)), None)
            if own is not None:
                (negative if self._looks_negative(node_id) else positive).append(Target(node_id, own))
            negative += [Target(node_id, name) for name in _NEGATIVES if isinstance(inputs.get(name), str)]
        return positive, negative

    def _looks_negative(self, node_id: str) -> bool:
        return "negativ" in (own_title(self._graph[node_id]) or "").lower()


def _conditionings(inputs: Mapping[str, Any], side: str) -> list[str]:
    """The names of the linked inputs that can bring the texts of one side."""
    linked = [name for name, value in inputs.items() if is_link(value)]
    sides = [name for name in linked if _is_of(side, name)]
    either = [
        name
        for name in linked
        if (_CONDITIONING.search(name) or name in ("text_embeds", ""))
        and "empty" not in name
        and not any(_is_of(one, name) for one in _SIDES)
    ]
    return sides + either or [name for name in linked if "pipe" in name]


def _is_of(side: str, name: str) -> bool:
    """Whether an input is for that side: `negative`, `text_negative`, `neg_conditioning`."""
    lower = name.lower()
    return side in lower or re.search(rf"(^|_){side[:3]}(_|$)", lower) is not None


def _is_text_of(side: str, name: str) -> bool:
    return re.fullmatch(rf"((text|prompt)_)?({side}|{side[:3]})(_(text|prompt|g|l))?", name.lower()) is not None


def _hands_on(name: str, side: str) -> bool:
    return (name == "" or _HANDS_ON.search(name) is not None or _is_of(side, name)) and not _is_of(_other(side), name)


def _other(side: str) -> str:
    return _SIDES[1 - _SIDES.index(side)]
