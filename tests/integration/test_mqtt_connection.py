"""The connection against a real mosquitto, with aiomqtt as the other end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bridge.mqtt.message import Message
from bridge.mqtt.options import Protocol
from bridge.mqtt.outbox import Policy
from tests.support.bridge_side import peer, side, watching
from tests.support.brokers import Mosquitto, mosquitto, proxy, until


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with mosquitto(tmp_path / "mosquitto") as running:
        yield running


@pytest.fixture(autouse=True)
async def no_leaks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    gc.collect()  # a forgotten socket warns now, which is an error
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


async def test_mqtt_5_carries_the_properties_both_ways(broker: Mosquitto) -> None:
    async with side(broker.url) as bridge, watching(broker.port, "out/#") as watcher:
        assert bridge.connection.protocol == "5"
        bridge.connection.publish(
            Message(
                "out/a",
                b"payload",
                qos=1,
                content_type="text/plain",
                response_topic="re/ply",
                correlation=b"\x00\xff",
                user=(("node", "6"), ("näme", "a\x01b"), ("long", "x" * 300)),
                text=True,
            ),
            policy=Policy.KEEP,
        )
        await until(lambda: watcher.messages)
        properties = watcher.messages[0].properties
        assert properties is not None
        assert properties.json() == {  # type: ignore[no-untyped-call]
            "PayloadFormatIndicator": 1,
            "ContentType": "text/plain",
            "ResponseTopic": "re/ply",
            "CorrelationData": "00ff",
            "UserProperty": [("node", "6"), ("näme", "a\ufffdb"), ("long", "x" * 300)],
        }
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "application/msgpack"
        properties.ResponseTopic = "answer/here"
        properties.CorrelationData = b"42"
        properties.PayloadFormatIndicator = 1
        properties.UserProperty = [("transaction", "t1"), ("b", "2")]
        async with peer(broker.port) as client:
            await client.publish("in/x", b"\x80", qos=2, retain=True, properties=properties)
        await until(lambda: bridge.received)
        assert bridge.received == [
            Message(
                "in/x",
                b"\x80",
                qos=2,
                retain=True,  # it came live: as published
                content_type="application/msgpack",
                response_topic="answer/here",
                correlation=b"42",
                user=(("transaction", "t1"), ("b", "2")),
                text=True,
            )
        ]


async def test_mqtt_5_does_not_send_our_own_messages_back(broker: Mosquitto) -> None:
    async with side(broker.url) as bridge:
        bridge.keep("in/own", b"own")
        assert await bridge.connection.drain(5)
        async with peer(broker.port) as client:
            await client.publish("in/other", b"other")
        await until(lambda: bridge.received)
        assert [message.topic for message in bridge.received] == ["in/other"]


async def test_mqtt_311_has_the_messages_without_the_properties(broker: Mosquitto) -> None:
    async with side(broker.url, protocol="3.1.1") as bridge, watching(broker.port, "out/#", protocol="3.1.1") as seen:
        assert bridge.connection.protocol == "3.1.1"
        bridge.connection.publish(
            Message("out/a", b"1", qos=1, content_type="text/plain", user=(("a", "b"),)), policy=Policy.KEEP
        )
        bridge.drop("out/b", b"2")
        await until(lambda: len(seen.messages) == 2)
        async with peer(broker.port) as client:
            await client.publish("in/x", "ä", qos=1)
        await until(lambda: bridge.received)
        assert bridge.received == [Message("in/x", "ä".encode(), qos=1)]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_the_will_comes_after_a_crash_and_not_after_a_clean_end(broker: Mosquitto, protocol: Protocol) -> None:
    async with watching(broker.port, "bridge/state") as watcher:
        async with side(broker.url, protocol=protocol) as bridge:
            await until(lambda: bridge.connects)
            assert await bridge.connection.drain(5)
            await bridge.connection.disconnect()
            assert not bridge.connection.connected
        async with side(broker.url, protocol=protocol) as bridge:
            await until(lambda: bridge.connects)
            assert await bridge.connection.drain(5)
            await bridge.cancel()
        await until(lambda: watcher.payloads("bridge/state") == [b"online", b"online", b"offline"])


async def test_what_was_published_is_written_before_a_clean_end(broker: Mosquitto) -> None:
    async with watching(broker.port, "out/#") as watcher, side(broker.url) as bridge:
        for number in range(200):
            bridge.drop(f"out/{number}", bytes(1000))
        await bridge.connection.disconnect()
        await until(lambda: len(watcher.messages) == 200)


async def test_a_broker_that_is_away_at_the_start_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Mosquitto(tmp_path)
    async with side(broker.url, wait=False) as bridge:
        bridge.keep("out/kept", b"kept", retain=True)
        bridge.drop("out/dropped", b"dropped")
        bridge.latest("out/latest", b"dropped too")
        await until(lambda: "cannot be used" in caplog.text)
        assert not await bridge.connection.drain(0.5)
        assert caplog.text.count("cannot be used") == 1
        try:
            await broker.start()
            await until(lambda: bridge.acknowledged == [b"kept"])
            await until(lambda: bridge.connects == 1)
            assert bridge.connection.stats.dropped == 2
            assert bridge.connection.stats.reconnects == 0
        finally:
            await broker.kill()


async def test_a_broker_that_is_killed_in_the_middle_acknowledges_each_message_once_and_in_order(
    broker: Mosquitto,
) -> None:
    count = 2000
    expected = [str(number).encode() for number in range(count)]
    async with side(broker.url) as bridge:

        async def publish() -> None:
            for payload in expected:
                bridge.keep("out/n", payload)
                if payload.endswith(b"0"):
                    await asyncio.sleep(0.004)

        publishing = asyncio.create_task(publish())
        for ending in (broker.kill, broker.stop, broker.kill):
            await asyncio.sleep(0.2)
            await ending()
            await broker.start()
            await until(lambda: bridge.connection.connected)
        await publishing
        assert await bridge.connection.drain(20)
        assert bridge.acknowledged == expected
        assert bridge.connection.stats.reconnects == 3
        assert bridge.connection.stats.dropped == 0
        await until(lambda: bridge.connects == 4)
        assert len(bridge.losses) == 3


async def test_all_kept_messages_arrive_in_order_over_a_network_that_breaks(broker: Mosquitto) -> None:
    count = 2000
    expected = [str(number).encode() for number in range(count)]
    async with (
        proxy(broker.port) as network,
        watching(broker.port, "out/#") as watcher,
        side(network.url) as bridge,
    ):
        for number, payload in enumerate(expected):
            bridge.keep("out/n", payload)
            if number % 10 == 0:
                await asyncio.sleep(0.002)
            if number % 500 == 250:
                done = len(bridge.acknowledged)
                await until(lambda: len(bridge.acknowledged) > done)  # noqa: B023 - awaited here
                network.cut()
                await until(lambda: not bridge.connection.connected)
        assert await bridge.connection.drain(20)
        assert bridge.acknowledged == expected
        await until(lambda: watcher.payloads("out/n")[-1:] == [expected[-1]])
        assert list(dict.fromkeys(watcher.payloads("out/n"))) == expected
        assert bridge.connection.stats.reconnects == 4


async def test_subscriptions_are_made_again_after_a_restart(broker: Mosquitto) -> None:
    async with side(broker.url) as bridge:
        await broker.restart()
        await until(lambda: bridge.connects == 2)
        async with peer(broker.port) as client:
            await client.publish("in/x", b"again", qos=1)
        await until(lambda: bridge.received)


async def test_a_frozen_broker_is_noticed_while_we_publish(broker: Mosquitto) -> None:
    async with side(broker.url, keepalive=2) as bridge:
        loop = asyncio.get_running_loop()
        broker.freeze()
        frozen = loop.time()
        while bridge.connection.connected:
            bridge.drop("out/x", bytes(100))
            await asyncio.sleep(0.01)
        assert 1.5 < loop.time() - frozen < 3.6
        assert "no sign of life" in bridge.losses[0]
        bridge.keep("out/kept", b"kept")
        broker.thaw()
        await until(lambda: bridge.acknowledged == [b"kept"])


async def test_an_idle_connection_stays(broker: Mosquitto) -> None:
    async with side(broker.url, keepalive=1) as bridge:
        await asyncio.sleep(3)
        assert bridge.losses == []


async def test_a_blocked_network_lets_previews_be_replaced_and_memory_be_bounded(broker: Mosquitto) -> None:
    """While nothing can be written, new previews replace old ones; reading goes on; order is kept."""
    async with (
        proxy(broker.port) as network,
        watching(broker.port, "out/#") as watcher,
        side(network.url) as bridge,
    ):
        await until(lambda: bridge.connects)
        assert await bridge.connection.drain(5)
        network.block()
        for number in range(300):
            bridge.latest("out/preview", number.to_bytes(4) + bytes(100_000))
            bridge.latest("out/other", number.to_bytes(4) + bytes(100_000))
            await asyncio.sleep(0)
        bridge.keep("out/status", b"completed")
        stats = bridge.connection.stats
        assert stats.replaced > 400
        assert stats.queued == 3
        network.unblock()
        await until(lambda: watcher.payloads("out/status"))
        previews = [int.from_bytes(payload[:4]) for payload in watcher.payloads("out/preview")]
        assert previews == sorted(previews)
        assert previews[-1] == 299
        assert watcher.messages[-1].topic.value == "out/status"


async def test_messages_come_in_while_nothing_can_go_out(broker: Mosquitto) -> None:
    """The broker does not read (its process does, the network upwards does not) and still sends."""
    async with proxy(broker.port) as network, side(network.url) as bridge:
        network.block_up()
        for _ in range(100):
            bridge.drop("out/x", bytes(100_000))
        async with peer(broker.port) as client:
            for number in range(20):
                await client.publish("in/x", str(number))
        await until(lambda: len(bridge.received) == 20)
        network.unblock()
        await until(lambda: bridge.connection.stats.queued == 0)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_twenty_megabytes_go_both_ways(broker: Mosquitto, protocol: Protocol) -> None:
    large = bytes(range(256)) * 80_000
    async with side(broker.url, protocol=protocol) as bridge, watching(broker.port, "out/#") as watcher:
        bridge.keep("out/large", large)
        assert await bridge.connection.drain(20)
        await until(lambda: watcher.messages)
        assert watcher.payloads("out/large") == [large]
        async with peer(broker.port) as client:
            await client.publish("in/large", large, qos=2, timeout=20)
        await until(lambda: bridge.received)
        assert bridge.received[0].payload == large


async def test_a_durable_session_holds_what_came_while_we_were_away(broker: Mosquitto) -> None:
    for protocol in ("5", "3.1.1"):
        name = f"durable-{protocol}"
        async with side(broker.url, session="durable", client_id=name, protocol=protocol) as bridge:
            await bridge.connection.disconnect()
        async with peer(broker.port) as client:
            await client.publish("in/missed", b"missed", qos=2)
        async with side(broker.url, session="durable", client_id=name, protocol=protocol) as bridge:
            await until(lambda: bridge.received)
            assert [message.payload for message in bridge.received] == [b"missed"]


async def test_a_clean_session_holds_nothing(broker: Mosquitto) -> None:
    async with side(broker.url) as bridge:
        await bridge.connection.disconnect()
    async with peer(broker.port) as client:
        await client.publish("in/missed", b"missed", qos=2)
        async with side(broker.url) as bridge:
            await client.publish("in/x", b"now", qos=2)
            await until(lambda: bridge.received)
            assert [message.payload for message in bridge.received] == [b"now"]


async def test_a_durable_session_over_a_bad_network_has_each_command_once(broker: Mosquitto) -> None:
    """QoS 2: a release that comes after the reconnect still delivers the message."""
    count = 300
    async with proxy(broker.port) as network, side(network.url, session="durable") as bridge:
        async with peer(broker.port) as client:
            for number in range(count):
                await client.publish("in/n", str(number), qos=2)
                if number % 40 == 20:
                    network.cut()
        await until(lambda: len(bridge.received) >= count)
        assert [int(message.payload) for message in bridge.received] == list(range(count))


async def test_a_window_of_one_in_flight_is_kept(tmp_path: Path) -> None:
    async with (
        mosquitto(tmp_path / "small", max_inflight=1) as broker,
        side(broker.url) as bridge,
    ):
        for number in range(100):
            bridge.keep("out/n", str(number).encode())
        assert await bridge.connection.drain(10)
        assert len(bridge.acknowledged) == 100
        assert bridge.losses == []


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_another_client_of_the_same_id_is_named_and_not_fought(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture, protocol: Protocol
) -> None:
    """mosquitto 2.0.11 just closes, with MQTT 5 too."""
    async with side(broker.url, protocol=protocol) as bridge:
        for turn in range(1, 4):
            async with peer(broker.port, protocol, identifier="bridge"):
                await until(lambda: len(bridge.losses) >= turn)  # noqa: B023 - awaited here
            await bridge.up()
        assert caplog.text.count("perhaps another client uses the client id bridge") == 1


async def test_a_failing_callback_and_impossible_messages_do_not_end_the_connection(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("oops")

    async with side(broker.url) as bridge:
        bridge.connection.publish(Message("out/a", b"", qos=1), policy=Policy.KEEP, on_acknowledged=fail)
        bridge.connection.publish(Message("out/+", b"", qos=1), policy=Policy.KEEP)
        bridge.connection.publish(Message("", b"", qos=1), policy=Policy.KEEP)
        bridge.connection.publish(Message("out/\0", b"", qos=1), policy=Policy.KEEP)
        bridge.connection.publish(Message("out/\ud800", b"", qos=1), policy=Policy.KEEP)
        bridge.connection.publish(Message("x" * 70_000, b"", qos=1), policy=Policy.KEEP)
        bridge.connection.publish(Message("out/a", b"", user=(("x" * 70_000, ""),)), policy=Policy.DROP)
        bridge.keep("out/b", b"b")
        assert await bridge.connection.drain(5)
        assert bridge.acknowledged == [b"b"]
        assert bridge.losses == []
        assert "oops" in caplog.text
        assert "out/+ cannot be published" in caplog.text


async def test_disconnect_holds_whatever_the_connection_is_doing(tmp_path: Path) -> None:
    """While it waits for the broker, and while it serves: no connection comes after it."""
    broker = Mosquitto(tmp_path)
    async with side(broker.url, wait=False) as bridge:
        await bridge.connection.disconnect()
        try:
            await broker.start()
            await asyncio.sleep(0.3)
            assert not bridge.connection.connected
            assert "as bridge" not in broker.log.read_text(encoding="utf-8")
        finally:
            await broker.kill()
