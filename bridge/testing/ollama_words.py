"""What the stand-in Ollama knows: its library, what a model looks like in a list, and what it answers."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from typing import Any

LIBRARY = ("gemma3:4b", "llama3.2:latest", "llava:latest", "nomic-embed-text:latest", "qwen2.5:7b")
"""What can be pulled."""
_VISION = ("llava", "gemma3")


def idea(body: Mapping[str, Any]) -> str:
    """The idea in a question: what its first user said, after the label where there is one."""
    said = next((str(one.get("content")) for one in body["messages"] if one.get("role") == "user"), "")
    line = next((one for one in said.splitlines() if one.startswith("Idea:")), said)
    return line.removeprefix("Idea:").strip()


def written(body: Mapping[str, Any]) -> dict[str, str]:
    """The prompt for the idea in a question."""
    subject = idea(body)
    pictures = sum(len(one.get("images") or []) for one in body["messages"])
    seen = f", as in {pictures} pictures" if pictures else ""
    return {
        "prompt": f"{subject}{seen}, detailed painting, soft light",
        "negative": "text, watermark",
        "title": " ".join(subject.split()[:3]).title(),
    }


def full(name: str) -> str:
    """The name with its tag, as lists have it."""
    return name if ":" in name else f"{name}:latest"


def capabilities(name: str) -> list[str]:
    """What a model can do, as `/api/show` says it."""
    if "embed" in name:
        return ["embedding"]
    return ["completion", "vision"] if name.startswith(_VISION) else ["completion"]


def entry(name: str) -> dict[str, Any]:
    """A model's entry in `/api/tags`."""
    is_embedder = "embed" in name
    return {
        "name": name,
        "model": name,
        "size": 274_302_450 if is_embedder else 2_019_393_189,
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "nomic-bert" if is_embedder else "llama",
            "families": ["nomic-bert" if is_embedder else "llama"],
            "parameter_size": "137M" if is_embedder else "3.2B",
            "quantization_level": "Q4_K_M",
        },
    }


def seconds(value: object) -> float:
    """Seconds of a `keep_alive`: a number, or a duration as Go writes it."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("invalid keep_alive")
    if not isinstance(value, str):
        return float(value)
    if value == "0":
        return 0.0
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit, factor in units.items():
        if value.endswith(unit):
            with contextlib.suppress(ValueError):
                return float(value.removesuffix(unit)) * factor
    raise ValueError(f'time: missing unit in duration "{value}"')
