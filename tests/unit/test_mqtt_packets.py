from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bridge.mqtt.message import Message
from bridge.mqtt.packets import PINGREQ, PUBACK, Malformed, Packets, pack_properties, puback, publish_head


def packet(head: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([head]) + bytes([*length, size]) + body


def test_a_publish_with_qos_1_as_the_standard_shows_it() -> None:
    message = Message("a/b", b"hi", qos=1, retain=True)
    head = publish_head(message, qos=1, retain=True, number=10, properties=b"\x00")
    assert head + message.payload == b"\x33\x0a\x00\x03a/b\x00\x0a\x00hi"


def test_a_publish_with_qos_0_has_no_number_and_on_3_1_1_no_properties() -> None:
    assert publish_head(Message("a", b""), qos=0, retain=False, number=None, properties=b"") == b"\x30\x03\x00\x01a"


@pytest.mark.parametrize("topic", ["", "a\0b", "a/+/b", "#"])
def test_a_topic_that_cannot_be_published_to_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="a topic"):
        publish_head(Message(topic, b""), qos=0, retain=False, number=None, properties=b"")


def test_a_packet_that_mqtt_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match="268435455"):
        publish_head(Message("a", bytes(268_435_456)), qos=0, retain=False, number=None, properties=b"")
    with pytest.raises(ValueError, match="65535"):
        publish_head(Message("a" * 65_536, b""), qos=0, retain=False, number=None, properties=b"")


@pytest.mark.parametrize(
    ("received", "meaning"),
    [
        (b"\x40\x02\x01\x02", (258, 0)),
        (b"\x40\x03\x00\x01\x87", (1, 0x87)),
        (b"\x40\x04\x00\x01\x10\x00", (1, 0x10)),
    ],
)
def test_a_puback_of_both_versions(received: bytes, meaning: tuple[int, int]) -> None:
    assert puback(received) == meaning


def test_a_puback_without_a_number_is_malformed() -> None:
    with pytest.raises(Malformed):
        puback(b"\x40\x01\x00")


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300))), st.lists(st.integers(1, 50), min_size=1))
def test_packets_come_out_whole_however_they_came_in(sent: list[tuple[int, bytes]], sizes: list[int]) -> None:
    expected = [packet(head, body) for head, body in sent]
    stream = b"".join(expected)
    packets, received, position, turn = Packets(), [], 0, 0
    while position < len(stream):
        size = sizes[turn % len(sizes)]
        packets.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
        received += list(packets)
    assert received == expected
    assert not packets


def test_a_large_packet_waits_for_its_last_byte() -> None:
    large = packet(0x30, bytes(3_000_000))
    packets = Packets()
    packets.feed(PINGREQ + large[:-1])
    assert list(packets) == [PINGREQ]
    assert packets
    packets.feed(large[-1:] + PINGREQ)
    assert list(packets) == [large, PINGREQ]


def test_whoever_takes_a_packet_may_take_those_behind_it() -> None:
    packets = Packets()
    packets.feed(b"\x40\x01a\x40\x01b\x40\x01c")
    taken = []
    for one in packets:
        taken.append(one)
        if len(taken) == 1:
            taken.append(next(iter(packets)))
    assert taken == [b"\x40\x01a", b"\x40\x01b", b"\x40\x01c"]


@given(st.binary(max_size=20))
def test_a_length_that_does_not_end_is_malformed(rest: bytes) -> None:
    packets = Packets()
    packets.feed(bytes([PUBACK, 0x80, 0xFF, 0x80, 0xFF]) + rest)
    with pytest.raises(Malformed):
        list(packets)


texts = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30)


@given(
    st.none() | texts,
    st.none() | texts,
    st.none() | st.binary(max_size=200),
    st.lists(st.tuples(texts, texts), max_size=4).map(tuple),
    st.booleans(),
)
def test_properties_are_what_another_implementation_reads(
    content_type: str | None,
    response_topic: str | None,
    correlation: bytes | None,
    user: tuple[tuple[str, str], ...],
    text: bool,
) -> None:
    message = Message(
        "t",
        b"",
        content_type=content_type,
        response_topic=response_topic,
        correlation=correlation,
        user=user,
        text=text,
    )
    packed = pack_properties(message)
    read = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # of paho
    _, size = read.unpack(packed)  # type: ignore[no-untyped-call]
    assert size == len(packed)
    assert getattr(read, "ContentType", None) == content_type
    assert getattr(read, "ResponseTopic", None) == response_topic
    assert getattr(read, "CorrelationData", None) == correlation
    assert tuple(getattr(read, "UserProperty", ())) == user
    assert getattr(read, "PayloadFormatIndicator", 0) == int(text)
