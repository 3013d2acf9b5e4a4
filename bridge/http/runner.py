"""The routes of comfy_runner, for the flows and clients that were made for it: each answer has a `STATUS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from bridge import requests
from bridge.errors import BadPayload, BridgeError, NotAllowed, QueueFull
from bridge.http import bodies
from bridge.http.answers import RETRY_AFTER, STATUS, answer
from bridge.http.context import Context, note_jobs
from bridge.http.jobs import picture_of
from bridge.http.prompting import Asked, Writing
from bridge.http.schemas import Schema
from bridge.library import Workflow

_NOT_THERE = frozenset({"unknown_node", "unknown_parameter", "no_such_input", "is_link", "file_missing"})
"""What the runner answers with 404."""
_WRITER: Mapping[str, int] = {"writer_offline": 503, "writer_failed": 502, "not_json": 502, "cancelled": 409}
_ENDS: Mapping[str, str] = {"completed": "completed", "failed": "error", "interrupted": "idle"}


class Runner:
    """Answers as the runner does, by the core."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._core = context.core
        self._writing = Writing(context)

    @property
    def loaded(self) -> Workflow | None:
        """The loaded workflow, if there is one that can be used."""
        try:
            return self._core.workflow()
        except BridgeError:
            return None

    async def status(self) -> Response:
        """Tell what goes on."""
        queue = self._core.queue_state()
        running, loaded = queue["running"], self.loaded
        if running or queue["waiting_count"]:
            state = "running"
        elif not self._core.online():
            state = "unknown"
        else:
            last = (await self._core.jobs(requests.JobsRequest(limit=1)))["finished"]
            state = _ENDS.get(last[0]["status"], "unknown") if last else "idle"
        document = {
            "STATUS": "ComfyUI Workflow Runner is running",
            "execution_status": state,
            "current_prompt_id": running[0]["id"] if running else None,
            "workflow_loaded": loaded is not None,
            "workflow": loaded and loaded.name,
            "connected_ws_clients": self._context.relay.clients,
            "comfy_server": ", ".join(self._core.info()["backends"].values()),
            "save_image_node_id": loaded and loaded.answer,
        }
        return answer(document)

    async def run(self, request: Request) -> Response:
        """Run the loaded workflow as it is set, and wait for its picture."""
        self._check_origin(request)
        loaded = self.loaded
        if loaded is None:
            return _said("No workflow loaded", 400)
        try:
            data = await self._core.queue(requests.Queue(), workflow=loaded.name)
        except BridgeError as error:
            more = {"Retry-After": str(RETRY_AFTER)} if isinstance(error, QueueFull) else None
            status = 503 if isinstance(error, QueueFull) else 500
            return _said(f"generation failed - {error.message}", status, more, code=error.code)
        job_id = data["prompt_ids"][0]
        note_jobs(request, [job_id])
        with self._context.leaving(request) as leaving, self._context.ends.watching([job_id]) as watches:
            limit = self._context.settings.http.runner_timeout
            if not await self._context.ends.wait(watches, limit, *leaving):
                words = f"Workflow execution timed out after {limit:g} s"
                return _said("The bridge stops" if self._context.closing.is_set() else words, 408, prompt=job_id)
            return _picture(watches[0].over.result(), watches[0].answer)

    def _check_origin(self, request: Request) -> None:
        # A GET that starts work: any page could have a browser send it, as the address of an image.
        if request.headers.get("sec-fetch-site") == "cross-site":
            origin, cors = request.headers.get("origin"), self._context.settings.http.cors
            if "*" not in cors and origin not in cors:
                raise NotAllowed("pages of other sites may not start the workflow; name them in http.cors to allow it")

    async def update(self, request: Request, kind: str) -> Response:
        """Set a text, a prompt or an image of a node of the loaded workflow."""
        try:
            document = await bodies.document(request)
        except BridgeError as error:
            return _said(error.message, 400, code=error.code)
        if self.loaded is None:
            return _said("No workflow loaded", 400)
        node = document.get("node_id")
        try:
            if node is None:
                raise BadPayload("node_id is missing")
            if isinstance(node, bool) or not isinstance(node, (int, str)):
                raise BadPayload("node_id must be a number or a text")
            shown = await self._set(kind, node, document)
        except BridgeError as error:
            if error.code in _NOT_THERE:
                return _said(f"Failed to update {kind} in node {node}", 404, code=error.code, error=error.message)
            return _said(error.message, STATUS.get(error.code, 400), code=error.code)
        return _said(f"Updated {kind} in node {node}{shown} successfully")

    async def _set(self, kind: str, node: int | str, document: dict[str, Any]) -> str:
        if kind == "image":
            image: dict[str, Any] = {key: document[key] for key in ("filename", "url", "base64") if key in document}
            if not image:
                raise BadPayload("filename is missing")
            request = requests.parse(requests.UpdateImage, {**image, "node_id": node})
            await self._core.update_image(request)
            return f" to {request.filename}" if request.filename is not None else ""
        text = document.get("text", document.get("prompt") if kind == "prompt" else None)
        if not isinstance(text, str):
            raise BadPayload("text is missing" if text is None else "text must be a text")
        if kind == "prompt":
            await self._core.update_values({f"{node}.prompt": text})
        else:
            await self._core.update_text(requests.parse(requests.UpdateText, {"node_id": node, "text": text}))
        return ""

    async def write(self, request: Request) -> Response:
        """Have a prompt written for the description of an image. A caller that hangs up cancels it."""
        try:
            document = await bodies.document(request)
            given = document.get("image_description")
            if not isinstance(given, dict):
                raise BadPayload(
                    'image_description must be an object such as {"description": "…", "visualCue": "…", "moodCue": "…"}'
                )
            asked = requests.parse(requests.WritePrompt, {"image_description": given, "then": None})
            made = await self._writing.result(request, Asked(asked))
        except BridgeError as error:
            status = _WRITER.get(error.code, STATUS.get(error.code, 500))
            return _said(f"generation failed - {error.message}", status, code=error.code)
        return _said(
            "success", positive_prompt=made.get("positive_prompt", ""), negative_prompt=made.get("negative_prompt", "")
        )


def _said(words: str, status: int = 200, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    if "prompt" in more:
        more["current_prompt_id"] = more.pop("prompt")
    return answer({"STATUS": words, **more}, status, headers)


def _picture(job: Mapping[str, Any], wanted: int | None) -> Response:
    """Answer with the picture of a job that has ended."""
    if job["status"] != "completed":
        reason = job["error"]["message"] if job["error"] else job["status"]
        return _said(f"generation failed - {reason}", 500, prompt_id=job["id"])
    chosen = picture_of(job, wanted)
    if chosen is None:
        return _said("completed but no image found", 500, prompt_id=job["id"])
    return _said(
        "completed successfully",
        image_filename=chosen["filename"],
        image_url=chosen["url"],
        prompt_id=job["id"],
    )


def _body(**fields: str) -> Schema:
    properties: Schema = {name: {"type": kind} if kind else {} for name, kind in fields.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["comfy_runner"])
    runner = Runner(context)
    words = "What went wrong, as `STATUS`"
    wrong: dict[int | str, Schema] = {400: {"description": words}, 404: {"description": words}}

    @routes.get("/status")
    async def status() -> Response:
        """Tell what goes on: `execution_status` is idle, running, completed, error or unknown."""
        return await runner.status()

    @routes.get("/queue", responses={**wrong, 408: {"description": "It takes longer: `current_prompt_id` goes on"}})
    async def queue(request: Request) -> Response:
        """Run the loaded workflow as it is set, and wait for its picture; each caller gets their own."""
        return await runner.run(request)

    @routes.post("/update/text", responses=wrong, openapi_extra=_body(node_id="", text="string"))
    async def update_text(request: Request) -> Response:
        """Set the text of a node of the loaded workflow."""
        return await runner.update(request, "text")

    @routes.post("/update/prompt", responses=wrong, openapi_extra=_body(node_id="", text="string"))
    async def update_prompt(request: Request) -> Response:
        """Set the input `prompt` of a node of the loaded workflow."""
        return await runner.update(request, "prompt")

    @routes.post("/update/image", responses=wrong, openapi_extra=_body(node_id="", filename="string"))
    async def update_image(request: Request) -> Response:
        """Set the image of a node of the loaded workflow."""
        return await runner.update(request, "image")

    @routes.post("/interrupt")
    async def interrupt(request: Request) -> Response:
        """End all jobs of the bridge that wait and run; those of others in ComfyUI are left alone."""
        del request

        async def end() -> None:
            await context.core.interrupt(requests.Interrupt())

        context.tasks.spawn(end(), "interrupt")
        return _said("Interrupt request received, processing...")

    @routes.post("/generate/image", responses=wrong, openapi_extra=_body(image_description="object"))
    async def generate_image(request: Request) -> Response:
        """Have a prompt written for the description of an image."""
        return await runner.write(request)

    return routes
