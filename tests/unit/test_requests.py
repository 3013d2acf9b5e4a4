from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from bridge import requests
from bridge.errors import BadPayload

MODELS: list[type[BaseModel]] = [
    requests.Load,
    requests.UpdateText,
    requests.ImageSource,
    requests.UpdateImage,
    requests.Queue,
    requests.Interrupt,
    requests.JobRequest,
    requests.JobsRequest,
    requests.Free,
    requests.LogLevel,
    requests.Nothing,
]


def test_every_field_of_every_command() -> None:
    assert requests.parse(requests.Load, {"workflow": "fox"}).workflow == "fox"
    text = requests.parse(requests.UpdateText, {"node_id": 6, "text": "a red fox"})
    assert (text.node, text.text) == (6, "a red fox")
    assert requests.parse(requests.UpdateText, {"node": "12:5", "text": ""}).node == "12:5"
    assert requests.parse(requests.UpdateText, {"text": "x"}).node is None
    image = requests.parse(requests.UpdateImage, {"node_id": 46, "url": "http://x/a.png", "mask": {"base64": "AAAA"}})
    assert (image.node, image.given()) == (46, "url")
    assert image.mask is not None
    assert image.mask.given() == "base64"
    queue = requests.parse(
        requests.Queue,
        {"workflow": "fox", "values": {"seed": 1, "6.text": "x"}, "count": 3, "priority": -2, "expires_at": 10},
    )
    assert (queue.workflow, queue.values, queue.count) == ("fox", {"seed": 1, "6.text": "x"}, 3)
    assert (queue.priority, queue.expires_at) == (-2, 10.0)
    assert requests.parse(requests.Queue, {}) == requests.Queue()
    assert requests.parse(requests.Interrupt, {"batch_id": "b"}).batch_id == "b"
    assert requests.parse(requests.JobRequest, {"id": "x"}).prompt_id == "x"
    assert requests.parse(requests.JobRequest, {"prompt_id": "x"}).prompt_id == "x"
    assert requests.parse(requests.JobsRequest, {}).limit == 100
    assert requests.parse(requests.Free, {"unload_models": False}).unload_models is False
    assert requests.parse(requests.LogLevel, {"level": "DEBUG"}).level == "debug"
    requests.parse(requests.Nothing, {})


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        (0, 0.0),
        (1_700_000_000.5, 1_700_000_000.5),
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T01:00:10+01:00", 10.0),
        ("1970-01-01T00:00:10", 10.0),
        (" 1970-01-02 ", 86400.0),
    ],
)
def test_moments(moment: Any, seconds: float) -> None:
    assert requests.parse(requests.Queue, {"expires_at": moment}).expires_at == seconds


@pytest.mark.parametrize(
    ("model", "document", "sentence"),
    [
        (requests.Load, {}, "workflow is missing"),
        (requests.Load, {"workflow": " "}, "workflow: must not be empty"),
        (requests.Load, {"workflow": 3}, "workflow: must be a text, not 3"),
        (requests.Load, {"workfow": "x"}, "'workfow' is not a field of this command; did you mean 'workflow'"),
        (requests.Load, [], "must be a JSON object with workflow"),
        (requests.Load, "fox", "must be a JSON object"),
        (requests.Load, None, "must be a JSON object"),
        (requests.UpdateText, {"node_id": 6}, "text is missing"),
        (requests.UpdateText, {"node_id": 6, "text": 5}, "text: must be a text, not 5"),
        (requests.UpdateText, {"node_id": 6, "text": None}, "text: must be a text, not null"),
        (requests.UpdateText, {"node_id": True, "text": "x"}, "node_id: must be a node's id"),
        (requests.UpdateText, {"node_id": 6.5, "text": "x"}, "node_id: must be a node's id"),
        (requests.UpdateText, {"node": {"a": 1}, "text": "x"}, "node: must be a node's id"),
        (requests.UpdateText, {"nodeid": 6, "text": "x"}, "'nodeid' is not a field.*did you mean 'node_id'"),
        (requests.UpdateImage, {"file": "x"}, "'file' is not a field.*did you mean 'filename'"),
        (requests.UpdateImage, {"filename": ""}, "filename: must not be empty"),
        (requests.UpdateImage, {"mask": "x"}, "mask: must be an object, not 'x'"),
        (
            requests.UpdateImage,
            {"filename": "x", "mask": {"urll": "x"}},
            "'mask.urll' is not a field.*did you mean 'url'",
        ),
        (requests.Queue, {"count": 0}, "count: must be at least 1, not 0"),
        (requests.Queue, {"count": "many"}, "count: must be a whole number, not 'many'"),
        (requests.Queue, {"count": 1.5}, "count: must be a whole number, not 1.5"),
        (requests.Queue, {"count": True}, "count: "),
        (requests.Queue, {"priority": 10**9}, "priority: must be at most 1000000, not 1000000000"),
        (requests.Queue, {"values": "x"}, "^values: "),  # defect 19
        (requests.Queue, {"values": [3]}, "^values"),
        (requests.Queue, {"expires_at": "tomorrow"}, "expires_at: must be a time in ISO 8601"),
        (requests.Queue, {"expires_at": True}, "expires_at: must be a time"),
        (requests.Queue, {"expires_at": {}}, "expires_at: must be a time"),
        (requests.Queue, {"expires_at": float("nan")}, "expires_at: must be a time between 1970 and 9999"),
        (requests.Queue, {"expires_at": float("inf")}, "expires_at: must be a time between"),
        (requests.Queue, {"expires_at": 1_700_000_000_000}, "expires_at: .*in seconds since 1970"),
        (requests.Queue, {"expire_at": 3}, "did you mean 'expires_at'"),
        (requests.Queue, {"grid": {"seed": 5}}, "grid.seed: must be a list, not 5"),
        (requests.Queue, {"count": float("inf")}, "count: must be a finite number, not inf"),
        (requests.Queue, {"prompt": "x"}, r"'prompt' is not a field.*parameters go into values: \{\"values\""),
        (requests.UpdateText, {"node": 6, "node_id": 7, "text": "x"}, "'node' is.*the same as node_id, which is given"),
        (requests.UpdateText, {"text": "x", "n" * 5000: 1}, "^.{,300}$"),
        (requests.Interrupt, {"prompt_id": "a", "batch_id": "b"}, "^just one of prompt_id and batch_id is possible"),
        (requests.Interrupt, {"prompt_id": 3}, "prompt_id: must be a text, not 3"),
        (requests.Interrupt, {"promptid": "x"}, "did you mean 'prompt_id'"),
        (requests.JobRequest, {}, "prompt_id is missing"),
        (requests.JobsRequest, {"limit": 0}, "limit: must be at least 1, not 0"),
        (requests.Free, {"unload_models": "perhaps"}, "unload_models: must be true or false, not 'perhaps'"),
        (requests.LogLevel, {"level": "loud"}, "level: must be debug, info, warning or error, not 'loud'"),
        (requests.PullModel, {"model": "a b"}, "model: must be a name without blanks, such as llama3.2, not 'a b'"),
        (requests.WritePrompt, {"idea": "x" * 20_001}, "idea: must have at most 20000 characters"),
        (requests.WritePrompt, {"images": ["x"] * 9}, "images: must have at most 8 entries, not 9"),
        (requests.Nothing, [], "the payload must be empty: this command takes no fields"),
        (requests.Nothing, {"x": 1}, "'x' is not a field of this command; it takes no fields"),
    ],
)
def test_a_wrong_field_is_named(model: type[BaseModel], document: Any, sentence: str) -> None:
    with pytest.raises(BadPayload, match=sentence) as caught:
        requests.parse(model, document)
    assert caught.value.code == "bad_payload"


def test_every_wrong_field_is_told_at_once() -> None:
    with pytest.raises(BadPayload, match=r"count.*priority"):
        requests.parse(requests.Queue, {"count": 0, "priority": "x"})


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({}, "just one of filename, url and base64 is needed, and none is there"),
        ({"filename": "a", "url": "b"}, "needed, not filename and url"),
        ({"filename": "a", "url": "b", "base64": "c"}, "needed, not filename and url and base64"),
    ],
)
def test_an_image_comes_from_one_place(document: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadPayload, match=sentence):
        requests.parse(requests.ImageSource, document).given()


def test_a_field_given_twice_by_both_its_names_is_refused() -> None:
    with pytest.raises(BadPayload, match="node"):
        requests.parse(requests.UpdateText, {"node_id": 6, "node": 7, "text": "x"})


@pytest.mark.parametrize("moment", [1e300, -1e300, 10**18, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_moment_beyond_all_calendars_is_refused_or_can_be_written(moment: Any) -> None:
    from bridge.jobs.model import iso

    try:
        parsed = requests.parse(requests.Queue, {"expires_at": moment})
    except BadPayload:
        return
    assert iso(parsed.expires_at)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["fox", "1970-01-01T00:00:10Z", "debug"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    [
        *("workflow", "text", "node", "node_id", "filename", "url", "base64", "mask", "values", "count", "priority"),
        *("expires_at", "grid", "deliver", "prompt_id", "batch_id", "id", "limit", "level", "unload_models", ""),
    ]
)


@given(st.sampled_from(MODELS), values | st.dictionaries(names | st.text(max_size=4), values, max_size=4))
def test_arbitrary_json_is_a_request_or_a_bad_payload(model: type[BaseModel], document: Any) -> None:
    try:
        parsed = requests.parse(model, document)
    except BadPayload as error:
        assert error.message  # noqa: PT017  either is right
    else:
        assert isinstance(parsed, model)
