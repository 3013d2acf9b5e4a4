"""What the relay makes of frames, and what it does with a client that is slow."""

from __future__ import annotations

import json

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from bridge import events
from bridge.http.relay import TRY_AGAIN_LATER, Frame, Wishes, _Client

TYPE_1 = b"\x00\x00\x00\x01\x00\x00\x00\x01\xff\xd8one"
TYPE_4 = b"\x00\x00\x00\x04\x00\x00\x00\x02{}\xff\xd8four"


def preview(frame: bytes, image: bytes, content_type: str = "image/jpeg") -> Frame:
    return Frame.of_preview(events.PromptPreview("a", None, "3", 1, content_type, image, frame))


def test_previews_have_the_header_that_clients_expect() -> None:
    assert preview(TYPE_1, b"\xff\xd8one").form(Wishes()) == TYPE_1
    assert preview(TYPE_4, b"\xff\xd8four").form(Wishes()) == b"\x00\x00\x00\x01\x00\x00\x00\x01\xff\xd8four"
    assert preview(TYPE_4, b"\x89PNG", "image/png").form(Wishes()) == b"\x00\x00\x00\x01\x00\x00\x00\x02\x89PNG"
    for frame in (TYPE_1, TYPE_4):
        assert preview(frame, b"").form(Wishes(metadata=True)) == frame


def test_frames_in_msgpack() -> None:
    text = Frame("a", "executing", json.dumps({"type": "executing", "data": {"node": "6"}}))
    assert msgpack.unpackb(text.form(Wishes(packed=True))) == {"type": "executing", "data": {"node": "6"}}
    packed = msgpack.unpackb(preview(TYPE_4, b"image").form(Wishes(packed=True)))
    assert (packed["type"], packed["data"]["image"], packed["data"]["prompt_id"]) == ("preview", b"image", "a")
    binary = Frame("a", "text", b"\x00\x00\x00\x03words")
    assert msgpack.unpackb(binary.form(Wishes(packed=True))) == {"type": "text", "data": b"\x00\x00\x00\x03words"}


def test_what_a_client_wants() -> None:
    assert Wishes().includes(None, "status")
    assert not Wishes(prompt_ids=frozenset({"a"})).includes(None, "status")
    assert Wishes(prompt_ids=frozenset({"a"}), types=frozenset({"executed"})).includes("a", "executed")
    assert not Wishes(types=frozenset({"executed"})).includes("a", "preview")


async def test_of_previews_the_oldest_goes_and_the_order_stays() -> None:
    client = _Client(Wishes())
    for number in range(100):
        client.offer(f"frame {number}", preview=False)
        client.offer(b"preview %d" % number, preview=True)
    taken = []
    while (frame := client.take()) is not None:
        taken.append(frame)
    assert [frame for frame in taken if isinstance(frame, str)] == [f"frame {number}" for number in range(100)]
    previews = [frame for frame in taken if isinstance(frame, bytes)]
    assert previews[-1] == b"preview 99"
    assert previews == sorted(previews)
    assert client.dropped == 100 - len(previews) > 50
    assert taken[-1] == b"preview 99"
    assert not client.code.done()


async def test_one_preview_waits_however_large() -> None:
    client = _Client(Wishes())
    for size in (30_000_000, 40_000_000):
        client.offer(bytes(size), preview=True)
    assert len(client.take() or b"") == 40_000_000
    assert client.take() is None


async def test_too_many_frames_are_the_end() -> None:
    for frame, count in (("x", 6_000), ("x" * 10_000, 2_000)):
        client = _Client(Wishes())
        for _ in range(count):
            client.offer(frame, preview=False)
        assert client.code.result() == TRY_AGAIN_LATER
        assert client.take() is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60))
async def test_frames_are_never_lost_while_there_is_room(steps: list[tuple[bool, int]]) -> None:
    client = _Client(Wishes())
    sent, got = [], []
    for number, (is_preview, takes) in enumerate(steps):
        client.offer(str(number), preview=is_preview)
        if not is_preview:
            sent.append(str(number))
        got += [frame for frame in (client.take() for _ in range(takes)) if frame is not None]
    while (frame := client.take()) is not None:
        got.append(frame)
    numbers = [int(one) for one in got]
    assert numbers == sorted(numbers)
    assert set(sent) <= set(got)
