"""What is known of the jobs of one `submit`, told by the bridge's messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.cli.wire import FINAL, document_of, levels
from bridge.mqtt.message import Message


def subscriptions(workflow: str) -> tuple[str, ...]:
    """Return the filters that tell all about the jobs of a workflow that is queued by its topic."""
    return (
        "bridge/state",
        f"response/workflow/{workflow}/queue",
        "response/bridge/request/job",
        "prompt/+/status",
        "prompt/+/result",
        "prompt/+/output/+",
        "prompt/+/event/progress",
    )


@dataclass(slots=True)
class Run:
    """One job. `step` and `steps` are those of the node at work."""

    id: str
    status: str = "queued"
    percent: float = 0.0
    node: str = ""
    step: float = 0.0
    steps: float = 0.0
    position: int | None = None
    outputs: dict[int, bytes] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None


class Submission:
    """Feed it every message: `runs` by id once the bridge has answered, or `refusal`, the answer's error."""

    def __init__(self, base: str, workflow: str, transaction: str) -> None:
        self.online: bool | None = None
        """What the bridge says of itself; None: nothing yet."""
        self.runs: dict[str, Run] = {}
        self.refusal: Mapping[str, Any] | None = None
        self._base = base
        self._workflow = workflow
        self._transaction = transaction
        self._early: list[Message] = []

    @property
    def answered(self) -> bool:
        """Whether the bridge has answered the command."""
        return bool(self.runs) or self.refusal is not None

    @property
    def percent(self) -> float:
        """How far all of it is, 0 to 100."""
        shares = [100.0 if run.result else run.percent for run in self.runs.values()]
        return sum(shares) / len(shares) if shares else 0.0

    @property
    def open(self) -> list[Run]:
        """The jobs whose result has not come."""
        return [run for run in self.runs.values() if run.result is None]

    def feed(self, message: Message) -> Run | None:
        """Take a message; return the job that it is about, if it is one of ours."""
        match levels(self._base, message.topic):
            case ["bridge", "state"]:
                self.online = message.payload == b"online"
            case ["response", "workflow", self._workflow, "queue"]:
                self._answer(document_of(message))
            case ["response", "bridge", "request", "job"]:
                return self._job(document_of(message))
            case ["prompt", prompt_id, *what]:
                run = self.runs.get(prompt_id)
                if run is not None:
                    _take(run, what, message)
                elif not self.answered:
                    self._early.append(message)
                return run
        return None

    def _answer(self, answer: Mapping[str, Any]) -> None:
        if self.answered or answer.get("transaction") != self._transaction:
            return
        data = answer.get("data")
        ids = data.get("prompt_ids") if isinstance(data, Mapping) else None
        if answer.get("status") == "ok" and isinstance(ids, list) and ids:
            self.runs = {str(one): Run(str(one)) for one in ids}
            for message in self._early:
                self.feed(message)
        else:
            self.refusal = answer
        self._early.clear()

    def _job(self, answer: Mapping[str, Any]) -> Run | None:
        """Take the answer to our question how a job stands."""
        transaction = str(answer.get("transaction") or "")
        if not transaction.startswith(f"{self._transaction}/"):
            return None
        run = self.runs.get(transaction.split("/")[1])
        data = answer.get("data")
        if run is None or run.result is not None:
            return None
        if answer.get("status") != "ok":
            error = {"code": answer.get("code"), "message": answer.get("error")}
            run.status, run.result = "failed", {"id": run.id, "status": "failed", "error": error}
        elif isinstance(data, Mapping):
            _update(run, data)
            if run.status in FINAL:
                run.result = data
        return run


def _take(run: Run, what: list[str], message: Message) -> None:
    match what:
        case ["status"]:
            _update(run, document_of(message))
        case ["result"]:
            document = document_of(message)
            run.status = str(document.get("status") or run.status)
            run.result = document
        case ["output", number] if number.isdigit():
            run.outputs[int(number)] = message.payload
        case ["event", "progress"]:
            data = document_of(message).get("data")
            value, steps = (data.get("value"), data.get("max")) if isinstance(data, dict) else (None, None)
            if isinstance(value, (int, float)) and isinstance(steps, (int, float)):
                run.step, run.steps = value, steps


def _update(run: Run, document: Mapping[str, Any]) -> None:
    run.status = str(document.get("status") or run.status)
    percent, position = document.get("percent"), document.get("position")
    if isinstance(percent, (int, float)):
        run.percent = float(percent)
    run.position = position if isinstance(position, int) else None
    node = str(document.get("title") or document.get("node") or "")
    if node != run.node:
        run.node, run.step, run.steps = node, 0.0, 0.0
