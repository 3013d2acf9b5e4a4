"""Recordings of a real ComfyUI 0.3.64 (`tests/data/recordings`; INDEX.md there says what each shows)."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1] / "data" / "recordings"


@dataclass(frozen=True, slots=True)
class Frame:
    """A line of `ws.jsonl`.

    `kind` is connect, sent, text, binary or closed. `conn` names the connection of the scenario. Of long binary frames
    only the first 256 bytes were kept: then `is_whole` is false. `header` is what the recorder saw in a binary frame.
    """

    t: float
    conn: str
    kind: str
    text: str | None
    binary: bytes | None
    is_whole: bool
    header: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A line of `http.jsonl`; `body` is None where it was left out."""

    t: float
    method: str
    url: str
    path: str
    request: dict[str, Any]
    status: int
    headers: dict[str, str]
    body: bytes | None
    note: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A scenario."""

    name: str
    frames: tuple[Frame, ...]
    http: tuple[Exchange, ...]

    def received(self, conn: str | None = None) -> Iterator[str | bytes]:
        """The text and binary frames that came, of one connection or of all, in order."""
        for frame in self.frames:
            if conn is None or frame.conn == conn:
                if frame.text is not None and frame.kind == "text":
                    yield frame.text
                elif frame.binary is not None:
                    yield frame.binary


def names() -> list[str]:
    """All scenarios."""
    return sorted(path.name for path in ROOT.iterdir() if path.is_dir())


@functools.cache
def load(name: str) -> Recording:
    """Read a scenario."""
    folder = ROOT / name
    return Recording(
        name,
        tuple(_frame(line) for line in _lines(folder / "ws.jsonl")),
        tuple(_exchange(line) for line in _lines(folder / "http.jsonl") if "method" in line),
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def _frame(line: dict[str, Any]) -> Frame:
    coded = line.get("b64") or line.get("b64_head")
    return Frame(
        t=line["t"],
        conn=line.get("conn", ""),
        kind=line["kind"],
        text=line.get("raw"),
        binary=base64.b64decode(coded) if coded else None,
        is_whole="b64_head" not in line,
        header=line.get("header", {}),
    )


def _exchange(line: dict[str, Any]) -> Exchange:
    body = None
    if "body_text" in line:
        body = line["body_text"].encode()
    elif line.get("body_b64") not in (None, "(left out)"):
        body = base64.b64decode(line["body_b64"])
    return Exchange(
        t=line["t"],
        method=line["method"],
        url=line["url"],
        path="/" + line["url"].split("/", 3)[3],
        request=line["request"],
        status=line["status"],
        headers=line["response_headers"],
        body=body,
        note=line.get("note", ""),
    )
