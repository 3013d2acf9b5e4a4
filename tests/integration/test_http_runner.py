"""The runner's API: its routes, words and status codes, without its traps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from tests.support.graphs import Graph, node
from tests.support.http_house import PATIENCE, HttpHouse, http_house
from tests.support.web import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpHouse]:
    async with http_house(tmp_path_factory.mktemp("runner")) as house:
        yield house


async def load(house: HttpHouse, workflow: str) -> None:
    assert (await house.http.post(f"/api/workflows/{workflow}/load")).status_code == 200


async def said(answer: httpx.Response, status: int, words: str) -> dict[str, Any]:
    document: dict[str, Any] = answer.json()
    assert (answer.status_code, document["STATUS"]) == (status, words), answer.text
    return document


async def ran(house: HttpHouse, prompt_id: str) -> Graph:
    graph: Graph = house.comfy.queue.history[prompt_id]["prompt"][2]
    return graph


async def test_health_has_both_shapes(here: HttpHouse) -> None:
    document = (await here.http.get("/health")).json()
    assert document["STATUS"] == "ComfyUI Workflow Runner is running"
    assert (document["status"], document["backends_healthy"]) == ("healthy", "1/1")
    assert document["backends"][0]["base"] == here.comfy.url


async def test_the_readme_walked_through(here: HttpHouse) -> None:
    await load(here, "fox")
    answer = await here.http.post("/update/text", json={"node_id": 6, "text": "a mystical forest"})
    await said(answer, 200, "Updated text in node 6 successfully")
    document = await said(await here.http.get("/queue"), 200, "completed successfully")
    assert set(document) == {"STATUS", "image_filename", "image_url", "prompt_id"}
    assert document["image_filename"].startswith("fox")
    image = await here.http.get(document["image_url"])
    assert (image.status_code, image.headers["content-type"]) == (200, "image/png")
    assert (await ran(here, document["prompt_id"]))["6"]["inputs"]["text"] == "a mystical forest"
    status = (await here.http.get("/status")).json()
    assert {"STATUS", "connected_ws_clients", "save_image_node_id"} < set(status)
    assert (status["execution_status"], status["current_prompt_id"]) == ("completed", None)
    assert (status["workflow_loaded"], status["comfy_server"]) == (True, here.comfy.url)


async def test_an_image_is_set(here: HttpHouse) -> None:
    await load(here, "img")
    answer = await here.http.post("/update/image", json={"node_id": 10, "filename": "example.png"})
    await said(answer, 200, "Updated image in node 10 to example.png successfully")
    answer = await here.http.post("/update/image", json={"node_id": 10, "filename": "nowhere.png"})
    await said(answer, 404, "Failed to update image in node 10")
    await said(await here.http.get("/queue"), 200, "completed successfully")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/update/text", {"text": "x"}, 400),
        ("/update/text", {"node_id": 6}, 400),
        ("/update/text", {"node_id": 6, "text": 5}, 400),
        ("/update/text", {"node_id": [6], "text": "x"}, 400),
        ("/update/text", {"node_id": True, "text": "x"}, 400),
        ("/update/text", {"node_id": 999, "text": "x"}, 404),
        ("/update/text", {"node_id": 8, "text": "x"}, 404),
        ("/update/prompt", {"node_id": 6, "text": "x"}, 404),
        ("/update/image", {"node_id": 6, "filename": "a.png"}, 404),
        ("/update/image", {"node_id": 6}, 400),
        ("/update/image", {"filename": "a.png"}, 400),
        ("/generate/image", {}, 400),
        ("/generate/image", {"image_description": "a fox"}, 400),
    ],
)
async def test_what_is_wrong_is_said(here: HttpHouse, path: str, body: dict[str, Any], status: int) -> None:
    await load(here, "fox")
    answer = await here.http.post(path, json=body)
    assert (answer.status_code, bool(answer.json()["STATUS"])) == (status, True), answer.text
    if status == 404:
        kind = path.rpartition("/")[2]
        assert answer.json()["STATUS"] == f"Failed to update {kind} in node {body['node_id']}"


async def test_a_body_that_is_no_object_is_refused(here: HttpHouse) -> None:
    for path in ("/update/text", "/update/image", "/generate/image"):
        for content in (b"{", b"[]", b"\xff", b'"x"'):
            answer = await here.http.post(path, content=content)
            assert (answer.status_code, bool(answer.json()["STATUS"])) == (400, True)


async def test_two_callers_at_once_get_their_own_picture(tmp_path: Path) -> None:
    async with http_house(tmp_path, step_delay=0.05) as house:
        callers = []
        for text in ("an owl", "a fox"):
            answer = await house.http.post("/update/text", json={"node_id": 6, "text": text})
            await said(answer, 200, "Updated text in node 6 successfully")
            callers.append(asyncio.create_task(house.http.get("/queue")))
            await shows(house, "running", len(callers))
        one, two = [(await caller).json() for caller in callers]
        assert one["STATUS"] == two["STATUS"] == "completed successfully"
        assert one["image_filename"] != two["image_filename"]
        assert (await ran(house, one["prompt_id"]))["6"]["inputs"]["text"] == "an owl"
        assert (await ran(house, two["prompt_id"]))["6"]["inputs"]["text"] == "a fox"


async def shows(house: HttpHouse, status: str, jobs: int) -> None:
    """Wait until the runner's status is this, and so many jobs wait or run."""
    limit = asyncio.get_running_loop().time() + PATIENCE
    while True:
        queue = (await house.http.get("/api/queue")).json()
        known = queue["running_count"] + queue["waiting_count"] >= jobs
        if known and (await house.http.get("/status")).json()["execution_status"] == status:
            return
        assert asyncio.get_running_loop().time() < limit, queue
        await asyncio.sleep(0.01)


async def test_values_can_be_set_while_a_job_runs(here: HttpHouse) -> None:
    await load(here, "sleep")
    waiting = asyncio.create_task(here.http.get("/queue"))
    await shows(here, "running", 1)
    await load(here, "fox")
    answer = await here.http.post("/update/text", json={"node_id": "6", "text": "later"})
    await said(answer, 200, "Updated text in node 6 successfully")
    await said(await here.http.post("/interrupt"), 200, "Interrupt request received, processing...")
    document = await said(await waiting, 500, "generation failed - interrupted by a command")
    assert document["prompt_id"]


async def test_a_job_that_takes_longer_than_the_limit_goes_on(tmp_path: Path) -> None:
    async with http_house(tmp_path, http={"runner_timeout": 0.2}) as house:
        await house.http.post("/api/workflows/sleep/load")
        answer = await house.http.get("/queue")
        document = answer.json()
        assert (answer.status_code, "timed out" in document["STATUS"]) == (408, True)
        job = await house.job(document["current_prompt_id"])
        assert job["status"] in {"preparing", "running"}
        await house.http.post("/interrupt")
        await house.becomes(job["id"], "interrupted")


async def test_failures_are_told(here: HttpHouse) -> None:
    folder = here.plan.folder / "workflows"
    broken = {"1": node("StandInFail", message="it broke"), "2": node("PreviewAny", source=["1", 0])}
    text = {"1": node("PrimitiveString", value="x"), "2": node("PreviewAny", source=["1", 0])}

    for name, graph in (("broken", broken), ("wordy", text)):
        (folder / f"{name}.json").write_text(json.dumps(graph))
    await here.http.post("/api/reload")
    await load(here, "broken")
    answer = await here.http.get("/queue")
    assert answer.status_code == 500
    assert answer.json()["STATUS"].startswith("generation failed - ")
    assert (await here.http.get("/status")).json()["execution_status"] == "error"
    await load(here, "wordy")
    await said(await here.http.get("/queue"), 500, "completed but no image found")
    await load(here, "fox")


async def test_no_workflow(tmp_path: Path) -> None:
    async with http_house(tmp_path) as house:
        for file in (tmp_path / "workflows").iterdir():
            file.unlink()
        await house.http.post("/api/reload")
        await said(await house.http.get("/queue"), 400, "No workflow loaded")
        answer = await house.http.post("/update/text", json={"node_id": 6, "text": "x"})
        await said(answer, 400, "No workflow loaded")
        status = (await house.http.get("/status")).json()
        assert (status["workflow_loaded"], status["execution_status"]) == (False, "idle")


async def test_a_page_of_another_site_starts_nothing(here: HttpHouse) -> None:
    answer = await here.http.get("/queue", headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")


async def test_a_prompt_is_written_by_an_address(tmp_path: Path) -> None:
    async def write(request: web.Request) -> web.Response:
        document = await request.json()
        assert document["image_description"]["moodCue"] == "heroic"
        return web.json_response({"STATUS": "success", "positive_prompt": "a knight", "negative_prompt": "blurry"})

    described = {"description": "knight mouse", "visualCue": "armor details", "moodCue": "heroic"}
    async with serving(write) as writer, http_house(tmp_path, prompting={"writer": writer.url("/")}) as house:
        answer = await house.http.post("/generate/image", json={"image_description": described})
        document = await said(answer, 200, "success")
        assert set(document) == {"STATUS", "positive_prompt", "negative_prompt"}
        assert document["positive_prompt"] == "a knight"
        assert "blurry" in document["negative_prompt"]


async def test_a_prompt_is_written_and_drawn_over_our_own_route(tmp_path: Path) -> None:
    async def write(_: web.Request) -> web.Response:
        return web.json_response({"prompt": "a knight, oil on canvas", "negative": "blurry"})

    async with serving(write) as writer, http_house(tmp_path, prompting={"writer": writer.url("/")}) as house:
        answer = await house.http.post("/api/prompting/generate", json={"idea": "a knight"})
        assert (answer.status_code, answer.json()["prompt"]) == (200, "a knight, oil on canvas")
        wrong = await house.http.post("/api/prompting/generate", json={"ideas": "a knight"})
        assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_payload")
        assert "ideas" in wrong.json()["error"]


async def test_a_writer_that_is_away_is_told(tmp_path: Path) -> None:
    async with http_house(tmp_path, prompting={"writer": "http://127.0.0.1:9/"}) as house:
        answer = await house.http.post("/generate/image", json={"image_description": {"description": "x"}})
        assert answer.status_code == 503
        assert answer.json()["STATUS"].startswith("generation failed - ")
