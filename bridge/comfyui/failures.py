"""What ComfyUI says when it refuses or fails, turned into the bridge's errors. Pure.

ComfyUI's own words are spread over `message`, `details` (often empty) and `extra_info`; here they become one
sentence that names the node, its class, the input and the limit. Tracebacks and dumps of tensors stay behind: they
show paths of the server and may be kilobytes long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bridge import errors
from bridge.comfyui.messages import ExecutionError

_MAX_VALUE = 80
_MAX_MESSAGE = 600
_MAX_CHOICES = 10
_MAX_SENTENCES = 3

_OUT_OF_MEMORY = re.compile(
    r"out of memory|outofmemory|failed to allocate|unable to allocate|not enough memory|memory allocation failed"
    r"|insufficient memory",
    re.IGNORECASE,
)
_TIP = re.compile(r"\n\s*(?:This error means|TIPS:)", re.IGNORECASE)
_NODE_IN_DETAILS = re.compile(r"Node ID '#?(.+?)'")
_UNKNOWN_CLASS = re.compile(r"node (.+?) does not exist")
_LIST_LENGTH = re.compile(r"list of length (\d+)")
_MISSING_KEY = re.compile(r"""\s*['"](.+)['"]\s*""")


def rejection(status: int, body: bytes) -> errors.BridgeError:
    """Turn an answer of `POST /prompt` that is not 200 into an error.

    400 becomes `NodeErrors` if nodes are named, else `InvalidGraph`. 500 is what ComfyUI answers to a graph that it
    cannot read at all, so that is `InvalidGraph` too; 413 is `TooLarge`; anything else comes from something between
    the bridge and ComfyUI and becomes `BackendOffline`.
    """
    if status == 413:
        return errors.TooLarge(
            "The graph is larger than ComfyUI accepts (100 MB, unless --max-upload-size says otherwise): "
            "upload files instead of writing them into the graph."
        )
    if status == 500:
        return errors.InvalidGraph(
            "ComfyUI could not read the graph (it answered 500): it must be an object of nodes, each with class_type "
            'and inputs, as "Export (API)" in ComfyUI writes it.',
            details={"status": status},
        )
    if status != 400:
        return errors.BackendOffline(f"ComfyUI, or a proxy before it, answered {status} to a prompt.")
    document = _load(body)
    node_errors = document.get("node_errors")
    if isinstance(node_errors, dict) and node_errors:
        return refused_nodes(node_errors)
    error = document.get("error")
    if not isinstance(error, dict):
        said = f": {_shorten(error, _MAX_MESSAGE)}" if isinstance(error, str) and error else "."
        return errors.InvalidGraph(f"ComfyUI refused the graph{said}")
    return _refused_graph(error)


def refused_nodes(node_errors: Mapping[str, Any]) -> errors.NodeErrors:
    """Describe `node_errors` of an answer to a prompt, be it 400 or 200.

    A 200 with node errors means: some outputs are valid and will run, those that depend on these nodes will not.
    `details` holds `node_errors` without tracebacks, and `outputs`, the ids of the outputs that will be missing.
    """
    sentences = [
        f"Node {node}{_class_of(entry)}: {sentence}"
        for node, entry in node_errors.items()
        if isinstance(entry, dict)
        for sentence in _sentences(entry)
    ]
    text = "; ".join(sentences[:_MAX_SENTENCES]) or "ComfyUI refused some nodes without saying why"
    if len(sentences) > _MAX_SENTENCES:
        text += f"; and {len(sentences) - _MAX_SENTENCES} more"
    return errors.NodeErrors(
        f"{text}.",
        node=next(iter(node_errors), None),
        details={"node_errors": without_tracebacks(node_errors), "outputs": list(_missing_outputs(node_errors))},
    )


def execution_error(message: ExecutionError) -> errors.ExecutionError | errors.OutOfMemory:
    """Say why a prompt failed: `OutOfMemory` if its words or its type tell so, else `ExecutionError`.

    `details` holds `exception_type` and `node_type`.
    """
    said = _shorten(_TIP.split(message.exception_message, maxsplit=1)[0], _MAX_MESSAGE).rstrip(".")
    node = "A node" if message.node_id is None else f"Node {message.node_id}"
    if message.node_type:
        node += f" ({message.node_type})"
    details = {"exception_type": message.exception_type, "node_type": message.node_type}
    out_of_memory = message.exception_type.endswith("MemoryError") or _OUT_OF_MEMORY.search(message.exception_message)
    if out_of_memory:
        because = f" ({said})" if said else ""
        text = f"{node} ran out of memory{because}: a smaller image, batch or model needs less."
        return errors.OutOfMemory(text, node=message.node_id, details=details)
    text = f"{node} failed: {said or message.exception_type or 'ComfyUI gave no reason'}."
    return errors.ExecutionError(text, node=message.node_id, details=details)


def without_tracebacks(node_errors: Mapping[str, Any]) -> dict[str, Any]:
    """Copy ComfyUI's `node_errors` and leave the tracebacks out."""
    return {
        node: {**entry, "errors": [_without_traceback(error) for error in _errors_of(entry)]}
        for node, entry in node_errors.items()
        if isinstance(entry, dict)
    }


def _load(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _refused_graph(error: dict[str, Any]) -> errors.InvalidGraph:
    kind, message, details = (_text(error.get(key)) for key in ("type", "message", "details"))
    extra_info = error.get("extra_info")
    node = _text(extra_info.get("node_id")) if isinstance(extra_info, dict) else ""
    if not node and (found := _NODE_IN_DETAILS.search(details)):
        node = found[1]
    if kind == "prompt_no_outputs":
        text = "The graph has no output node (SaveImage, PreviewImage, …), so there is nothing to run."
    elif kind == "no_prompt":
        text = "ComfyUI got no graph: it must be an object of nodes."
    elif kind == "prompt_outputs_failed_validation" and not details:
        text = "ComfyUI refused the graph and named no node: most likely its links form a cycle."
    elif node and (unknown := _UNKNOWN_CLASS.search(message)):
        text = f"Node {node}: ComfyUI has no node class {unknown[1]}; an add-on may be missing there."
    elif node and "class_type" in message:
        text = f"Node {node} has no class_type."
    else:
        said = ": ".join(part for part in (message.rstrip("."), details.rstrip(".")) if part)
        text = f"ComfyUI refused the graph: {_shorten(said or kind or 'it gave no reason', _MAX_MESSAGE)}."
    return errors.InvalidGraph(text, node=node or None, details={"type": kind} if kind else None)


def _sentences(entry: dict[str, Any]) -> Iterator[str]:
    for error in _errors_of(entry):
        if isinstance(error, dict):
            yield _sentence(error)


def _sentence(error: dict[str, Any]) -> str:
    """Say in a clause what is wrong with an input, and what would be right as far as ComfyUI tells."""
    kind, message, details = (_text(error.get(key)) for key in ("type", "message", "details"))
    found = error.get("extra_info")
    info: dict[str, Any] = found if isinstance(found, dict) else {}
    name = _text(info.get("input_name")) or "an input"
    value = _shorten(repr(info.get("received_value")), _MAX_VALUE)
    kind_wanted, options = _input_config(info)
    match kind:
        case "required_input_missing":
            return f"the input {name} is missing"
        case "value_smaller_than_min" if "min" in options:
            return f"{name} is {value}, its minimum is {options['min']}"
        case "value_bigger_than_max" if "max" in options:
            return f"{name} is {value}, its maximum is {options['max']}"
        case "value_not_in_list":
            return f"{name} is {value}, it must be one of {_choices(kind_wanted, options, details)}"
        case "invalid_input_type" if isinstance(kind_wanted, str):
            return f"{name} is {value}, it must be of the type {kind_wanted}"
        case "bad_linked_input":
            return f"{name} is {value}, a link must be [node id, number of the output]"
        case "return_type_mismatch" if isinstance(kind_wanted, str):
            source = f" of node {linked}" if (linked := _linked_node(info)) else ""
            return f"{name} is linked to a {_text(info.get('received_type'))}{source}, it must be a {kind_wanted}"
        case "custom_validation_failed" if details:
            return details.replace(f"{name} - ", f"{name}: ", 1)
        case "exception_during_inner_validation":
            return _broken_link(info, details)
    said = ": ".join(part for part in (message, details) if part)
    return _shorten(said or kind or "ComfyUI gave no reason", _MAX_MESSAGE).rstrip(".")


def _broken_link(info: dict[str, Any], details: str) -> str:
    """The error is reported on the node that holds the link; `input_name` is of the node after it."""
    if info.get("exception_type") == "KeyError" and (key := _MISSING_KEY.fullmatch(details)):
        if key[1] in ("inputs", "class_type"):
            return f"it has no {key[1]}"
        return f"one of its links leads to node {key[1]}, which does not exist"
    if info.get("exception_type") == "IndexError":
        return "one of its links leads to an output that the node there does not have"
    return f"ComfyUI could not check it ({_shorten(details, _MAX_MESSAGE)})"


def _choices(kind: object, options: dict[str, Any], details: str) -> str:
    """Older servers give the list in the place of the type, newer ones under `options`; long lists are not given."""
    choices = kind if isinstance(kind, list) else options.get("options")
    if isinstance(choices, list) and choices:
        shown = ", ".join(_shorten(str(choice), _MAX_VALUE) for choice in choices[:_MAX_CHOICES])
        return shown if len(choices) <= _MAX_CHOICES else f"{shown} and {len(choices) - _MAX_CHOICES} more"
    if isinstance(choices, list) or details.endswith("not in []"):
        return "the server's choices, and it has none"
    length = _LIST_LENGTH.search(details)
    return f"the {length[1]} choices of the server" if length else "the server's choices"


def _input_config(info: dict[str, Any]) -> tuple[object, dict[str, Any]]:
    config = info.get("input_config")
    if not isinstance(config, list) or not config:
        return None, {}
    return config[0], config[1] if len(config) > 1 and isinstance(config[1], dict) else {}


def _linked_node(info: dict[str, Any]) -> str:
    linked = info.get("linked_node")
    return _text(linked[0]) if isinstance(linked, list) and linked else ""


def _class_of(entry: dict[str, Any]) -> str:
    name = _text(entry.get("class_type"))
    return f" ({name})" if name else ""


def _missing_outputs(node_errors: Mapping[str, Any]) -> dict[str, None]:
    entries = [entry.get("dependent_outputs") for entry in node_errors.values() if isinstance(entry, dict)]
    return {_text(node): None for outputs in entries if isinstance(outputs, list) for node in outputs if _text(node)}


def _errors_of(entry: dict[str, Any]) -> list[Any]:
    found = entry.get("errors")
    return found if isinstance(found, list) else []


def _without_traceback(error: object) -> object:
    if not isinstance(error, dict) or not isinstance(error.get("extra_info"), dict):
        return error
    kept = {key: value for key, value in error["extra_info"].items() if key != "traceback"}
    return {**error, "extra_info": kept}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _shorten(text: str, limit: int) -> str:
    """Put a text on one line and cut it."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
