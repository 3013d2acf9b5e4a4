from __future__ import annotations

import os
from collections.abc import AsyncIterator

import httpx
import pytest

from bridge.testing import StandIn
from tests.contract.peer import Server

REAL = os.environ.get("COMFYUI_URL")


@pytest.fixture(params=["standin", *(["real"] if REAL else [])])
async def comfyui(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """A server to test: the stand-in always, a real ComfyUI as well if COMFYUI_URL names one."""
    if request.param == "standin":
        async with StandIn(step_delay=0.02) as standin:
            yield Server(standin.url, "standin", "dreamshaper_8.safetensors")
        return
    assert REAL is not None
    url = REAL.rstrip("/")
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        loader = (await http.get("/object_info/CheckpointLoaderSimple")).json()
    names = loader["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0]
    yield Server(url, "real", names[0] if names else None)
