"""Messages of the bridge as its clients read them. Pure."""

from __future__ import annotations

import json
from typing import Any

from bridge.mqtt.message import Message


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
