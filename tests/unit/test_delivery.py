"""What is sent to addresses of others: when it is tried again, and how it is signed."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from aiohttp import web
from pydantic import SecretStr

from bridge.delivery.buckets import Bucket
from bridge.delivery.webhooks import Webhooks, signature
from bridge.errors import BackendOffline, BadValue, Unsupported
from bridge.media.guard import Guard
from tests.support.web import Web, serving

LOCAL = Guard(["127.0.0.1"])


async def posted(site: Web, *, secret: str | None = None) -> bool:
    hidden = None if secret is None else SecretStr(secret)
    return await Webhooks(LOCAL, pause=0.01).send(site.url("/hook"), b"{}", secret=hidden)


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
        assert not await Webhooks(Guard(), pause=0.01).send(site.url("/hook"), b"{}", secret=None)
        assert site.asked == []


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
        LOCAL, name="b", key_id="key", secret=secret, endpoint=endpoint, region="eu-west-1", attempts=2, pause=0.01
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
        bucket("http://127.0.0.1:9")
