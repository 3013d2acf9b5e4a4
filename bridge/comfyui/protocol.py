"""Frames of ComfyUI's websocket, decoded. Pure: no input, no output, no clock.

`decode_text` and `decode_binary` take a frame as it came and never raise. What is known becomes a message of its
own class; a JSON object of another type, or of a known type with data that cannot be used, becomes `OtherEvent`;
the rest becomes `Malformed`. The messages themselves are in `bridge.comfyui.messages` and can be had from here.

The frames were measured on ComfyUI 0.3.64; older servers lack some of them (`execution_success` before 2024-07,
`progress_state`, feature flags and previews with metadata before 2025-07).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from bridge.comfyui.messages import (
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    FeatureFlags,
    Malformed,
    Message,
    NodeProgress,
    OtherEvent,
    PreviewImage,
    Progress,
    ProgressState,
    Status,
    TextFrame,
    TextMessage,
)

__all__ = [
    "FEATURE_FLAGS",
    "Executed",
    "Executing",
    "ExecutionCached",
    "ExecutionError",
    "ExecutionInterrupted",
    "ExecutionStart",
    "ExecutionSuccess",
    "FeatureFlags",
    "Malformed",
    "Message",
    "NodeProgress",
    "OtherEvent",
    "PreviewImage",
    "Progress",
    "ProgressState",
    "Status",
    "TextFrame",
    "TextMessage",
    "as_id",
    "decode_binary",
    "decode_text",
    "parse_event",
    "prompt_id_of",
    "sniff_image",
]

FEATURE_FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
"""What a client sends first to get previews with metadata. It counts only as the first JSON object of a connection,
and only with a literal `true`."""


def decode_text(raw: str) -> Message:
    """Decode a text frame: `{"type": str, "data": {…}}`."""
    try:
        frame = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return Malformed(f"not JSON ({error})", raw)
    if not isinstance(frame, dict):
        return Malformed("not a JSON object", raw)
    event_type = frame.get("type")
    if not isinstance(event_type, str):
        return Malformed("a JSON object without a type", raw)
    return parse_event(event_type, frame.get("data"), raw)


def decode_binary(raw: bytes) -> Message:
    """Decode a binary frame: a big-endian number of four bytes, the kind, and what belongs to that kind."""
    if len(raw) < 8:
        return Malformed(f"a binary frame of {len(raw)} bytes", raw)
    kind = int.from_bytes(raw[:4], "big")
    if kind == 1:
        image = raw[8:]
        content_type = _IMAGE_FORMATS.get(int.from_bytes(raw[4:8], "big")) or sniff_image(image)
        return PreviewImage(image, content_type, raw=raw)
    if kind not in (3, 4):
        return Malformed(f"a binary frame of the unknown kind {kind}", raw)
    end = 8 + int.from_bytes(raw[4:8], "big")
    if end > len(raw):
        return Malformed("a binary frame that ends inside its header", raw)
    if kind == 3:
        return TextFrame(raw[8:end].decode(errors="replace"), raw[end:].decode(errors="replace"), raw)
    try:
        metadata = _metadata(raw[8:end])
    except (ValueError, RecursionError) as error:
        return Malformed(f"a preview whose metadata is not JSON ({error})", raw)
    if not isinstance(metadata, dict):
        return Malformed("a preview whose metadata is not an object", raw)
    image = raw[end:]
    named = metadata.get("image_type")
    content_type = named if isinstance(named, str) and named in _CONTENT_TYPES else sniff_image(image)
    return PreviewImage(image, content_type, as_id(metadata.get("node_id")), prompt_id_of(metadata), metadata, raw)


@lru_cache(maxsize=8)
def _metadata(header: bytes) -> Any:
    """Read the metadata of a preview, which is the same for all those of a node; nobody changes it."""
    return json.loads(header)


def parse_event(event_type: str, data: object, raw: str = "") -> TextMessage:
    """Turn an event's type and data into a message; the history holds events as such pairs."""
    if isinstance(data, dict):
        parse = _PARSERS.get(event_type)
        if parse is not None and (message := parse(data, raw)) is not None:
            return message
        return OtherEvent(event_type, data, prompt_id_of(data), raw)
    return OtherEvent(event_type, data, None, raw)


def sniff_image(image: bytes) -> str:
    """Tell an image's content type by its first bytes; `application/octet-stream` if it is none of JPEG, PNG, WebP."""
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return "application/octet-stream"


def as_id(value: object) -> str | None:
    """Make a string of a node's or prompt's id; None for what cannot be one."""
    if isinstance(value, str):
        # A lone surrogate is legal in JSON and cannot be written as UTF-8 later.
        return value if value.isascii() or _is_encodable(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # more digits than Python converts
            return None
    return None


def prompt_id_of(data: Mapping[str, Any]) -> str | None:
    """The id of the prompt that an event's data names."""
    return as_id(data.get("prompt_id"))


_IMAGE_FORMATS = {1: "image/jpeg", 2: "image/png"}
_CONTENT_TYPES = frozenset({"image/jpeg", "image/png", "image/webp"})


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: object) -> str:
    """Messages are for people: what cannot be written is replaced."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode(errors="replace").decode()


def _number(value: object) -> float | None:
    """Only finite numbers, since percentages are made of them; JSON of Python may hold NaN and numbers of any size."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _timestamp(data: Mapping[str, Any]) -> int | None:
    number = _number(data.get("timestamp"))
    return None if number is None else int(number)


def _ids(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(node for item in value if (node := as_id(item)) is not None)


def _status(data: dict[str, Any], raw: str) -> TextMessage | None:
    status = data.get("status")
    info = status.get("exec_info") if isinstance(status, dict) else None
    remaining = info.get("queue_remaining") if isinstance(info, dict) else None
    if not isinstance(remaining, int) or isinstance(remaining, bool):
        return None
    return Status(remaining, as_id(data.get("sid")), raw)


def _execution_start(data: dict[str, Any], raw: str) -> TextMessage | None:
    prompt_id = prompt_id_of(data)
    return None if prompt_id is None else ExecutionStart(prompt_id, _timestamp(data), raw)


def _execution_cached(data: dict[str, Any], raw: str) -> TextMessage | None:
    prompt_id = prompt_id_of(data)
    if prompt_id is None or not isinstance(data.get("nodes"), list):
        return None
    return ExecutionCached(prompt_id, _ids(data["nodes"]), raw)


def _executing(data: dict[str, Any], raw: str) -> TextMessage | None:
    node = as_id(data.get("node"))
    # Only an explicit null means the end; an id that cannot be read must not look like it.
    if node is None and ("node" not in data or data["node"] is not None):
        return None
    prompt_id = prompt_id_of(data)
    if prompt_id is None and data.get("prompt_id") is not None:
        return None
    return Executing(prompt_id, node, as_id(data.get("display_node")), raw)


def _progress(data: dict[str, Any], raw: str) -> TextMessage | None:
    value, maximum = _number(data.get("value")), _number(data.get("max"))
    if value is None or maximum is None:
        return None
    return Progress(prompt_id_of(data), as_id(data.get("node")), value, maximum, raw)


def _progress_state(data: dict[str, Any], raw: str) -> TextMessage | None:
    prompt_id, entries = prompt_id_of(data), data.get("nodes")
    if prompt_id is None or not isinstance(entries, dict):
        return None
    nodes: dict[str, NodeProgress] = {}
    for key, entry in entries.items():
        if not isinstance(entry, dict) or (node := as_id(key)) is None:
            continue
        value, maximum, state = _number(entry.get("value")), _number(entry.get("max")), entry.get("state")
        if value is not None and maximum is not None and isinstance(state, str):
            nodes[node] = NodeProgress(value, maximum, state, as_id(entry.get("display_node_id")))
    return ProgressState(prompt_id, nodes, raw)


def _executed(data: dict[str, Any], raw: str) -> TextMessage | None:
    prompt_id, node, output = prompt_id_of(data), as_id(data.get("node")), data.get("output")
    if prompt_id is None or node is None or not (output is None or isinstance(output, dict)):
        return None
    return Executed(prompt_id, node, as_id(data.get("display_node")), output, raw)


def _execution_success(data: dict[str, Any], raw: str) -> TextMessage | None:
    prompt_id = prompt_id_of(data)
    return None if prompt_id is None else ExecutionSuccess(prompt_id, _timestamp(data), raw)


def _execution_error(data: dict[str, Any], raw: str) -> TextMessage | None:
    prompt_id = prompt_id_of(data)
    if prompt_id is None:
        return None
    traceback = data.get("traceback")
    return ExecutionError(
        prompt_id,
        as_id(data.get("node_id")),
        _text(data.get("node_type")) or None,
        _text(data.get("exception_message")),
        _text(data.get("exception_type")),
        tuple(_text(line) for line in traceback) if isinstance(traceback, list) else (),
        _ids(data.get("executed")),
        raw,
    )


def _execution_interrupted(data: dict[str, Any], raw: str) -> TextMessage | None:
    prompt_id = prompt_id_of(data)
    if prompt_id is None:
        return None
    node_type = _text(data.get("node_type")) or None
    return ExecutionInterrupted(prompt_id, as_id(data.get("node_id")), node_type, _ids(data.get("executed")), raw)


def _feature_flags(data: dict[str, Any], raw: str) -> TextMessage | None:
    return FeatureFlags(data, raw)


_PARSERS: dict[str, Callable[[dict[str, Any], str], TextMessage | None]] = {
    "status": _status,
    "execution_start": _execution_start,
    "execution_cached": _execution_cached,
    "executing": _executing,
    "progress": _progress,
    "progress_state": _progress_state,
    "executed": _executed,
    "execution_success": _execution_success,
    "execution_error": _execution_error,
    "execution_interrupted": _execution_interrupted,
    "feature_flags": _feature_flags,
}
