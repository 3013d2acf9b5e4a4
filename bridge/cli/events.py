"""A message of the bridge as a line for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.cli.terminal import printable, size
from bridge.cli.wire import FINAL, document_of, levels, outputs_of, why
from bridge.mqtt.message import Message

_STYLES = {"completed": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}
_LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}
_LONGEST = 400
_WORTH_TELLING = 10.0
"""Percent."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line without control characters, and its style (rich's words)."""

    text: str
    style: str = ""


class Narrator:
    """Tells of messages as `describe` does, and of a job's progress only when it has come a good deal further."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._told: dict[str, tuple[str, str, float]] = {}

    def tell(self, message: Message) -> Line | None:
        """Return the line for a message, None if it is not worth one."""
        match levels(self._base, message.topic):
            case ["prompt", prompt_id, "status"]:
                document = document_of(message)
                status, node, percent = str(document.get("status")), str(document.get("node")), document.get("percent")
                now = (status, node, float(percent) if isinstance(percent, (int, float)) else 0.0)
                if status in FINAL:
                    self._told.pop(prompt_id, None)
                else:
                    before = self._told.get(prompt_id)
                    if before is not None and before[:2] == now[:2] and now[2] - before[2] < _WORTH_TELLING:
                        return None
                    self._told[prompt_id] = now
        return describe(self._base, message)


def describe(base: str, message: Message) -> Line | None:
    """Tell what a message means to somebody who watches; None where another one tells it better."""
    match levels(base, message.topic):
        case ["prompt", prompt_id, "status"]:
            return _status(prompt_id, document_of(message))
        case ["prompt", prompt_id, "result"]:
            return _result(prompt_id, document_of(message))
        case [("bridge" | "backend" | "ollama") as part, *name, "state"]:
            state = _text(message.payload)
            return Line(f"{' '.join([part, *name])} {state}", "green" if state == "online" else "red")
        case ["bridge", "log"]:
            entry = document_of(message)
            level = str(entry.get("level", ""))
            return Line(printable(f"{level}: {entry.get('message', '')}"), _LEVELS.get(level, "dim"))
        case ["response", *command]:
            answer = document_of(message)
            if answer.get("status") == "error":
                said = f"{'/'.join(command)} refused: {answer.get('error')} ({answer.get('code')})"
                return Line(printable(said), "red")
    return None


def describe_any(base: str, message: Message) -> Line:
    """Tell of any message: as `describe` does, else its topic and what it holds."""
    line = describe(base, message)
    if line is not None:
        return line
    topic = message.topic.removeprefix(f"{base}/")
    is_text = message.payload.isascii() or (message.content_type or "").startswith("application/json")
    held = _text(message.payload) if is_text else f"<{size(len(message.payload))}>"
    if not is_text and message.content_type:
        held = f"<{message.content_type}, {size(len(message.payload))}>"
    return Line(printable(f"{topic} {held}"), "dim")


def _status(prompt_id: str, document: Mapping[str, Any]) -> Line | None:
    status = str(document.get("status"))
    if status in FINAL:
        return None  # the result comes with it and says more
    words = [_who(prompt_id, document), status]
    if status == "queued" and document.get("position") is not None:
        words.append(f"position {document['position']}")
    if status == "running":
        words.append(f"{document.get('percent', 0):>5} %")
        if document.get("title") or document.get("node"):
            words.append(str(document.get("title") or document.get("node")))
    return Line(printable(" ".join(words)), _STYLES.get(status, ""))


def _result(prompt_id: str, document: Mapping[str, Any]) -> Line:
    status = str(document.get("status"))
    words = [_who(prompt_id, document), status]
    timings = document.get("timings")
    total = timings.get("total") if isinstance(timings, Mapping) else None
    if isinstance(total, (int, float)):
        words.append(f"after {total:.1f} s")
    files = [_file(output) for output in outputs_of(document)]
    reason = why(document)
    details = [reason] if reason else []
    if files:
        details.append(", ".join(files))
    text = " ".join(words) + (f": {'; '.join(details)}" if details else "")
    return Line(printable(text), _STYLES.get(status, ""))


def _who(prompt_id: str, document: Mapping[str, Any]) -> str:
    return f"{document.get('workflow') or 'graph'} {prompt_id[:8]}"


def _file(output: Mapping[str, Any]) -> str:
    count = output.get("bytes")
    return f"{output.get('filename')} ({size(count)})" if isinstance(count, int) else str(output.get("filename"))


def _text(payload: bytes) -> str:
    text = printable(payload[: 4 * _LONGEST].decode(errors="replace"))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
