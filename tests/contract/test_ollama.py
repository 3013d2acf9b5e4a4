"""What the prompt step relies on in Ollama's API: the stand-in always, a real one as well if OLLAMA_URL names it.

A real one needs a model; the first that it lists is used.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from bridge.prompting.model import SCHEMA
from bridge.testing.ollama import OllamaStandIn

REAL = os.environ.get("OLLAMA_URL")


@dataclass(frozen=True)
class Server:
    http: httpx.AsyncClient
    model: str

    async def chat(self, **fields: Any) -> list[dict[str, Any]]:
        """The objects of a streamed answer."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Idea: a fox. Answer in JSON with prompt, negative and title."}],
            "format": SCHEMA,
            "options": {"temperature": 0, "num_predict": 300},
            **fields,
        }
        async with self.http.stream("POST", "/api/chat", json=body) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("application/x-ndjson")
            return [json.loads(line) async for line in response.aiter_lines() if line.strip()]

    async def loaded(self) -> list[str]:
        return [one["name"] for one in (await self.http.get("/api/ps")).json()["models"]]


@pytest.fixture(params=["standin", *(["real"] if REAL else [])])
async def ollama(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with OllamaStandIn() as standin:
        url = standin.url if request.param == "standin" else str(REAL)
        async with httpx.AsyncClient(base_url=url, timeout=120) as http:
            models = (await http.get("/api/tags")).json()["models"]
            yield Server(http, next(one["name"] for one in models if "embed" not in one["name"]))


async def test_it_says_its_version_and_its_models(ollama: Server) -> None:
    assert (await ollama.http.get("/api/version")).json()["version"]
    for model in (await ollama.http.get("/api/tags")).json()["models"]:
        assert isinstance(model["name"], str)
        assert isinstance(model["size"], int)
        assert "family" in model["details"]
        shown = (await ollama.http.post("/api/show", json={"model": model["name"]})).json()
        assert "details" in shown


async def test_a_chat_streams_json_of_the_schema(ollama: Server) -> None:
    *pieces, last = await ollama.chat()
    assert last["done"] is True
    assert pieces
    assert all(one["done"] is False for one in pieces)
    assert all(one["message"]["role"] == "assistant" for one in pieces)
    text = "".join(one.get("message", {}).get("content", "") for one in [*pieces, last])
    assert set(json.loads(text)) == set(SCHEMA["required"])


async def test_a_model_that_is_not_there_is_404_with_its_name(ollama: Server) -> None:
    answer = await ollama.http.post("/api/chat", json={"model": "no-such-model", "messages": []})
    assert answer.status_code == 404
    assert "no-such-model" in answer.json()["error"]
    assert "not found" in answer.json()["error"]


async def test_keep_alive_0_takes_the_model_out_of_memory(ollama: Server) -> None:
    await ollama.chat(keep_alive="5m")
    assert ollama.model in await ollama.loaded()
    await ollama.chat(keep_alive=0)
    async with asyncio.timeout(30):
        while ollama.model in await ollama.loaded():  # noqa: ASYNC110  the server has no event for it
            await asyncio.sleep(0.05)


async def test_a_pull_of_what_the_library_lacks_ends_in_an_error(ollama: Server) -> None:
    async with ollama.http.stream("POST", "/api/pull", json={"model": "no-such-model-anywhere"}) as response:
        lines = [json.loads(line) async for line in response.aiter_lines() if line.strip()]
    assert "error" in lines[-1]


async def test_what_is_not_json_is_400(ollama: Server) -> None:
    answer = await ollama.http.post("/api/chat", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]
