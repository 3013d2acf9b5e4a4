"""How the text encoder of a graph wants to be spoken to: in phrases (CLIP) or in sentences (T5, language models)."""

from __future__ import annotations

from bridge.workflow.graph import Graph

# Nodes of the families that come with a large text encoder: Flux, SD 3 and 3.5, AuraFlow, Qwen-Image, Z-Image, HiDream,
# Lumina, Hunyuan, Wan and what uses the same latents or the same sampling.
_SENTENCES = frozenset(
    {
        "CLIPTextEncodeFlux",
        "CLIPTextEncodeHiDream",
        "CLIPTextEncodeHunyuanDiT",
        "CLIPTextEncodeLumina2",
        "CLIPTextEncodePixArtAlpha",
        "CLIPTextEncodeSD3",
        "EmptyFlux2LatentImage",
        "EmptyHunyuanLatentVideo",
        "EmptySD3LatentImage",
        "FluxGuidance",
        "ModelSamplingAuraFlow",
        "ModelSamplingFlux",
        "ModelSamplingSD3",
        "QuadrupleCLIPLoader",
        "TextEncodeQwenImageEdit",
        "TextEncodeQwenImageEditPlus",
        "TripleCLIPLoader",
    }
)
_LOADERS = frozenset({"CLIPLoader", "CLIPLoaderGGUF", "DualCLIPLoader", "DualCLIPLoaderGGUF"})
_PHRASES = frozenset({"stable_diffusion", "stable_cascade", "stable_audio", "sdxl"})
"""The kinds of encoder that such a loader may load and that read phrases."""


def reads_sentences(graph: Graph) -> bool:
    """Tell whether a graph has a text encoder that reads sentences; False for one of which it cannot be told."""
    return any(
        node["class_type"] in _SENTENCES
        or (node["class_type"] in _LOADERS and node["inputs"].get("type", "sdxl") not in _PHRASES)
        for node in graph.values()
    )
