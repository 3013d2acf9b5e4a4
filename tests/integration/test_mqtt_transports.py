"""TLS, client certificates, websockets and passwords, each against a real mosquitto."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.bridge_side import peer, side
from tests.support.brokers import Certificates, gateway, mosquitto, until

LARGE = bytes(range(256)) * 80_000
"""20 MB: many TLS records and websocket frames, and more than any buffer holds."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["mqtt", "mqtts", "ws", "wss"])
async def url(request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates) -> AsyncIterator[str]:
    """A broker behind each transport."""
    tls = certificates if request.param in {"mqtts", "wss"} else None
    if request.param in {"mqtt", "mqtts"}:
        async with mosquitto(tmp_path, tls=tls) as broker:
            yield broker.url
    else:
        async with mosquitto(tmp_path) as broker, gateway(broker.port, tls) as address:
            yield address


async def test_small_and_large_messages_go_both_ways(url: str, certificates: Certificates) -> None:
    ca = str(certificates.ca) if url.startswith(("mqtts", "wss")) else None
    async with (
        side(url, tls_ca=ca, keepalive=5) as bridge,
        side(url, client_id="other", subscriptions=["out/#"], tls_ca=ca, keepalive=5) as other,
    ):
        numbers = [str(number).encode() for number in range(500)]
        for payload in (*numbers, LARGE):
            bridge.keep("out/n", payload)
        for payload in (LARGE, *numbers):
            other.keep("in/n", payload)
        await until(lambda: len(other.received) == len(bridge.received) == 501, 30)
        assert [message.payload for message in other.received] == [*numbers, LARGE]
        assert [message.payload for message in bridge.received] == [LARGE, *numbers]
        assert bridge.losses == other.losses == []


@pytest.mark.parametrize("secure", [False, True])
async def test_mosquittos_own_websocket(tmp_path: Path, certificates: Certificates, secure: bool) -> None:
    tls = certificates if secure else None
    ca = str(certificates.ca) if secure else None
    async with (
        mosquitto(tmp_path, websocket=True, tls=tls) as broker,
        side(broker.url, tls_ca=ca) as bridge,
        side(broker.url, client_id="other", subscriptions=["out/#"], tls_ca=ca) as other,
    ):
        bridge.keep("out/small", bytes(10_000))
        await until(lambda: other.received)
        bridge.keep("out/large", LARGE)
        assert await bridge.connection.drain(20)
        assert [message.payload for message in other.received] == [bytes(10_000)]


async def test_another_client_reads_what_went_through_a_websocket(tmp_path: Path) -> None:
    async with (
        mosquitto(tmp_path, websocket=True) as broker,
        side(broker.url) as bridge,
        peer(broker.port, transport="websockets") as client,
    ):
        await client.subscribe("out/#")
        bridge.keep("out/x", b"x" * 30_000)
        message = await anext(aiter(client.messages))
        assert message.payload == b"x" * 30_000


async def test_tls_with_certificates_of_both_sides(tmp_path: Path, certificates: Certificates) -> None:
    async with (
        mosquitto(tmp_path, tls=certificates, client_certificates=True) as broker,
        side(
            broker.url,
            tls_ca=str(certificates.ca),
            tls_cert=str(certificates.client_cert),
            tls_key=str(certificates.client_key),
        ) as bridge,
    ):
        context = ssl.create_default_context(cafile=certificates.ca)
        context.load_cert_chain(certificates.client_cert, certificates.client_key)
        async with peer(broker.port, tls_context=context) as client:
            await client.publish("in/x", b"x")
            await until(lambda: bridge.received)


async def test_a_missing_client_certificate_is_named(
    tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        mosquitto(tmp_path, tls=certificates, client_certificates=True) as broker,
        side(broker.url, tls_ca=str(certificates.ca), wait=False),
    ):
        await until(lambda: "mqtt.tls_cert and mqtt.tls_key" in caplog.text)


async def test_an_unknown_authority_is_named(
    tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with mosquitto(tmp_path, tls=certificates) as broker, side(broker.url, wait=False):
        await until(lambda: "mqtt.tls_ca must be the file" in caplog.text)


async def test_a_certificate_for_another_name_is_refused(
    tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    other = Certificates.make(tmp_path / "other", "broker.example.org")
    async with mosquitto(tmp_path, tls=other) as broker, side(broker.url, tls_ca=str(other.ca), wait=False):
        await until(lambda: "mqtt.url must have the name that stands in it" in caplog.text)


async def test_files_that_are_missing_or_wrong_are_named(
    tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate", encoding="utf-8")
    async with mosquitto(tmp_path / "m", tls=certificates) as broker:
        async with side(broker.url, tls_ca=str(tmp_path / "gone.pem"), wait=False):
            await until(lambda: "mqtt.tls_ca" in caplog.text and "gone.pem" in caplog.text)
        async with side(broker.url, tls_ca=str(wrong), wait=False):
            await until(lambda: "wrong.pem" in caplog.text)
        async with side(
            broker.url, tls_ca=str(certificates.ca), tls_cert=str(certificates.ca), tls_key=str(wrong), wait=False
        ):
            await until(lambda: "mqtt.tls_cert and mqtt.tls_key" in caplog.text)


async def test_tls_at_a_port_without_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with mosquitto(tmp_path) as broker, side(broker.url.replace("mqtt:", "mqtts:"), wait=False):
        await until(lambda: "cannot be used" in caplog.text)
        assert "does not speak TLS" in caplog.text


async def test_a_websocket_at_a_port_without_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with mosquitto(tmp_path) as broker, side(broker.url.replace("mqtt:", "ws:"), wait=False):
        await until(lambda: "no websocket for MQTT at /mqtt" in caplog.text)


@pytest.mark.parametrize("in_url", [False, True])
async def test_user_name_and_password(tmp_path: Path, in_url: bool) -> None:
    async with mosquitto(tmp_path, password=("bridge", "p/ä@w")) as broker:
        if in_url:
            url = broker.url.replace("//", "//bridge:p%2F%C3%A4%40w@")
            async with side(url) as bridge:
                assert bridge.connection.connected
        else:
            async with side(broker.url, username="bridge", password="p/ä@w") as bridge:
                assert bridge.connection.connected


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_wrong_password_is_told_and_the_right_one_taken_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    async with mosquitto(tmp_path, password=("bridge", "first")) as broker:
        async with side(
            broker.url,
            username="bridge",
            password="second",
            protocol="5" if protocol == "5" else "3.1.1",
            wait=False,
        ) as bridge:
            await until(lambda: "check mqtt.username and mqtt.password" in caplog.text)
            await broker.stop()
            async with mosquitto(tmp_path / "new", port=broker.port, password=("bridge", "second")):
                await bridge.up()
        assert "second" not in caplog.text
