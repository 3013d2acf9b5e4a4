"""Requests to one prompt writer: failures as the bridge's errors, answers line by line."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import HttpxAiohttpClient

from bridge import errors
from bridge.comfyui.address import parse_address
from bridge.comfyui.transport import why_unreachable

MAX_ANSWER = 1_000_000
"""Bytes that an answer may have, or one of the lines of a stream."""
_CONNECT = 5.0


class Web:
    """The connections to one address.

    name: who that is, at the beginning of a sentence. headers: sent with each request. quiet: seconds without a byte
    after which the connection counts as broken; None leaves it to the caller's own limit.
    """

    def __init__(
        self, url: str, *, name: str, headers: Mapping[str, str] | None = None, quiet: float | None = None
    ) -> None:
        self._url = url
        self._name = name
        self._headers = dict(headers or {})
        self._quiet = quiet
        self._client: httpx.AsyncClient | None = None

    @property
    def name(self) -> str:
        """Who is asked, and where: `Ollama at http://127.0.0.1:11434`."""
        return f"{self._name} at {_shown(self._url)}"

    async def open(self) -> None:
        """Make the pool; connections come with the requests. Raises SettingsError for an address that is none."""
        try:
            address = parse_address(self._url)
        except errors.SettingsError:
            raise errors.SettingsError(f"{self._name}: {_shown(self._url)!r} is not an address") from None
        self._client = HttpxAiohttpClient(
            base_url=address.url,
            headers={**address.headers, **self._headers},
            # Reading the system's certificates takes many milliseconds; without TLS nobody looks at them.
            verify=ssl.create_default_context() if address.is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=not address.is_near,
            timeout=httpx.Timeout(self._quiet, connect=_CONNECT),
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def document(self, method: str, path: str, body: object = None, *, time_limit: float | None = None) -> Any:
        """Ask for a JSON document. Raises what `lines` raises, and WriterFailed for an answer that is no JSON."""
        async with self.answer(method, path, body, time_limit=time_limit) as response:
            data = await _whole(response)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise errors.WriterFailed(f"{self.name} answered {method} {path} with something that is not JSON") from None

    async def text(self, path: str, body: object) -> str:
        """Post JSON, and return the answer as text. Raises what `lines` raises."""
        async with self.answer("POST", path, body) as response:
            return (await _whole(response)).decode(errors="replace")

    async def lines(self, path: str, body: object) -> AsyncGenerator[str, None]:
        """Post JSON, and yield the lines of the answer as they come, without the empty ones.

        Raises WriterOffline (not reached, or broken off in between) and WriterFailed (an error as answer; its
        `details` are `{"status", "body"}`).
        """
        async with self.answer("POST", path, body) as response:
            rest = b""
            async for chunk in response.aiter_bytes():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield line.decode(errors="replace").strip()
                if len(rest) > MAX_ANSWER:
                    raise errors.WriterFailed(f"{self.name} sent a line of more than {MAX_ANSWER} bytes")
            if rest.strip():
                yield rest.decode(errors="replace").strip()

    @asynccontextmanager
    async def answer(
        self, method: str, path: str, body: object = None, *, time_limit: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request, and give its answer as soon as it begins; one that is an error is raised."""
        if self._client is None:
            raise errors.Internal(f"{self._name} is asked before it was opened or after it was closed")
        content: dict[str, Any] = {} if body is None else {"json": body}
        if time_limit is not None:
            content["timeout"] = time_limit
        try:
            async with self._client.stream(method, path, **content) as response:
                if not response.is_success:
                    data = (await _whole(response)).decode(errors="replace")
                    raise errors.WriterFailed(
                        f"{self.name} answered {method} {path} with {response.status_code}: {_reason(data)}",
                        details={"status": response.status_code, "body": data[:500]},
                    )
                yield response
        except (httpx.InvalidURL, httpx.HTTPError, aiohttp.ClientError, UnicodeError, OSError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> errors.WriterOffline:
        # By aiohttp's exception, since httpx-aiohttp gives refused and broken connections as time-outs.
        cause: BaseException = error
        if isinstance(error, httpx.HTTPError) and error.__cause__ is not None:
            cause = error.__cause__
        match cause:
            case aiohttp.ConnectionTimeoutError():
                return errors.WriterOffline(f"{self.name} cannot be reached within {_CONNECT:g} s")
            case aiohttp.ClientConnectorError():
                return errors.WriterOffline(f"{self.name} cannot be reached: {why_unreachable(cause)}")
            case TimeoutError() | httpx.TimeoutException():
                return errors.WriterOffline(f"{self.name} does not answer in time")
            case aiohttp.ClientResponseError():
                return errors.WriterOffline(f"{self.name} does not speak HTTP")
        return errors.WriterOffline(f"the connection to {self.name} broke")


async def _whole(response: httpx.Response) -> bytes:
    data = b""
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > MAX_ANSWER:
            break
    return data


def _reason(data: str) -> str:
    """Return what the body of an error says, in one line."""
    try:
        document = json.loads(data)
        error = document.get("error", document.get("STATUS"))
        if isinstance(error, dict):
            error = error.get("message")
    except (ValueError, AttributeError, RecursionError):
        error = None
    words = " ".join((error if isinstance(error, str) else data).split())
    return words[:300] or "no reason given"


def _shown(url: str) -> str:
    """Return the address without credentials and query."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
