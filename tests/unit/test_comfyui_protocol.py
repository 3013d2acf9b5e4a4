from __future__ import annotations

import json
from collections import Counter
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.comfyui.protocol import (
    FEATURE_FLAGS,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    FeatureFlags,
    Malformed,
    NodeProgress,
    OtherEvent,
    PreviewImage,
    Progress,
    ProgressState,
    Status,
    TextFrame,
    decode_binary,
    decode_text,
    parse_event,
    sniff_image,
)
from tests.unit import recordings

CLASSES = {
    "status": Status,
    "execution_start": ExecutionStart,
    "execution_cached": ExecutionCached,
    "executing": Executing,
    "progress": Progress,
    "progress_state": ProgressState,
    "executed": Executed,
    "execution_success": ExecutionSuccess,
    "execution_error": ExecutionError,
    "execution_interrupted": ExecutionInterrupted,
    "feature_flags": FeatureFlags,
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def event(event_type: str, data: object) -> str:
    return json.dumps({"type": event_type, "data": data})


@pytest.mark.parametrize("name", recordings.names())
def test_every_recorded_frame_becomes_a_message_of_its_class(name: str) -> None:
    for frame in recordings.load(name).frames:
        if frame.kind == "text":
            assert frame.text is not None
            message = decode_text(frame.text)
            known = json.loads(frame.text)
            assert type(message) is CLASSES.get(known["type"], OtherEvent)
            assert not isinstance(message, Malformed | PreviewImage)
            assert message.event_type == known["type"]
            assert message.raw == frame.text
            assert message.prompt_id == known["data"].get("prompt_id")
        elif frame.binary is not None:
            binary = decode_binary(frame.binary)
            assert binary.raw == frame.binary
            assert type(binary) is (TextFrame if frame.header["event_type"] == 3 else PreviewImage)


def test_no_recorded_event_is_unknown_but_the_logs() -> None:
    others = Counter(
        message.event_type
        for name in recordings.names()
        for raw in recordings.load(name).received()
        if isinstance(raw, str) and isinstance(message := decode_text(raw), OtherEvent)
    )
    assert set(others) <= {"logs"}


def test_a_run_with_feature_flags() -> None:
    recording = recordings.load("b_txt2img_feature_flags")
    messages = [decode_text(r) if isinstance(r, str) else decode_binary(r) for r in recording.received("A")]
    assert isinstance(messages[0], Status)
    assert messages[0].sid == "client-b"
    start = next(m for m in messages if isinstance(m, ExecutionStart))
    assert start.timestamp == 1795220593892
    cached = next(m for m in messages if isinstance(m, ExecutionCached))
    assert cached.nodes == ("4", "5", "6", "7")
    previews = [m for m in messages if isinstance(m, PreviewImage)]
    assert len(previews) == 8
    assert {(p.node, p.prompt_id, p.content_type) for p in previews} == {("3", start.prompt_id, "image/jpeg")}
    assert all(p.image.startswith(b"\xff\xd8\xff") and p.raw.endswith(p.image) for p in previews)
    progress = [m for m in messages if isinstance(m, Progress)]
    assert [(p.value, p.max, p.node) for p in progress] == [(n, 8, "3") for n in range(1, 9)]
    over = [m for m in messages if isinstance(m, Executing)][-1]
    assert (over.node, over.prompt_id) == (None, start.prompt_id)


def test_previews_without_feature_flags_name_no_node() -> None:
    binaries = [r for r in recordings.load("a_txt2img_no_flags").received("A") if isinstance(r, bytes)]
    assert len(binaries) == 8
    for raw in binaries:
        message = decode_binary(raw)
        assert isinstance(message, PreviewImage)
        assert (message.node, message.prompt_id, message.metadata) == (None, None, None)
        assert message.content_type == "image/jpeg"
        assert message.image == raw[8:]


def test_images_of_a_websocket_node_are_png() -> None:
    binaries = [r for r in recordings.load("k_no_sampler").received() if isinstance(r, bytes) and b"PNG" in r]
    messages = [decode_binary(raw) for raw in binaries]
    assert {m.node for m in messages if isinstance(m, PreviewImage)} == {None, "2"}
    assert all(isinstance(m, PreviewImage) and m.content_type == "image/png" for m in messages)
    assert all(isinstance(m, PreviewImage) and m.image.startswith(b"\x89PNG") for m in messages)


def test_a_text_frame() -> None:
    texts = [decode_binary(r) for r in recordings.load("n_other_outputs").received() if isinstance(r, bytes)]
    assert {(m.node, m.text) for m in texts if isinstance(m, TextFrame)} == {
        ("2", "width: 64, height: 64\n batch size: 6")
    }


def test_a_reconnect_tells_the_running_node_without_a_prompt() -> None:
    messages = [decode_text(r) for r in recordings.load("i_reconnect_clean").received("A2") if isinstance(r, str)]
    assert isinstance(messages[1], Executing)
    assert messages[1].prompt_id is None
    assert messages[1].node is not None


def test_an_error_and_an_interrupt() -> None:
    texts = [r for r in recordings.load("f_runtime_error").received() if isinstance(r, str)]
    failed = next(m for m in map(decode_text, texts) if isinstance(m, ExecutionError))
    assert (failed.node_id, failed.node_type, failed.exception_type) == ("10", "LoadImage", "OSError")
    assert failed.traceback == ("(left out)",)
    assert not failed.blocked
    texts = [r for r in recordings.load("g_interrupt_targeted").received() if isinstance(r, str)]
    interrupted = next(m for m in map(decode_text, texts) if isinstance(m, ExecutionInterrupted))
    assert interrupted.node_type == "KSampler"


def test_a_blocked_node_does_not_count_as_the_end() -> None:
    data = {"prompt_id": "p", "node_id": "1", "node_type": "X", "exception_type": "ExecutionBlocked", "executed": []}
    message = parse_event("execution_error", data)
    assert isinstance(message, ExecutionError)
    assert message.blocked


def test_ids_become_strings_and_floats_become_numbers() -> None:
    assert decode_text(event("executing", {"node": 7, "display_node": 7, "prompt_id": 3})) == Executing(
        "3", "7", "7", event("executing", {"node": 7, "display_node": 7, "prompt_id": 3})
    )
    message = decode_text(
        event("progress_state", {"prompt_id": "p", "nodes": {"1": {"value": 1, "max": 2, "state": "running"}}})
    )
    assert isinstance(message, ProgressState)
    assert message.nodes == {"1": NodeProgress(1.0, 2.0, "running", None)}


@pytest.mark.parametrize(
    ("event_type", "data"),
    [
        ("status", {}),
        ("status", {"status": {"exec_info": {"queue_remaining": "1"}}}),
        ("status", {"status": {"exec_info": {"queue_remaining": True}}}),
        ("execution_start", {}),
        ("execution_start", {"prompt_id": ["p"]}),
        ("execution_cached", {"prompt_id": "p", "nodes": None}),
        ("executing", {"prompt_id": "p"}),
        ("executing", {"prompt_id": "p", "node": ["1"]}),
        ("executing", {"prompt_id": {}, "node": None}),
        ("progress", {"prompt_id": "p", "node": "1", "value": float("nan"), "max": 1}),
        ("progress", {"prompt_id": "p", "node": "1", "value": 10**400, "max": 1}),
        ("progress_state", {"prompt_id": "p", "nodes": []}),
        ("executed", {"prompt_id": "p", "node": "1", "output": []}),
        ("execution_error", {"node_id": "1"}),
        ("execution_success", None),
        ("feature_flags", []),
        ("crystools.monitor", {"cpu": 1}),
        ("logs", None),
    ],
)
def test_a_type_with_data_that_cannot_be_used_becomes_another_event(event_type: str, data: object) -> None:
    raw = event(event_type, data)
    message = decode_text(raw)
    assert isinstance(message, OtherEvent)
    assert (message.event_type, message.raw) == (event_type, raw)


def test_one_bad_node_of_a_progress_state_does_not_hide_the_others() -> None:
    nodes = {
        "1": {"value": float("inf"), "max": 1, "state": "running"},
        "2": {"value": 1, "max": 1, "state": "finished"},
    }
    message = decode_text(event("progress_state", {"prompt_id": "p", "nodes": nodes}))
    assert isinstance(message, ProgressState)
    assert set(message.nodes) == {"2"}


@pytest.mark.parametrize(
    "raw", ["", "null", "[]", '"x"', "{", '{"type": 1}', '{"data": {}}', "[" * 100_000, '{"a":' * 100_000, "1" * 5_000]
)
def test_what_is_no_event_is_malformed(raw: str) -> None:
    message = decode_text(raw)
    assert isinstance(message, Malformed)
    assert message.raw == raw
    assert message.reason


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0\0\1",
        b"\0\0\0\2\0\0\0\1abc",
        b"\0\0\0\x63\0\0\0\1abc",
        b"\0\0\0\3\0\0\0\x09abc",
        b"\0\0\0\4\xff\xff\xff\xff{}",
        b"\0\0\0\4\0\0\0\2[]",
        b"\0\0\0\4\0\0\0\2{x",
    ],
)
def test_binary_frames_of_no_known_shape_are_malformed(raw: bytes) -> None:
    message = decode_binary(raw)
    assert isinstance(message, Malformed)
    assert message.raw == raw


def test_the_content_type_is_the_headers_else_told_by_the_first_bytes() -> None:
    webp = b"RIFF\0\0\0\0WEBPVP8 "
    assert sniff_image(webp) == "image/webp"
    assert sniff_image(b"GIF89a") == "application/octet-stream"
    for raw, expected in [
        (b"\0\0\0\1\0\0\0\2anything", "image/png"),
        (b"\0\0\0\1\0\0\0\x09" + webp, "image/webp"),
        (b"\0\0\0\4\0\0\0\2{}\xff\xd8\xff\xe0", "image/jpeg"),
        (b'\0\0\0\4\0\0\0\x1c{"image_type":"text/html"}  ' + webp, "image/webp"),
    ]:
        message = decode_binary(raw)
        assert isinstance(message, PreviewImage)
        assert message.content_type == expected


def test_an_id_that_cannot_be_written_as_utf8_is_no_id() -> None:
    assert isinstance(decode_text('{"type": "execution_start", "data": {"prompt_id": "\\ud800"}}'), OtherEvent)
    message = decode_text('{"type": "execution_error", "data": {"prompt_id": "p", "exception_message": "\\ud800"}}')
    assert isinstance(message, ExecutionError)
    message.exception_message.encode()


def test_messages_cannot_be_changed() -> None:
    message = Status(1, None)
    with pytest.raises(FrozenInstanceError):
        message.queue_remaining = 2  # type: ignore[misc]  # that it is refused is the point


def test_the_feature_flags_are_literally_true() -> None:
    assert json.loads(FEATURE_FLAGS) == {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


@given(st.text())
def test_decode_text_never_raises(raw: str) -> None:
    assert decode_text(raw).raw == raw


@given(st.sampled_from([*CLASSES, "other"]), JSON_VALUES)
def test_decode_text_never_raises_for_any_data(event_type: str, data: object) -> None:
    raw = event(event_type, data)
    message = decode_text(raw)
    assert not isinstance(message, Malformed)
    assert message.raw == raw


@given(
    st.sampled_from([*CLASSES, "other"]),
    st.dictionaries(
        st.sampled_from(
            (
                *("prompt_id", "node", "display_node", "nodes", "value", "max", "output", "status", "sid", "timestamp"),
                *("executed", "node_id", "node_type", "traceback", "exception_message", "exception_type"),
            )
        ),
        JSON_VALUES,
    ),
)
def test_decode_text_never_raises_for_likely_data(event_type: str, data: dict[str, object]) -> None:
    message = decode_text(event(event_type, data))
    assert not isinstance(message, Malformed)
    assert message.prompt_id is None or isinstance(message.prompt_id, str)


@given(st.binary() | st.builds(lambda kind, rest: kind.to_bytes(4, "big") + rest, st.integers(0, 5), st.binary()))
def test_decode_binary_never_raises(raw: bytes) -> None:
    assert decode_binary(raw).raw == raw


@given(JSON_VALUES, st.binary(max_size=20))
def test_decode_binary_never_raises_for_any_metadata(metadata: object, image: bytes) -> None:
    head = json.dumps(metadata).encode()
    message = decode_binary(b"\0\0\0\4" + len(head).to_bytes(4, "big") + head + image)
    assert isinstance(message, PreviewImage if isinstance(metadata, dict) else Malformed)
