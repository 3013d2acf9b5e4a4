"""What the clients of the command line make of messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.cli.events import Narrator, describe, describe_any
from bridge.cli.submission import Submission
from bridge.cli.terminal import columns, printable, size
from bridge.cli.wire import why
from bridge.mqtt.message import Message


def message(topic: str, payload: bytes | str | dict[str, Any]) -> Message:
    if isinstance(payload, dict):
        payload = json.dumps(payload)
    return Message(f"base/{topic}", payload.encode() if isinstance(payload, str) else payload)


def submission(*ids: str) -> Submission:
    made = Submission("base", "fox", "t-1")
    if ids:
        made.feed(answer({"prompt_ids": list(ids)}))
    return made


def answer(data: dict[str, Any], *, transaction: str = "t-1", status: str = "ok", **more: Any) -> Message:
    document = {"status": status, "data": data, "transaction": transaction, **more}
    return message("response/workflow/fox/queue", document)


# submit


def test_only_the_answer_to_the_own_command_counts() -> None:
    made = submission()
    made.feed(answer({"prompt_ids": ["other"]}, transaction="t-2"))
    assert not made.answered
    made.feed(answer({"prompt_ids": ["a", "b"]}))
    made.feed(answer({"prompt_ids": ["late"]}))
    assert list(made.runs) == ["a", "b"]


def test_a_refusal_is_kept() -> None:
    made = submission()
    made.feed(answer({}, status="error", code="unknown_workflow", error="there is no workflow"))
    assert made.refusal is not None
    assert made.refusal["error"] == "there is no workflow"
    assert not made.runs


def test_what_came_before_the_answer_is_not_lost() -> None:
    made = submission()
    made.feed(message("prompt/a/output/0", b"\x89PNG"))
    made.feed(message("prompt/a/result", {"id": "a", "status": "completed"}))
    made.feed(message("prompt/x/result", {"id": "x", "status": "completed"}))
    made.feed(answer({"prompt_ids": ["a"]}))
    assert made.runs["a"].outputs == {0: b"\x89PNG"}
    assert made.open == []
    assert made.percent == 100.0


def test_progress_of_node_and_all() -> None:
    made = submission("a", "b")
    made.feed(message("prompt/a/status", {"status": "running", "percent": 40.0, "title": "Sampler", "node": "3"}))
    made.feed(message("prompt/a/event/progress", {"type": "progress", "data": {"value": 3, "max": 20}}))
    run = made.runs["a"]
    assert (run.status, run.node, run.step, run.steps) == ("running", "Sampler", 3, 20)
    assert made.percent == 20.0
    made.feed(message("prompt/a/status", {"status": "running", "percent": 90.0, "title": "Save", "node": "9"}))
    assert (run.node, run.steps) == ("Save", 0)
    made.feed(message("prompt/b/status", {"status": "queued", "position": 4, "percent": 0.0}))
    assert made.runs["b"].position == 4


def test_after_an_absence_the_answer_to_the_question_ends_a_job() -> None:
    made = submission("a", "b", "c")
    told = {"status": "ok", "data": {"status": "completed", "outputs": []}}
    made.feed(message("response/bridge/request/job", {**told, "transaction": "somebody/a/1"}))
    assert len(made.open) == 3
    made.feed(message("response/bridge/request/job", {**told, "transaction": "t-1/a/1"}))
    running = {"status": "ok", "data": {"status": "running", "percent": 5}, "transaction": "t-1/b/2"}
    made.feed(message("response/bridge/request/job", running))
    gone = {"status": "error", "code": "unknown_prompt", "error": "no such job", "data": {}, "transaction": "t-1/c/3"}
    made.feed(message("response/bridge/request/job", gone))
    assert [run.id for run in made.open] == ["b"]
    assert made.runs["c"].status == "failed"
    assert why(made.runs["c"].result or {}) == "no such job"


@given(
    st.sampled_from(
        [
            *("bridge/state", "response/workflow/fox/queue", "response/bridge/request/job", "prompt/a/status"),
            *(
                "prompt/a/result",
                "prompt/a/output/0",
                "prompt/a/output/x",
                "prompt/a/event/progress",
                "prompt/a",
                "",
                "x",
            ),
        ]
    ),
    st.one_of(
        st.binary(max_size=80),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["status", "data", "error", "transaction", "percent", "outputs", "max", "value"]),
                    inner,
                    max_size=4,
                )
            ),
        ).map(lambda document: json.dumps(document).encode()),
    ),
)
def test_no_message_brings_a_client_down(topic: str, payload: bytes) -> None:
    made = submission("a")
    one = Message(f"base/{topic}", payload)
    made.feed(one)
    submission().feed(one)
    line = describe("base", one)
    for text in (line.text if line else "", describe_any("base", one).text):
        assert text.isprintable()
    Narrator("base").tell(one)


@pytest.mark.parametrize("outputs", [True, 5, "x", {"n": 0}, None, [True, None]])
def test_outputs_that_are_none_are_none(outputs: object) -> None:
    line = describe("base", message("prompt/a/result", {"status": "completed", "outputs": outputs}))
    assert line is not None
    assert line.text == "graph a completed"


# watch


@pytest.mark.parametrize(
    ("topic", "payload", "words"),
    [
        ("bridge/state", "online", "bridge online"),
        ("backend/127-0-0-1-8188/state", "offline", "backend 127-0-0-1-8188 offline"),
        ("bridge/log", {"level": "warning", "message": "look"}, "warning: look"),
        (
            "prompt/0123456789/status",
            {"workflow": "fox", "status": "running", "percent": 12.5, "title": "Sampler"},
            "fox 01234567 running  12.5 % Sampler",
        ),
        (
            "prompt/0123456789/status",
            {"workflow": "fox", "status": "queued", "position": 2},
            "fox 01234567 queued position 2",
        ),
        (
            "prompt/0123456789/result",
            {
                "workflow": "fox",
                "status": "completed",
                "timings": {"total": 2.04},
                "outputs": [{"filename": "a.png", "bytes": 41_000}, {"filename": "b.png", "bytes": None}],
            },
            "fox 01234567 completed after 2.0 s: a.png (41 kB), b.png",
        ),
        (
            "prompt/0123456789/result",
            {
                "workflow": None,
                "status": "failed",
                "outputs": [],
                "error": {"code": "x", "message": "no\x1b[31m\nroom"},
            },
            "graph 01234567 failed: no\ufffd[31m room",
        ),
        (
            "response/update/text",
            {"status": "error", "code": "unknown_node", "error": "no node 5"},
            "update/text refused: no node 5 (unknown_node)",
        ),
    ],
)
def test_lines(topic: str, payload: str | dict[str, Any], words: str) -> None:
    line = describe("base", message(topic, payload))
    assert line is not None
    assert line.text == words


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("response/queue", {"status": "ok", "data": {}}),
        ("prompt/a/status", {"status": "completed"}),
        ("workflow/fox/values", {}),
    ],
)
def test_what_another_message_tells_better_is_left_out(topic: str, payload: dict[str, Any]) -> None:
    assert describe("base", message(topic, payload)) is None


def test_everything_shows_text_and_the_size_of_bytes() -> None:
    assert describe_any("base", message("queue", '{"count": 2}')).text == 'queue {"count": 2}'
    picture = Message("base/prompt/a/preview", b"\xff\xd8\xff" + bytes(2000), content_type="image/jpeg")
    assert describe_any("base", picture).text == "prompt/a/preview <image/jpeg, 2 kB>"
    assert len(describe_any("base", message("x", "y" * 5000)).text) < 500


def test_progress_is_told_when_it_has_come_further() -> None:
    narrator = Narrator("base")

    def told(percent: float, node: str = "3", status: str = "running") -> bool:
        return (
            narrator.tell(message("prompt/a/status", {"status": status, "percent": percent, "node": node})) is not None
        )

    assert [told(percent) for percent in (0, 4, 8, 10, 12, 21)] == [True, False, False, True, False, True]
    assert told(22, node="4")
    assert told(22, node="4", status="finishing")


# Small change


def test_columns_are_aligned_and_harmless() -> None:
    assert columns([("a", "b", ""), ("long", "\x07", "last of all")]) == ["a     b", "long  \ufffd  last of all"]
    assert columns([]) == []


def test_sizes_and_texts() -> None:
    assert [size(n) for n in (0, 999, 41_200, 3_200_000)] == ["0 bytes", "999 bytes", "41 kB", "3.2 MB"]
    assert printable("a\tb\x1b") == "a b\ufffd"


def test_an_interruption_needs_no_reason() -> None:
    assert why({"status": "interrupted", "error": {"code": "interrupted", "message": "by a command"}}) == ""
    assert why({"status": "completed", "error": None}) == ""
