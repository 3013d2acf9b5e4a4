"""The REST routes, over a real connection: jobs, workflows, outputs, and what they say when they refuse."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from bridge.testing import Orders
from tests.support.graphs import Graph, node, picture, plain, sleep, txt2img
from tests.support.http_house import HttpHouse, http_house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpHouse]:
    async with http_house(tmp_path_factory.mktemp("api")) as house:
        yield house


UI_FORMAT = {"nodes": [{"id": 1, "type": "EmptyImage", "inputs": [], "outputs": []}], "links": [], "version": 0.4}

pytestmark = pytest.mark.asyncio(loop_scope="module")


def websocket_output(color: int) -> Graph:
    return {
        "1": node("EmptyImage", width=16, height=16, batch_size=1, color=color),
        "2": node("SaveImageWebsocket", images=["1", 0]),
    }


def refused(answer: httpx.Response, status: int, code: str, *words: str) -> None:
    document = answer.json()
    assert (answer.status_code, document["code"]) == (status, code), answer.text
    assert set(document) <= {"code", "error", "details"}
    for word in words:
        assert word in document["error"]


async def test_a_run_is_accepted_and_can_be_followed(here: HttpHouse) -> None:
    answer = await here.http.post("/api/workflows/plain/run")
    assert answer.status_code == 202
    job = answer.json()
    assert (job["status"], job["workflow"]) == ("queued", "plain")
    assert str(uuid.UUID(job["id"])) == job["id"]
    assert answer.headers["location"] == f"/api/jobs/{job['id']}"
    done = await here.becomes(job["id"], "completed")
    assert done["percent"] == 100.0
    assert done["outputs"][0]["url"] == f"{here.url}/api/jobs/{job['id']}/outputs/0"


async def test_values_are_for_this_run_and_are_told(here: HttpHouse) -> None:
    answer = await here.http.post(
        "/api/workflows/fox/run", params={"wait": 30}, json={"values": {"prompt": "an owl", "seed": 7, "3.cfg": 5.5}}
    )
    assert answer.status_code == 200
    job = answer.json()
    assert job["status"] == "completed"
    assert (job["values"]["prompt"], job["values"]["seed"], job["values"]["cfg"]) == ("an owl", 7, 5.5)
    ran = here.comfy.queue.history[job["id"]]["prompt"][2]
    assert (ran["6"]["inputs"]["text"], ran["3"]["inputs"]["cfg"]) == ("an owl", 5.5)
    now = (await here.http.get("/api/workflows/fox")).json()["values"]
    assert now["prompt"] == "a lighthouse"


async def test_a_graph_runs_as_it_is(here: HttpHouse) -> None:
    answer = await here.http.post(
        "/api/jobs", params={"wait": 30}, json={"prompt": plain(prefix="whole"), "id": "mine/1"}
    )
    job = answer.json()
    assert (answer.status_code, job["status"], job["workflow"], job["alias"]) == (200, "completed", None, "mine/1")
    assert job["outputs"][0]["filename"].startswith("whole")
    again = await here.http.get("/api/jobs/mine%2F1")
    assert again.status_code in {200, 404}  # a slash in a path is one for most servers
    named = (await here.http.post("/api/jobs", params={"wait": 30}, json={"prompt": plain(), "id": "mine"})).json()
    assert (await here.job("mine"))["id"] == named["id"]


async def test_a_chain_may_be_the_body(here: HttpHouse) -> None:
    steps = [
        {"name": "first", "workflow": "plain"},
        {"workflow": "plain", "when": {"step": "first", "status": "failed"}},
    ]
    answer = await here.http.post("/api/jobs", params={"wait": 30}, json={"steps": steps})
    job = answer.json()
    assert (answer.status_code, job["status"], job["workflow"]) == (200, "completed", None), job
    assert [part["status"] for part in job["parts"]] == ["completed", "skipped"]
    several = await here.http.post("/api/jobs", json={"steps": steps, "count": 2})
    assert len(several.json()["prompt_ids"]) == 2
    refused = await here.http.post("/api/jobs", json={"steps": [{"workflow": "nowhere"}]})
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_workflow")
    both = await here.http.post("/api/jobs", json={"steps": steps, "prompt": plain()})
    assert (both.status_code, both.json()["code"]) == (400, "bad_payload")


async def test_a_running_chain_is_a_job_among_others(here: HttpHouse) -> None:
    steps = [{"name": "slow", "workflow": "sleep"}, {"name": "after", "workflow": "plain"}]
    chain_id = (await here.http.post("/api/jobs", json={"steps": steps})).json()["id"]
    job = await here.becomes(chain_id, "running")
    assert (job["title"], [part["step"] for part in job["parts"]]) == ("slow", ["slow"])
    listed = (await here.http.get("/api/jobs")).json()["jobs"]
    assert {job["parts"][0]["job_id"], chain_id} <= {one["id"] for one in listed}
    assert (await here.http.get("/api/jobs/%1F")).status_code == 404
    assert (await here.http.delete(f"/api/jobs/{chain_id}", params={"wait": 20})).json()["status"] == "interrupted"


async def test_a_failed_job_is_an_answer_too(here: HttpHouse) -> None:
    graph = {"1": node("StandInFail", message="it broke"), "2": node("PreviewAny", source=["1", 0])}
    answer = await here.http.post("/api/jobs", params={"wait": 30}, json={"prompt": graph})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "failed"
    refused_graph = plain()
    refused_graph["1"]["inputs"]["width"] = -1
    answer = await here.http.post("/api/jobs", params={"wait": 30}, json={"prompt": refused_graph})
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, "node_errors")


async def test_when_the_time_is_up_the_job_goes_on(here: HttpHouse) -> None:
    answer = await here.http.post("/api/jobs", params={"wait": 0.1}, json={"prompt": sleep(0.6, 6)})
    assert answer.status_code == 202
    assert answer.json()["status"] in {"queued", "preparing", "running"}
    job = await here.http.get(f"/api/jobs/{answer.json()['id']}", params={"wait": 20})
    assert (job.status_code, job.json()["status"]) == (200, "completed")


async def test_a_caller_that_hangs_up_in_mid_wait_ends_no_job(here: HttpHouse) -> None:
    async with httpx.AsyncClient(base_url=here.url) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/api/jobs", params={"wait": 30}, json={"prompt": sleep(0.8, 8), "id": "left"}, timeout=0.3)
    job = await here.becomes("left", "completed", "failed", "interrupted")
    assert job["status"] == "completed"


@pytest.mark.parametrize("graph", [plain(color=0x00FF00), websocket_output(0x00FF00)], ids=["saved", "websocket"])
async def test_the_picture_itself(here: HttpHouse, graph: Graph) -> None:
    answer = await here.http.post("/api/jobs", json={"prompt": graph}, headers={"Accept": "image/*"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.size, image.convert("RGB").getpixel((0, 0))) == ((16, 16), (0, 255, 0))
    job = await here.job(answer.headers["x-job-id"])
    again = await here.http.get(job["outputs"][0]["url"])
    assert again.content == answer.content
    inside = await here.http.get(f"/api/jobs/{job['id']}", params={"base64": 1})
    assert base64.b64decode(inside.json()["outputs"][0]["data"]) == answer.content


async def test_the_bytes_as_base64(here: HttpHouse) -> None:
    for where in ({"params": {"wait": 30, "base64": 1}, "json": {}}, {"json": {"wait": 30, "base64": True}}):
        answer = await here.http.post("/api/workflows/plain/run", **where)  # type: ignore[arg-type]
        output = answer.json()["outputs"][0]
        data = base64.b64decode(output["data"])
        assert (len(data), data[:4]) == (output["bytes"], b"\x89PNG")


async def test_no_picture_is_told_by_the_end_of_the_job(here: HttpHouse) -> None:
    accept = {"Accept": "image/png"}
    failing = {"1": node("StandInFail", message="it broke"), "2": node("PreviewAny", source=["1", 0])}
    answer = await here.http.post("/api/jobs", json={"prompt": failing}, headers=accept)
    refused(answer, 502, "execution_error")
    asked = asyncio.create_task(
        here.http.post("/api/jobs", json={"prompt": sleep(30, 300), "id": "ended"}, headers=accept)
    )
    await here.becomes_known("ended")
    await here.http.delete("/api/jobs/ended")
    refused(await asked, 409, "interrupted")


async def test_an_output_has_type_name_tag_and_parts(here: HttpHouse) -> None:
    job = await here.run("plain", wait=30)
    url = f"/api/jobs/{job['id']}/outputs/0"
    whole = await here.http.get(url)
    assert (whole.status_code, whole.headers["content-type"]) == (200, "image/png")
    assert job["outputs"][0]["filename"] in whole.headers["content-disposition"]
    assert whole.headers["x-content-type-options"] == "nosniff"
    part = await here.http.get(url, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, whole.content[4:8])
    assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"
    assert (await here.http.get(url, headers={"Range": "bytes=999999-"})).status_code == 416
    same = await here.http.get(url, headers={"If-None-Match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    head = await here.http.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(whole.content)), b"")
    refused(await here.http.get(f"/api/jobs/{job['id']}/outputs/7"), 404, "file_missing", "7")


async def test_an_output_that_comfyui_lost_is_missing(here: HttpHouse) -> None:
    job = await here.run("plain", wait=30)
    for file in (here.plan.folder / "comfy" / "output").rglob(job["outputs"][0]["filename"]):
        file.unlink()
    refused(await here.http.get(f"/api/jobs/{job['id']}/outputs/0"), 404, "file_missing")


async def test_files_in_a_form_are_images(here: HttpHouse) -> None:
    answer = await here.http.post(
        "/api/workflows/img/run",
        params={"wait": 30},
        files={"image": ("../../etc/red.png", picture(color="red"), "image/png")},
        data={"priority": "3"},
    )
    assert (answer.status_code, answer.json()["status"]) == (200, "completed"), answer.text
    inverted = next(output for output in answer.json()["outputs"] if output["node"] == "12")
    with Image.open(io.BytesIO((await here.http.get(inverted["url"])).content)) as image:
        assert image.convert("RGB").getpixel((3, 3)) == (0, 255, 255)


async def test_a_form_holds_texts_numbers_and_json(here: HttpHouse) -> None:
    form: dict[str, Any] = {"prompt": (None, "a fox"), "steps": (None, "3"), "values": (None, '{"cfg": 2.5}')}
    answer = await here.http.post("/api/workflows/fox/run", params={"wait": 30}, files=form)
    values = answer.json()["values"]
    assert (values["prompt"], values["steps"], values["cfg"]) == ("a fox", 3, 2.5)


async def test_values_are_set_all_or_none(here: HttpHouse) -> None:
    answer = await here.http.patch("/api/workflows/story", json={"steps": 3, "12:5.value": "once"})
    assert answer.status_code == 200
    assert answer.json()["values"]["steps"] == 3
    refused(
        await here.http.patch("/api/workflows/story", json={"steps": 4, "cfgg": 1}), 404, "unknown_parameter", "cfg"
    )
    refused(await here.http.patch("/api/workflows/story", json={"steps": "many"}), 400, "bad_value", "steps")
    shown = (await here.http.get("/api/workflows/story")).json()
    assert (shown["values"]["steps"], shown["name"], shown["loaded"]) == (3, "story", False)
    wrapped = await here.http.patch("/api/workflows/story", json={"values": {"steps": 5}})
    assert wrapped.json()["values"]["steps"] == 5


async def test_several_runs_are_one_batch(here: HttpHouse) -> None:
    answer = await here.http.post("/api/workflows/fox/run", params={"wait": 60}, json={"count": 3, "values": {}})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert [job["id"] for job in document["jobs"]] == document["prompt_ids"]
    assert {job["status"] for job in document["jobs"]} == {"completed"}
    assert [job["values"]["seed"] for job in document["jobs"]] == [42, 43, 44]
    listed = (await here.http.get("/api/jobs", params={"batch_id": document["batch_id"]})).json()["jobs"]
    assert {job["id"] for job in listed} == set(document["prompt_ids"])


async def test_a_transaction_runs_once(here: HttpHouse) -> None:
    first = await here.http.post("/api/workflows/plain/run", json={"transaction": "a"})
    again = await here.http.post("/api/workflows/plain/run", headers={"Idempotency-Key": "a"}, params={"wait": 20})
    assert first.json()["id"] == again.json()["id"]
    assert again.json()["status"] == "completed"
    for _ in range(2):
        answer = await here.http.post("/api/workflows/plain/run", json={"transaction": "b", "values": {"nope": 1}})
        refused(answer, 404, "unknown_parameter", "nope")


async def test_lists_queue_and_ends(here: HttpHouse) -> None:
    ids = [(await here.http.post("/api/jobs", json={"prompt": sleep(30, 300)})).json()["id"] for _ in range(5)]
    await here.becomes(ids[0], "running")
    queue = (await here.http.get("/api/queue")).json()
    assert (queue["running_count"], queue["waiting_count"]) == (2, 3)
    assert [job["id"] for job in queue["waiting"]] == ids[2:]
    assert [job["id"] for job in (await here.http.get("/api/jobs", params={"limit": 2})).json()["jobs"]] == ids[:2:-1]
    waiting = (await here.http.get("/api/jobs", params={"status": "queued"})).json()["jobs"]
    assert [(job["id"], job["position"]) for job in waiting] == [(ids[4], 3), (ids[3], 2), (ids[2], 1)]
    ended = await here.http.delete(f"/api/jobs/{ids[4]}", params={"wait": 10})
    assert (ended.status_code, ended.json()["status"]) == (200, "interrupted")
    refused(await here.http.delete(f"/api/jobs/{ids[4]}"), 409, "already_over")
    assert (await here.http.delete(f"/api/jobs/{ids[0]}")).status_code == 202
    await here.becomes(ids[0], "interrupted")
    rest = (await here.http.post("/api/interrupt")).json()["prompt_ids"]
    assert set(rest) == set(ids[1:4])
    for job_id in rest:
        await here.becomes(job_id, "interrupted")


async def test_workflows_are_listed_and_loaded(here: HttpHouse) -> None:
    listed = (await here.http.get("/api/workflows")).json()
    assert {one["name"] for one in listed["workflows"]} >= {"fox", "plain", "img"}
    assert (await here.http.post("/api/workflows/plain/load")).json() == {"workflow": "plain"}
    assert (await here.http.get("/api/workflows")).json()["loaded"] == "plain"
    assert (await here.http.post("/api/reload")).status_code == 200
    assert (await here.http.post("/api/free", json={})).json()["backends"]
    assert (await here.http.put("/api/log_level", json={"level": "info"})).json() == {"level": "info"}
    assert (await here.http.get("/api/info")).json()["addresses"]["http"] == here.url


REFUSALS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/api/jobs/none", {}, 404, "unknown_prompt"),
    ("DELETE", "/api/jobs/none", {}, 404, "unknown_prompt"),
    ("GET", "/api/jobs/none/events", {}, 404, "unknown_prompt"),
    ("GET", "/api/jobs/none/preview", {}, 404, "unknown_prompt"),
    ("GET", "/api/jobs/none/outputs/0", {}, 404, "unknown_prompt"),
    ("GET", "/api/jobs/none/outputs/x", {}, 400, "bad_payload"),
    ("GET", "/api/workflows/none", {}, 404, "unknown_workflow"),
    ("GET", "/api/workflows/..%2F..%2Fetc%2Fpasswd", {}, 404, "unknown_command"),
    ("PATCH", "/api/workflows/none", {"json": {}}, 404, "unknown_workflow"),
    ("POST", "/api/workflows/none/run", {}, 404, "unknown_workflow"),
    ("POST", "/api/workflows/none/load", {}, 404, "unknown_workflow"),
    ("POST", "/api/workflows/fox/run", {"content": b"{"}, 400, "bad_payload"),
    ("POST", "/api/workflows/fox/run", {"content": b"[1]"}, 400, "bad_payload"),
    ("POST", "/api/workflows/fox/run", {"content": b'{"values": {"prompt": "\xff"}}'}, 400, "bad_payload"),
    ("POST", "/api/workflows/fox/run", {"content": b'{"values": {"prompt": "\\ud800"}}'}, 400, "bad_payload"),
    ("POST", "/api/workflows/fox/run", {"content": b"[" * 200_000}, 400, "bad_payload"),
    ("POST", "/api/workflows/fox/run", {"json": {"value": {}}}, 400, "bad_payload"),
    ("POST", "/api/workflows/fox/run", {"json": {"count": 0}}, 400, "bad_payload"),
    ("POST", "/api/workflows/fox/run", {"json": {"count": 10_000}}, 400, "bad_value"),
    ("POST", "/api/workflows/fox/run", {"json": {"values": {"seed": -1}}}, 400, "bad_value"),
    ("POST", "/api/workflows/fox/run", {"json": {"values": {"3.model": 1}}}, 400, "is_link"),
    ("POST", "/api/workflows/fox/run", {"json": {"values": {"99.x": 1}}}, 404, "unknown_node"),
    ("POST", "/api/workflows/fox/run", {"json": {"values": {"3.x": 1}}}, 400, "no_such_input"),
    ("POST", "/api/workflows/fox/run", {"json": {"deliver": {}}}, 400, "unsupported"),
    ("POST", "/api/workflows/fox/run", {"json": {"expires_at": "2001-01-01T00:00:00Z"}}, 410, "expired"),
    ("POST", "/api/workflows/fox/run", {"json": {"transaction": {}}}, 400, "bad_payload"),
    ("POST", "/api/workflows/fox/run?wait=soon", {}, 400, "bad_value"),
    ("POST", "/api/workflows/fox/run?wait=nan", {}, 400, "bad_value"),
    ("POST", "/api/workflows/fox/run?wait=-1", {}, 400, "bad_value"),
    ("POST", "/api/workflows/fox/run?base64=maybe", {}, 400, "bad_value"),
    ("POST", "/api/workflows/img/run", {"files": {"image": ("a.png", b"none", "image/png")}}, 400, "bad_value"),
    ("POST", "/api/workflows/img/run", {"files": {"image": ("a.png", b"", "image/png")}}, 400, "bad_value"),
    ("POST", "/api/workflows/img/run", {"json": {"values": {"image": "../../etc/passwd"}}}, 403, "not_allowed"),
    ("POST", "/api/workflows/img/run", {"json": {"values": {"image": "none.png"}}}, 404, "file_missing"),
    (
        "POST",
        "/api/workflows/img/run",
        {"content": b"--x\r\nbroken", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400,
        "bad_payload",
    ),
    (
        "POST",
        "/api/workflows/img/run",
        {"content": b"", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "bad_payload",
    ),
    ("POST", "/api/workflows/fox/run", {"files": {"prompt": (None, b"\xff\xfe")}}, 400, "bad_payload"),
    ("POST", "/api/workflows/fox/run", {"files": {"values": (None, b"{")}}, 400, "bad_payload"),
    ("POST", "/api/jobs", {"content": b'{"priority": ' + b"9" * 5000 + b"}"}, 400, "bad_payload"),
    ("POST", "/api/jobs", {"json": {"prompt": plain(), "id": "a\0b"}}, 400, "bad_payload"),
    ("GET", "/api/jobs?status=done", {}, 400, "bad_payload"),
    ("POST", "/api/jobs", {}, 400, "bad_payload"),
    ("POST", "/api/jobs", {"json": {"prompt": {}}}, 400, "invalid_graph"),
    ("POST", "/api/jobs", {"json": {"prompt": [1]}}, 400, "invalid_graph"),
    ("POST", "/api/jobs", {"json": {"prompt": UI_FORMAT}}, 400, "ui_format"),
    ("POST", "/api/jobs", {"json": {"prompt": plain(), "deliver": {}}}, 400, "unsupported"),
    ("POST", "/api/jobs", {"json": {"prompt": plain(), "id": ""}}, 400, "bad_payload"),
    ("POST", "/api/jobs", {"json": {"prompt": plain(), "number": -1}}, 400, "bad_payload"),
    ("POST", "/api/jobs", {"json": {"prompt": plain(), "priority": 1e9}}, 400, "bad_payload"),
    ("GET", "/api/jobs?limit=0", {}, 400, "bad_payload"),
    ("GET", "/api/jobs?limit=many", {}, 400, "bad_payload"),
    ("GET", "/api/events?previews=x", {}, 400, "bad_value"),
    ("POST", "/api/interrupt", {"json": {"batch_id": "none"}}, 404, "unknown_prompt"),
    ("POST", "/api/interrupt", {"json": {"prompt": "x"}}, 400, "bad_payload"),
    ("PUT", "/api/log_level", {"json": {"level": "loud"}}, 400, "bad_payload"),
    ("GET", "/api/nothing", {}, 404, "unknown_command"),
    ("PUT", "/api/queue", {}, 405, "unknown_command"),
]


@pytest.mark.parametrize(("method", "path", "request_", "status", "code"), REFUSALS)
async def test_a_bad_request_is_refused_with_a_reason(
    here: HttpHouse, method: str, path: str, request_: dict[str, Any], status: int, code: str
) -> None:
    answer = await here.http.request(method, path, **request_)
    refused(answer, status, code)
    assert len(answer.json()["error"]) > 10


async def test_a_form_says_which_field_is_wrong(here: HttpHouse) -> None:
    wrong: dict[str, Any] = {
        "image": ("a.png", b"none", "image/png"),
        "prompt": (None, "caf\u00e9".encode("latin-1")),
        "values": (None, b"[1"),
    }
    for name, part in wrong.items():
        answer = await here.http.post("/api/workflows/img/run", files={name: part})
        assert name in answer.json()["error"]
    right = await here.http.post("/api/workflows/fox/run", files={"prompt": (None, "caf\u00e9 \U0001f98a".encode())})
    assert right.json()["values"]["prompt"] == "caf\u00e9 \U0001f98a"


async def test_msgpack_is_taken(here: HttpHouse) -> None:
    import msgpack

    headers = {"Content-Type": "application/msgpack"}
    body = msgpack.packb({"values": {"prompt": "packed"}})
    answer = await here.http.post("/api/workflows/fox/run", content=body, headers=headers)
    assert answer.json()["values"]["prompt"] == "packed"
    refused(await here.http.post("/api/workflows/fox/run", content=b"\xc1", headers=headers), 400, "bad_payload")


async def test_metrics_count_what_happened(here: HttpHouse) -> None:
    await here.run("plain", wait=20)
    answer = await here.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()

    def value(name: str) -> float:
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    assert value('comfy_bridge_jobs_total{status="completed",workflow="plain"}') >= 1
    backend = f'backend="127-0-0-1-{here.comfy.port}"'
    assert value(f"comfy_bridge_backend_online{{{backend}}}") == 1
    assert value(f"comfy_bridge_frames_in_total{{{backend}}}") > 5
    assert value("comfy_bridge_mqtt_connected") == 0
    assert value('comfy_bridge_job_seconds_count{phase="total"}') >= 1
    assert value("comfy_bridge_jobs_waiting") == 0


async def test_ready_says_what_is_missing(here: HttpHouse) -> None:
    assert (await here.http.get("/health")).status_code == 200
    answer = await here.http.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
    assert "broker" in answer.json()["reasons"][0]["message"]
    assert answer.headers["retry-after"]


async def test_ready_when_all_is_there(tmp_path: Path, broker_port: int) -> None:
    async with http_house(tmp_path, broker=f"mqtt://127.0.0.1:{broker_port}") as house:

        async def becomes(status: int) -> dict[str, Any]:
            for _ in range(1_000):
                answer = await house.http.get("/ready")
                if answer.status_code == status:
                    return dict(answer.json())
                await asyncio.sleep(0.02)
            raise AssertionError(answer.text)

        assert (await becomes(200))["status"] == "ready"
        house.comfy.obey(Orders(drop_sockets=True, refuse_connections=3.0))
        reasons = (await becomes(503))["reasons"]
        assert [one["code"] for one in reasons] == ["backend_offline"]
        assert "ComfyUI" in reasons[0]["message"]
        await becomes(200)


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    async with http_house(tmp_path, jobs={"max_waiting": 1}, comfyui={"depth": 1}) as house:
        first = (await house.http.post("/api/jobs", json={"prompt": sleep(30, 300)})).json()
        await house.becomes(first["id"], "running")
        assert (await house.http.post("/api/jobs", json={"prompt": plain()})).status_code == 202
        answer = await house.http.post("/api/jobs", json={"prompt": plain()})
        refused(answer, 503, "queue_full", "max_waiting")
        assert int(answer.headers["retry-after"]) > 0
        codes = [one["code"] for one in (await house.http.get("/ready")).json()["reasons"]]
        assert "queue_full" in codes


async def test_the_documents_are_a_form_for_each_workflow(here: HttpHouse) -> None:
    document = (await here.http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    operation = document["paths"]["/api/workflows/fox/run"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    values = body["values"]["properties"]
    assert values["steps"]["type"] == "integer"
    assert values["steps"]["minimum"] == 1
    assert "euler" in values["sampler"]["enum"]
    assert values["prompt"]["default"] == "a lighthouse"
    image = document["paths"]["/api/workflows/img/run"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert image["schema"]["properties"]["image"]["format"] == "binary"
    page = (await here.http.get("/docs")).text
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert name in page
        assert (await here.http.get(f"/docs/static/{name}")).status_code == 200
    refused(await here.http.get("/docs/static/main.py"), 404, "unknown_command")
    json.dumps(document)


async def test_txt2img_shows_its_preview_while_it_runs(here: HttpHouse) -> None:
    here.comfy.settings.step_delay = 0.05
    try:
        job = (await here.http.post("/api/jobs", json={"prompt": txt2img(steps=20)})).json()
        for _ in range(1_000):
            answer = await here.http.get(f"/api/jobs/{job['id']}/preview")
            if answer.status_code == 200:
                break
            await asyncio.sleep(0.02)
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content[:2] == b"\xff\xd8"
    finally:
        here.comfy.settings.step_delay = 0.0
    await here.becomes(job["id"], "completed")
    refused(await here.http.get(f"/api/jobs/{job['id']}/preview"), 404, "file_missing")
