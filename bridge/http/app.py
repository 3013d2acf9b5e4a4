"""The application: every router, behind the gate."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge import __version__
from bridge.complaints import complaint
from bridge.errors import BridgeError
from bridge.http import docs, jobs, prompting, runner, status, streams, workflows, wrapper
from bridge.http.answers import failure, refusal
from bridge.http.context import Context
from bridge.http.openapi import OpenApi
from bridge.http.security import Gate
from bridge.workflow.words import shown

ROUTERS: tuple[Callable[[Context], APIRouter], ...] = (
    jobs.router,
    wrapper.router,
    workflows.router,
    streams.router,
    status.router,
    prompting.router,
    runner.router,
)
"""What makes the routes, the busiest first: they are looked through in this order. A peer's API is one of these."""

_EXPOSED = ("Content-Disposition", "ETag", "Location", "Retry-After", "X-Job-Id")


def application(context: Context) -> ASGIApp:
    """Return the application of the HTTP port."""
    app = FastAPI(
        title="comfy-bridge",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    app.exception_handler(BridgeError)(_on_error)
    app.exception_handler(RequestValidationError)(_on_invalid)
    app.exception_handler(HTTPException)(_on_http)
    app.exception_handler(ClientDisconnect)(_on_gone)
    app.exception_handler(wrapper.InvalidError)(lambda _, error: error.answer)
    for router in ROUTERS:
        app.include_router(router(context))
    app.include_router(docs.router(OpenApi(app, context.core)))

    @app.websocket("/ws")
    async def relay(socket: WebSocket) -> None:
        await context.relay.serve(socket)

    @app.get("/ws", include_in_schema=False)
    async def no_websocket() -> Response:
        return _upgrade("this address speaks websocket only")

    return _gated(app, context)


def relay_application(context: Context) -> ASGIApp:
    """Return the application of the relay's port: a websocket at any path."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await context.relay.serve(WebSocket(scope, receive, send))
            return
        await _upgrade("this port speaks websocket only")(scope, receive, send)

    return _gated(app, context)


def _upgrade(words: str) -> Response:
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return refusal("unknown_command", words, status=426, headers=headers)


def _gated(app: ASGIApp, context: Context) -> ASGIApp:
    settings = context.settings.http
    gate = Gate(app, settings, count=context.metrics.count_request)
    if not settings.cors:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=list(settings.cors),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=list(_EXPOSED),
        max_age=600,
    )


def _on_error(_: Request, error: BridgeError) -> Response:
    return failure(error)


def _on_gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=499)  # for the log: nobody is there


def _on_invalid(_: Request, error: RequestValidationError) -> Response:
    sentences = [f"{one['loc'][-1]}: {complaint(one, shown=shown)}" for one in error.errors()]
    return refusal("bad_payload", "; ".join(sentences))


def _on_http(request: Request, error: HTTPException) -> Response:
    words = f"{request.method} {request.url.path} is not known here; /docs lists what is"
    code = "unknown_command" if error.status_code in {404, 405} else "bad_payload"
    message = words if code == "unknown_command" else str(error.detail)
    return refusal(code, message, status=error.status_code, headers=error.headers)
