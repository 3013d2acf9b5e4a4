"""Outputs, queue and history of ComfyUI, as it writes them in JSON. Pure.

What comes from a server may come from an add-on, or from something that is no ComfyUI: whatever has another shape
is left out, and a document that has nothing of the shape gives None. Nothing here raises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.comfyui.protocol import ExecutionError, ExecutionInterrupted, as_id, parse_event


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file of the server, as `/view` and image inputs name it; `type` is `output`, `input` or `temp`."""

    filename: str
    subfolder: str = ""
    type: str = "output"


@dataclass(frozen=True, slots=True)
class QueueItem:
    """A prompt that waits or runs. The lowest number is first."""

    number: float
    prompt_id: str
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class QueueState:
    """The server's queue; `pending` is in the order in which it will run."""

    running: tuple[QueueItem, ...]
    pending: tuple[QueueItem, ...]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A prompt that is over.

    `status_str` is `success` or `error`; an interrupt counts as `error` and is told by `interrupted` alone. `outputs`
    holds the outputs of each node by its id, also those that were finished before a failure. `messages` are the
    events that the server kept: start, cached, and the last one.
    """

    prompt_id: str
    status_str: str
    completed: bool
    outputs: Mapping[str, Mapping[str, Any]]
    messages: tuple[tuple[str, Any], ...] = ()
    error: ExecutionError | None = None
    interrupted: bool = False


def output_files(output: Mapping[str, Any]) -> tuple[FileRef, ...]:
    """List the files of a node's output, each once, in order.

    The keys differ (`images` holds videos too, then `audio`, `latents`, `gifs`, whatever an add-on invents), so any
    list of objects with a `filename` counts; what kind of file it is, its suffix or content type tells. A name that
    is no valid Unicode is left out: no request could name it.
    """
    return tuple(dict.fromkeys(_files(output)))


def output_texts(output: Mapping[str, Any]) -> tuple[str, ...]:
    """List the texts of a node's output: the strings under `text`."""
    return tuple(_strings(output.get("text")))


def parse_file(document: object) -> FileRef | None:
    """Read `{"filename", "subfolder"?, "type"?}`."""
    if not isinstance(document, dict):
        return None
    filename, subfolder, kind = (document.get(key) or "" for key in ("filename", "subfolder", "type"))
    if not filename or not (_is_name(filename) and _is_name(subfolder) and _is_name(kind)):
        return None
    return FileRef(filename, subfolder, kind or "output")


def parse_queue(document: object) -> QueueState | None:
    """Read the answer of `GET /queue`. The server lists what is pending in the order of its heap; here it is sorted."""
    if not isinstance(document, dict):
        return None
    running, pending = document.get("queue_running"), document.get("queue_pending")
    if not isinstance(running, list) or not isinstance(pending, list):
        return None
    return QueueState(tuple(_queue_items(running)), tuple(sorted(_queue_items(pending), key=_queue_order)))


def parse_queue_item(item: object) -> QueueItem | None:
    """Read `[number, prompt_id, graph, extra_data, outputs_to_execute]`; newer servers add to the end of it."""
    if not isinstance(item, list) or len(item) < 2:
        return None
    number, prompt_id = item[0], as_id(item[1])
    if not isinstance(number, int | float) or prompt_id is None:
        return None
    extra_data = item[3] if len(item) > 3 else None
    client_id = as_id(extra_data.get("client_id")) if isinstance(extra_data, dict) else None
    try:
        return QueueItem(float(number), prompt_id, client_id)
    except OverflowError:
        return QueueItem(math.inf if number > 0 else -math.inf, prompt_id, client_id)


def parse_history_entry(prompt_id: str, document: object) -> HistoryEntry | None:
    """Read what the history holds under `prompt_id`: `{"outputs": {…}, "status": {…} or null, …}`."""
    if not isinstance(document, dict):
        return None
    outputs = document.get("outputs")
    if not isinstance(outputs, dict):
        return None
    by_node = {str(node): output for node, output in outputs.items() if isinstance(output, dict)}
    status = document.get("status")
    if not isinstance(status, dict):
        # Servers of 2023 kept no status; that something came out is then the only sign of success.
        return HistoryEntry(prompt_id, "success" if by_node else "error", bool(by_node), by_node)
    messages = tuple(_messages(status.get("messages")))
    error: ExecutionError | None = None
    interrupted = False
    for event_type, data in messages:
        match parse_event(event_type, data):
            case ExecutionError() as message if not message.blocked:
                error, interrupted = message, False
            case ExecutionInterrupted():
                error, interrupted = None, True
    return HistoryEntry(
        prompt_id,
        "success" if status.get("status_str") == "success" else "error",
        status.get("completed") is True,
        by_node,
        messages,
        error,
        interrupted,
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and as_id(value) is not None


def _files(output: Mapping[str, Any]) -> Iterator[FileRef]:
    for items in output.values():
        if isinstance(items, list):
            for item in items:
                file = parse_file(item)
                if file is not None:
                    yield file


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                yield item
            elif isinstance(item, list):  # some nodes put the whole list into a list
                yield from (text for text in item if isinstance(text, str))


def _queue_items(items: list[Any]) -> Iterator[QueueItem]:
    for item in items:
        parsed = parse_queue_item(item)
        if parsed is not None:
            yield parsed


def _queue_order(item: QueueItem) -> tuple[float, str]:
    # The server takes "nan" for a number, and NaN has no place in an order.
    return (math.inf if math.isnan(item.number) else item.number, item.prompt_id)


def _messages(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for item in value:
            if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str):
                yield item[0], item[1]
