"""What a test may break on purpose, and what it may count. None of it exists in a real ComfyUI."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Settings:
    """How the stand-in behaves when nothing is broken.

    `step_delay` is the time of one sampler step in seconds; `preview_size` the edge of the square into which previews
    are fitted; `preview_bytes` pads (or shrinks) each JPEG preview to exactly so many bytes, 0 leaves them alone.
    """

    step_delay: float = 0.0
    preview_size: int = 512
    preview_bytes: int = 0
    previews: bool = True
    max_upload_size: int = 104857600


@dataclass(slots=True)
class Faults:
    """Standing faults, read by the server when it acts; all may be changed at any time.

    `refuse` and `view_error` count down by one with each request that they spoil. `wrong_answer` is the HTTP status
    that the next prompt is answered with although it was queued; 0: none.
    """

    silence: bool = False
    refuse: int = 0
    view_error: int = 0
    wrong_answer: int = 0
    slow: float = 0.0
    hang: float = 0.0


@dataclass(slots=True)
class Stats:
    """What the server has seen and done since it started.

    `submitted` counts prompts that were queued, `started` and `executed` how often each prompt id began and ended well,
    `pictures` maps each output file ("subfolder/name") to the prompt that wrote it.
    """

    submitted: int = 0
    started: dict[str, int] = field(default_factory=dict)
    executed: dict[str, int] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    sockets: int = 0
    freed: int = 0
    uploads: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The counters as plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Orders:
    """The one-time faults of one control request."""

    drop_sockets: bool = False
    kill_worker: bool = False
    lose_prompt: bool = False
    die: bool = False
    refuse_connections: float = 0.0


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    return value


def _amount(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number, 0 or more")
    return float(value)


def apply(document: Any, faults: Faults, settings: Settings) -> Orders:
    """Check a control request, set the standing faults it names, and give back the one-time ones.

    Raises ValueError with the name of the wrong field; nothing is changed then.
    """
    if not isinstance(document, dict):
        raise ValueError("the faults must be a JSON object")
    orders: dict[str, Any] = {}
    standing: list[tuple[Faults | Settings, str, Any]] = []
    for name, value in document.items():
        if name in {"drop_sockets", "kill_worker", "lose_prompt", "die"}:
            orders[name] = _flag(name, value)
        elif name == "refuse_connections":
            orders[name] = _amount(name, value)
        elif name == "silence":
            standing.append((faults, name, _flag(name, value)))
        elif name in {"refuse", "view_error", "wrong_answer"}:
            standing.append((faults, name, int(_amount(name, value))))
        elif name in {"slow", "hang"}:
            standing.append((faults, name, _amount(name, value)))
        elif name == "step_delay":
            standing.append((settings, name, _amount(name, value)))
        else:
            raise ValueError(f"unknown fault {name!r}")
    for target, name, value in standing:
        setattr(target, name, value)
    return Orders(**orders)
