from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import SettingsError
from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions, parse_url
from bridge.mqtt.packets import pack_properties


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mqtt://host", "mqtt://host:1883"),
        ("mqtts://host", "mqtts://host:8883"),
        ("ws://host", "ws://host:80/mqtt"),
        ("wss://host/", "wss://host:443/mqtt"),
        ("wss://host:9001/some/path", "wss://host:9001/some/path"),
        ("mqtt://[::1]:1884", "mqtt://[::1]:1884"),
        ("MQTT://Host/", "mqtt://host:1883"),
        (" mqtt://u:p@host ", "mqtt://host:1883"),
    ],
)
def test_addresses(url: str, text: str) -> None:
    assert str(parse_url(url)) == text


def test_credentials_in_the_url_are_decoded_and_settings_win() -> None:
    options = ConnectionOptions("mqtt://a%40b:p%2Fw@host", "id")
    assert options.credentials == ("a@b", "p/w")
    assert ConnectionOptions("mqtt://a:b@host", "id", username="c", password="d").credentials == ("c", "d")


def test_passwords_are_not_shown() -> None:
    options = ConnectionOptions("mqtt://user:secret1@host", "id", password="secret2")
    assert "secret" not in repr(options) + str(options.address) + repr(options.address)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must look like"),
        ("host", "must look like"),
        ("http://host", "must look like"),
        ("mqtt://", "must look like"),
        ("mqtt://host:port", "mqtt.url"),
        ("mqtt://host:99999", "mqtt.url"),
        ("mqtt://host:0", "port 0"),
        ("mqtt://host/path", "/path"),
        ("ws://host/path?a=b", "without ?"),
        ("mqtt://[::1", "mqtt.url"),
    ],
)
def test_wrong_addresses_say_what_would_be_right(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=r"mqtt\.url") as caught:
        ConnectionOptions(url, "id")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"client_id": ""}, "mqtt.client_id"),
        ({"protocol": "4"}, "mqtt.protocol"),
        ({"session": "x"}, "mqtt.session"),
        ({"keepalive": 0}, "mqtt.keepalive"),
        ({"keepalive": 70_000}, "mqtt.keepalive"),
        ({"tls_ca": "x"}, "mqtt.tls_ca"),
        ({"url": "mqtts://h", "tls_key": "x"}, "mqtt.tls_cert"),
        ({"password": "x"}, "mqtt.username"),
    ],
)
def test_wrong_options_name_the_setting(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        ConnectionOptions(**{"url": "mqtt://h", "client_id": "id"} | changes)
    assert name in caught.value.message


@given(st.text())
def test_any_text_is_an_address_or_a_settings_error(url: str) -> None:
    with contextlib.suppress(SettingsError):
        assert str(parse_url(url)).startswith(("mqtt", "ws"))


def test_properties_are_packed_as_the_standard_says() -> None:
    assert pack_properties(Message("t", b"")) == b"\x00"
    message = Message(
        "t", b"", content_type="a", response_topic="b", correlation=b"c", user=(("d", "e"), ("f", "")), text=True
    )
    packed = b"\x01\x01\x03\x00\x01a\x08\x00\x01b\x09\x00\x01c\x26\x00\x01d\x00\x01e\x26\x00\x01f\x00\x00"
    assert pack_properties(message) == bytes([len(packed)]) + packed
    long = pack_properties(Message("t", b"", user=(("k", "v" * 200),)))
    assert long[:2] == bytes([206 & 127 | 128, 206 >> 7])


def test_characters_that_brokers_refuse_are_replaced() -> None:
    packed = pack_properties(Message("t", b"", user=(("file", "a\x00\ud800b"),)))
    assert packed.endswith("a\ufffd\ufffdb".encode())


def test_a_property_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        pack_properties(Message("t", b"", content_type="x" * 65_536))


def test_correlation_data_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        pack_properties(Message("t", b"", correlation=bytes(65_536)))
