"""Addresses from outside: what may be fetched and what may not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from bridge.errors import BadValue, BridgeError, FileMissing, NotAllowed, TimedOut, TooLarge
from bridge.media.guard import Guard
from tests.support.brokers import free_port
from tests.support.web import Web, serving

LIMIT = 100_000


async def _handle(request: web.Request) -> web.StreamResponse:
    match request.path:
        case "/image.png":
            return web.Response(body=b"bytes", content_type="image/png")
        case "/redirect":
            raise web.HTTPFound(request.query["to"])
        case "/loop":
            raise web.HTTPFound("/loop")
        case "/nowhere":
            return web.Response(status=302)
        case "/big":
            return web.Response(body=bytes(LIMIT + 1))
        case "/fits":
            return web.Response(body=bytes(LIMIT))
        case "/endless":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(bytes(65536))
        case "/slow":
            await asyncio.sleep(60)
        case "/trickle":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.05)
        case "/teapot":
            return web.Response(status=418, reason="teapot")
    return web.Response(status=404)


@pytest.fixture
async def site() -> AsyncIterator[Web]:
    async with serving(_handle) as found:
        yield found


async def error_of(guard: Guard, address: str) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        await guard.fetch(address, max_bytes=LIMIT)
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_own_machine_is_refused_by_default(site: Web, host: str) -> None:
    error = await error_of(Guard(), site.url("/image.png", host=host))
    assert isinstance(error, NotAllowed)
    assert "security.allowed_hosts" in error.message
    assert site.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "10.1.2.3",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104  it is to be refused
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[fe80::1]",
        "[fc00::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[::]",
        "[::127.0.0.1]",
        "[fec0::1]",
        "[64:ff9b:1::7f00:1]",
        "[100::1]",
    ],
)
async def test_private_addresses_are_refused(host: str) -> None:
    guard = Guard(time_limit=5)
    error = await error_of(guard, f"http://{host}:9/x")
    assert isinstance(error, NotAllowed), error.message


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"])
async def test_odd_ways_to_write_the_own_machine_lead_nowhere(site: Web, host: str) -> None:
    error = await error_of(Guard(time_limit=5), site.url("/image.png", host=host))
    assert error.code in {"not_allowed", "file_missing", "bad_value"}
    assert site.asked == []


@pytest.mark.parametrize("allowed", ["127.0.0.0/8", "127.0.0.1", "127.0.0.1/32"])
async def test_a_network_can_be_allowed(site: Web, allowed: str) -> None:
    for host in ("127.0.0.1", "localhost"):
        fetched = await Guard(("::1", allowed)).fetch(site.url("/image.png", host=host), max_bytes=LIMIT)
        assert (fetched.data, fetched.content_type) == (b"bytes", "image/png")


@pytest.mark.parametrize("allowed", ["localhost", "LocalHost"])
async def test_a_host_can_be_allowed_and_no_other(site: Web, allowed: str) -> None:
    guard = Guard((allowed,))
    for host in ("localhost", "LOCALHOST"):
        assert (await guard.fetch(site.url("/image.png", host=host), max_bytes=LIMIT)).data == b"bytes"
    assert isinstance(await error_of(guard, site.url("/image.png")), NotAllowed)


async def test_a_redirect_is_followed_where_it_may_go(site: Web) -> None:
    guard = Guard(("127.0.0.1",))
    assert (await guard.fetch(site.url("/redirect?to=/image.png"), max_bytes=LIMIT)).data == b"bytes"


@pytest.mark.parametrize("target", ["http://10.0.0.1/x", "http://[::1]/x", "//192.168.0.1/x"])
async def test_a_redirect_to_a_private_address_is_refused(site: Web, target: str) -> None:
    error = await error_of(Guard(("127.0.0.1",)), site.url(f"/redirect?to={target}"))
    assert isinstance(error, NotAllowed)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"])
async def test_a_redirect_to_another_scheme_is_refused(site: Web, target: str) -> None:
    error = await error_of(Guard(("127.0.0.1",)), site.url(f"/redirect?to={target}"))
    assert error.code in {"bad_value", "not_allowed"}


async def test_a_loop_of_redirects_ends(site: Web) -> None:
    assert "redirects more than" in (await error_of(Guard(("127.0.0.1",)), site.url("/loop"))).message
    assert len(site.asked) < 10


async def test_a_redirect_without_a_place(site: Web) -> None:
    assert isinstance(await error_of(Guard(("127.0.0.1",)), site.url("/nowhere")), FileMissing)


@pytest.mark.parametrize("path", ["/big", "/endless"])
async def test_too_much_is_cut(site: Web, path: str) -> None:
    error = await error_of(Guard(("127.0.0.1",), time_limit=10), site.url(path))
    assert isinstance(error, TooLarge)
    assert "media.max_input" in error.message


async def test_just_enough_is_taken(site: Web) -> None:
    assert len((await Guard(("127.0.0.1",)).fetch(site.url("/fits"), max_bytes=LIMIT)).data) == LIMIT


@pytest.mark.parametrize("path", ["/slow", "/trickle"])
async def test_too_slow_is_a_timeout(site: Web, path: str) -> None:
    error = await error_of(Guard(("127.0.0.1",), time_limit=0.3), site.url(path))
    assert isinstance(error, TimedOut)
    assert "0.3 s" in error.message


async def test_a_file_that_is_not_there(site: Web) -> None:
    guard = Guard(("127.0.0.1",))
    assert "404" in (await error_of(guard, site.url("/missing"))).message
    assert "418" in (await error_of(guard, site.url("/teapot"))).message
    nobody = await error_of(guard, f"http://127.0.0.1:{free_port()}/x")
    assert isinstance(nobody, FileMissing)
    unknown = await error_of(Guard(time_limit=20), "http://nobody.invalid/x")
    assert isinstance(unknown, FileMissing)


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "a.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://example.org/x",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http://",
        "http:///x",
        "http://[::1",
        "http://a:port/x",
        "http://a:99999/",
        "//example.org/x",
        "http:example.org",
        "ws://127.0.0.1/",
        "\x00",
    ],
)
async def test_what_is_no_http_address_is_a_bad_value(address: str) -> None:
    error = await error_of(Guard(("0.0.0.0/0",), time_limit=5), address)
    assert isinstance(error, BadValue), error.message


@pytest.mark.parametrize(
    "path", ["/missing?token=hunter2", "/big?token=hunter2", "/slow?token=hunter2", "/loop?t=hunter2"]
)
async def test_secrets_of_an_address_are_not_shown(site: Web, path: str) -> None:
    address = site.url(path, user="me:hunter2")
    for guard in (Guard(), Guard(("127.0.0.1",), time_limit=0.5)):
        error = await error_of(guard, address)
        assert "hunter2" not in error.message
        assert "hunter2" not in repr(error)


@pytest.mark.parametrize(
    "address",
    [
        "ftp://me:hunter2@example.org/x",
        "http://me:hunter2@",
        "http://me:hunter2@[::1",
        "http://me:hunter2@host:port/",
        "me:hunter2@host",
        "http://me:hunter2@nobody.invalid/?token=hunter2",
        "http://me:hunter2@127.0.0.1:1/",
    ],
)
async def test_secrets_of_a_wrong_address_are_not_shown(address: str) -> None:
    error = await error_of(Guard(("127.0.0.1",), time_limit=20), address)
    assert "hunter2" not in error.message


@pytest.mark.parametrize("to", ["http://me:hunter2@10.0.0.1/?token=hunter2", "ftp://me:hunter2@host/"])
async def test_secrets_of_a_redirect_are_not_shown(site: Web, to: str) -> None:
    error = await error_of(
        Guard(("127.0.0.1",)), site.url(f"/redirect?to={to.replace('&', '%26').replace('?', '%3F')}")
    )
    assert "hunter2" not in error.message


async def test_credentials_are_not_carried_to_another_host() -> None:
    seen: list[str | None] = []

    async def second(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=b"x")

    async with serving(second) as target:

        async def first(request: web.Request) -> web.StreamResponse:
            seen.append(request.headers.get("Authorization"))
            raise web.HTTPFound(target.url("/x", host="localhost"))

        async with serving(first) as source:
            guard = Guard(("127.0.0.1", "localhost"))
            await guard.fetch(source.url("/", user="me:secret"), max_bytes=LIMIT)
    assert seen[0] is not None
    assert seen[1] is None
