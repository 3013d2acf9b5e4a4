"""The OpenAPI document: the routes, and for each workflow a route of its own with typed values.

So the documents' page is a form for each workflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from bridge import __version__
from bridge.core import Core
from bridge.http.schemas import ERROR_SCHEMA, JOB_ANSWER, JOB_SCHEMA, OUTPUT_SCHEMA, WAIT, run_schema
from bridge.library import Workflow
from bridge.workflow.kinds import MEDIA_TYPES, RANDOM
from bridge.workflow.parameters import Parameter
from bridge.workflow.values import is_seed

Schema = dict[str, Any]

_ABOUT = """Run ComfyUI workflows, follow them, fetch what they made.

An error is `{"code", "error", "details"?}`. Where a token is set, send `Authorization: Bearer <token>`; a GET takes
`?token=` too. ComfyUI's own frames come by websocket from `/ws`.
"""
_TYPES: Mapping[str, Schema] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
}


class OpenApi:
    """Makes the document of an app; the part of the routes is made once."""

    def __init__(self, app: FastAPI, core: Core) -> None:
        self._app = app
        self._core = core
        self._fixed: Schema | None = None

    def document(self) -> Schema:
        """Return the document as the workflows are now."""
        if self._fixed is None:
            self._fixed = self._routes()
        paths = dict(self._fixed["paths"])
        tags = list(self._fixed["tags"])
        for name in self._core.workflow_names():
            workflow = self._core.workflow(name)
            paths[f"/api/workflows/{name}/run"] = {"post": run_operation(workflow)}
            tags.append({"name": f"workflow {name}", "description": workflow.title})
        return {**self._fixed, "paths": paths, "tags": tags}

    def _routes(self) -> Schema:
        document = get_openapi(
            title="comfy-bridge",
            version=__version__,
            description=_ABOUT,
            routes=self._app.routes,
            tags=[{"name": "workflows"}, {"name": "jobs"}, {"name": "events"}, {"name": "bridge"}],
        )
        for operations in document["paths"].values():
            for operation in operations.values():
                # Ours is 400, in the shape of every other error.
                operation.get("responses", {}).pop("422", None)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas |= {"Error": ERROR_SCHEMA, "Job": JOB_SCHEMA, "Output": OUTPUT_SCHEMA}
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"token": []}]
        return document


def run_operation(workflow: Workflow) -> Schema:
    """Return the operation that runs a workflow, with its parameters as typed values."""
    properties = {parameter.name: schema_of(parameter) for parameter in workflow.parameters}
    example = {
        parameter.name: parameter.default for parameter in workflow.parameters if parameter.type not in MEDIA_TYPES
    }
    values = {
        "type": "object",
        "properties": properties,
        "additionalProperties": True,
        "description": "For this run only; any other input is named `<node>.<input>`",
    }
    content: Schema = {"application/json": {"schema": run_schema(values), "example": {"values": example}}}
    if any(parameter.type in MEDIA_TYPES for parameter in workflow.parameters):
        fields = {
            parameter.name: {"type": "string", "format": "binary", "description": parameter.title}
            if parameter.type in MEDIA_TYPES
            else properties[parameter.name]
            for parameter in workflow.parameters
        }
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": fields}}
    return {
        "tags": [f"workflow {workflow.name}"],
        "summary": f"Run {workflow.title}",
        "operationId": f"run_{workflow.name.replace('-', '_')}",
        "parameters": WAIT,
        "requestBody": {"required": False, "content": content},
        "responses": {
            str(status): answer
            for status, answer in {**JOB_ANSWER, 400: JOB_ANSWER[413] | {"description": "Not acceptable"}}.items()
        },
    }


def schema_of(parameter: Parameter) -> Schema:
    """Return the JSON schema of a parameter's values."""
    schema: Schema = {"title": parameter.title}
    if parameter.type in MEDIA_TYPES:
        source = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("filename", "url", "base64")},
            "additionalProperties": True,
        }
        return {**schema, "anyOf": [{"type": "string", "description": "a file that ComfyUI has"}, source]}
    if parameter.type == "choice":
        schema |= {"enum": list(parameter.choices)} if parameter.choices else {"type": "string"}
    else:
        schema |= _TYPES[parameter.type]
    for name, limit in (("minimum", parameter.min), ("maximum", parameter.max)):
        if limit is not None:
            schema[name] = limit
    schema["default"] = parameter.default
    if is_seed(parameter):
        number = {key: schema.pop(key) for key in ("type", "minimum", "maximum") if key in schema}
        schema["anyOf"] = [number, {"const": RANDOM}]
    return schema
