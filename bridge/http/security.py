"""Who may ask what: the gate before every route.

The names in `Host` are checked, since a page of another site can have a name of its own point to this machine (DNS
rebinding); `Origin` is checked where a request changes something or opens a websocket, since a browser sends those
for any page; then the token, and the size of the body.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from itertools import chain
from urllib.parse import urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.errors import BridgeError, NotAllowed, TooLarge, Unauthorized
from bridge.http.addresses import is_loopback
from bridge.http.answers import failure, refusal
from bridge.settings import HttpSettings

logger = logging.getLogger(__name__)

OPEN = frozenset({"/health"})
"""What needs no token."""
OPEN_PREFIX = "/docs/static/"
"""The files of the documents' page, which hold nothing of ours."""
HEAD_BYTES = 65_536
"""Upper size of a request's address and headers."""
BODY_SECONDS = 30.0
"""How long the next part of a body may take."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

Count = Callable[[str, int], None]


class Gate:
    """ASGI middleware. count: told method and status of each answer."""

    def __init__(self, app: ASGIApp, settings: HttpSettings, *, count: Count | None = None) -> None:
        self._app = app
        self._settings = settings
        self._token = None if settings.token is None else settings.token.get_secret_value().encode()
        own = [settings.host, socket.gethostname(), f"{socket.gethostname()}.local"]
        if settings.public_url is not None:
            own.append(urlsplit(settings.public_url).hostname or "")
        self._hosts = {_bare(name) for name in (*settings.hosts, *own)}
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        noted = scope["bridge"] = {}
        began = time.perf_counter()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, self._limited(scope, receive), noting)
        except BridgeError as error:
            await self._refuse(failure(error), scope, receive, noting)
        except Exception:
            logger.exception("%s %s failed inside the bridge", scope.get("method", "WS"), scope["path"])
            if not status:
                answer = refusal("internal", "the bridge failed on this request; its log holds more")
                await self._refuse(answer, scope, receive, noting)
        finally:
            self._log(scope, status, time.perf_counter() - began, noted.get("jobs", ()))

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        # The parser in Python lets a long head through that comes in one piece.
        head = len(scope.get("raw_path") or b"") + len(scope["query_string"]) + sum(map(len, chain(*headers.raw)))
        if head > HEAD_BYTES:
            raise TooLarge(f"the address and the headers have {head} bytes; at most {HEAD_BYTES} are taken")
        self._check_host(headers)
        method = scope.get("method", "GET")
        if scope["type"] == "websocket" or method not in _SAFE:
            self.check_origin(headers)
        path = scope["path"]
        if self._token is not None and path not in OPEN and not path.startswith(OPEN_PREFIX):
            self._check_token(headers, QueryParams(scope["query_string"]), in_query=method in {"GET", "HEAD"})
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._settings.max_body:
            raise self._too_large()

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        name = _bare(_name_of(host))
        if "*" in self._hosts or is_loopback(name) or name in self._hosts or _is_address(name):
            return
        raise NotAllowed(f"requests for the host {host[:100]!r} are not answered; name it in http.hosts if it is ours")

    def check_origin(self, headers: Headers) -> None:
        """Raise NotAllowed if a page of a site that is not allowed (`http.cors`) is behind the request."""
        origin = headers.get("origin")
        if origin is None or "*" in self._settings.cors or origin in self._settings.cors:
            return
        name = _host_of(origin)
        if name and (is_loopback(name) or name == _bare(_name_of(headers.get("host", "")))):
            return
        raise NotAllowed(f"pages of {origin[:100]!r} may not call the bridge; name it in http.cors to allow it")

    def _check_token(self, headers: Headers, query: QueryParams, *, in_query: bool) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = query.get("token", "") if in_query else ""
        if not hmac.compare_digest(given.strip().encode(), self._token or b""):
            words = "the token is wrong" if given else "a token is needed"
            raise Unauthorized(f"{words}: send the header Authorization: Bearer <http.token>")

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        if scope["type"] != "http":
            return receive
        seen, whole = 0, False

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:  # what is waited for now is the caller's going
                return await receive()
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    message = await receive()
            except TimeoutError:
                words = f"nothing of the request came for {BODY_SECONDS:g} s"
                raise HTTPException(408, words, {"Connection": "close"}) from None
            if message["type"] == "http.request":
                whole = not message.get("more_body", False)
                seen += len(message.get("body", b""))
                if seen > self._settings.max_body:
                    raise self._too_large()
            return message

        return counted

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request has more than {self._settings.max_body} bytes (http.max_body)")

    async def _refuse(self, answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1008})
                return
            await receive()
        elif answer.status_code == 413:
            answer.headers["Connection"] = "close"
        await answer(scope, receive, send)

    def _log(self, scope: Scope, status: int, seconds: float, jobs: object) -> None:
        method = scope.get("method", "WS")
        if self._count is not None:
            self._count(method, status)
        # The query is left out: it may hold the token.
        level = logging.DEBUG if method in {*_SAFE, "WS"} else logging.INFO
        named = f", job {', '.join(jobs[:5])}" if isinstance(jobs, list) and jobs else ""
        path = scope["path"][:200].encode("unicode_escape", "replace").decode()
        logger.log(level, "%s %s: %d in %.3f s%s", method, path, status, seconds, named)


def _name_of(host: str) -> str:
    """Return the host of `host:port`."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return name if not port or port.startswith(":") else ""
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _host_of(origin: str) -> str:
    try:
        return _bare(urlsplit(origin).hostname or "")
    except ValueError:
        return ""


def _bare(name: str) -> str:
    return name.strip().strip("[]").rstrip(".").lower()


def _is_address(name: str) -> bool:
    """Tell an address in numbers: no name can be bent to point to it."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
