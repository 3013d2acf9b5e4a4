"""The wrapper's API: its routes, Results and status codes, and its traps, which are none here."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from PIL import Image

from bridge.testing import Orders
from tests.support.bridge_process import bridge
from tests.support.graphs import Graph, fails, node, picture, plain, sleep
from tests.support.http_house import PATIENCE, HttpHouse, http_house, told
from tests.support.web import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
LAN = {"allowed_hosts": ["127.0.0.1"]}
SHAPE = {"id", "message", "status", "comfyui_response", "output", "timings"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpHouse]:
    async with http_house(tmp_path_factory.mktemp("wrapper"), security=LAN) as house:
        yield house


async def sync(house: HttpHouse, given: dict[str, Any], status: int = 200, **more: Any) -> dict[str, Any]:
    answer = await house.http.post("/generate/sync", json={"input": given}, **more)
    assert answer.status_code == status, answer.text
    result: dict[str, Any] = answer.json()
    assert set(result) == SHAPE
    return result


async def ends(house: HttpHouse, request_id: str, **more: Any) -> httpx.Response:
    """Wait for the end of a request."""
    limit = asyncio.get_running_loop().time() + PATIENCE
    while True:
        answer = await house.http.get(f"/result/{request_id}", **more)
        if answer.json()["status"] in {"completed", "failed", "cancelled"}:
            return answer
        assert asyncio.get_running_loop().time() < limit, answer.text
        await asyncio.sleep(0.02)


async def test_a_graph_is_taken_and_its_result_fetched(here: HttpHouse) -> None:
    answer = await here.http.post("/generate", json={"input": {"workflow_json": plain(prefix="one")}})
    accepted = answer.json()
    assert (answer.status_code, accepted["status"], accepted["message"]) == (202, "pending", "Request accepted")
    assert set(accepted) == SHAPE
    assert accepted["timings"]["queued_at_ms"] > 1_700_000_000_000
    assert str(uuid.UUID(accepted["id"])) == accepted["id"]
    done = await ends(here, accepted["id"])
    result = done.json()
    assert (done.status_code, result["status"], result["id"]) == (200, "completed", accepted["id"])
    assert result["comfyui_response"] == {}
    (output,) = result["output"]
    assert {"filename", "local_path", "type", "subfolder", "node_id", "output_type", "url"} == set(output)
    assert (output["type"], output["node_id"], output["output_type"]) == ("output", "2", "images")
    assert (await here.http.get(output["url"])).headers["content-type"] == "image/png"
    assert set(result["timings"]) == {
        *("queued_at_ms", "completed_at_ms", "preprocess_ms", "generation_ms", "postprocess_ms", "total_ms"),
    }


async def test_health_tells_no_addresses_without_the_token(tmp_path: Path) -> None:
    async with http_house(tmp_path, http={"token": "t"}, headers={"Authorization": "Bearer t"}) as house:
        async with httpx.AsyncClient() as stranger:
            document = (await stranger.get(f"{house.url}/health")).json()
        assert document["queues"] == {"preprocess": 0, "generation": 0, "postprocess": 0}
        assert document["backends"][0]["healthy"] is True
        assert house.comfy.url not in json.dumps(document)


async def test_sync_answers_with_the_end(here: HttpHouse) -> None:
    result = await sync(here, {"workflow_json": plain(prefix="sync"), "request_id": "mine-1"})
    assert (result["id"], result["status"]) == ("mine-1", "completed")
    assert (await here.http.get("/result/mine-1")).json()["output"] == result["output"]
    assert (await here.job("mine-1"))["status"] == "completed"


async def test_a_request_id_names_the_newest_of_its_requests(here: HttpHouse) -> None:
    await sync(here, {"workflow_json": plain(prefix="older"), "request_id": "again"})
    await sync(here, {"workflow_json": plain(prefix="newer"), "request_id": "again"})
    output = (await here.http.get("/result/again")).json()["output"][0]
    assert output["filename"].startswith("newer")


@pytest.mark.parametrize("how", ["header", "field"])
async def test_outputs_as_base64(here: HttpHouse, how: str) -> None:
    given: dict[str, Any] = {"workflow_json": plain(prefix=f"b64{how}", color=0x00FF00)}
    headers = {"X-Return-Outputs-As-Base64": "yes"} if how == "header" else {}
    if how == "field":
        given["return_outputs_as_base64"] = True
    result = await sync(here, given, headers=headers)
    output = result["output"][0]
    assert output["mimetype"] == "image/png"
    with Image.open(io.BytesIO(base64.b64decode(output["data"]))) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (0, 255, 0)
    again = (await here.http.get(f"/result/{result['id']}")).json()["output"][0]
    assert again["data"] == output["data"]


async def test_what_is_too_large_for_base64_is_said(tmp_path: Path) -> None:
    async with http_house(tmp_path, http={"wrapper_max_inline": 10}) as house:
        result = await sync(house, {"workflow_json": plain(), "return_outputs_as_base64": True})
        assert "data" not in result["output"][0]
        assert "at most 10" in result["output"][0]["error"]


async def test_comfyuis_own_answer_on_request(here: HttpHouse) -> None:
    headers = {"X-Include-ComfyUI-Response": "1"}
    result = await sync(here, {"workflow_json": plain(prefix="whole")}, headers=headers)
    response = result["comfyui_response"]
    assert response[result["id"]]["status"]["completed"] is True
    assert "2" in response[result["id"]]["outputs"]
    details = response["execution_details"]
    assert (details["prompt_id"], details["completed"], details["error"]) == (result["id"], True, None)


# Modifiers


async def test_a_modifier_is_a_workflow_of_ours(here: HttpHouse) -> None:
    given = {
        "prompt": "an owl",
        "negative_prompt": "grey",
        "seed": "__RANDOM_INT__",
        "steps": 2,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
        "denoise": 0.5,
        "cfg_scale": 3.5,
        "width": 128,
        "height": 32,
        "ckpt_name": "dreamshaper_8.safetensors",
    }
    result = await sync(here, {"modifier": "Fox", "modifications": given, "request_id": "modified"})
    graph = here.comfy.queue.history[(await here.job("modified"))["id"]]["prompt"][2]
    sampler = graph["3"]["inputs"]
    assert (graph["6"]["inputs"]["text"], graph["7"]["inputs"]["text"]) == ("an owl", "grey")
    assert (sampler["steps"], sampler["cfg"], sampler["denoise"]) == (2, 3.5, 0.5)
    assert (sampler["sampler_name"], sampler["scheduler"]) == ("dpmpp_2m", "karras")
    assert (graph["5"]["inputs"]["width"], graph["5"]["inputs"]["height"]) == (128, 32)
    assert isinstance(sampler["seed"], int)
    assert result["output"][0]["filename"].startswith("fox")
    job = await here.job("modified")
    assert (job["workflow"], job["alias"]) == ("fox", "modified")


async def test_an_image_of_a_modifier_is_fetched(here: HttpHouse) -> None:
    async with images() as site:
        await sync(here, {"modifier": "img", "modifications": {"input_image": site.url("/a.png")}})
        assert site.asked == ["/a.png"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"modifier": "Nobody"}, "Unknown modifier: Nobody"),
        ({"modifier": "fox", "modifications": {"colour": 5}}, "colour"),
        ({"modifier": "fox", "modifications": {"steps": "many"}}, "steps"),
    ],
)
async def test_what_cannot_become_a_job_has_failed(here: HttpHouse, given: dict[str, Any], words: str) -> None:
    result = await sync(here, {**given, "request_id": "wrong"}, 500)
    assert result["status"] == "failed"
    assert result["message"].startswith("Preprocessing failed: ")
    assert words in result["message"]
    answer = await here.http.post("/generate", json={"input": {**given, "request_id": "wrong"}})
    assert (answer.status_code, answer.json()["message"]) == (500, result["message"])
    later = await here.http.get("/result/wrong")
    assert (later.status_code, later.json()["message"]) == (500, result["message"])


# Files by address


def images(content_type: str = "image/png") -> Any:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/none":
            raise web.HTTPNotFound
        return web.Response(body=picture(color="blue"), content_type=content_type)

    return serving(answer)


def loads(address: str, text: str = "x") -> Graph:
    return {
        "1": node("LoadImage", image=address),
        "2": node("SaveImage", filename_prefix="fetched", images=["1", 0]),
        "3": node("PrimitiveString", value=text),
        "4": node("PreviewAny", source=["3", 0]),
    }


async def test_addresses_in_a_graph_are_fetched_and_texts_are_not(here: HttpHouse) -> None:
    async with images() as site:
        graph = loads(site.url("/picture.png"), text=site.url("/text"))
        result = await sync(here, {"workflow_json": graph, "return_outputs_as_base64": True})
        saved = next(one for one in result["output"] if one["node_id"] == "2")
        with Image.open(io.BytesIO(base64.b64decode(saved["data"]))) as image:
            assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
        assert site.asked == ["/picture.png"]
        ran = here.comfy.queue.history[result["id"]]["prompt"][2]
        assert ran["3"]["inputs"]["value"] == site.url("/text")


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/latest/a.png", "http://[::1]:9/a.png", "http://10.0.0.1/a"]
)
async def test_addresses_of_the_inner_network_are_refused(here: HttpHouse, address: str) -> None:
    result = await sync(here, {"workflow_json": loads(address)}, 500)
    assert "security.allowed_hosts" in result["message"]


async def test_one_file_that_cannot_be_fetched_ends_the_fetching_of_the_others(here: HttpHouse) -> None:
    cut = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/none":
            raise web.HTTPNotFound
        try:
            await asyncio.sleep(60)
        finally:
            cut.set()
        raise AssertionError

    async with serving(answer) as site:
        graph = {str(n): node("LoadImage", image=site.url(path)) for n, path in enumerate(("/slow", "/none"))}
        result = await sync(here, {"workflow_json": graph}, 500)
        assert "404" in result["message"]
        async with asyncio.timeout(PATIENCE):
            await cut.wait()


async def test_more_files_than_anybody_needs_are_not_fetched(here: HttpHouse) -> None:
    graph = {str(n): node("LoadImage", image=f"http://127.0.0.1:9/{n}.png") for n in range(101)}
    result = await sync(here, {"workflow_json": graph}, 500)
    assert "101 addresses" in result["message"]


async def test_an_address_without_a_file_is_told(here: HttpHouse) -> None:
    async with images() as site:
        result = await sync(here, {"workflow_json": loads(site.url("/none"))}, 500)
        assert "404" in result["message"]


async def test_a_request_is_cancelled_while_its_files_are_fetched(here: HttpHouse) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        del request
        asked.set()
        await go.wait()
        return web.Response(body=picture())

    async with serving(slow) as site:
        given = {"workflow_json": loads(site.url("/slow.png")), "request_id": "early"}
        waiting = asyncio.create_task(here.http.post("/generate/sync", json={"input": given}))
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
        assert (await here.http.get("/queue-info")).json()["preprocess_queue_size"] == 1
        assert (await here.http.get("/result/early")).json()["status"] == "pending"
        assert (await here.http.post("/cancel/early")).json()["status"] == "cancelled"
        go.set()
        answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (499, "cancelled")
    assert (await here.http.get("/api/jobs/early")).status_code == 404


async def test_each_random_number_is_drawn_on_its_own(here: HttpHouse) -> None:
    graph = {
        "1": node("EmptyImage", width=16, height=16, batch_size=1, color=0),
        "2": node("SaveImage", filename_prefix="a__RANDOM_INT__b__RANDOM_INT__", images=["1", 0]),
    }
    result = await sync(here, {"workflow_json": graph})
    prefix = here.comfy.queue.history[result["id"]]["prompt"][2]["2"]["inputs"]["filename_prefix"]
    one, two = prefix[1:].split("b")
    assert one.isdigit()
    assert two.isdigit()
    assert one != two


# Refusals


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"input": 5}',
        b'{"input": {}}',
        b'{"input": {"workflow_json": {}}}',
        b'{"input": {"workflow_json": [1]}}',
        b'{"input": {"workflow_json": {"1": {}}, "modifier": "fox"}}',
        b'{"input": {"workflow_json": {"1": {}}, "modifications": {"a": 1}}}',
        b'{"input": {"modifier": "fox", "webhook": {"url": "ftp://example.org"}}}',
        b'{"input": {"modifier": "fox", "s3": {"secret_access_key": "hidden", "connect_attempts": 99}}}',
        b'{"input": {"modifier": 5}}',
        b'{"input": {"modifier": "fox", "request_id": 7}}',
        b'{"input": {"modifier": "fox", "request_id": "a\\u0000b"}}',
        b'{"input": {"modifier": "fox", "modifications": {"steps": ' + b"[" * 200 + b"]" * 200 + b"}}}",
        b'{"input": {"modifier": "fox", "modifications": {"cfg": NaN}}}',
        b'{"input": {"modifier": "fox", "webhook": {"extra_params": {"a": ' + b"[" * 200 + b"]" * 200 + b"}}}}",
        b'{"input": {"modifier": "fox", "webhook": {"extra_params": {"a": Infinity}}}}',
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate/sync", "/generate/stream"])
async def test_a_body_that_is_wrong_is_422(here: HttpHouse, path: str, body: bytes) -> None:
    answer = await here.http.post(path, content=body)
    assert answer.status_code == 422, answer.text
    for one in answer.json()["detail"]:
        assert {"type", "loc", "msg"} <= set(one)
    assert "hidden" not in answer.text


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({"nodes": [], "links": []}, "Export (API)"),
        ({"1": {"inputs": {}}}, "class_type"),
        ({"1": 5}, "node '1'"),
        ({"1": {"class_type": "EmptyImage", "inputs": {"width": float("inf")}}}, "'width' of node '1'"),
    ],
)
async def test_a_graph_that_is_none_is_422(here: HttpHouse, graph: dict[str, Any], words: str) -> None:
    body = json.dumps({"input": {"workflow_json": graph}})
    for path in ("/generate", "/generate/sync", "/generate/stream"):
        answer = await here.http.post(path, content=body)
        assert answer.status_code == 422
        (complaint,) = answer.json()["detail"]
        assert complaint["loc"] == ["body", "input", "workflow_json"]
        assert words in complaint["msg"]


async def test_a_timeout_that_is_no_number_is_422(here: HttpHouse) -> None:
    for timeout in ("soon", "-1", "nan"):
        answer = await here.http.post(f"/generate/sync?timeout={timeout}", json={"input": {"modifier": "plain"}})
        assert answer.status_code == 422


async def test_an_unknown_request_is_404(here: HttpHouse) -> None:
    answer = await here.http.get("/result/nobody")
    assert (answer.status_code, answer.json()["message"]) == (404, "Request ID not found")
    assert (answer.json()["status"], set(answer.json())) == ("failed", SHAPE)
    answer = await here.http.post("/cancel/nobody")
    assert (answer.status_code, set(answer.json())) == (404, {"error"})


async def test_a_full_queue_is_503_and_leaves_no_trace(tmp_path: Path) -> None:
    # There: the queue before the bounded one drains, so that the limit never bites.
    async with http_house(tmp_path, jobs={"max_waiting": 2}) as house:
        given = {"input": {"workflow_json": sleep(30)}}
        answers = [await house.http.post("/generate", json=given) for _ in range(8)]
        full = [one for one in answers if one.status_code == 503]
        assert full
        assert {one.status_code for one in answers} == {202, 503}
        assert full[0].headers["retry-after"] == "5"
        assert full[0].json()["message"].startswith("Worker at capacity (")
        stream = await house.http.post("/generate/stream", json=given)
        assert (stream.status_code, set(stream.json())) == (503, {"detail"})
        info = (await house.http.get("/queue-info")).json()
        assert info["generation_queue_size"] == 2
        assert set(info) == {"preprocess_queue_size", "generation_queue_size", "postprocess_queue_size"}
        await house.http.post("/api/interrupt")


# Ends


async def test_a_failure_tells_what_comfyui_said(here: HttpHouse) -> None:
    # There: what fails within half a second is run twice, and its reason is lost.
    result = await sync(here, {"workflow_json": fails("it broke")}, 500)
    assert result["status"] == "failed"
    assert result["message"].startswith("Generation failed: Execution error: ")
    assert "it broke" in result["message"]
    assert sum(entry["prompt"][2] == fails("it broke") for entry in here.comfy.queue.history.values()) == 1


async def test_a_graph_that_comfyui_refuses(here: HttpHouse) -> None:
    graph = plain()
    graph["1"]["inputs"]["width"] = -1
    result = await sync(here, {"workflow_json": graph}, 500)
    assert result["message"].startswith("Generation failed: ComfyUI node errors: {")


async def test_a_cancelled_request_stays_cancelled(here: HttpHouse) -> None:
    # There: it ends as completed, without outputs.
    await here.http.post("/generate", json={"input": {"workflow_json": sleep(30), "request_id": "stopped"}})
    await here.becomes("stopped", "running")
    answer = await here.http.post("/cancel/stopped")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    done = await ends(here, "stopped")
    assert (done.status_code, done.json()["status"]) == (499, "cancelled")
    again = await here.http.post("/cancel/stopped")
    assert (again.status_code, again.json()["message"]) == (200, "Request stopped is already cancelled")


async def test_cancelling_what_waits_kills_no_worker(here: HttpHouse) -> None:
    # There: the worker dies of it, and nothing runs any more.
    ids = [f"wait-{n}" for n in range(6)]
    for one in ids:
        await here.http.post("/generate", json={"input": {"workflow_json": sleep(30), "request_id": one}})
    for one in reversed(ids):
        assert (await here.http.post(f"/cancel/{one}")).json()["status"] == "cancelled"
    for one in ids:
        assert (await ends(here, one)).status_code == 499
    assert (await sync(here, {"workflow_json": plain(prefix="after")}))["status"] == "completed"


async def test_a_completed_request_cannot_be_cancelled(here: HttpHouse) -> None:
    result = await sync(here, {"workflow_json": plain(prefix="done")})
    answer = await here.http.post(f"/cancel/{result['id']}")
    assert answer.json() == {"message": f"Request {result['id']} is already completed", "status": "completed"}


async def test_whoever_hangs_up_on_sync_cancels(here: HttpHouse) -> None:
    given = {"input": {"workflow_json": sleep(30), "request_id": "left"}}
    async with httpx.AsyncClient(base_url=here.url) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/generate/sync", json=given, timeout=0.4)
    assert (await ends(here, "left")).status_code == 499


async def test_a_timeout_is_202_and_the_job_goes_on(here: HttpHouse) -> None:
    given = {"workflow_json": sleep(0.6, 6), "request_id": "long"}
    result = await sync(here, given, 202, params={"timeout": 0.1})
    assert result["status"] in {"processing", "generating"}
    assert (await ends(here, "long")).json()["status"] == "completed"


async def test_forty_at_once_each_have_their_output(here: HttpHouse) -> None:
    # There: files are lost while names are used again.
    given = [{"workflow_json": plain(color=n, prefix="burst")} for n in range(40)]
    results = await asyncio.gather(*(sync(here, one) for one in given))
    assert all(len(one["output"]) == 1 for one in results)
    assert len({one["output"][0]["filename"] for one in results}) == 40


async def test_a_result_outlives_the_bridge(tmp_path: Path) -> None:
    # There: results are gone with the process.
    async with http_house(tmp_path) as house:
        await sync(house, {"workflow_json": plain(), "request_id": "kept"})
        house.task.cancel()
        await asyncio.wait({house.task})
        async with bridge(house.plan):
            answer = await house.http.get("/result/kept", headers={"X-Return-Outputs-As-Base64": "1"})
            assert (answer.status_code, answer.json()["status"]) == (200, "completed")
            assert answer.json()["output"][0]["filename"].startswith("plain")


# Streams


async def test_a_stream_tells_progress_and_ends_with_the_result(here: HttpHouse) -> None:
    given = {"input": {"workflow_json": sleep(0.8, 8), "request_id": "streamed"}}
    async with here.http.stream("POST", "/generate/stream", json=given) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        events = [one async for one in told(answer)]
    assert {(one.event, one.id) for one in events} == {("message", None)}
    documents = [one.data for one in events]
    assert {one["request_id"] for one in documents} == {"streamed"}
    assert (documents[0]["status"], documents[0]["message"]) == ("queued", "Request queued")
    moving = [one for one in documents if one["status"] == "generating"]
    assert any(one["message"].startswith("Progress: ") for one in moving)
    assert {"queue_info", "queue_position", "elapsed_time", "timestamp"} <= set(moving[0])
    times = [datetime.fromisoformat(one["timestamp"]) for one in documents[:-1]]
    assert times == sorted(times)
    last = documents[-1]
    assert (last["status"], last["result"]["status"]) == ("final_result", "completed")
    assert last["result"]["comfyui_response"]["execution_details"]["completed"] is True


async def test_a_stream_tells_the_place_in_the_queue(here: HttpHouse) -> None:
    for n in range(4):
        await here.http.post("/generate", json={"input": {"workflow_json": sleep(30), "request_id": f"before-{n}"}})
    given = {"input": {"workflow_json": plain(prefix="behind"), "request_id": "behind"}}
    async with here.http.stream("POST", "/generate/stream", json=given) as answer:
        events = told(answer)
        await anext(events)
        place = (await anext(events)).data["queue_position"]
        assert (place["current_queue"], place["queue_size"]) == ("generation", place["position"])
        assert place["position"] >= 1
        for n in range(4):
            await here.http.post(f"/cancel/before-{n}")
        documents = [one.data async for one in events]
    assert documents[-1]["result"]["status"] == "completed"


async def test_a_stream_of_what_cannot_run_ends_at_once(here: HttpHouse) -> None:
    async with here.http.stream("POST", "/generate/stream", json={"input": {"modifier": "Nobody"}}) as answer:
        documents = [one.data async for one in told(answer)]
    assert documents[-1]["result"]["status"] == "failed"


async def test_who_waits_is_answered_when_the_bridge_stops(tmp_path: Path) -> None:
    async with http_house(tmp_path) as house:
        given = {"input": {"workflow_json": sleep(30), "request_id": "still"}}
        waiting = asyncio.create_task(house.http.post("/generate/sync", json=given))
        await house.becomes_known("still")
        await house.becomes("still", "running")
        house.task.cancel()
        answer = await waiting
        assert (answer.status_code, answer.json()["status"]) == (202, "generating")
        await asyncio.wait({house.task})


async def test_open_streams_end_with_the_bridge(tmp_path: Path) -> None:
    async with http_house(tmp_path) as house:
        given = {"input": {"workflow_json": sleep(30)}}
        async with house.http.stream("POST", "/generate/stream", json=given) as answer:
            events = told(answer)
            await anext(events)
            house.task.cancel()
            documents = [one.data async for one in events]
        assert documents[-1]["status"] == "error"
        await asyncio.wait({house.task})


async def test_a_job_that_comfyui_lost_is_502(tmp_path: Path) -> None:
    async with http_house(tmp_path, jobs={"attempts": 1}) as house:
        await house.http.post("/generate", json={"input": {"workflow_json": sleep(30), "request_id": "lost"}})
        await house.becomes("lost", "running")
        house.comfy.obey(Orders(lose_prompt=True))
        done = await ends(house, "lost")
        assert (done.status_code, done.json()["status"]) == (502, "failed")
