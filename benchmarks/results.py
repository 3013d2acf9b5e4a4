"""(f) The bridge's resident memory over a thousand answers with the picture in base64."""

from __future__ import annotations

import asyncio
import base64
import io

from PIL import Image

from benchmarks.figures import Figure, table
from benchmarks.over_http import HttpClient, http_client
from benchmarks.stage import Stage
from benchmarks.workflows import PHOTO

_MOST = 150.0
_GROWTH = 1.05
"""The most that may be there after all jobs, by what is there after the first fifth of them: flat."""
_STEP = 200
_STEPS = 5
_AT_ONCE = 8
_SETTLE = 1.0
_EDGE = 560
"""Pixels: about 450 kB as ComfyUI saves it, in colour."""


async def run(stage: Stage, _rounds: int) -> str:
    """Measure; return the table."""
    step = stage.times(_STEP)
    figures: list[Figure] = []
    after: list[float] = []
    size = 0
    async with http_client(stage.bridge.port) as bridge:
        await bridge.set_image(PHOTO, _noise())
        for number in range(1, _STEPS + 1):
            for _ in range(step // _AT_ONCE):
                sizes = await asyncio.gather(*(_one(bridge) for _ in range(_AT_ONCE)))
                size = sizes[0]
            await asyncio.sleep(_SETTLE)
            after.append(stage.bridge.memory)
            figures.append(Figure(f"after {number * step} answers", "MB", after[-1:], at_most=_MOST, absolute=True))
    what = f"after {_STEPS * step} answers, beside after {step}"
    figures.append(Figure(what, "MB", after[-1:], after[:1], at_most=_GROWTH))
    return table(f"(f) resident memory, answers with {size // 1000} kB in base64", "", figures)


def _noise() -> bytes:
    """Return a PNG that does not get smaller when it is saved again."""
    file = io.BytesIO()
    Image.effect_noise((_EDGE, _EDGE), 100).save(file, "PNG")
    return file.getvalue()


async def _one(bridge: HttpClient) -> int:
    values = {key: str(value) for key, value in PHOTO.values().items()}
    job = await bridge.run_workflow(PHOTO, values, base64=1)
    data = base64.b64decode(job["outputs"][0]["data"])
    assert len(data) == job["outputs"][0]["bytes"]
    return len(data)
