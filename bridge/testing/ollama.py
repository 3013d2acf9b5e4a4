"""A stand-in Ollama: its HTTP API as its documentation has it, answers made from the question, no models, no GPU.

`python -m bridge.testing.ollama` runs it as a process of its own. `faults` breaks something on purpose; from another
process, so does `POST /standin/faults` with the same names, and `GET /standin/stats` tells what was asked.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from aiohttp import web

from bridge.testing.ollama_words import LIBRARY, capabilities, entry, full, idea, seconds, written

VERSION = "0.12.6"
_DEFAULT_KEEP = 300.0
_FOREVER = timedelta(days=365 * 200)


@dataclass(slots=True)
class OllamaFaults:
    """What goes wrong; each stays until it is taken away, but those that count down."""

    error: str = ""
    """`/api/chat` answers 500 with these words."""
    error_midway: str = ""
    """The stream ends with an error in these words."""
    cut: bool = False
    """The connection breaks in the middle of an answer."""
    unfinished: bool = False
    """The answer ends properly, as HTTP has it, without its last object."""
    hang: bool = False
    """`/api/chat` never answers."""
    slow: float = 0.0
    """Seconds between two pieces of an answer."""
    broken_json: int = 0
    """So many answers are words around broken JSON."""
    fenced: bool = False
    """Answers are JSON in a code fence with words before it, as models without structured output give it."""
    empty: bool = False
    """Answers are empty."""
    think: str = ""
    """Answers begin with these thoughts, in tags."""
    text: str = ""
    """Every answer is this text."""
    unload_delay: float = 0.0
    """Seconds that a model stays loaded after its time is over."""
    pull_slow: float = 0.0
    """Seconds between two steps of a download."""


@dataclass(slots=True)
class OllamaStats:
    """What was asked."""

    chats: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of `/api/chat`; pictures as their number of bytes."""
    tags: int = 0
    aborted: int = 0
    """Answers whose reader went away."""
    most_at_once: int = 0


class OllamaStandIn:
    """The server. models: names of those that it has, newest first. port 0: a free one."""

    def __init__(
        self, *, models: tuple[str, ...] = ("llama3.2:latest",), host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.names = list(models)
        self.host = host
        self.port = port
        self.faults = OllamaFaults()
        self.stats = OllamaStats()
        self._loaded: dict[str, datetime] = {}
        self._unloads: dict[str, asyncio.TimerHandle] = {}
        self._chatting = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    @property
    def loaded(self) -> list[str]:
        """The models in memory."""
        return list(self._loaded)

    async def __aenter__(self) -> Self:
        """Listen."""
        app = web.Application(client_max_size=1 << 30)
        routes: list[tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = [
            ("GET", "/", self._root),
            ("GET", "/api/version", self._version),
            ("GET", "/api/tags", self._tags),
            ("GET", "/api/ps", self._ps),
            ("POST", "/api/show", self._show),
            ("POST", "/api/chat", self._chat),
            ("POST", "/api/pull", self._pull),
            ("POST", "/standin/faults", self._post_faults),
            ("GET", "/standin/stats", self._get_stats),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, path, handler)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop listening, and break what is open."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        for timer in self._unloads.values():
            timer.cancel()
        self._loaded.clear()

    # Routes

    async def _root(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def _tags(self, _: web.Request) -> web.Response:
        self.stats.tags += 1
        return web.json_response({"models": [entry(name) | {"modified_at": _now()} for name in self.names]})

    async def _ps(self, _: web.Request) -> web.Response:
        loaded = [
            entry(name) | {"expires_at": expires.isoformat(), "size_vram": entry(name)["size"]}
            for name, expires in self._loaded.items()
        ]
        return web.json_response({"models": loaded})

    async def _show(self, request: web.Request) -> web.Response:
        body = await _body(request)
        if isinstance(body, web.Response):
            return body
        name = self._known(str(body.get("model", "")))
        if name is None:
            return _error(404, f"model '{body.get('model')}' not found")
        return web.json_response(
            {
                "modelfile": f"FROM {name}",
                "template": "{{ .Prompt }}",
                "details": entry(name)["details"],
                "model_info": {"general.architecture": "llama"},
                "capabilities": capabilities(name),
            }
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        if isinstance(body, web.Response):
            return body
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        name = self._known(body["model"]) or ""
        self._load(name)
        self._chatting += 1
        self.stats.most_at_once = max(self.stats.most_at_once, self._chatting)
        try:
            if self.faults.hang:
                await asyncio.Event().wait()
            return await self._answer(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.stats.aborted += 1
            raise
        finally:
            self._chatting -= 1
            self._keep(name, body.get("keep_alive", _DEFAULT_KEEP))

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        model, messages = body.get("model"), body.get("messages", [])
        if not isinstance(model, str) or not model:
            return _error(400, "model is required")
        name = self._known(model)
        if name is None:
            return _error(404, f"model '{model}' not found")
        if not isinstance(messages, list):
            return _error(400, "json: cannot unmarshal messages")
        try:
            seconds(body.get("keep_alive", _DEFAULT_KEEP))
        except ValueError as error:
            return _error(400, str(error))
        noted = {**body, "messages": []}
        for message in messages:
            images = message.get("images") or []
            try:
                sizes = [len(base64.b64decode(image, validate=True)) for image in images]
            except (binascii.Error, ValueError, TypeError):
                return _error(400, "illegal base64 data at input byte 0")
            noted["messages"].append({**message, **({"images": sizes} if images else {})})
            if images and "vision" not in capabilities(name):
                return _error(500, "this model is missing data required for image input")
        self.stats.chats.append(noted)
        return _error(500, self.faults.error) if self.faults.error else None

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        text = self._text(body)
        pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
        head = {"model": body["model"], "created_at": _now()}
        end = {
            "done_reason": "stop" if body.get("messages") else "load",
            "done": True,
            "total_duration": 4883583458,
            "load_duration": 1334875,
            "prompt_eval_count": 26,
            "prompt_eval_duration": 342546000,
            "eval_count": len(pieces),
            "eval_duration": 4535599000,
        }
        if body.get("stream") is False:
            return web.json_response({**head, "message": {"role": "assistant", "content": text}, **end})
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for number, piece in enumerate(pieces):
            if number == len(pieces) // 2:
                if self.faults.error_midway:
                    await _send(response, {"error": self.faults.error_midway})
                    return response
                if self.faults.cut and request.transport is not None:
                    request.transport.abort()
                    return response
                if self.faults.unfinished:
                    return response
            await _send(response, {**head, "message": {"role": "assistant", "content": piece}, "done": False})
            await asyncio.sleep(self.faults.slow)
        await _send(response, {**head, "message": {"role": "assistant", "content": ""}, **end})
        return response

    def _text(self, body: dict[str, Any]) -> str:
        if not body.get("messages") or self.faults.empty:
            return ""
        if self.faults.text:
            return self.faults.text
        thoughts = f"<think>{self.faults.think}</think>\n" if self.faults.think else ""
        if self.faults.broken_json:
            self.faults.broken_json -= 1
            return f'{thoughts}Sure! Here is a prompt: {{"prompt": "{idea(body)}, and so on'
        answer = json.dumps(written(body), ensure_ascii=False)
        if self.faults.fenced:
            return f"{thoughts}Of course.\n```json\n{answer}\n```\nEnjoy!"
        if isinstance(body.get("format"), dict):
            return thoughts + answer
        return f"{thoughts}A picture of {idea(body)}."

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        if isinstance(body, web.Response):
            return body
        name = full(str(body.get("model") or body.get("name") or ""))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await _send(response, {"status": "pulling manifest"})
        if name not in LIBRARY:
            await _send(response, {"error": "pull model manifest: file does not exist"})
            return response
        size = entry(name)["size"]
        digest = f"sha256:{entry(name)['digest']}"
        for part in range(5):
            step = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": size, "completed": size * part // 4}
            await _send(response, step)
            await asyncio.sleep(self.faults.pull_slow)
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            await _send(response, {"status": status})
        if name not in self.names:
            self.names.insert(0, name)
        return response

    async def _post_faults(self, request: web.Request) -> web.Response:
        changes = await request.json()
        known = {one.name for one in dataclasses.fields(OllamaFaults)}
        if not isinstance(changes, dict) or set(changes) - known:
            return _error(400, f"there may be {', '.join(sorted(known))}")
        for name, value in changes.items():
            setattr(self.faults, name, value)
        return web.json_response({})

    async def _get_stats(self, _: web.Request) -> web.Response:
        return web.json_response({**dataclasses.asdict(self.stats), "loaded": self.loaded})

    # Memory

    def _known(self, name: str) -> str | None:
        return full(name) if full(name) in self.names else None

    def _load(self, name: str) -> None:
        if name in self._unloads:
            self._unloads.pop(name).cancel()
        self._loaded[name] = datetime.now(UTC) + _FOREVER

    def _keep(self, name: str, keep_alive: object) -> None:
        stays = seconds(keep_alive)
        if stays < 0:
            return
        self._loaded[name] = datetime.now(UTC) + timedelta(seconds=stays)
        loop = asyncio.get_running_loop()
        self._unloads[name] = loop.call_later(stays + self.faults.unload_delay, self._loaded.pop, name, None)


def _now() -> str:
    return datetime.now(UTC).isoformat()


async def _body(request: web.Request) -> dict[str, Any] | web.Response:
    try:
        body = json.loads(await request.text())
    except ValueError as error:
        return _error(400, f"invalid JSON: {error}")
    return body if isinstance(body, dict) else _error(400, "json: cannot unmarshal into an object")


def _error(status: int, words: str) -> web.Response:
    return web.json_response({"error": words}, status=status)


async def _send(response: web.StreamResponse, document: dict[str, Any]) -> None:
    await response.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no loop handlers; Ctrl-C raises KeyboardInterrupt there.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with OllamaStandIn(
        models=tuple(options.model or ["llama3.2:latest"]), host=options.host, port=options.port
    ) as standin:
        standin.faults.slow = options.slow
        sys.stdout.write(f"stand-in Ollama listens on {standin.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> int:
    """Run until SIGINT or SIGTERM; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bridge.testing.ollama", description="A stand-in Ollama.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=11434, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--model", action="append", help="a model that it has (default: llama3.2:latest)")
    parser.add_argument("--slow", type=float, default=0.02, help="seconds between two pieces (default: %(default)s)")
    try:
        asyncio.run(_serve(parser.parse_args()))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
