"""The table of statuses, options of a request, files with parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from bridge import errors
from bridge.errors import BadPayload, BadValue, BridgeError
from bridge.http import bodies, ranges
from bridge.http.answers import STATUS, failure, refusal
from bridge.incoming import read_json


def kinds(of: type[BridgeError]) -> Iterator[type[BridgeError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def request(query: str = "", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": raw})


def test_every_code_has_a_status() -> None:
    mqtt_or_start_only = {"retained", "settings"}
    assert {kind.code for kind in kinds(BridgeError) if kind.__module__ == errors.__name__} - mqtt_or_start_only <= set(
        STATUS
    )


def test_an_error_keeps_its_node_and_details() -> None:
    answer = failure(errors.InvalidGraph("no", node="6", details={"near": "7"}))
    assert json.loads(bytes(answer.body)) == {
        "code": "invalid_graph",
        "error": "no",
        "details": {"node": "6", "near": "7"},
    }
    assert refusal("queue_full", "later").headers["retry-after"]


@pytest.mark.parametrize(
    ("accept", "image"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("image/*", True),
        ("image/png;q=0.9, */*", True),
        ("text/html,application/xhtml+xml,image/avif,*/*;q=0.8", False),
        ("application/json, image/png", False),
    ],
)
def test_who_wants_the_picture_itself(accept: str, image: bool) -> None:
    assert bodies.wants(request(accept=accept), "image/") is image


def test_options_come_from_the_address_or_the_body() -> None:
    assert bodies.options(request()) == bodies.Options(None)
    assert bodies.options(request("wait=1.5&base64=1")) == bodies.Options(1.5, base64=True)
    document = {"wait": 3, "base64": True, "values": {}}
    assert bodies.options(request(), document) == bodies.Options(3.0, base64=True)
    assert document == {"values": {}}
    assert bodies.options(request("wait=5"), {"wait": 3}).wait == 5
    assert bodies.options(request(accept="image/png")) == bodies.Options(bodies.IMAGE_WAIT, image=True)
    for wrong in ("wait=x", "wait=-1", "wait=inf", "wait=nan", "wait=1e9", "base64=perhaps"):
        with pytest.raises(BadValue):
            bodies.options(request(wrong))
    wrong_values: list[Any] = [True, None, [], {}, 10**400]
    for value in wrong_values:
        with pytest.raises(BadValue):
            bodies.options(request(), {"wait": value})


@given(st.binary(max_size=200))
def test_any_body_is_json_or_refused(data: bytes) -> None:
    try:
        value = read_json(data, where="the body")
    except BadPayload:
        return
    json.dumps(value)


OUTPUT = {"n": 0, "filename": "späte Füße.png", "content_type": "image/png"}


@pytest.mark.parametrize(
    ("range_", "status", "body"),
    [
        ("", 200, b"0123456789"),
        ("bytes=2-4", 206, b"234"),
        ("bytes=8-", 206, b"89"),
        ("bytes=-3", 206, b"789"),
        ("bytes=0-99", 206, b"0123456789"),
        ("bytes=10-", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=5-4", 200, b"0123456789"),
        ("bytes=0-1,4-5", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
        ("bytes=", 200, b"0123456789"),
    ],
)
def test_a_part_of_a_file(range_: str, status: int, body: bytes) -> None:
    answer = ranges.file(b"0123456789", OUTPUT, job_id="a", request=request(range=range_))
    assert (answer.status_code, bytes(answer.body)) == (status, body)


def test_a_file_from_outside_is_no_page_of_ours() -> None:
    for content_type, shown in (("image/png", "inline"), ("text/html", "attachment"), ("image/svg+xml", "attachment")):
        answer = ranges.file(b"x", {**OUTPUT, "content_type": content_type}, job_id="a")
        assert answer.headers["content-disposition"].startswith(shown)
        assert "sandbox" in answer.headers["content-security-policy"]
        answer.headers["content-disposition"].encode("ascii")


def test_a_tag_tells_what_is_known() -> None:
    tag = ranges.etag("a", 0)
    assert ranges.unchanged(request(if_none_match=f'"x", W/{tag}'), "a", 0)
    assert not ranges.unchanged(request(if_none_match=tag), "a", 1)
    assert not ranges.unchanged(request(), "a", 0)


def test_a_key_that_stands_twice_is_refused_as_on_mqtt() -> None:
    with pytest.raises(BadPayload, match="the body has 'seed' more than once"):
        read_json(b'{"seed": 1, "seed": 2}', where="the body")
