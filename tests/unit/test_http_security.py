"""The gate: hosts, origins, addresses."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from bridge.errors import NotAllowed, SettingsError
from bridge.http.addresses import Addresses, check_listening, is_loopback
from bridge.http.security import Gate
from bridge.settings import HttpSettings, Settings


def made(**http: object) -> Settings:
    return Settings(http=HttpSettings.model_validate(http))


async def nothing(*_: object) -> None:
    raise AssertionError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST.", "a.localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_listening(made(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "example"])  # noqa: S104
def test_beyond_loopback_a_token_is_needed(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(SettingsError, match="allow_anonymous"):
        check_listening(made(host=host))
    check_listening(made(host=host, token="a"))
    check_listening(made(host=host, allow_anonymous=True))


def test_a_port_is_for_one_thing() -> None:
    with pytest.raises(SettingsError, match="are both 8190"):
        check_listening(made(port=8190))


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "127.0.0.1:8189", True),
        ("http://127.0.0.1:1880", "127.0.0.1:8189", True),
        ("http://localhost:3000", "192.168.1.5:8189", True),
        ("http://192.168.1.5", "192.168.1.5:8189", True),
        ("http://[::1]:99", "[::1]:8189", True),
        ("https://listed.example", "127.0.0.1", True),
        ("http://listed.example", "127.0.0.1", False),
        ("https://evil.example", "127.0.0.1", False),
        ("https://127.0.0.1.evil.example", "127.0.0.1", False),
        ("null", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        ("http://192.168.1.6", "192.168.1.5:8189", False),
        ("http://[", "127.0.0.1", False),
    ],
)
def test_whose_pages_may_call(origin: str | None, host: str, allowed: bool) -> None:
    gate = Gate(nothing, made(cors=["https://listed.example"]).http)
    headers = Headers({"host": host} | ({} if origin is None else {"origin": origin}))
    if allowed:
        gate.check_origin(headers)
    else:
        with pytest.raises(NotAllowed):
            gate.check_origin(headers)


def test_addresses() -> None:
    assert Addresses(made(port=81)).output("a b", 2) == "http://127.0.0.1:81/api/jobs/a%20b/outputs/2"
    assert Addresses(made(host="::1", port=81)).base == "http://[::1]:81"
    assert Addresses(made(public_url="https://x.example/comfy/")).job("a") == "https://x.example/comfy/api/jobs/a"
    everywhere = Addresses(made(host="0.0.0.0", port=81)).base  # noqa: S104
    assert "0.0.0.0" not in everywhere  # noqa: S104
