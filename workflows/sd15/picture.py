"""Stable Diffusion 1.5, from a text or from a picture, with a second pass for large sizes where it is wanted."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from bridge.recipes import Image, Seed

TITLE = "SD 1.5 picture"


class Input(BaseModel):
    """What can be set; a field with -1 as its seed is drawn anew for each run."""

    prompt: str = Field("a red fox in the snow, soft light", min_length=1)
    negative: str = "blurry, low quality"
    seed: Seed = -1
    steps: int = Field(20, ge=1, le=100)
    cfg: float = Field(7.0, ge=0, le=30, multiple_of=0.1)
    width: int = Field(512, ge=64, le=1024, multiple_of=8)
    height: int = Field(512, ge=64, le=1024, multiple_of=8)
    source: Image | None = Field(None, description="A picture to start from")
    denoise: float = Field(0.6, ge=0, le=1, description="How far to go from the source")
    upscale: float = Field(1.0, ge=1, le=2, description="Above 1: a second pass at so many times the size")
    checkpoint: str = "v1-5-pruned-emaonly-fp16.safetensors"


def build(input: Input) -> dict[str, Any]:
    """The graph has an image loader only with a source, and a second sampler only where it is upscaled."""
    graph: dict[str, Any] = {
        "model": node("CheckpointLoaderSimple", ckpt_name=input.checkpoint),
        "positive": node("CLIPTextEncode", text=input.prompt, clip=["model", 1]),
        "negative": node("CLIPTextEncode", text=input.negative, clip=["model", 1]),
        "empty": node("EmptyLatentImage", width=input.width, height=input.height, batch_size=1),
    }
    start, denoise = ["empty", 0], 1.0
    if input.source:
        del graph["empty"]
        graph["load"] = node("LoadImage", image=input.source)
        graph["encode"] = node("VAEEncode", pixels=["load", 0], vae=["model", 2])
        start, denoise = ["encode", 0], input.denoise
    graph["sampler"] = sampler(input, start, denoise)
    latent = ["sampler", 0]
    if input.upscale > 1:
        graph["larger"] = node("LatentUpscaleBy", samples=latent, upscale_method="bislerp", scale_by=input.upscale)
        graph["refiner"] = sampler(input, ["larger", 0], 0.5)
        latent = ["refiner", 0]
    graph["decode"] = node("VAEDecode", samples=latent, vae=["model", 2])
    graph["save"] = node("SaveImage", images=["decode", 0], filename_prefix="picture")
    return graph


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node."""
    return {"class_type": class_type, "inputs": inputs}


def sampler(input: Input, latent: list[Any], denoise: float) -> dict[str, Any]:
    """A KSampler of the input's settings."""
    return node(
        "KSampler",
        model=["model", 0],
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=latent,
        seed=input.seed,
        steps=input.steps,
        cfg=input.cfg,
        sampler_name="euler",
        scheduler="normal",
        denoise=denoise,
    )
