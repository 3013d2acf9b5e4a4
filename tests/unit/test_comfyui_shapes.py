from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.comfyui.shapes import (
    FileRef,
    HistoryEntry,
    output_files,
    output_texts,
    parse_history_entry,
    parse_queue,
    parse_queue_item,
)
from tests.unit import recordings
from tests.unit.test_comfyui_protocol import JSON_VALUES


def histories(name: str) -> list[HistoryEntry]:
    entries = []
    for exchange in recordings.load(name).http:
        if exchange.path.startswith("/history/") and exchange.body and exchange.status == 200:
            for prompt_id, document in json.loads(exchange.body).items():
                entry = parse_history_entry(prompt_id, document)
                assert entry is not None
                entries.append(entry)
    return entries


@pytest.mark.parametrize("name", recordings.names())
def test_every_recorded_history_is_read(name: str) -> None:
    for entry in histories(name):
        assert entry.completed == (entry.status_str == "success")
        assert (entry.error is not None or entry.interrupted) <= (entry.status_str == "error")
        assert entry.messages[0][0] == "execution_start" or entry.status_str == "error"


def test_a_failure_keeps_what_was_done_before_it() -> None:
    entries = histories("f2_partial_outputs_then_error")
    assert entries
    for entry in entries:
        assert (entry.status_str, entry.completed, entry.interrupted) == ("error", False, False)
        assert entry.error is not None
        assert entry.error.node_type == "LoadImage"
    assert any(output_files(output) for entry in entries for output in entry.outputs.values())


def test_only_the_message_tells_an_interrupt() -> None:
    entries = histories("g_interrupt_targeted")
    assert [(e.status_str, e.interrupted, e.error) for e in entries if e.status_str == "error"] == [
        ("error", True, None)
    ]


def test_a_history_entry_of_a_server_that_keeps_no_status() -> None:
    done = parse_history_entry("p", {"outputs": {"9": {"images": []}}})
    assert done is not None
    assert (done.status_str, done.completed) == ("success", True)
    empty = parse_history_entry("p", {"outputs": {}, "status": None})
    assert empty is not None
    assert (empty.status_str, empty.completed) == ("error", False)


@pytest.mark.parametrize("document", [None, [], "x", {}, {"outputs": []}])
def test_what_is_no_history_entry(document: object) -> None:
    assert parse_history_entry("p", document) is None


def test_the_queue_is_sorted_as_it_will_run() -> None:
    exchange = next(e for e in recordings.load("j_prompt_fields").http if e.path == "/queue")
    assert exchange.body
    queue = parse_queue(json.loads(exchange.body))
    assert queue is not None
    assert [item.prompt_id for item in queue.running] == ["blocker"]
    assert [item.prompt_id for item in queue.pending] == [
        *("numneg", "f2", "f1", "num0", "num0b", "numstr", "n1", "n2", "n1", "numbig")
    ]
    assert {item.client_id for item in (*queue.running, *queue.pending)} == {"client-j"}


def test_odd_queue_items() -> None:
    queue = parse_queue(
        {"queue_running": [], "queue_pending": [[float("nan"), "a"], [10**400, "b"], [1, "c", {}, None]]}
    )
    assert queue is not None
    assert [item.prompt_id for item in queue.pending] == ["c", "a", "b"]
    for item in (None, [], [1], ["1", "p"], [1, None]):
        assert parse_queue_item(item) is None


@pytest.mark.parametrize("document", [None, [], {}, {"queue_running": []}, {"queue_running": {}, "queue_pending": []}])
def test_what_is_no_queue(document: object) -> None:
    assert parse_queue(document) is None


def test_all_recorded_outputs() -> None:
    files = {
        file.filename for e in histories("n_other_outputs") for out in e.outputs.values() for file in output_files(out)
    }
    assert {"n_00001_.flac", "n_00001_.webm", "n_00001_.mp4", "n_00001_.latent", "n_00002_.webp"} <= files
    texts = [text for e in histories("n_other_outputs") for out in e.outputs.values() for text in output_texts(out)]
    assert "hello ünïcode" in texts
    assert "some.glb" not in texts


def test_output_shapes() -> None:
    assert output_files(
        {
            "images": [{"filename": "a.png", "subfolder": "k", "type": "temp"}, {"filename": "b.png"}, None, {}],
            "gifs": [{"filename": "v.mp4", "subfolder": None, "type": "output", "format": "video/h264-mp4"}],
            "again": [{"filename": "b.png", "subfolder": "", "type": "output"}],
            "animated": [True],
            "odd": [{"filename": 3}, {"filename": ""}, {"filename": "\ud800"}, {"filename": "x", "subfolder": 1}],
        }
    ) == (FileRef("a.png", "k", "temp"), FileRef("b.png"), FileRef("v.mp4"))
    assert output_texts({"text": ["a", ["b", 3], None]}) == ("a", "b")
    assert output_texts({"text": "a"}) == ("a",)
    assert output_texts({"result": ["some.glb", None]}) == ()


@given(JSON_VALUES)
def test_nothing_raises(value: object) -> None:
    parse_queue(value)
    parse_queue({"queue_running": [value], "queue_pending": [[value, "p", {}, value], [1, value]]})
    parse_history_entry("p", value)
    parse_history_entry("p", {"outputs": {"1": value}, "status": {"messages": [value, ["execution_error", value]]}})
    output_files({"images": [value]})
    output_texts({"text": value})


@given(st.dictionaries(st.text(), JSON_VALUES))
def test_outputs_of_any_shape(output: dict[str, object]) -> None:
    assert all(file.filename for file in output_files(output))
    output_texts(output)
