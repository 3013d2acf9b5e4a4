"""Messages of the bridge as its clients read them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bridge.cli.terminal import printable
from bridge.mqtt.message import Message

FINAL = frozenset({"completed", "failed", "interrupted"})
"""The statuses after which nothing follows."""


def levels(base: str, topic: str) -> list[str]:
    """Return the levels of a topic below the base topic; none for another topic."""
    prefix = f"{base}/"
    return topic[len(prefix) :].split("/") if topic.startswith(prefix) else []


def document_of(message: Message) -> dict[str, Any]:
    """Return the JSON object in a message, `{}` if there is none."""
    try:
        document = json.loads(message.payload)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def why(result: Mapping[str, Any]) -> str:
    """Return why a job ended as it did; nothing where its status says it all."""
    error = result.get("error")
    if not isinstance(error, Mapping) or error.get("code") == "interrupted":
        return ""
    return printable(str(error.get("message") or error.get("code") or ""))


def outputs_of(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The outputs that a result lists, whoever has sent it."""
    outputs = result.get("outputs")
    return [one for one in outputs if isinstance(one, Mapping)] if isinstance(outputs, list) else []
