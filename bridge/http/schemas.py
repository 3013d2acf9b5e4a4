"""The parts of the OpenAPI document that are written by hand, beside the routes that they belong to."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from bridge.requests import WritePrompt

Schema = dict[str, Any]

_ERROR: Schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
ERRORS: dict[int | str, Schema] = {
    400: {"description": "Not well-formed, or not acceptable", "content": _ERROR},
    404: {"description": "There is no such thing", "content": _ERROR},
}
"""Of every route."""

_JOB: Schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}
JOB_ANSWER: dict[int | str, Schema] = {
    200: {"description": "The job has ended, in whatever way; or its picture", "content": {**_JOB, "image/*": {}}},
    202: {"description": "The job waits or runs", "content": _JOB},
    409: {"description": "Interrupted, where the picture was asked for", "content": _ERROR},
    410: {"description": "`expires_at` is over", "content": _ERROR},
    413: {"description": "Too large", "content": _ERROR},
    502: {"description": "The job failed, where the picture was asked for", "content": _ERROR},
    503: {"description": "The queue is full", "content": _ERROR},
}

WAIT: list[Schema] = [
    {
        "name": "wait",
        "in": "query",
        "description": "Seconds to wait for the end of the job",
        "schema": {"type": "number", "minimum": 0, "maximum": 3600},
    },
    {
        "name": "base64",
        "in": "query",
        "description": "Put the bytes of the outputs into the answer",
        "schema": {"type": "boolean"},
    },
]

_TRANSACTION: Schema = {
    "type": "string",
    "description": "Makes the request idempotent for ten minutes; also the header Idempotency-Key",
}


def body_of(model: type[BaseModel]) -> Schema:
    """Return the body that a request of the core is read from."""
    schema = model.model_json_schema()
    for prop in schema.get("properties", {}).values():
        prop.pop("title", None)
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


_EVENT: Schema = {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "event", "data")}}
EVENT_STREAM: dict[int | str, Schema] = {
    200: {"description": "The events, each with JSON in `data`", "content": {"text/event-stream": {"schema": _EVENT}}}
}


def run_schema(values: Schema) -> Schema:
    """Return the body of a run of a workflow whose values have this schema."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "values": values,
            "count": {"type": "integer", "minimum": 1, "default": 1, "description": "Runs; seeds are counted up"},
            "grid": {
                "type": "object",
                "additionalProperties": {"type": "array"},
                "description": "A run for each combination of these values",
            },
            "priority": {"type": "integer", "minimum": -1_000_000, "maximum": 1_000_000, "default": 0},
            "expires_at": {"type": "string", "format": "date-time", "description": "Not to be started after this"},
            "base64": {"type": "boolean", "default": False},
            "transaction": _TRANSACTION,
        },
    }


RUN: Schema = {
    "parameters": WAIT,
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {"schema": run_schema({"type": "object"})},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"values": {"type": "string", "description": "Values as a JSON object"}},
                    "additionalProperties": {"type": "string"},
                }
            },
        },
    },
}

_IDEA = body_of(WritePrompt)["requestBody"]["content"]["application/json"]["schema"]
_IDEA["properties"]["transaction"] = _TRANSACTION
IDEA: Schema = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {"schema": _IDEA},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        **{name: {"type": "string"} for name in ("idea", "style", "profile")},
                        "then": {"type": "string", "description": "As JSON"},
                    },
                }
            },
        },
    }
}

VALUES: Schema = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "multipart/form-data": {"schema": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
    }
}

_COMMON: Schema = {
    "priority": {"type": "integer", "minimum": -1_000_000, "maximum": 1_000_000, "default": 0},
    "expires_at": {"type": "string", "format": "date-time"},
    "base64": {"type": "boolean", "default": False},
    "transaction": _TRANSACTION,
}
_GRAPH: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["prompt"],
    "properties": {
        "prompt": {
            "type": "object",
            "description": "The graph, as exported for the API: nodes by id",
            "additionalProperties": {
                "type": "object",
                "required": ["class_type"],
                "properties": {"class_type": {"type": "string"}, "inputs": {"type": "object"}},
            },
        },
        "id": {"type": "string", "minLength": 1, "maxLength": 200, "description": "A name of your own for the job"},
        **_COMMON,
    },
}
_CHAIN: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["steps"],
    "properties": {
        "steps": {
            "type": "array",
            "minItems": 1,
            "description": "Workflows one after another, as in a file of a chain",
            "items": {
                "type": "object",
                "required": ["workflow"],
                "properties": {
                    "name": {"type": "string"},
                    "workflow": {"type": "string"},
                    "values": {"type": "object"},
                    "retry": {"type": "integer", "minimum": 0},
                    "when": {"type": "object"},
                },
            },
        },
        **_COMMON,
    },
}
RUN_GRAPH: Schema = {
    "parameters": WAIT,
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": [_GRAPH, _CHAIN]}}}},
}

_NULLABLE_TEXT: Schema = {"type": ["string", "null"]}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}

ERROR_SCHEMA: Schema = {
    "type": "object",
    "required": ["code", "error"],
    "properties": {
        "code": {"type": "string"},
        "error": {"type": "string", "description": "A sentence that says what would be right"},
        "details": {"type": "object"},
    },
}

JOB_SCHEMA: Schema = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "alias": {"type": "string"},
        "status": {
            "type": "string",
            "enum": ["queued", "preparing", "running", "finishing", "completed", "failed", "interrupted"],
        },
        "workflow": _NULLABLE_TEXT,
        "values": {"type": "object"},
        "position": {"type": ["integer", "null"], "minimum": 1},
        "percent": {"type": "number", "minimum": 0, "maximum": 100},
        "node": _NULLABLE_TEXT,
        "title": _NULLABLE_TEXT,
        "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Output"}},
        "text": {"type": "array", "items": {"type": "object"}},
        "timings": {"type": "object", "additionalProperties": {"type": "number"}},
        "error": {"type": ["object", "null"]},
        "backend": _NULLABLE_TEXT,
        "attempts": {"type": "integer"},
        "created_at": _TIME,
        "started_at": _TIME,
        "finished_at": _TIME,
    },
}

OUTPUT_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0},
        "node": _NULLABLE_TEXT,
        "filename": {"type": "string"},
        "subfolder": {"type": "string"},
        "type": {"type": "string"},
        "url": _NULLABLE_TEXT,
        "content_type": {"type": "string"},
        "bytes": {"type": ["integer", "null"]},
        "width": {"type": ["integer", "null"]},
        "height": {"type": ["integer", "null"]},
        "data": {"type": "string", "description": "The bytes in base64, where they were asked for"},
        "error": {"type": "object"},
    },
}
