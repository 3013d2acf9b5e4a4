"""What a graph shows of itself: which inputs are its texts, seed, steps, size, images, models.

Everything follows links and the names of inputs rather than lists of classes, since custom nodes keep to the
names of ComfyUI's own. All results are in the order in which data flows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bridge.workflow.graph import Graph, Target, flow_order, is_link, links, own_title
from bridge.workflow.kinds import MEDIA_TYPES, spec_of
from bridge.workflow.outputs import live_nodes

# The input of a text encoder that matters most comes first.
_ENCODER_TEXTS = (
    *("text", "prompt", "user_prompt", "text_g", "t5xxl", "text_l", "clip_l", "clip_g", "t5", "llama", "bert", "mt5xl"),
    *("tags", "lyrics", "string"),
)
_STRINGS = ("text", "value", "string", "string_a", "string_b", "prompt", "text_a", "text_b", "text1", "text2")
_LATENTS = ("samples", "latent", "latent_image", "samples1", "samples_to", "pixels", "image", "images", "input")
_SIZED_LINKS = ("latent_image", "latent", "samples", "image_embeds")
_VALUES = ("value", "Value", "int", "float", "number", "Number")
_SEEDS = ("seed", "noise_seed")
_FEW = 3  # a node with more inputs than this is no mere holder of a value
_SAMPLER_PARTS = ("noise", "guider", "sampler", "sigmas", "high_sigmas", "low_sigmas")
_SAMPLING_INPUTS = ("seed", "noise_seed", "steps", "cfg", "sampler_name", "latent_image")
_PROMPTS = ("prompt", "text", "text_positive", "positive_prompt", "positive", "user_prompt", "string", "value")
_NEGATIVES = ("negative_prompt", "text_negative", "negative")


class Tracer:
    """Walks one graph; only the nodes that an output can depend on count."""

    def __init__(self, graph: Graph, object_info: Mapping[str, Any] | None = None) -> None:
        live = live_nodes(graph, object_info)
        self._graph = graph
        self._object_info = object_info
        self._order = self._by_stages([node_id for node_id in flow_order(graph) if node_id in live])
        self._samplers = [node_id for node_id in self._order if self._is_sampler(node_id)]
        self._parts = self._with_parts(self._samplers)
        self._used: dict[str, list[tuple[int, str]]] | None = None

    def texts(self) -> tuple[list[Target], list[Target]]:
        """The inputs that hold the texts: the positive ones, and the negative ones."""
        guiders = {
            self._inputs(node_id)["guider"][0]
            for node_id in self._order
            if is_link(self._inputs(node_id).get("guider"))
        }
        roots = [node_id for node_id in self._order if node_id in guiders or node_id in self._samplers]
        positive, negative = self._texts_from(roots)
        if not positive and not negative:
            positive, negative = self._texts_from(self._order)
        if not positive and not negative:
            positive, negative = self._loose_texts()
        known = set(positive)
        return positive, [target for target in negative if target not in known]

    def sampling(self, name: str, *types: type) -> list[Target]:
        """The literals of this input at the samplers and at what they are built from (noise, sigmas, guider)."""
        return self._literals(self._parts, (name,), types)

    def seeds(self) -> list[Target]:
        """The seeds: the samplers' first, then those of other nodes.

        That of a sampler which adds no noise of its own counts only when there is no other.
        """
        found = self._literals([*self._parts, *self._order], _SEEDS, (int,))
        noisy = [one for one in found if self._inputs(one.node).get("add_noise") not in ("disable", False)]
        return noisy or found

    def steps(self) -> list[list[Target]]:
        """The numbers of steps; the stages of one sampling (KSamplerAdvanced after KSamplerAdvanced) share one."""
        groups: list[list[Target]] = []
        for target in self.sampling("steps", int):
            before = self._stage_before(target.node)
            group = next((group for group in groups if before and any(one.node == before for one in group)), None)
            if group is not None and self.value(group[0]) == self.value(target):
                group.append(target)
            else:
                groups.append([target])
        return groups

    def sizes(self) -> list[dict[str, list[Target]]]:
        """For each source of latents that feeds a sampler: its `width`, `height` and `batch_size`.

        Without a sampler, those of the nodes that start empty (EmptyImage with its `color`, …).
        """
        sources: list[str] = []
        for node_id in self._samplers:
            inputs = self._inputs(node_id)
            link = next((inputs[name] for name in _SIZED_LINKS if is_link(inputs.get(name))), None)
            source = self._size_source(link[0]) if link else None
            if source is not None:
                sources.append(source)
        names: tuple[str, ...] = ("width", "height", "batch_size")
        if not self._samplers:
            sources = [node_id for node_id in self._order if self._class(node_id).startswith("Empty")]
            names = (*names, "color")
        sizes = [
            {name: found for name in names if (found := self._literals([source], (name,), (int,)))}
            for source in sources
        ]
        if sizes:
            self._add_shifts(sizes[0])
        return sizes

    def files(self) -> Iterator[tuple[str, Target]]:
        """The files that are loaded: `image`, `mask`, `video`, `audio` or `file`, and the input with the name."""
        for node_id in self._order:
            for name, value in self._inputs(node_id).items():
                if isinstance(value, str):
                    kind = spec_of(self._class(node_id), name, value, self._object_info).type
                    if kind in MEDIA_TYPES:
                        is_mask = kind == "image" and self._only_mask(node_id)
                        yield "mask" if is_mask else str(kind), Target(node_id, name)

    def literals(self, *names: str) -> list[Target]:
        """The texts of the inputs of these names, anywhere."""
        return self._literals(self._order, names, (str,))

    def guidance(self) -> list[Target]:
        """The distilled guidance of Flux and its like."""
        return self._literals(self._order, ("guidance",), (int, float))

    def value(self, target: Target) -> Any:
        """The literal of an input."""
        return self._inputs(target.node)[target.input]

    def _class(self, node_id: str) -> str:
        return str(self._graph[node_id]["class_type"])

    def _inputs(self, node_id: str) -> Mapping[str, Any]:
        inputs: Mapping[str, Any] = self._graph[node_id]["inputs"]
        return inputs

    def _is_sampler(self, node_id: str) -> bool:
        inputs = self._inputs(node_id)
        if is_link(inputs.get("guider")):
            return True
        if "steps" in inputs and ("seed" in inputs or "noise_seed" in inputs):
            return True
        return is_link(inputs.get("positive")) and any(name in inputs for name in _SAMPLING_INPUTS)

    def _by_stages(self, order: list[str]) -> list[str]:
        """The nodes with what the first sampler needs first, so that the loaders stand in the order of their use."""
        places = {node_id: place for place, node_id in enumerate(order)}
        stages: dict[str, None] = {}
        for sampler in order:
            if self._is_sampler(sampler):
                needed: set[str] = set()
                stack = [sampler]
                while stack:
                    node_id = stack.pop()
                    if node_id not in needed and node_id not in stages:
                        needed.add(node_id)
                        stack.extend(source for _, source, _ in links(self._graph[node_id]))
                stages.update(dict.fromkeys(sorted(needed, key=places.__getitem__)))
        stages.update(dict.fromkeys(order))
        return list(stages)

    def _with_parts(self, samplers: Iterable[str]) -> list[str]:
        found: set[str] = set()
        stack = list(samplers)
        while stack:
            node_id = stack.pop()
            if node_id in found:
                continue
            found.add(node_id)
            inputs = self._inputs(node_id)
            stack.extend(inputs[name][0] for name in _SAMPLER_PARTS if is_link(inputs.get(name)))
        return [node_id for node_id in self._order if node_id in found]

    def _texts_from(self, roots: Iterable[str]) -> tuple[list[Target], list[Target]]:
        positive: dict[Target, None] = {}
        negative: dict[Target, None] = {}
        for node_id in roots:
            inputs = self._inputs(node_id)
            for name in _conditionings(inputs, "positive"):
                positive.update(dict.fromkeys(self._conditioning(inputs[name], "positive")))
            for name in _conditionings(inputs, "negative"):
                if "negative" in name.lower() or "embeds" in name:
                    negative.update(dict.fromkeys(self._conditioning(inputs[name], "negative")))
        return list(positive), list(negative)

    def _conditioning(self, link: Any, role: str) -> list[Target]:
        """The texts behind a link of conditioning, through whatever passes conditioning on."""
        found: list[Target] = []
        seen: set[tuple[str, str]] = set()
        stack = [(link, role)]
        while stack:
            (node_id, slot), side = stack.pop()
            inputs = self._inputs(node_id)
            names = {one for one in inputs if is_link(inputs[one])}
            if slot in (0, 1) and all(any(one in name.lower() for name in names) for one in ("positive", "negative")):
                # Nodes that take both sides give both, in this order.
                side = ("positive", "negative")[slot]
            if (node_id, side) in seen or self._class(node_id) == "ConditioningZeroOut":
                continue
            seen.add((node_id, side))
            own = [name for name in (side, f"text_{side}", f"{side}_prompt") if isinstance(inputs.get(name), str)]
            further = _conditionings(inputs, side)
            if own:
                found += [Target(node_id, name) for name in own[:1]]
            elif further:
                stack.extend((inputs[name], side) for name in reversed(further))
            else:
                found += self._encoder(node_id)
        return found

    def _encoder(self, node_id: str) -> list[Target]:
        inputs = self._inputs(node_id)
        found: list[Target] = []
        for name in _ENCODER_TEXTS:
            if isinstance(inputs.get(name), str):
                found.append(Target(node_id, name))
            elif is_link(inputs.get(name)):
                found += self._strings(inputs[name][0])
        return found

    def _strings(self, start: str) -> list[Target]:
        """The nodes that hold a text which arrives over links; a text that is itself linked comes before literals."""
        found: list[Target] = []
        seen: set[str] = set()
        stack = [start]
        while stack:
            node_id = stack.pop()
            if node_id in seen:
                continue
            seen.add(node_id)
            inputs = self._inputs(node_id)
            further = [inputs[name][0] for name in (*_STRINGS, "") if is_link(inputs.get(name))]
            if further:
                stack.extend(reversed(further))
            else:
                found += [Target(node_id, name) for name in _STRINGS if isinstance(inputs.get(name), str)][:1]
        return found

    def _loose_texts(self) -> tuple[list[Target], list[Target]]:
        """The texts of a graph without a sampler, told apart by the names of the inputs and by titles."""
        positive: list[Target] = []
        negative: list[Target] = []
        for node_id in self._order:
            inputs = self._inputs(node_id)
            looks_negative = "negativ" in (own_title(self._graph[node_id]) or "").lower()
            own = next((name for name in _PROMPTS if isinstance(inputs.get(name), str)), None)
            if own is not None and not self._class(node_id).startswith(("Save", "Preview")):
                (negative if looks_negative else positive).append(Target(node_id, own))
            negative += [Target(node_id, name) for name in _NEGATIVES if isinstance(inputs.get(name), str)]
        return positive, negative

    def _literals(self, nodes: Iterable[str], names: Iterable[str], types: tuple[type, ...]) -> list[Target]:
        """The literals of these inputs, or those that feed them over links; each once."""
        found: dict[Target, None] = {}
        wanted = tuple(names)
        for node_id in nodes:
            for name in wanted:
                target = self._origin(node_id, name, types)
                if target is not None:
                    found[target] = None
        return list(found)

    def _origin(self, node_id: str, name: str, types: tuple[type, ...]) -> Target | None:
        """The literal behind an input: its own, or that of the node that feeds it (a primitive, a seed node)."""
        wanted: tuple[str, ...] = (name,)
        for _ in range(len(self._graph)):
            inputs = self._inputs(node_id)
            present = next((one for one in wanted if one in inputs), None)
            if present is None:
                return None
            value = inputs[present]
            if not is_link(value):
                fits = isinstance(value, types) and not isinstance(value, bool)
                return Target(node_id, present) if fits else None
            node_id = value[0]
            wanted = (*_SEEDS,) if name in _SEEDS else (name,)
            if len(self._inputs(node_id)) <= _FEW:
                wanted += _VALUES
        return None

    def _stage_before(self, node_id: str) -> str | None:
        inputs = self._inputs(node_id)
        if "start_at_step" not in inputs or not is_link(inputs.get("latent_image")):
            return None
        before = str(inputs["latent_image"][0])
        return before if "start_at_step" in self._inputs(before) else None

    def _size_source(self, start: str) -> str | None:
        """The node behind a link of latents that has a size; none when another sampler comes first."""
        node_id: str | None = start
        while node_id is not None and not self._is_sampler(node_id):
            inputs = self._inputs(node_id)
            if "width" in inputs and "height" in inputs:
                return node_id
            node_id = next((inputs[name][0] for name in _LATENTS if is_link(inputs.get(name))), None)
        return None

    def _add_shifts(self, size: dict[str, list[Target]]) -> None:
        """Flux's ModelSamplingFlux is told the size of the picture once more."""
        for name in ("width", "height"):
            for node_id in self._order:
                if name in size and self._class(node_id) == "ModelSamplingFlux":
                    again = Target(node_id, name)
                    if self._inputs(node_id).get(name) == self.value(size[name][0]) and again not in size[name]:
                        size[name].append(again)

    def _only_mask(self, node_id: str) -> bool:
        """Whether nothing but the mask of a loaded image is used."""
        if self._class(node_id) == "LoadImageMask":
            return True
        uses = self._uses().get(node_id, [])
        return bool(uses) and all(slot == 1 or class_type == "ImageToMask" for slot, class_type in uses)

    def _uses(self) -> dict[str, list[tuple[int, str]]]:
        """For each node that is linked from: the slot and the class of each node that takes it."""
        if self._used is None:
            self._used = {}
            for node_id in self._order:
                for _, source, slot in links(self._graph[node_id]):
                    self._used.setdefault(source, []).append((slot, self._class(node_id)))
        return self._used


def _conditionings(inputs: Mapping[str, Any], side: str) -> list[str]:
    """The names of the linked inputs that can bring the texts of one side."""
    sides = [name for name, value in inputs.items() if is_link(value) and side in name.lower()]
    either = [
        name
        for name, value in inputs.items()
        if is_link(value)
        and ("cond" in name.lower() or name in ("text_embeds", ""))
        and "empty" not in name
        and not any(one in name.lower() for one in ("positive", "negative"))
    ]
    return sides + either
