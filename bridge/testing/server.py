"""The HTTP routes of the prompt side: queue, history, interrupt, object_info and the small ones."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse, urlsplit

from aiohttp import web

from bridge.testing import faults as faults_api
from bridge.testing.catalogue_models import MODELS
from bridge.testing.validation import error, validate
from bridge.testing.websocket import features

if TYPE_CHECKING:
    from bridge.testing.standin import StandIn

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _foreign_origin(request: web.Request) -> bool:
    if "Host" not in request.headers or "Origin" not in request.headers:
        return False
    origin = urlparse(request.headers["Origin"])
    host = request.headers["Host"].lower()
    name = urlsplit("//" + host).hostname
    try:
        compared = name if origin.port is None else host
    except ValueError:
        compared = host
    return _is_loopback(name) and bool(compared) and bool(origin.netloc) and compared != origin.netloc.lower()


def _asked(document: Any, name: str) -> bool:
    # Not .get(): the real server takes a list too, and finds nothing in it.
    return bool(document[name]) if name in document else False


class Routes:
    """The handlers; each raises for what the real server answers with 500, and aiohttp makes the answer."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        self.queue = standin.queue
        self.number = 0

    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each route."""
        return [
            ("GET", "/ws", self.standin.sockets.handle),
            ("GET", "/prompt", self.get_prompt),
            ("POST", "/prompt", self.post_prompt),
            ("GET", "/queue", self.get_queue),
            ("POST", "/queue", self.post_queue),
            ("POST", "/interrupt", self.interrupt),
            ("GET", "/history", self.get_history),
            ("GET", "/history/{prompt_id}", self.get_history_entry),
            ("POST", "/history", self.post_history),
            ("GET", "/object_info", self.object_info),
            ("GET", "/object_info/{name}", self.object_info),
            ("GET", "/system_stats", self.system_stats),
            ("GET", "/features", self.features),
            ("GET", "/embeddings", self.constant([])),
            ("GET", "/extensions", self.constant([])),
            ("GET", "/users", self.constant({"storage": "server", "migrated": False})),
            ("GET", "/settings", self.constant({})),
            ("GET", "/workflow_templates", self.constant({})),
            ("GET", "/models", self.constant(list(MODELS))),
            ("GET", "/models/{kind}", self.models),
            ("POST", "/free", self.free),
        ]

    def control(self) -> list[tuple[str, str, Handler]]:
        """The routes that a real server does not have."""
        return [
            ("POST", "/standin/faults", self.post_faults),
            ("GET", "/standin/stats", self.get_stats),
        ]

    @staticmethod
    def constant(value: Any) -> Handler:
        """A handler that always gives `value`."""

        async def answer(_: web.Request) -> web.Response:
            return web.json_response(value)

        return answer

    async def get_prompt(self, _: web.Request) -> web.Response:
        """How many prompts are queued."""
        return web.json_response({"exec_info": {"queue_remaining": self.queue.remaining}})

    async def post_prompt(self, request: web.Request) -> web.Response:
        """Validate and queue a prompt."""
        document = await request.json()
        faults = self.standin.faults
        if faults.refuse > 0:
            faults.refuse -= 1
            raise RuntimeError("refused on purpose")
        if "number" in document:
            number = float(document["number"])
        else:
            number = self.number
            if _asked(document, "front"):
                number = -number
            self.number += 1
        if "prompt" not in document:
            nothing = error("no_prompt", "No prompt provided", "No prompt provided")
            return web.json_response({"error": nothing, "node_errors": {}}, status=400)
        prompt_id = str(document.get("prompt_id", uuid.uuid4()))
        targets = document.get("partial_execution_targets")
        verdict = validate(document["prompt"], self.standin.folders, targets, self.standin.classes)
        extra = document.get("extra_data", {})
        if "client_id" in document:
            extra["client_id"] = document["client_id"]
        if verdict.error is not None:
            return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        self.queue.put((number, prompt_id, document["prompt"], extra, verdict.outputs))
        self.standin.stats.submitted += 1
        await asyncio.sleep(faults.hang)
        if faults.wrong_answer:
            status, faults.wrong_answer = faults.wrong_answer, 0
            return web.Response(status=status, text="answered wrongly on purpose")
        return web.json_response({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})

    async def get_queue(self, _: web.Request) -> web.Response:
        """What runs and what waits."""
        return web.json_response(self.queue.as_json())

    async def post_queue(self, request: web.Request) -> web.Response:
        """Delete pending prompts."""
        document = await request.json()
        if _asked(document, "clear"):
            self.queue.clear()
        if "delete" in document:
            for prompt_id in document["delete"]:
                self.queue.delete(prompt_id)
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        """Interrupt what runs, or only if it is the named prompt."""
        try:
            document = await request.json()
        except ValueError:
            document = {}
        prompt_id = document.get("prompt_id")
        if not prompt_id or prompt_id in self.queue.running_ids():
            self.standin.executor.interrupted = True
        return web.Response()

    async def get_history(self, request: web.Request) -> web.Response:
        """Finished prompts, oldest first."""
        most = request.query.get("max_items")
        offset = int(request.query.get("offset", -1))
        return web.json_response(self.queue.history_page(None if most is None else int(most), offset))

    async def get_history_entry(self, request: web.Request) -> web.Response:
        """One finished prompt, {} if there is none."""
        prompt_id = request.match_info["prompt_id"]
        entry = self.queue.history.get(prompt_id)
        return web.json_response({} if entry is None else {prompt_id: entry})

    async def post_history(self, request: web.Request) -> web.Response:
        """Forget finished prompts."""
        document = await request.json()
        if _asked(document, "clear"):
            self.queue.history.clear()
        if "delete" in document:
            for prompt_id in document["delete"]:
                self.queue.history.pop(prompt_id, None)
        return web.Response()

    async def object_info(self, request: web.Request) -> web.Response:
        """All node classes, or one."""
        wanted = request.match_info.get("name")
        folders = self.standin.folders
        chosen = [node for name, node in self.standin.classes.items() if wanted in {None, name}]
        return web.json_response({node.name: node.info(folders) for node in chosen})

    async def models(self, request: web.Request) -> web.Response:
        """The model files of one kind."""
        kind = request.match_info["kind"]
        return web.json_response(MODELS[kind]) if kind in MODELS else web.Response(status=404)

    async def features(self, _: web.Request) -> web.Response:
        """What the server can do."""
        return web.json_response(features(self.standin.settings))

    async def system_stats(self, _: web.Request) -> web.Response:
        """The machine, in invented numbers."""
        gigabyte = 1 << 30
        return web.json_response(
            {
                "system": {
                    "os": "posix",
                    "ram_total": 32 * gigabyte,
                    "ram_free": 24 * gigabyte,
                    "comfyui_version": "0.3.64",
                    "required_frontend_version": "1.27.10",
                    "installed_templates_version": "0.1.95",
                    "required_templates_version": "0.1.95",
                    "python_version": "3.11.7 (stand-in)",
                    "pytorch_version": "2.8.0+standin",
                    "embedded_python": False,
                    "argv": ["main.py", *(["--preview-method", "auto"] if self.standin.settings.previews else [])],
                },
                "devices": [
                    {
                        "name": "cuda:0 Stand-in : native",
                        "type": "cuda",
                        "index": 0,
                        "vram_total": 8 * gigabyte,
                        "vram_free": 6 * gigabyte,
                        "torch_vram_total": gigabyte,
                        "torch_vram_free": gigabyte // 2,
                    }
                ],
            }
        )

    async def free(self, request: web.Request) -> web.Response:
        """Unload models and drop the cache, between prompts."""
        document = await request.json()
        if document.get("free_memory", False):
            self.standin.forget_cache = True
        if document.get("unload_models", False) or document.get("free_memory", False):
            self.standin.stats.freed += 1
        return web.Response()

    async def post_faults(self, request: web.Request) -> web.Response:
        """Break something on purpose."""
        try:
            orders = faults_api.apply(json.loads(await request.text()), self.standin.faults, self.standin.settings)
        except ValueError as problem:
            return web.json_response({"error": str(problem)}, status=400)
        if orders.die and self.standin.die is None:
            return web.json_response({"error": "die works only for a stand-in in its own process"}, status=409)
        self.standin.obey(orders)
        return web.json_response({})

    async def get_stats(self, _: web.Request) -> web.Response:
        """What has happened so far."""
        return web.json_response(self.standin.stats.as_dict())


def build_app(standin: StandIn, tables: list[list[tuple[str, str, Handler]]]) -> web.Application:
    """The application with all routes, each also under /api."""

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/standin/"):
            return await handler(request)
        if _foreign_origin(request):
            return web.Response(status=403)
        if request.method == "OPTIONS":
            return web.Response()
        if standin.faults.slow and not request.path.endswith("/ws"):
            await asyncio.sleep(standin.faults.slow)
        return await handler(request)

    app = web.Application(client_max_size=standin.settings.max_upload_size, middlewares=[gate])
    for table in tables:
        for method, path, handler in table:
            prefixes = ("",) if path.startswith("/standin/") else ("", "/api")
            for prefix in prefixes:
                if method == "GET":
                    app.router.add_get(prefix + path, handler)
                else:
                    app.router.add_route(method, prefix + path, handler)
    return app
