from __future__ import annotations

import json

import pytest

from bridge.comfyui import protocol
from bridge.jobs import documents
from bridge.jobs.lifecycle import Lifecycle
from bridge.jobs.model import ImageValue, Job, Output, Payload, Status, iso, slug_of_url

GRAPH = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "x"}, "_meta": {"title": "Positive"}}}


def job(status: Status = Status.QUEUED) -> Job:
    return Job("id-1", "fox", {"seed": 42}, 0.0, status=status)


def test_a_status_of_a_waiting_job() -> None:
    assert documents.status(job(), position=3) == {
        "id": "id-1",
        "status": "queued",
        "workflow": "fox",
        "position": 3,
        "percent": 0.0,
        "node": None,
        "title": None,
        "seq": 0,
        "error": None,
    }


def test_a_status_names_the_node_at_work_and_its_title() -> None:
    life = Lifecycle("id-1", GRAPH)
    life.feed(protocol.Executing("id-1", "6", "6"))
    document = documents.status(job(Status.RUNNING), life=life)
    assert (document["node"], document["title"], document["status"]) == ("6", "Positive", "running")


@pytest.mark.parametrize("status", list(Status))
def test_an_error_is_shown_at_the_end_alone(status: Status) -> None:
    one = job(status)
    one.error = {"code": "lost", "message": "gone"}
    expected = one.error if status in {"completed", "failed", "interrupted"} else None
    assert documents.status(one)["error"] == expected
    assert (documents.status(one)["percent"] == 100.0) == (status is Status.COMPLETED)


def test_a_result_holds_everything_and_is_json() -> None:
    one = job(Status.COMPLETED)
    one.batch_id, one.started_at, one.finished_at = "b", 1.5, 2.0
    one.durations = {"running": 0.123456}
    one.outputs = (
        Output(0, "9", "a.png", "sub", "output", "image/png", "http://x/view", bytes=3, width=1, height=2),
        Output(1, "9", "b.png", "", "output", "image/png", None, error={"code": "file_missing", "message": "m"}),
    )
    one.text = ({"node": "2", "text": "hello"},)
    document = json.loads(json.dumps(one.result()))
    assert document["outputs"][0] == {
        "n": 0,
        "filename": "a.png",
        "subfolder": "sub",
        "type": "output",
        "url": "http://x/view",
        "content_type": "image/png",
        "width": 1,
        "height": 2,
        "bytes": 3,
        "node": "9",
    }
    assert document["outputs"][1]["error"]["code"] == "file_missing"
    assert document["values"] == {"seed": 42}
    assert document["timings"] == {"running": 0.1235}
    assert document["created_at"] == "1970-01-01T00:00:00.000Z"
    assert document["started_at"] == "1970-01-01T00:00:01.500Z"
    assert document["batch_id"] == "b"
    assert document["error"] is None
    assert documents.job(one)["percent"] == 100.0
    assert document.keys() <= documents.job(one).keys()


def test_entries_of_the_queue() -> None:
    waiting = documents.queued(job(), position=2, seconds=1.234)
    assert (waiting["position"], waiting["estimate"], waiting["priority"]) == (2, 1.2, 0)
    running = documents.queued(job(Status.RUNNING), percent=12.5)
    assert (running["status"], running["percent"]) == ("running", 12.5)
    assert "position" not in running


def test_only_three_statuses_are_final() -> None:
    assert {status for status in Status if status.final} == {"completed", "failed", "interrupted"}


@pytest.mark.parametrize(
    "value",
    [
        ImageValue("a.png"),
        ImageValue("a.png", "0" * 64),
        ImageValue("a.png", None, "1" * 64),
        ImageValue("a.png", "0" * 64, "1" * 64),
    ],
)
def test_an_image_survives_json(value: ImageValue) -> None:
    assert ImageValue.from_json(json.loads(json.dumps(value.to_json()))) == (
        value if len(value.to_json()) > 1 else None
    )


@pytest.mark.parametrize("document", [None, "a.png", 3, [], {}, {"sha256": "0"}, {"filename": "a", "other": 1}])
def test_another_value_is_no_image(document: object) -> None:
    assert ImageValue.from_json(document) is None


def test_a_payload_survives_the_store() -> None:
    payload = Payload(GRAPH, (("1", "image", ImageValue("a.png", "0" * 64)),), "9")
    assert Payload.load(payload.dump()) == payload


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8188", "127-0-0-1-8188"),
        ("http://proxy.lan/gpu_1/", "proxy-lan-80-gpu-1"),
        ("https://GPU.example", "gpu-example-443"),
        ("http://gpu.example", "gpu-example-80"),
        ("http://me:secret@gpu:8188", "gpu-8188"),
        ("http://[::1]:8188", "1-8188"),
    ],
)
def test_the_name_of_a_backend(url: str, name: str) -> None:
    assert slug_of_url(url) == name


def test_times() -> None:
    assert iso(None) is None
    assert iso(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"
    assert documents.expired(job()).code == "expired"
    assert documents.interrupted()["code"] == "interrupted"
