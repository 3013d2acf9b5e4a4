"""Requests made from our own OpenAPI document, good and bad ones: none is answered by a defect."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from bridge.testing.ollama import OllamaStandIn
from tests.support.graphs import img2img, plain, txt2img
from tests.support.http_house import http_house

CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"
# The peers' routes answer with their statuses, 500 among them.
OURS = "^/(api/|health|ready|metrics)"
ENDLESS = "/api/events"


async def test_no_request_is_answered_by_a_defect(tmp_path: Path, broker_port: int) -> None:
    workflows = {"fox": txt2img(steps=1), "img": img2img(), "plain": plain()}
    broker = f"mqtt://127.0.0.1:{broker_port}"
    async with (
        OllamaStandIn(models=("llava:latest",)) as ollama,
        http_house(tmp_path, broker=broker, workflows=workflows, ollama={"url": ollama.url}) as here,
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{here.url}/openapi.json"),
            *("--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "8"),
            *("--seed", "1", "--request-timeout", "20", "--warnings", "off", "--no-color"),
            *("--suppress-health-check", "all", "--continue-on-failure"),
            *("--include-path-regex", OURS, "--exclude-path", ENDLESS),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(100):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, said.decode(errors="replace")[-6000:]
        assert (await here.http.get("/health")).status_code == 200
