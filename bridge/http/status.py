"""The routes of the bridge itself: queue, backends, health, metrics, and the commands that name no workflow."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from bridge import __version__, requests
from bridge.http import bodies, wrapper
from bridge.http.answers import RETRY_AFTER, answer
from bridge.http.context import Context, note_jobs
from bridge.http.metrics import CONTENT_TYPE
from bridge.http.schemas import ERRORS, body_of


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["bridge"], responses=ERRORS)
    core = context.core

    @routes.get("/api/queue")
    async def queue() -> Response:
        """Return what runs and what waits."""
        return answer(core.queue_state())

    @routes.get("/api/backends")
    async def backends() -> Response:
        """Return the ComfyUI servers with the memory of their devices."""
        return answer({"backends": (await core.health())["backends"]})

    @routes.get("/api/info")
    async def info() -> Response:
        """Return version, addresses and limits."""
        return answer(core.info())

    @routes.get("/api/health")
    async def full_health() -> Response:
        """Return the health of the process, its parts and each backend."""
        return answer(await core.health())

    @routes.post("/api/interrupt", openapi_extra=body_of(requests.Interrupt))
    async def interrupt(request: Request) -> Response:
        """End jobs: one (`prompt_id`), those of a batch (`batch_id`), or all that wait and run."""
        data = await core.interrupt(requests.parse(requests.Interrupt, await bodies.document(request)))
        note_jobs(request, data["prompt_ids"])
        return answer(data)

    @routes.post("/api/reload")
    async def reload() -> Response:
        """Read the files of the workflows again."""
        return answer(await core.reload())

    @routes.post("/api/free", openapi_extra=body_of(requests.Free))
    async def free(request: Request) -> Response:
        """Free the memory of the ComfyUI servers."""
        return answer(await core.free(requests.parse(requests.Free, await bodies.document(request))))

    @routes.put("/api/log_level", openapi_extra=body_of(requests.LogLevel))
    async def log_level(request: Request) -> Response:
        """Change what is logged, until the next start."""
        return answer(await core.log_level(requests.parse(requests.LogLevel, await bodies.document(request))))

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health() -> Response:
        """Tell that the process answers; always 200, without a token. The rest is for clients of the peers."""
        document = {"status": "healthy", "version": __version__, "STATUS": "ComfyUI Workflow Runner is running"}
        return answer({**document, **wrapper.health(context)})

    @routes.head("/ready", include_in_schema=False)
    @routes.get("/ready", responses={503: {"description": "Not ready: the reasons"}})
    async def ready() -> Response:
        """Tell whether a new job would be taken and run: 503 with the reasons if not."""
        reasons = await core.not_ready()
        document: dict[str, Any] = {"status": "not ready" if reasons else "ready", "version": __version__}
        if not reasons:
            return answer(document)
        document |= {"code": reasons[0]["code"], "error": "; ".join(one["message"] for one in reasons)}
        return answer({**document, "reasons": reasons}, 503, {"Retry-After": str(RETRY_AFTER)})

    @routes.get("/metrics", responses={200: {"description": "Prometheus' text format", "content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return counts and gauges for Prometheus."""
        return Response(context.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return routes
