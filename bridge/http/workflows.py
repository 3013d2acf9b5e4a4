"""The routes of workflows: what there is, what it is set to, run it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from bridge import requests
from bridge.errors import BadPayload, BadValue
from bridge.http import bodies
from bridge.http.answers import answer
from bridge.http.context import Context
from bridge.http.jobs import Answers, once, transaction_of
from bridge.http.schemas import ERRORS, JOB_ANSWER, RUN, VALUES
from bridge.incoming import read_json
from bridge.library import Workflow
from bridge.workflow.kinds import MEDIA_TYPES
from bridge.workflow.values import named_parameter

_RUN_FIELDS = frozenset({"count", "priority", "expires_at", "grid", "transaction", "wait", "base64"})
_NUMBERS = frozenset({"count", "priority"})


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/workflows", tags=["workflows"], responses=ERRORS)
    core, answers = context.core, Answers(context)

    async def form(request: Request, workflow: Workflow) -> dict[str, Any]:
        fields = _RUN_FIELDS - {parameter.name for parameter in workflow.parameters}
        document = await bodies.form(request, fields=fields, max_bytes=context.settings.http.max_body)
        document["values"] = _texts(workflow, document["values"])
        for name in _NUMBERS & document.keys():
            try:
                document[name] = int(document[name])
            except ValueError:
                raise BadPayload(f"{name}: must be a whole number") from None
        if isinstance(document.get("grid"), str):
            document["grid"] = read_json(document["grid"], where="grid")
        return document

    def shown(name: str) -> dict[str, Any]:
        workflow = core.workflow(name)
        loaded = core.workflows()["loaded"] == workflow.name
        return {**workflow.to_json(), "loaded": loaded, "values": core.values(workflow.name)}

    @routes.get("")
    async def workflows() -> Response:
        """List the workflows with their parameters and outputs."""
        return answer(core.workflows())

    @routes.get("/{name}")
    async def workflow(name: str) -> Response:
        """Return a workflow, and what it is set to."""
        return answer(shown(name))

    @routes.patch("/{name}", openapi_extra=VALUES)
    async def set_values(request: Request, name: str) -> Response:
        """Set values: parameters, or other inputs as `<node>.<input>`; all or none. They stay until set again.

        A form may hold files for image parameters.
        """
        found = core.workflow(name)
        if bodies.is_form(request):
            values = (await form(request, found))["values"]
        else:
            values = await bodies.document(request)
            if values.keys() == {"values"} and named_parameter(found.parameters, "values") is None:
                values = values["values"]
        if not isinstance(values, dict):
            raise BadPayload('values must be a JSON object such as {"seed": 42, "6.text": "…"}')
        return answer(await core.update_values(values, workflow=found.name))

    @routes.post("/{name}/run", status_code=202, responses=JOB_ANSWER, openapi_extra=RUN)
    async def run(request: Request, name: str) -> Response:
        """Run a workflow as it is set, with `values` for this run only.

        `?wait=30` answers 200 with the job once it has ended, 202 if the time is up. `?base64=1` puts the bytes of
        the outputs into the answer; with `Accept: image/*` the picture itself is the answer. Several runs (`count`,
        `grid`, a list of `values`) are answered as `{"batch_id", "prompt_ids", "jobs"}`.
        """
        found = core.workflow(name)
        document = await (form(request, found) if bodies.is_form(request) else bodies.document(request))
        options = bodies.options(request, document)
        transaction = transaction_of(request, document)
        asked = requests.parse(requests.Queue, document)
        command = f"api/workflows/{found.name}/run"
        key = None if transaction is None else (command, transaction)
        data = await once(
            context, command, transaction, lambda: core.queue(asked, workflow=found.name, transaction=key)
        )
        return await answers.accepted(request, data["prompt_ids"], options, data)

    @routes.post("/{name}/load")
    async def load(name: str) -> Response:
        """Make a workflow the one that bare commands act on."""
        return answer(await core.load(requests.parse(requests.Load, {"workflow": name})))

    @routes.post("/{name}/interrupt")
    async def interrupt(name: str) -> Response:
        """End every job of a workflow that waits or runs."""
        return answer(await core.interrupt(requests.Interrupt(), workflow=core.workflow(name).name))

    return routes


def _texts(workflow: Workflow, values: dict[str, Any]) -> dict[str, Any]:
    """Return a form's values with files read as text where no image is meant."""
    read = dict(values)
    for name, value in values.items():
        parameter = named_parameter(workflow.parameters, name)
        if isinstance(value, bytes) and (parameter is None or parameter.type not in MEDIA_TYPES):
            try:
                read[name] = value.decode()
            except UnicodeDecodeError:
                raise BadValue(f"{name} is not text in UTF-8") from None
    return read
