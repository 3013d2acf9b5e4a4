"""Small workflows for the stand-in, in API format."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

Graph = dict[str, dict[str, Any]]


def node(class_type: str, title: str | None = None, /, **inputs: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    return entry if title is None else {**entry, "_meta": {"title": title}}


def txt2img(*, steps: int = 4, width: int = 64, height: int = 64) -> Graph:
    """The stock graph, small: two texts, one picture."""
    return {
        "3": node(
            "KSampler",
            "Sampler",
            seed=42,
            steps=steps,
            cfg=7.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="dreamshaper_8.safetensors"),
        "5": node("EmptyLatentImage", "Size", width=width, height=height, batch_size=1),
        "6": node("CLIPTextEncode", "Positive Prompt", text="a lighthouse", clip=["4", 1]),
        "7": node("CLIPTextEncode", "Negative Prompt", text="blurry", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", "Picture", filename_prefix="fox", images=["8", 0]),
    }


def story() -> Graph:
    """The prompt comes from a node inside a subgraph, by a link."""
    graph = txt2img(steps=1)
    graph["12:5"] = node("PrimitiveStringMultiline", "The Story", value="once upon a time")
    graph["6"]["inputs"]["text"] = ["12:5", 0]
    return graph


def img2img() -> Graph:
    """A picture that is loaded, with its mask looked at too."""
    return {
        "10": node("LoadImage", "Source", image="example.png"),
        "11": node("ImageInvert", image=["10", 0]),
        "12": node("SaveImage", "Picture", filename_prefix="img", images=["11", 0]),
        "13": node("MaskPreview", "Mask", mask=["10", 1]),
    }


def sleep(seconds: float, steps: int = 100) -> Graph:
    """Runs so long, step by step, and can be interrupted at each."""
    return {
        "1": node("StandInSleep", "Sleep", seconds=seconds, steps=steps),
        "2": node("SaveImage", "Picture", filename_prefix="slept", images=["1", 0]),
    }


def fails(message: str) -> Graph:
    """Ends with an error of ComfyUI."""
    return {"1": node("StandInFail", message=message), "2": node("PreviewAny", source=["1", 0])}


def plain(*, color: int = 255, size: int = 16, prefix: str = "plain", batch: int = 1) -> Graph:
    """No model: quick."""
    return {
        "1": node("EmptyImage", "Color", width=size, height=size, batch_size=batch, color=color),
        "2": node("SaveImage", "Picture", filename_prefix=prefix, images=["1", 0]),
    }


def picture(*, color: str = "red", size: tuple[int, int] = (24, 16), kind: str = "PNG") -> bytes:
    """A real image file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


def ui_format(class_type: str) -> dict[str, Any]:
    """A workflow as ComfyUI's editor saves it: a node of that class, and one that saves its picture."""
    source = {
        "id": 1,
        "type": class_type,
        "inputs": [],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1], "slot_index": 0}],
        "widgets_values": [64, 64, 1, 0],
    }
    save = {
        "id": 2,
        "type": "SaveImage",
        "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
        "outputs": [],
        "widgets_values": ["drawn"],
    }
    return {
        "last_node_id": 2,
        "last_link_id": 1,
        "nodes": [source, save],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }
