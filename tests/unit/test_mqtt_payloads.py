from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BadPayload
from bridge.incoming import is_msgpack
from bridge.mqtt import payloads

documents = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@given(documents)
def test_json_survives(document: dict[str, Any]) -> None:
    assert payloads.read(json.dumps(document).encode(), None) == document


@given(documents)
def test_what_is_written_can_be_read(document: dict[str, Any]) -> None:
    assert payloads.read(payloads.dump(document), "application/json") == document
    assert payloads.read(payloads.dump(document, as_msgpack=True), "application/msgpack") == document


@given(st.binary(max_size=50), st.sampled_from([None, "application/json", "application/msgpack", "text/plain"]))
def test_arbitrary_bytes_are_read_or_a_bad_payload(payload: bytes, content_type: str | None) -> None:
    try:
        value = payloads.read(payload, content_type)
    except BadPayload as error:
        assert error.message  # noqa: PT017  either is right
    else:
        if content_type != "application/msgpack" and payload.lstrip()[:1] not in {b"{", b"["}:
            assert value == payload


@pytest.mark.parametrize("payload", [b"a red fox", b"", b"  ", b'"text"', b"3", b"\xff\xfe", "日本".encode(), b"PRESS"])
def test_plain_payloads_stay_as_they_are(payload: bytes) -> None:
    assert payloads.read(payload, None) == payload


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"{", "the payload is not JSON"),
        (b'{"a": }', "the payload is not JSON"),
        (b" \n {a: 1}", "the payload is not JSON"),
        (b"[1,", "the payload is not JSON"),
        (b'{"a": 1} x', "the payload is not JSON"),
        (b'{"\xff": 1}', "UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}', "the payload has 'c' more than once in one object"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "the payload has a number with too many digits"),
    ],
)
def test_broken_json(payload: bytes, sentence: str) -> None:
    with pytest.raises(BadPayload, match=sentence):
        payloads.read(payload, None)


def test_a_byte_order_mark() -> None:
    # Windows tools put it there: the first byte that is not blank is still `{`.
    assert payloads.read(b'\xef\xbb\xbf{"a": 1}', None) == {"a": 1}
    assert payloads.text(b"\xef\xbb\xbfa fox") == "a fox"


@pytest.mark.parametrize("payload", [b'{"a": NaN}', b'{"a": Infinity}', b"[-Infinity]"])
def test_numbers_that_json_does_not_have(payload: bytes) -> None:
    try:
        value = payloads.read(payload, None)
    except BadPayload:
        return
    # Whoever checks the values refuses them; nothing here may write them out again.
    found = value["a"] if isinstance(value, dict) else value[0]
    assert not math.isfinite(found)


@pytest.mark.parametrize(
    "content_type",
    ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack", "Application/MsgPack; charset=x"],
)
def test_msgpack_is_told_by_the_content_type(content_type: str) -> None:
    assert payloads.read(msgpack.packb({"a": [1, "x"]}), content_type) == {"a": [1, "x"]}
    assert is_msgpack(content_type)


@pytest.mark.parametrize("content_type", [None, "", "application/json", "text/plain"])
def test_other_content_types_are_no_msgpack(content_type: str | None) -> None:
    assert not is_msgpack(content_type)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x81",
        msgpack.packb({1: 2}),
        msgpack.packb({"a": 1}) + b"x",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
    ],
)
def test_broken_msgpack(payload: bytes) -> None:
    with pytest.raises(BadPayload, match="not msgpack"):
        payloads.read(payload, "application/msgpack")


def test_documents_are_compact_and_keep_their_letters() -> None:
    assert payloads.dump({"a": "füchse 🦊", "b": [1]}) == '{"a":"füchse 🦊","b":[1]}'.encode()


@pytest.mark.parametrize("payload", [rb'{"a": "\ud83e"}', rb'["\UD83E"]', rb'{"\udd8a": 1}', rb'["\ud83e\ud83e"]'])
def test_half_a_surrogate_is_no_text(payload: bytes) -> None:
    with pytest.raises(BadPayload):
        payloads.read(payload, None)


def test_a_whole_surrogate_pair_is_a_text() -> None:
    assert payloads.read(rb'{"a": "\ud83e\udd8a \\ud83e"}', None) == {"a": "\U0001f98a \\ud83e"}


def test_a_number_beyond_msgpack_does_not_stop_a_message() -> None:
    msgpack.unpackb(payloads.dump({"a": 2**80}, as_msgpack=True))


def test_text() -> None:
    assert payloads.text("füchse".encode()) == "füchse"
    with pytest.raises(BadPayload, match="UTF-8"):
        payloads.text(b"\xff")
