"""What is sent to addresses of others: when it is tried again, and how it is signed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac

import pytest
from aiohttp import web
from pydantic import SecretStr

from bridge.delivery.buckets import Bucket, check_available
from bridge.delivery.sending import Patience
from bridge.delivery.webhooks import Webhooks, signature
from bridge.errors import BackendOffline, BadValue, Unsupported
from bridge.media.guard import Guard
from tests.support.brokers import free_port, until
from tests.support.web import Web, serving

LOCAL = Guard(["127.0.0.1"])


QUICK = Patience(attempts=4, pause=0.01)


async def empty() -> bytes:
    return b"{}"


async def posted(site: Web, *, secret: str | None = None, guard: Guard = LOCAL) -> bool:
    hidden = None if secret is None else SecretStr(secret)
    return await Webhooks(guard, patience=QUICK).send(site.url("/hook"), empty, secret=hidden)


@pytest.mark.parametrize(
    ("statuses", "taken", "times"),
    [
        ([200], True, 1),
        ([204], True, 1),
        ([503, 429, 408, 200], True, 4),
        ([500, 500, 500, 500], False, 4),
        ([400], False, 1),
        ([410], False, 1),
        ([302], False, 1),
    ],
)
async def test_a_webhook_is_tried_again_where_it_may_help(statuses: list[int], taken: bool, times: int) -> None:
    left = list(statuses)

    async def answer(request: web.Request) -> web.Response:
        assert await request.read() == b"{}"
        return web.Response(status=left.pop(0), headers={"Location": "/elsewhere"})

    async with serving(answer) as site:
        assert await posted(site) is taken
        assert site.asked == ["/hook"] * times


async def test_a_webhook_to_nobody_is_given_up() -> None:
    assert not await posted(Web(9))


async def test_a_webhook_to_an_inner_address_is_not_sent() -> None:
    async def answer(request: web.Request) -> web.Response:
        raise AssertionError(request)

    async with serving(answer) as site:
        assert not await posted(site, guard=Guard())
        assert site.asked == []


async def test_a_webhook_is_given_up_when_its_time_is_over() -> None:
    async def answer(request: web.Request) -> web.Response:
        del request
        return web.Response(status=503)

    async with serving(answer) as site:
        hooks = Webhooks(LOCAL, patience=Patience(attempts=1000, pause=0.01))
        assert not await hooks.send(site.url("/hook"), empty, secret=None, within=0.2)
        assert 1 <= len(site.asked) < 20


async def test_the_log_does_not_tell_where_a_webhook_goes_to(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError(request)

    async with serving(answer) as site:
        hooks = Webhooks(LOCAL, patience=Patience(attempts=2, pause=0.01))
        for address in (site.url("/T0/hidden?x=hidden", user="hidden"), f"http://127.0.0.1:{free_port()}/hidden"):
            assert not await hooks.send(address, empty, secret=SecretStr("hidden"), time_limit=0.1)
        assert not await Webhooks(Guard()).send(site.url("/hidden"), empty, secret=None)
    assert len(caplog.records) >= 3
    assert "hidden" not in caplog.text


async def test_a_slow_host_holds_up_its_own_webhooks_only() -> None:
    many, under_way, free = 6, 0, asyncio.Event()
    most = 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal under_way, most
        del request
        under_way += 1
        most = max(most, under_way)
        await free.wait()
        under_way -= 1
        return web.Response()

    async def quick(request: web.Request) -> web.Response:
        del request
        return web.Response()

    async with serving(slow) as tarpit, serving(quick) as other:
        hooks = Webhooks(LOCAL, patience=QUICK)
        stuck = [asyncio.create_task(hooks.send(tarpit.url(), empty, secret=None)) for _ in range(many)]
        await until(lambda: most)
        assert await hooks.send(other.url(), empty, secret=None)
        free.set()
        assert all(await asyncio.gather(*stuck))
    assert most < many


async def test_the_signature_is_of_the_bytes() -> None:
    seen: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("X-Webhook-Signature"))
        return web.Response()

    async with serving(answer) as site:
        for secret in ("shh", "", None):
            assert await posted(site, secret=secret)
    assert seen == ["sha256=" + hmac.new(b"shh", b"{}", hashlib.sha256).hexdigest(), None, None]
    assert seen[0] == signature(SecretStr("shh"), b"{}")


def bucket(endpoint: str) -> Bucket:
    secret = SecretStr("secret")
    return Bucket(
        LOCAL,
        name="b",
        key_id="key",
        secret=secret,
        endpoint=endpoint,
        region="eu-west-1",
        patience=Patience(attempts=2, pause=0.01),
    )


async def test_an_object_is_put_and_its_address_signed() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert (request.method, request.raw_path.partition("?")[0]) == ("PUT", "/b/a/x%20%C3%A9.png")
        assert request.query["X-Amz-Credential"].startswith("key/")
        assert "eu-west-1/s3" in request.query["X-Amz-Credential"]
        assert (await request.read(), request.content_type) == (b"data", "image/png")
        return web.Response()

    async with serving(answer) as site:
        url = await bucket(site.url("")).put("a/x é.png", b"data", content_type="image/png")
        assert url.startswith(site.url("/b/a/x%20%C3%A9.png?"))
        assert "X-Amz-Expires=604800" in url
        assert "secret" not in url


@pytest.mark.parametrize(("status", "error", "times"), [(403, BadValue, 1), (503, BackendOffline, 2)])
async def test_an_object_that_is_not_taken(status: int, error: type[Exception], times: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        del request
        return web.Response(status=status)

    async with serving(answer) as site:
        with pytest.raises(error, match=str(status)):
            await bucket(site.url("")).put("a", b"data", content_type="image/png")
        assert len(site.asked) == times


async def test_an_endpoint_that_is_none_is_refused() -> None:
    for endpoint in ("not an address", "ftp://x"):
        with pytest.raises(BadValue):
            await bucket(endpoint).put("a", b"data", content_type="image/png")


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Unsupported, match="storage"):
        check_available()
