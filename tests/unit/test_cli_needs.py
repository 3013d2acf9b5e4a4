from __future__ import annotations

from typing import Any

import pytest

from bridge.cli import demo_words
from bridge.cli.check import _makes_previews
from bridge.cli.needs import missing
from bridge.settings import MqttSettings
from tests.unit.workflow_graphs import graph_of, node

OBJECT_INFO: dict[str, Any] = {
    "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["a.safetensors"], {}]}}},
    "LoraLoader": {"input": {"required": {"lora_name": [[], {}]}}},
    "KSampler": {
        "input": {"required": {"sampler_name": ["COMBO", {"options": ["euler", "dpmpp_2m"]}], "seed": ["INT"]}}
    },
    "LoadImage": {"input": {"required": {"image": [["x.png"], {"image_upload": True}]}}},
}


def test_nothing_is_missing() -> None:
    graph = graph_of(
        n1=node("CheckpointLoaderSimple", ckpt_name="a.safetensors"),
        n2=node("KSampler", sampler_name="euler", seed=3, model=["1", 0]),
        n3=node("LoadImage", image="not-in-the-stale-list.png"),
    )
    assert missing(graph, OBJECT_INFO) == []


def test_what_is_missing_is_named() -> None:
    graph = graph_of(
        n1=node("CheckpointLoaderSimple", ckpt_name="b.safetensors"),
        n2=node("KSampler", sampler_name="heun"),
        n3=node("FancyNode"),
        n4=node("LoraLoader", lora_name="l.safetensors"),
    )
    found = "\n".join(missing(graph, OBJECT_INFO))
    for words in (
        "the model b.safetensors is missing (1.ckpt_name); ComfyUI has a.safetensors",
        "the choice heun is missing (2.sampler_name); ComfyUI has euler, dpmpp_2m",
        "the node class FancyNode is unknown (node 3)",
        "the model l.safetensors is missing (4.lora_name); ComfyUI has none of that kind",
    ):
        assert words in found


@pytest.mark.parametrize(
    ("argv", "makes"),
    [
        (["main.py"], False),
        (["main.py", "--preview-method", "auto"], True),
        (["main.py", "--preview-method=latent2rgb"], True),
        (["main.py", "--preview-method", "latent2rgb", "--preview-method", "none"], False),
        (["main.py", "--preview-method"], True),
    ],
)
def test_previews_are_told_from_the_command_line_of_comfyui(argv: list[str], makes: bool) -> None:
    assert _makes_previews(argv) is makes


@pytest.mark.parametrize(
    ("settings", "arguments", "own"),
    [
        (MqttSettings(), "", ""),
        (MqttSettings(url="embedded"), "", ""),
        (MqttSettings(url="embedded", embedded_port=1884), " -p 1884", " --mqtt-url mqtt://127.0.0.1:1884"),
        (MqttSettings(url="mqtt://me:word@nas:1883"), " -h nas -u me -P PASSWORD", " --mqtt-url mqtt://nas:1883"),
        (MqttSettings(base_topic="a/b"), "", " --base-topic a/b"),
    ],
)
def test_what_to_type_names_what_is_not_usual(settings: MqttSettings, arguments: str, own: str) -> None:
    assert demo_words.client_arguments(settings) == arguments
    assert demo_words.own_arguments(settings) == own
