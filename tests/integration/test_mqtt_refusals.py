"""What brokers refuse and how they die, played by a scripted server where no real one does it on demand."""

from __future__ import annotations

import asyncio

import pytest

from bridge.mqtt.message import Message
from bridge.mqtt.outbox import Policy
from tests.support.bridge_side import side
from tests.support.brokers import until
from tests.support.scripted import (
    CONNECT,
    PUBLISH,
    SUBSCRIBE,
    Packet,
    obliging,
    obliging_311,
    scripted,
)


async def test_a_broker_that_refuses_mqtt_5_in_words_is_spoken_to_in_311_from_then_on() -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.kind == CONNECT and packet.level == 5:
            return b"\x20\x02\x00\x01"  # as an old broker says it
        return obliging_311(packet)

    async with scripted(script) as broker, side(broker.url) as bridge:
        assert bridge.connection.protocol == "3.1.1"
        for writer in list(broker.writers):
            writer.transport.abort()
        await until(lambda: bridge.connects == 2)
        assert [packet.level for packet in broker.of(CONNECT)] == [5, 4, 4]


async def test_a_broker_that_just_closes_at_mqtt_5_is_asked_again_next_time() -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.kind == CONNECT and packet.level == 5 and packet.connection == 0:
            return None
        return obliging_311(packet) if packet.connection == 1 else obliging(packet)

    async with scripted(script) as broker, side(broker.url) as bridge:
        assert bridge.connection.protocol == "3.1.1"
        for writer in list(broker.writers):
            writer.transport.abort()
        await until(lambda: bridge.connects == 2)
        assert [packet.level for packet in broker.of(CONNECT)] == [5, 4, 5]


async def test_a_broker_that_accepts_and_never_answers_is_given_up_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(packet: Packet) -> bytes | None:
        return b"" if packet.connection == 0 else obliging(packet)

    async with scripted(script) as broker, side(broker.url, timeout=0.3) as bridge:
        assert f"port {broker.port} accepts connections and does not answer as an MQTT broker" in caplog.text
        assert bridge.connection.protocol == "5"


async def test_a_broker_that_does_not_answer_to_subscribe_is_left() -> None:
    def script(packet: Packet) -> bytes | None:
        return b"" if packet.kind == SUBSCRIBE and packet.connection == 0 else obliging(packet)

    async with scripted(script) as broker, side(broker.url, timeout=0.3) as bridge:
        assert broker.connections == 2
        assert bridge.losses == []


async def test_something_else_at_the_port_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, side(f"mqtt://127.0.0.1:{port}", wait=False):
        await until(lambda: "not MQTT" in caplog.text)


@pytest.mark.parametrize(
    ("code", "words"),
    [(0x86, "wrong user name or password"), (0x87, "not authorized"), (0x85, "client id"), (0x97, "quota")],
)
async def test_a_refusal_is_told_in_words(caplog: pytest.LogCaptureFixture, code: int, words: str) -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.connection == 0:
            return bytes([0x20, 3, 0, code, 0])
        return obliging(packet)

    async with scripted(script) as broker, side(broker.url, password="not in the log", username="u"):
        assert words in caplog.text
        assert "not in the log" not in caplog.text


async def test_a_message_that_the_broker_refuses_is_told_and_not_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.kind == PUBLISH and packet.topic == "out/forbidden":
            return b"\x40\x04" + packet.identifier + b"\x87\x00"
        return obliging(packet)

    async with scripted(script) as broker, side(broker.url) as bridge:
        bridge.keep("out/forbidden", b"no")
        bridge.keep("out/allowed", b"yes")
        assert await bridge.connection.drain(5)
        assert bridge.acknowledged == [b"yes"]
        assert "out/forbidden cannot be published: not authorized" in caplog.text
        assert bridge.connection.stats.dropped == 1


async def test_a_subscription_that_the_broker_refuses_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.kind == SUBSCRIBE:
            return b"\x90\x05" + packet.identifier + b"\x00\x02\x87"
        return obliging(packet)

    async with scripted(script) as broker, side(broker.url, subscriptions=["in/a", "in/b"]) as bridge:
        assert bridge.connection.connected
        assert "refuses the subscription to in/b: not authorized" in caplog.text


async def test_a_message_above_the_brokers_maximum_is_dropped_before_it_is_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.kind == CONNECT:
            return b"\x20\x08\x00\x00\x05\x27\x00\x00\x04\x00"  # Maximum Packet Size 1024
        return obliging(packet)

    async with scripted(script) as broker, side(broker.url) as bridge:
        bridge.keep("out/large", bytes(1024))
        bridge.keep("out/fits", bytes(900))
        assert await bridge.connection.drain(5)
        assert [packet.topic for packet in broker.of(PUBLISH)] == ["bridge/state", "out/fits"]
        assert "out/large cannot be published: the broker takes at most 1024 bytes" in caplog.text


async def test_a_brokers_limits_are_kept() -> None:
    """Receive Maximum 2, Maximum QoS 0 or Retain Available 0 in the answer to CONNECT."""
    in_flight: list[bytes] = []

    def script(packet: Packet) -> bytes | None:
        if packet.kind == CONNECT:
            return b"\x20\x06\x00\x00\x03\x21\x00\x02"
        if packet.kind == PUBLISH:
            in_flight.append(packet.identifier)
            assert len(in_flight) <= 2
            if len(in_flight) < 2:
                return b""
            answer = b"".join(b"\x40\x02" + identifier for identifier in in_flight)
            in_flight.clear()
            return answer
        return obliging(packet)

    async with scripted(script) as broker, side(broker.url) as bridge:
        for number in range(11):  # and the state
            bridge.keep("out/n", bytes([number]))
        assert await bridge.connection.drain(5)

    def poor(packet: Packet) -> bytes | None:
        return b"\x20\x07\x00\x00\x04\x24\x00\x25\x00" if packet.kind == CONNECT else obliging(packet)

    async with scripted(poor) as broker, side(broker.url) as bridge:
        bridge.keep("out/n", b"1", retain=True)
        assert await bridge.connection.drain(5)
        await until(lambda: len(broker.of(PUBLISH)) == 2)
        assert [packet.flags for packet in broker.of(PUBLISH)] == [0, 0]


async def test_a_taken_over_session_is_named_and_not_fought(caplog: pytest.LogCaptureFixture) -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.kind == PUBLISH and packet.connection == 0:
            return b"\xe0\x02\x8e\x00"
        return obliging(packet)

    async with scripted(script) as broker, side(broker.url, pause=1.0, wait=False) as bridge:
        bridge.keep("out/x", b"x")
        await until(lambda: bridge.losses)
        assert "another client uses the client id bridge: each bridge needs its own mqtt.client_id" in caplog.text
        await asyncio.sleep(0.3)
        assert broker.connections == 1
        await until(lambda: bridge.acknowledged == [b"x"])


async def test_a_message_that_kills_the_connection_is_given_up_and_only_that_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.kind == PUBLISH and len(packet.body) > 5000:
            return None
        return obliging_311(packet)

    async with scripted(script) as broker, side(broker.url, protocol="3.1.1") as bridge:
        assert await bridge.connection.drain(5)
        for payload in (b"before", b"before too", bytes(6000), b"after", bytes(7000), b"last"):
            bridge.keep("out/x", payload)
        assert await bridge.connection.drain(10)
        assert bridge.acknowledged == [b"before", b"before too", b"after", b"last"]
        assert bridge.connection.stats.dropped == 2
        assert "gave up a message of 6000 bytes on out/x" in caplog.text
        assert broker.connections <= 7


@pytest.mark.parametrize(
    "frame",
    [
        b"\x30\x0c\x00\x04in/x\x04\x03\x00\x01\xff!",  # a content type that is not UTF-8
        b"\x30\x0e\x00\x04in/x\x06\x03\x00\x03\xef\xbb\xbf!",  # a byte order mark, which paho refuses
        b"\x30\x05\x00\x03\xff\xfe\xfd\x00",  # a topic that is not UTF-8
        b"\x30\x02\xff\xff",
        b"\xf0\x00",
        b"\x00\x00",
    ],
)
async def test_malformed_packets_from_the_broker_do_no_lasting_harm(frame: bytes) -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.kind == PUBLISH and packet.topic == "out/first":
            return obliging(packet) + frame
        return obliging(packet)

    async with scripted(script) as broker, side(broker.url) as bridge:
        bridge.connection.publish(Message("out/first", b""), policy=Policy.DROP)
        await until(lambda: len(broker.of(PUBLISH)) >= 2)
        bridge.keep("out/second", b"second")
        await until(lambda: bridge.acknowledged == [b"second"])


async def test_a_broker_that_closes_every_connection_at_once_costs_no_message() -> None:
    def script(packet: Packet) -> bytes | None:
        if packet.connection < 8 and packet.kind not in {CONNECT, SUBSCRIBE}:
            return None
        if packet.connection < 8 and packet.kind == SUBSCRIBE:
            return obliging(packet) + b"\xe0\x00"
        return obliging(packet)

    async with scripted(script) as broker, side(broker.url, wait=False) as bridge:
        bridge.keep("out/x", b"x")
        await until(lambda: bridge.acknowledged == [b"x"])
        assert broker.connections == 9
        assert bridge.connection.stats.dropped == 0


async def test_the_brokers_last_words_are_heard_while_we_write() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(1000)
        while head[0] != 0x32:  # PUBLISH with QoS 1
            writer.write(obliging(Packet(head[0] >> 4, head[0] & 15, head[2:], 0)))
            head = await reader.read(1000)
        writer.write(b"\xe0\x02\x95\x00")
        await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, side(f"mqtt://127.0.0.1:{port}", wait=False) as bridge:
        bridge.keep("out/large", bytes(10_000_000))
        await until(lambda: bridge.losses)
        assert bridge.losses[0] == "the packet is larger than the broker takes"
