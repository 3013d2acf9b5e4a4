"""Recordings of a real ComfyUI, replayed into lifecycles as a backend routes its frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.comfyui import protocol
from bridge.comfyui.shapes import parse_history_entry
from bridge.jobs.lifecycle import Change, End, Lifecycle
from tests.unit.recordings import Exchange, Frame, load

_WORDS = {End.SUCCESS: "completed", End.ERROR: "failed", End.INTERRUPTED: "interrupted"}


@dataclass(slots=True)
class Replayed:
    """A prompt of a recording, with what its lifecycle told while the frames came."""

    prompt_id: str
    life: Lifecycle
    statuses: list[str] = field(default_factory=lambda: ["queued"])
    """What a job would show: its end is told once the prompt is over and how it ended is known."""
    nodes: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    percents: list[float] = field(default_factory=list)
    ends: list[End | None] = field(default_factory=list)
    """How it was known to have ended, at each of `percents`."""
    overs: int = 0
    by_history: bool = False

    def take(self, change: Change) -> None:
        """Note what a message changed."""
        self.changes.append(change)
        self.percents.append(self.life.percent)
        self.ends.append(self.life.end)
        if Change.STARTED in change:
            self.statuses.append("running")
        if Change.NODE in change:
            self.nodes.append(str(self.life.node))
        if Change.OVER in change:
            self.overs += 1
            self.statuses.append("unknown" if self.life.end is None else _WORDS[self.life.end])

    @property
    def files(self) -> list[str]:
        """The files as `node:folder/name`, their type behind it unless it is `output`."""
        shown = []
        for found in self.life.found:
            file = found.file
            name = f"{file.subfolder}/{file.filename}" if file.subfolder else file.filename
            shown.append(f"{found.node}:{name}" + ("" if file.type == "output" else f" [{file.type}]"))
        return shown

    @property
    def texts(self) -> list[str]:
        """The texts as `node:text`."""
        return [f"{entry['node']}:{entry['text']}" for entry in self.life.texts]

    @property
    def error(self) -> str | None:
        """The error as `code@node`."""
        error = self.life.error
        return None if error is None else f"{error.code}@{error.node}"

    def learn(self, entry: object) -> None:
        """Take the history's word."""
        parsed = parse_history_entry(self.prompt_id, entry)
        assert parsed is not None
        self.by_history = True
        self.take(self.life.learn(parsed))


def posts(scenario: str) -> list[tuple[Exchange, dict[str, Any], str]]:
    """The accepted submissions in their order: the exchange, its body, the prompt_id."""
    accepted = []
    for exchange in load(scenario).http:
        if exchange.method == "POST" and exchange.path in {"/prompt", "/api/prompt"} and exchange.status == 200:
            body = exchange.request.get("json") or json.loads(exchange.request["content"])
            answer = json.loads(exchange.body or b"{}")
            accepted.append((exchange, body, str(answer["prompt_id"])))
    return accepted


def history(scenario: str) -> dict[str, Any]:
    """Every history entry that was recorded, the last one of each prompt."""
    entries: dict[str, Any] = {}
    for exchange in load(scenario).http:
        if exchange.method == "GET" and exchange.path.startswith("/history/") and exchange.body:
            entries.update(json.loads(exchange.body))
    return entries


def replay(scenario: str, conns: str = "A") -> list[Replayed]:
    """Feed what came on these connections (`A`, `A A2`) to the prompts of the scenario, in the order of their posts.

    A prompt whose end did not come is looked up in the recorded history, as a reconciler does.
    """
    prompts: list[tuple[float, Replayed]] = []
    for exchange, body, prompt_id in posts(scenario):
        graph: Mapping[str, Any] = body["prompt"]
        prompts.append((exchange.t, Replayed(prompt_id, Lifecycle(prompt_id, graph))))
    for frame in load(scenario).frames:
        message = _message(frame) if frame.conn in conns.split() else None
        one = None if message is None else _meant([one for t, one in prompts if t <= frame.t], message)
        if one is not None and message is not None:
            one.take(one.life.feed(message))
    entries = history(scenario)
    for _, one in prompts:
        if not one.life.over and one.prompt_id in entries:
            one.learn(entries[one.prompt_id])
    return [one for _, one in prompts]


def _meant(posted: list[Replayed], message: protocol.Message) -> Replayed | None:
    prompt_id = getattr(message, "prompt_id", None)
    if prompt_id is None:
        return next((one for one in posted if one.life.started and not one.life.over), None)
    same = [one for one in posted if one.prompt_id == prompt_id]
    return next((one for one in same if not one.life.over), same[-1] if same else None)


def _message(frame: Frame) -> protocol.Message | None:
    if frame.kind == "text" and frame.text is not None:
        return protocol.decode_text(frame.text)
    # Of long previews only the head was kept; it holds the header, which is what a lifecycle reads.
    return None if frame.binary is None else protocol.decode_binary(frame.binary)
