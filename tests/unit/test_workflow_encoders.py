"""Which graphs read sentences."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.workflow.encoders import reads_sentences


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


@pytest.mark.parametrize(
    ("one", "reads"),
    [
        (node("CheckpointLoaderSimple", ckpt_name="flux1.safetensors"), False),
        (node("FluxGuidance", guidance=3.5), True),
        (node("EmptySD3LatentImage"), True),
        (node("DualCLIPLoader", type="flux"), True),
        (node("DualCLIPLoader", type="sdxl"), False),
        (node("CLIPLoader", type="qwen_image"), True),
        (node("CLIPLoader", type="stable_diffusion"), False),
        (node("CLIPLoader"), False),
        (node("TripleCLIPLoader"), True),
    ],
)
def test_a_node_tells_what_its_graph_reads(one: dict[str, Any], reads: bool) -> None:
    assert reads_sentences({"1": node("EmptyLatentImage"), "2": one}) is reads
