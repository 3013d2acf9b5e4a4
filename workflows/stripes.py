"""A row of coloured stripes, without any model: it shows what a recipe is."""

from __future__ import annotations

import colorsys
from typing import Any, Literal

from pydantic import BaseModel, Field

TITLE = "Stripes"


class Input(BaseModel):
    """What can be set; each field is a parameter on every face."""

    count: int = Field(5, ge=1, le=24, title="Stripes")
    size: int = Field(64, ge=8, le=512, multiple_of=8, description="Width and height of one picture, in pixels")
    palette: Literal["rainbow", "grey"] = "rainbow"
    soft: bool = Field(default=False, description="Blur the pictures")


def build(input: Input) -> dict[str, Any]:
    """One picture of each colour, in one batch; the number of nodes depends on the input."""
    graph: dict[str, Any] = {}
    batch: list[Any] = []
    for number in range(input.count):
        name = f"stripe-{number}"
        shape = {"width": input.size, "height": input.size, "batch_size": 1, "color": color(number, input)}
        graph[name] = {"class_type": "EmptyImage", "inputs": shape}
        if not batch:
            batch = [name, 0]
            continue
        joined = f"join-{number}"
        graph[joined] = {"class_type": "ImageBatch", "inputs": {"image1": batch, "image2": [name, 0]}}
        batch = [joined, 0]
    if input.soft:
        graph["soft"] = {"class_type": "ImageBlur", "inputs": {"image": batch, "blur_radius": 3, "sigma": 1.0}}
        batch = ["soft", 0]
    graph["save"] = {
        "class_type": "SaveImage",
        "inputs": {"images": batch, "filename_prefix": "stripes"},
        "_meta": {"title": "Stripes"},
    }
    return graph


def color(number: int, input: Input) -> int:
    """The colour of one stripe as ComfyUI wants it, 0xRRGGBB."""
    part = number / input.count
    red, green, blue = colorsys.hsv_to_rgb(part, 0.8, 0.9) if input.palette == "rainbow" else (part, part, part)
    return int(red * 255) << 16 | int(green * 255) << 8 | int(blue * 255)
