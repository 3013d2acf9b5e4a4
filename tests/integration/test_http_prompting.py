"""Prompts written over HTTP: the plain answer, the stream, who goes away, and the commands beside."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from bridge.http import context, server
from bridge.testing.ollama import OllamaStandIn
from tests.support.brokers import free_port, until
from tests.support.graphs import plain, txt2img
from tests.support.http_house import HttpHouse, Told, http_house, told

STREAM = {"Accept": "text/event-stream"}
GENERATE = "/api/prompting/generate"
WRITTEN = "a fox, detailed painting, soft light"
Rooms = Callable[..., AbstractAsyncContextManager[HttpHouse]]


@pytest.fixture
async def ollama() -> AsyncIterator[OllamaStandIn]:
    async with OllamaStandIn(models=("llama3.2:latest", "llava:latest")) as standin:
        yield standin


@pytest.fixture
async def here(tmp_path: Path, ollama: OllamaStandIn) -> AsyncIterator[HttpHouse]:
    async with http_house(tmp_path, workflows=GRAPHS, ollama={"url": ollama.url}) as made:
        yield made


GRAPHS = {"fox": txt2img(steps=1), "plain": plain()}


@asynccontextmanager
async def streaming(here: HttpHouse, body: Any) -> AsyncIterator[httpx.Response]:
    async with asyncio.timeout(20), here.http.stream("POST", GENERATE, json=body, headers=STREAM) as answer:
        yield answer


async def read(here: HttpHouse, body: Any) -> list[Told]:
    """Read a stream to its end."""
    async with streaming(here, body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        return [event async for event in told(answer)]


async def test_the_words_come_as_they_are_written_and_the_result_last(here: HttpHouse, ollama: OllamaStandIn) -> None:
    ollama.faults.slow = 0.01
    events = await read(here, {"idea": "a fox", "then": {"workflow": "fox", "values": {"seed": 3}}})
    assert (events[0].event, events[-1].event) == ("accepted", "result")
    assert events[0].data["position"] == 1
    texts = [event.data for event in events if event.event == "text"]
    assert len(texts) == len(events) - 2 > 2
    assert json.loads("".join(text["text"] for text in texts))["prompt"] == WRITTEN
    assert texts[-1]["prompt"] == WRITTEN
    result = events[-1].data
    assert {one.data["id"] for one in events} == {result["id"]}
    assert (result["status"], result["prompt"], result["workflow"]) == ("ok", WRITTEN, "fox")
    job = await here.becomes(result["prompt_id"], "completed")
    assert (job["values"]["prompt"], job["values"]["seed"]) == (WRITTEN, 3)


async def test_the_plain_answer_is_the_same_result(here: HttpHouse) -> None:
    answer = await here.http.post(GENERATE, json={"idea": "a fox"})
    assert answer.headers["content-type"] == "application/json"
    streamed = (await read(here, {"idea": "a fox"}))[-1].data
    assert "keep-alive" not in (await here.http.post(GENERATE, json={"idea": "a fox"}, headers=STREAM)).text
    assert streamed.keys() == answer.json().keys()
    assert streamed["prompt"] == answer.json()["prompt"] == WRITTEN


async def test_an_idea_that_is_none_is_refused_before_the_stream(here: HttpHouse) -> None:
    for body, status, code, word in (
        ({}, 400, "bad_payload", "idea"),
        ({"idea": "a fox", "styles": "x"}, 400, "bad_payload", "style"),
        ({"idea": "a fox", "then": {"workflow": "nowhere"}}, 404, "unknown_workflow", "nowhere"),
        ({"idea": "a fox", "transaction": {}}, 400, "bad_payload", "transaction"),
    ):
        async with streaming(here, body) as answer:
            document = json.loads(await answer.aread())
            assert (answer.status_code, document["code"]) == (status, code)
            assert word in document["error"]


async def test_what_goes_wrong_later_is_the_result(here: HttpHouse, ollama: OllamaStandIn) -> None:
    ollama.faults.error_midway = "runner crashed"
    events = await read(here, {"idea": "a fox"})
    assert [event.event for event in events].index("result") == len(events) - 1 > 1
    assert (events[-1].data["status"], events[-1].data["code"]) == ("error", "writer_failed")
    answer = await here.http.post(GENERATE, json={"idea": "a fox"})
    assert (answer.status_code, answer.json()["code"]) == (502, "writer_failed")
    assert "runner crashed" in answer.json()["error"]


@pytest.mark.parametrize("stream", [True, False])
async def test_going_away_cancels(here: HttpHouse, ollama: OllamaStandIn, stream: bool) -> None:
    ollama.faults.hang = True
    asking = asyncio.create_task(here.http.post(GENERATE, json={"idea": "a fox"}, headers=STREAM if stream else {}))
    await until(lambda: ollama.stats.chats)
    asking.cancel()
    await until(lambda: ollama.stats.aborted == 1)
    ollama.faults.hang = False
    assert (await here.http.post(GENERATE, json={"idea": "an owl"})).status_code == 200
    assert (await here.http.get("/api/prompting")).json()["waiting"] == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_with_a_transaction_it_may_be_asked_for_again(
    here: HttpHouse, ollama: OllamaStandIn, stream: bool
) -> None:
    ollama.faults.slow = 0.05
    headers = STREAM if stream else {}
    body = {"idea": "a fox", "then": {"workflow": "fox"}, "transaction": "t-1"}
    asking = asyncio.create_task(here.http.post(GENERATE, json=body, headers=headers))
    await until(lambda: ollama.stats.chats)
    asking.cancel()
    answer = await here.http.post(GENERATE, json=body)
    assert (answer.status_code, answer.json()["transaction"]) == (200, "t-1")
    again = await here.http.post(GENERATE, json={"idea": "a fox"}, headers={"Idempotency-Key": "t-1"})
    assert again.json() == answer.json()
    assert (await read(here, body))[-1].data == answer.json()
    assert (len(ollama.stats.chats), ollama.stats.aborted) == (1, 0)
    jobs = (await here.http.get("/api/jobs")).json()["jobs"]
    assert [job["id"] for job in jobs] == [answer.json()["prompt_id"]]


async def test_a_result_that_is_forgotten_is_told_so(
    here: HttpHouse, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.prompts._ENDED", 1)
    body = {"idea": "a fox", "transaction": "t-2"}
    first = await here.http.post(GENERATE, json=body)
    assert first.status_code == 200
    assert (await here.http.post(GENERATE, json={"idea": "an owl"})).status_code == 200
    for headers in ({}, STREAM):
        again = await here.http.post(GENERATE, json=body, headers=headers)
        assert (again.status_code, again.json()["code"]) == (404, "unknown_idea")
    assert len(ollama.stats.chats) == 2


async def test_a_silent_stream_is_kept_alive(
    tmp_path: Path, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "made", partial(context.made, keep_alive=0.05))
    ollama.faults.hang = True
    async with http_house(tmp_path, workflows=GRAPHS, ollama={"url": ollama.url}) as here:
        async with streaming(here, {"idea": "a fox"}) as answer:
            comments = 0
            async for line in answer.aiter_lines():
                comments += line.startswith(":")
                if comments == 3:
                    break
        await until(lambda: ollama.stats.aborted == 1)


async def test_a_stream_ends_with_the_bridge(tmp_path: Path, ollama: OllamaStandIn) -> None:
    ollama.faults.hang = True
    async with http_house(tmp_path, workflows=GRAPHS, ollama={"url": ollama.url}) as here:
        asking = asyncio.create_task(here.http.post(GENERATE, json={"idea": "a fox"}, headers=STREAM))
        waiting = asyncio.create_task(here.http.post(GENERATE, json={"idea": "an owl"}))
        await until(lambda: ollama.stats.chats)
        here.task.cancel()
        async with asyncio.timeout(10):
            assert "event: accepted" in (await asking).text
            assert (await waiting).json()["code"] == "cancelled"
            await asyncio.wait({here.task})  # a second cancelling would keep it from letting its ports go


async def test_a_form_brings_a_picture(here: HttpHouse, ollama: OllamaStandIn) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "JPEG")
    files = {"image": ("camera.jpg", out.getvalue(), "image/jpeg")}
    answer = await here.http.post(GENERATE, files=files, data={"idea": "a fox", "then": '{"workflow": "fox"}'})
    assert (answer.status_code, answer.json()["model"], answer.json()["workflow"]) == (200, "llava:latest", "fox")
    assert ollama.stats.chats[0]["messages"][1]["images"] == [len(out.getvalue())]
    for sent, data, word in (
        ({"image": ("a.txt", b"no picture", "text/plain")}, {}, "image"),
        (files, {"then": "{"}, "JSON"),
        (files, {"them": "x"}, "them"),
        ({"picture": ("a.jpg", out.getvalue(), "image/jpeg")}, {}, "picture"),
    ):
        wrong = await here.http.post(GENERATE, files=sent, data=data)
        assert wrong.status_code == 400, wrong.text
        assert word in wrong.json()["error"]


async def test_the_commands_beside(here: HttpHouse, ollama: OllamaStandIn) -> None:
    assert (await here.http.patch("/api/prompting", json={"idea": "a fox", "style": "ink"})).json()["style"] == "ink"
    assert (await here.http.post(GENERATE)).json()["idea"] == "a fox"
    assert "Style: ink" in ollama.stats.chats[0]["messages"][1]["content"]
    about = (await here.http.get("/api/prompting")).json()
    assert (about["writer"], about["state"], about["values"]["style"]) == ("ollama", "online", "ink")
    assert [model["name"] for model in about["models"]] == ["llama3.2:latest", "llava:latest"]
    wrong = await here.http.patch("/api/prompting", json={"profile": "sdxl"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_value")

    ollama.faults.hang = True
    asking = asyncio.create_task(here.http.post(GENERATE))
    await until(lambda: len(ollama.stats.chats) == 2)
    assert len((await here.http.post("/api/prompting/cancel")).json()["ids"]) == 1
    assert ((await asking).status_code, (await asking).json()["code"]) == (409, "cancelled")
    nothing = await here.http.post("/api/prompting/cancel", json={"id": "nobody"})
    assert (nothing.status_code, nothing.json()["code"]) == (404, "unknown_idea")


async def test_everything_tells_of_ideas_downloads_and_the_writer(here: HttpHouse) -> None:
    found: list[Told] = []
    async with asyncio.timeout(20), here.http.stream("GET", "/api/events") as answer:
        async for event in told(answer):
            found.append(event)
            if event.event == "snapshot":
                assert (await here.http.post("/api/prompting/pull", json={"model": "gemma3:4b"})).status_code == 202
                result = (await here.http.post(GENERATE, json={"idea": "a fox"})).json()
            if {"idea", "pull"} <= {one.event for one in found} and found[-1].data.get("status") == "ok":
                pulls = [one.data["status"] for one in found if one.event == "pull"]
                if pulls[-1] == "ok":
                    break
    assert next(one.data for one in found if one.event == "idea") == result
    assert pulls[0] == "running"


async def test_a_writer_that_is_away_is_told(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with http_house(tmp_path, workflows=GRAPHS, ollama={"url": nowhere}) as here:
        answer = await here.http.post(GENERATE, json={"idea": "a fox"})
        assert (answer.status_code, answer.json()["code"]) == (503, "writer_offline")
        assert (await read(here, {"idea": "a fox"}))[-1].data["code"] == "writer_offline"
