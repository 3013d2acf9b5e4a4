"""The graphs that are run, and the values that make each run another one, so that nothing comes from the cache."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph under a name; `fresh` is the input (node, name) that takes another number for each run."""

    name: str
    title: str
    graph: Graph
    fresh: tuple[str, str]

    def values(self) -> dict[str, int]:
        """Return values, by `<node>.<input>`, that no run has had yet."""
        node, name = self.fresh
        return {f"{node}.{name}": next(_numbers)}

    def with_values(self, values: Mapping[str, Any]) -> Graph:
        """Return the graph with values by `<node>.<input>`."""
        graph = copy.deepcopy(self.graph)
        for key, value in values.items():
            node, name = key.split(".")
            graph[node]["inputs"][name] = value
        return graph


EMPTY = Workflow(
    "empty",
    "EmptyImage -> SaveImage, 64 x 64, no model",
    {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "empty"}},
    },
    ("1", "color"),
)

MEASURED = Workflow(
    "measured",
    "the same, as slow as a real ComfyUI",
    {**EMPTY.graph, "3": {"class_type": "StandInSleep", "inputs": {"seconds": 0.004, "steps": 1}}},
    EMPTY.fresh,
)

TXT2IMG = Workflow(
    "txt2img",
    "txt2img, 512 x 512, 8 steps with previews",
    {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 0,
                "steps": 8,
                "cfg": 7.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"},
        },
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse in a storm", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "txt2img"}},
    },
    ("3", "seed"),
)

PHOTO = Workflow(
    "photo",
    "a picture that is loaded and saved again",
    {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "photo"}},
    },
    ("2", "filename_prefix"),
)

FRAMES = Workflow(
    "frames",
    "preview frames without anything else",
    {"1": {"class_type": "StandInFrames", "inputs": {"count": 1, "bytes": 1000, "rate": 0.0}}},
    ("1", "count"),
)


def write_all(folder: Path) -> None:
    """Write the files that the bridge reads."""
    folder.mkdir()
    for workflow in (EMPTY, MEASURED, TXT2IMG, PHOTO, FRAMES):
        (folder / f"{workflow.name}.json").write_text(json.dumps(workflow.graph), encoding="utf-8")
