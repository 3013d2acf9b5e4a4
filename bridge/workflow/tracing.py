"""What a graph shows of itself: which inputs are its texts, seed, steps, size, images, models.

Everything follows links and the names of inputs rather than lists of classes, since custom nodes keep to the
names of ComfyUI's own. All results are in the order in which data flows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bridge.workflow.graph import Graph, Target, flow_order, is_link, links
from bridge.workflow.kinds import MEDIA_TYPES, spec_of
from bridge.workflow.outputs import live_nodes
from bridge.workflow.texts import Texts

_LATENTS = (
    *("samples", "latent", "latent_image", "samples1", "samples_to", "video_latent", "pixels", "image", "images"),
    *("input", "pipe"),
)
_HANDS_ON = re.compile(r"^(input|on_|any)", re.IGNORECASE)  # what switches call their inputs
_SIZED_LINKS = ("latent_image", "latent", "samples", "image_embeds", "pipe")
_SEEDS = ("seed", "noise_seed")
_SIZES = {
    "width": ("width", "empty_latent_width"),
    "height": ("height", "empty_latent_height"),
    "batch": ("batch_size",),
    "frames": ("length", "num_frames", "video_frames"),
    "seconds": ("seconds",),
}
_ALIASES = {"noise_seed": _SEEDS, "seed": _SEEDS, "sampler_name": ("sampler_name", "sampler")} | {
    "steps": ("steps", "steps_total")
}
_MODELS = ("ckpt_name", "base_ckpt_name", "unet_name", "refiner_ckpt_name")
_MODEL_LOADER = re.compile(
    r"^(?!.*(VAE|Clip|Text|Lora|Upscal|Control|Audio)).*(Video|DiT|Diffusion)\w*Loader", re.IGNORECASE
)
_RECORDS = re.compile(r"Save|Metadata")  # what writes down how a picture was made
_LORA = re.compile(r"lora(_?\d+)?(_name)?(_?\d+)?", re.IGNORECASE)
_VALUES = ("value", "Value", "int", "float", "number", "Number")
_FEW = 3  # a node with more inputs than this is no mere holder of a value
_SAMPLER_PARTS = ("noise", "guider", "sampler", "sigmas", "high_sigmas", "low_sigmas")
_SAMPLING_INPUTS = ("seed", "noise_seed", "steps", "cfg", "sampler_name", "latent_image")


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
        return Texts(self._graph, self._order, self._samplers, self._object_info).find()

    def sampling(self, name: str, *types: type) -> list[Target]:
        """The literals of this input at the samplers and at what they are built from (noise, sigmas, guider)."""
        return self._literals(self._parts, (name,), types)

    def seeds(self) -> list[list[Target]]:
        """The seeds: the samplers' first, then those of other nodes.

        That of a sampler which adds no noise of its own counts only when there is no other.
        """
        found = self._literals([*self._parts, *self._order], _SEEDS, (int,))
        noisy = [one for one in found if self._inputs(one.node).get("add_noise") not in ("disable", False)]
        return self._by_stage(noisy or found)

    def stages(self, name: str, *types: type) -> list[list[Target]]:
        """As `sampling`; the stages of one sampling (KSamplerAdvanced after another) share what is the same."""
        return self._by_stage(self.sampling(name, *types))

    def _by_stage(self, targets: Iterable[Target]) -> list[list[Target]]:
        groups: list[list[Target]] = []
        for target in targets:
            before = self._stage_before(target.node)
            group = next((group for group in groups if before and any(one.node == before for one in group)), None)
            if group is not None and self.value(group[0]) == self.value(target):
                group.append(target)
            else:
                groups.append([target])
        return groups

    def sizes(self) -> list[dict[str, list[Target]]]:
        """For each source of latents that feeds a sampler: its `width`, `height`, `batch`, `frames`, `seconds`.

        Without a sampler, those of the nodes that start empty (EmptyImage with its `color`, …).
        """
        sources: list[str] = []
        for node_id in self._samplers:
            inputs = self._inputs(node_id)
            link = next((inputs[name] for name in _SIZED_LINKS if is_link(inputs.get(name))), None)
            source = self._size_source(link[0]) if link else None
            if source is not None:
                sources.append(source)
        kinds: dict[str, tuple[str, ...]] = dict(_SIZES)
        if not self._samplers:
            sources = [node_id for node_id in self._order if self._class(node_id).startswith("Empty")]
            kinds["color"] = ("color",)
        sizes = [
            {kind: found for kind, names in kinds.items() if (found := self._literals([source], names, (int, float)))}
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

    def frame_rates(self) -> list[list[Target]]:
        """The frames per second of videos; where several nodes are told the same number, that is one."""
        return self.alike(self._literals(self._order, ("fps", "frame_rate"), (int, float)))

    def checkpoints(self) -> list[list[Target]]:
        """The files of the models that sample; a file that several nodes load a part of is one."""
        loaders = [node_id for node_id in self._order if _MODEL_LOADER.search(self._class(node_id))]
        found = [target for target in self._literals(self._order, _MODELS, (str,)) if self.value(target) != "None"]
        others = self._literals(loaders, ("model", "model_name", "model_path"), (str,))
        return self.alike([*found, *(target for target in others if target not in found)])

    def loras(self) -> list[Target]:
        """The files of LoRAs; the empty places of a stack are left out."""
        return [
            Target(node_id, name)
            for node_id in self._order
            for name, value in self._inputs(node_id).items()
            if isinstance(value, str)
            and (name == "lora_name" or (_LORA.fullmatch(name) and "lora" in self._class(node_id).lower()))
            and not (value.lower() == "none" and any(char.isdigit() for char in name))
        ]

    def guidance(self) -> list[list[Target]]:
        """The distilled guidance of Flux and its like."""
        return self.alike(self._literals(self._order, ("guidance",), (int, float)))

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
        if _RECORDS.search(self._class(node_id)):
            return False
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

    def alike(self, targets: Iterable[Target]) -> list[list[Target]]:
        """The inputs, those with the same literal together."""
        same: dict[Any, list[Target]] = {}
        for target in targets:
            same.setdefault(self.value(target), []).append(target)
        return list(same.values())

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
            wanted = _ALIASES.get(name, (name,))
            if len(self._inputs(node_id)) <= _FEW:
                wanted += _VALUES
        return None

    def _stage_before(self, node_id: str) -> str | None:
        inputs = self._inputs(node_id)
        for start, latent in (("start_at_step", "latent_image"), ("start_step", "samples")):
            if start in inputs and is_link(inputs.get(latent)):
                before = str(inputs[latent][0])
                return before if start in self._inputs(before) else None
        return None

    def _size_source(self, start: str) -> str | None:
        """The node behind a link of latents that has a size; none when another sampler comes first."""
        node_id: str | None = start
        while node_id is not None and not self._is_sampler(node_id):
            inputs = self._inputs(node_id)
            if all(any(name in inputs for name in _SIZES[kind]) for kind in ("width", "height")) or "seconds" in inputs:
                return node_id
            names = [*_LATENTS, *(name for name in inputs if _HANDS_ON.search(name))]
            node_id = next((inputs[name][0] for name in names if is_link(inputs.get(name))), None)
        return None

    def _add_shifts(self, size: dict[str, list[Target]]) -> None:
        """Flux's ModelSamplingFlux and Flux2Scheduler are told the size of the picture once more."""
        for name in ("width", "height"):
            for node_id in self._order:
                if name in size and self._class(node_id) in ("ModelSamplingFlux", "Flux2Scheduler"):
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
