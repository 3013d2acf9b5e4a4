"""What ai-dock's wrapper takes and answers: its body, its Result, its words. Pure."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from bridge.errors import BridgeError, UnknownParameter, UnknownWorkflow
from bridge.workflow.graph import Graph, Target, is_json, is_link, read_graph
from bridge.workflow.kinds import MEDIA_TYPES
from bridge.workflow.nodes import TEXT_INPUTS
from bridge.workflow.values import named_parameter
from bridge.workflow.workflow import Workflow

Document = dict[str, Any]

RANDOM_INT = "__RANDOM_INT__"
_RANDOM_LIMIT = 2**32
_HTTP = r"https?://[^/\s]+"
_NO_CONNECTION = frozenset({"backend_offline", "timeout", "lost", "stuck"})
_STATUS: Mapping[str, str] = {
    "queued": "processing",
    "preparing": "processing",
    "running": "generating",
    "finishing": "generated",
    "completed": "completed",
    "failed": "failed",
    "interrupted": "cancelled",
}
_KINDS: Mapping[str, str] = {"image": "images", "video": "videos", "audio": "audio"}
_NAMES: Mapping[str, str] = {
    "negative_prompt": "negative",
    "sampler_name": "sampler",
    "cfg_scale": "cfg",
    "ckpt_name": "checkpoint",
    "input_image": "image",
    "batch_size": "batch",
}
"""The wrapper's names for what modifiers set, by ours; the others are the same."""


def _plain_json(given: dict[str, Any]) -> dict[str, Any]:
    wrong = is_json(given)
    if wrong:
        raise ValueError(wrong)
    return given


def _graph(given: dict[str, Any]) -> Graph:
    try:
        return read_graph(given, where="workflow_json") if given else {}
    except BridgeError as error:
        raise ValueError(error.message) from None


PlainJson = Annotated[dict[str, Any], AfterValidator(_plain_json)]


class Bucket(BaseModel):
    """Where outputs of one request go, besides ours."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    access_key_id: str = ""
    secret_access_key: SecretStr = SecretStr("")
    endpoint_url: str = ""
    bucket_name: str = ""
    region: str = ""
    connect_timeout: float = Field(60, gt=0, le=600)
    connect_attempts: int = Field(3, ge=1, le=10)

    @property
    def complete(self) -> bool:
        """Whether it says enough to be used."""
        return bool(self.access_key_id and self.secret_access_key.get_secret_value() and self.bucket_name)


class Hook(BaseModel):
    """Where the result of one request goes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    url: Annotated[str, Field(pattern=rf"^({_HTTP}.*)?$", max_length=4_000)] = ""
    extra_params: PlainJson = {}
    timeout: float = Field(30, gt=0, le=300)
    secret: SecretStr = SecretStr("")


def revealed(model: BaseModel) -> Document:
    """Return the fields of a model as JSON has them, its secrets too."""
    return {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in model}


class Input(BaseModel):
    """A request: a graph, or a modifier (a workflow or recipe of ours) with what it sets."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    request_id: str = Field("", max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
    workflow_json: Annotated[dict[str, Any], AfterValidator(_graph)] = {}
    modifier: str = ""
    modifications: PlainJson = {}
    s3: Bucket | None = None
    webhook: Hook | None = None
    return_outputs_as_base64: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Input:
        if self.workflow_json and self.modifier:
            raise ValueError("Cannot provide both workflow_json and modifier")
        if not self.workflow_json and not self.modifier:
            raise ValueError("Must provide either workflow_json or modifier")
        if self.modifications and not self.modifier:
            raise ValueError("modifications need a modifier")
        return self


class Body(BaseModel):
    """The body of a request."""

    input: Input


def complaints(error: ValidationError) -> Document:
    """Return FastAPI's answer to a body that is not as it should be; nothing that may be a secret is in it."""
    detail = [
        {"type": one["type"], "loc": ["body", *one["loc"]], "msg": one["msg"]}
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return {"detail": detail}


# On the way in


def draw(value: Any, rng: random.Random) -> Any:
    """Return JSON with each `__RANDOM_INT__` drawn on its own: a whole text becomes a number."""
    if isinstance(value, dict):
        return {key: draw(one, rng) for key, one in value.items()}
    if isinstance(value, list):
        return [draw(one, rng) for one in value]
    if value == RANDOM_INT:
        return rng.randrange(_RANDOM_LIMIT)
    if isinstance(value, str) and RANDOM_INT in value:
        return re.sub(RANDOM_INT, lambda _: str(rng.randrange(_RANDOM_LIMIT)), value)
    return value


def draw_inputs(graph: Graph, rng: random.Random) -> None:
    """Draw the random numbers in the inputs of a graph; links stay."""
    for node in graph.values():
        for name, value in node["inputs"].items():
            if not is_link(value):
                node["inputs"][name] = draw(value, rng)


def addresses(graph: Graph) -> Iterator[tuple[Target, str]]:
    """Name the inputs that hold the address of a file to be fetched: a text that is an address stays a text."""
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            if isinstance(value, str) and re.fullmatch(rf"{_HTTP}\S*", value.strip()) and not _is_text(name):
                yield Target(node_id, name), value.strip()


def _is_text(name: str) -> bool:
    lower = name.lower()
    return lower in TEXT_INPUTS or any(word in lower for word in ("url", "text", "prompt"))


def workflow_named(modifier: str, names: Sequence[str]) -> str:
    """Return the workflow that a modifier is: `Text2Image` may be `text2image`, `text_2_image`, or else `txt2img`."""
    if modifier in names:
        return modifier
    for form in (_plain, _short):
        found = [name for name in names if form(name) == form(modifier)]
        if len(found) == 1:
            return found[0]
    known = f"the workflows are {', '.join(names[:20])}" if names else "there are no workflows"
    raise UnknownWorkflow(f"Unknown modifier: {modifier[:100]}; {known}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _short(name: str) -> str:
    return _plain(name).replace("text", "txt").replace("image", "img")


def values_of(workflow: Workflow, modifications: Mapping[str, Any]) -> Document:
    """Return modifications as values of a workflow: by the wrapper's names, ours, or the name of an input.

    None, and an empty text for what the workflow lacks, count as not given. Raises UnknownParameter.
    """
    values: Document = {}
    for name, value in modifications.items():
        if value is None:
            continue
        keys = _keys(workflow, name)
        if not keys and value != "":
            known = ", ".join(parameter.name for parameter in workflow.parameters)
            raise UnknownParameter(f"{workflow.name} has nothing to set by the name {name[:100]!r}; it has {known}")
        values.update(dict.fromkeys(keys, _source(workflow, keys, value)))
    return values


def _keys(workflow: Workflow, name: str) -> list[str]:
    for one in (name, _NAMES.get(name, name)):
        if named_parameter(workflow.parameters, one) is not None:
            return [one]
    if "." in name:
        return [name]
    form = workflow.form()
    inputs = [(node_id, node["inputs"]) for node_id, node in form.items()]
    return [f"{node_id}.{name}" for node_id, given in inputs if name in given and not is_link(given[name])]


def _source(workflow: Workflow, keys: Sequence[str], value: Any) -> Any:
    parameter = named_parameter(workflow.parameters, keys[0]) if keys else None
    if parameter is None or parameter.type not in MEDIA_TYPES or not isinstance(value, str):
        return value
    return {"url": value} if re.match(_HTTP, value.strip()) else value


# On the way out


def http_status(result: Mapping[str, Any], code: str | None = None) -> int:
    """Return the status of an answer with a Result; code: of the error that it failed with."""
    match result["status"]:
        case "cancelled":
            return 499
        case "failed":
            return 502 if code in _NO_CONNECTION else 500
        case _:
            return 200


def status_of(job: Mapping[str, Any]) -> str:
    """Return the wrapper's word for how a job stands."""
    return _STATUS[str(job["status"])]


def message_of(job: Mapping[str, Any]) -> str:
    """Return the sentence that goes with it."""
    error = job["error"] or {}
    match str(job["status"]):
        case "queued":
            return f"Waiting for generation, position {job['position']}" if job["position"] else "Request accepted"
        case "preparing":
            return "Execution started..."
        case "running" if job["percent"]:
            return f"Progress: {job['percent']:.1f}%"
        case "running":
            return "Execution started..." if job["node"] is None else f"Processing node: {job['node']}"
        case "finishing":
            return "Collecting outputs..."
        case "completed":
            return "Processing complete."
        case "interrupted":
            return "Request cancelled"
    words = str(error.get("message", "unknown"))
    details = error.get("details") or {}
    if error.get("code") == "node_errors" and "node_errors" in details:
        return f"Generation failed: ComfyUI node errors: {json.dumps(details['node_errors'], ensure_ascii=False)}"
    if error.get("code") in {"execution_error", "out_of_memory"}:
        return f"Generation failed: Execution error: {words}"
    return f"Generation failed: {words}"


def plain_result(request_id: str, status: str, message: str) -> Document:
    """Return a Result that has nothing to show."""
    return {
        "id": request_id,
        "message": message,
        "status": status,
        "comfyui_response": {},
        "output": [],
        "timings": {},
    }


def keys_of(request_id: str, outputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return where outputs go in a bucket: `<request id>/<file name>`, a number before it where two are alike."""
    folder = re.sub(r"[^A-Za-z0-9_-]", "_", request_id)
    keys: list[str] = []
    for output in outputs:
        name = re.sub(r"[/\\\x00-\x1f]", "_", str(output["filename"])).lstrip(".") or "output"
        key = f"{folder}/{name}"
        keys.append(f"{folder}/{output['n']}-{name}" if key in keys else key)
    return keys


def moment(text: str) -> float:
    """Return a time of ours in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def output_of(output: Mapping[str, Any]) -> Document:
    """Return an output as the wrapper shows it. `local_path` is where ComfyUI has it, below its own folder."""
    parts = (output["type"], output["subfolder"], output["filename"])
    return {
        "filename": output["filename"],
        "local_path": "/".join(str(part) for part in parts if part),
        "type": output["type"],
        "subfolder": output["subfolder"],
        "node_id": output["node"],
        "output_type": _KINDS.get(str(output["content_type"]).partition("/")[0], "files"),
        "url": output["url"],
    }


def timings_of(job: Mapping[str, Any] | None, *, queued_at: float, prepared: float, posted: float | None) -> Document:
    """Return the times; queued_at: seconds since 1970, prepared and posted: seconds that these took."""
    timings: Document = {"queued_at_ms": round(queued_at * 1000)}
    if job is None:
        return timings
    spent = job["timings"]
    timings["preprocess_ms"] = round((prepared + spent.get("preparing", 0.0)) * 1000)
    timings["generation_ms"] = round(spent.get("running", 0.0) * 1000)
    timings["postprocess_ms"] = round((spent.get("finishing", 0.0) + (posted or 0.0)) * 1000)
    if job["finished_at"] is not None:
        end = moment(job["finished_at"]) + (posted or 0.0)
        timings["completed_at_ms"] = round(end * 1000)
        timings["total_ms"] = max(0, round((end - queued_at) * 1000))
    return timings
