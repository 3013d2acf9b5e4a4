"""Every topic of the bridge: built here, parsed here, and nowhere else. Pure (DESIGN section 5)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNFIT = re.compile(r"[^A-Za-z0-9_.:-]+")

_OURS = frozenset(
    {"backend", "batch", "bridge", "interrupt", "load", "ollama", "prompt", "prompting", "queue", "update", "workflow"}
)
VERBS = ("health", "workflows", "reload", "jobs", "job", "free", "log_level")


@dataclass(frozen=True, slots=True)
class Command:
    """A command topic, taken apart.

    name: the topic without base, node and parameter; it names the answer's topic. kind: `load`, `update/text`,
    `update/image`, `update/values`, `queue`, `interrupt`, `set`, `ollama/generate`, `ollama/generate/image`,
    `ollama/cancel`, `ollama/pull`, `ollama/set`, `prompting/response`, `request`, or `unknown`. argument: the node, the
    parameter, the value, the question or the verb.
    """

    name: str
    kind: str
    workflow: str | None = None
    argument: str | None = None


class Topics:
    """The topics below one base."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._prefix = f"{base}/"

    # In

    def filters(self) -> tuple[str, ...]:
        """Return the filters of the command topics; no two of them match the same topic."""
        parts = (
            "load/#",
            "update/#",
            "queue",
            "interrupt/#",
            "workflow/+/set/#",
            "workflow/+/queue",
            "workflow/+/interrupt",
            "ollama/generate",
            "ollama/generate/image",
            "ollama/cancel",
            "ollama/pull",
            "ollama/set/#",
            "prompting/response/#",
            "bridge/request/#",
        )
        return tuple(self._prefix + part for part in parts)

    def parse(self, topic: str) -> Command | None:
        """Return the command that a topic means; None for a topic that is no command at all."""
        if not topic.startswith(self._prefix):
            return None
        name = topic[len(self._prefix) :]
        match name.split("/"):
            case [("load" | "queue" | "interrupt") as kind]:
                return Command(name, kind)
            case ["update", ("text" | "image" | "values") as what]:
                return Command(name, f"update/{what}")
            case ["update", ("text" | "image") as what, *node]:
                return Command(f"update/{what}", f"update/{what}", argument="/".join(node))
            case ["load" | "interrupt" | "update", *_]:
                return Command(name, "unknown")
            case ["workflow", "", "set" | "queue" | "interrupt", *_]:
                return Command(name, "unknown")
            case ["workflow", workflow, "set"]:
                return Command(name, "set", workflow)
            case ["workflow", workflow, "set", *parameter]:
                return Command(f"workflow/{workflow}/set", "set", workflow, "/".join(parameter))
            case ["workflow", workflow, ("queue" | "interrupt") as kind]:
                return Command(name, kind, workflow)
            case ["ollama", "generate", "image"]:
                return Command(name, "ollama/generate/image")
            case ["ollama", ("generate" | "cancel" | "pull") as what]:
                return Command(name, f"ollama/{what}")
            case ["ollama", "set"]:
                return Command(name, "ollama/set")
            case ["ollama", "set", *value]:
                return Command("ollama/set", "ollama/set", argument="/".join(value))
            case ["prompting", "response", *question]:
                return Command("prompting/response", "prompting/response", argument="/".join(question) or None)
            case ["bridge", "request", verb] if verb in VERBS:
                return Command(name, "request", argument=verb)
            case ["bridge", "request", *_]:
                return Command(name, "unknown")
        return None

    def is_ours(self, topic: str) -> bool:
        """Tell whether the bridge itself speaks or listens there, but for answers."""
        return topic.startswith(self._prefix) and topic[len(self._prefix) :].split("/", 1)[0] in _OURS

    # Out

    def command(self, name: str) -> str:
        """`load`, `bridge/request/free` and the like, for those who are told where commands go."""
        return f"{self._prefix}{name}"

    def response(self, command: str) -> str:
        """`response/<command>`."""
        return f"{self._prefix}response/{command}"

    def bridge(self, what: str) -> str:
        """`bridge/state`, `bridge/info` and the like."""
        return f"{self._prefix}bridge/{what}"

    def queue_state(self) -> str:
        """`queue/state`."""
        return f"{self._prefix}queue/state"

    def backend(self, backend: str, what: str) -> str:
        """`backend/<b>/state`."""
        return f"{self._prefix}backend/{backend}/{what}"

    def backend_event(self, backend: str, event_type: str) -> str:
        """`backend/<b>/event/<type>`."""
        return self.backend(backend, f"event/{_level(event_type)}")

    def prompt(self, job_id: str, what: str) -> str:
        """`prompt/<id>/status`, `result`, `preview`."""
        return f"{self._prefix}prompt/{job_id}/{what}"

    def prompt_event(self, job_id: str, event_type: str) -> str:
        """`prompt/<id>/event/<type>`."""
        return self.prompt(job_id, f"event/{_level(event_type)}")

    def output(self, job_id: str, n: int) -> str:
        """`prompt/<id>/output/<n>`."""
        return self.prompt(job_id, f"output/{n}")

    def batch(self, batch_id: str, what: str) -> str:
        """`batch/<id>/status`, `result`."""
        return f"{self._prefix}batch/{batch_id}/{what}"

    def workflow(self, workflow: str, what: str) -> str:
        """`workflow/<w>/status`, `values`, `image` and the like."""
        return f"{self._prefix}workflow/{workflow}/{what}"

    def ollama(self, what: str) -> str:
        """`ollama/stream`, `ollama/result`, `ollama/state` and the like."""
        return f"{self._prefix}ollama/{what}"

    def prompting_request(self) -> str:
        """`prompting/request`."""
        return f"{self._prefix}prompting/request"

    def prompting_response(self, question: str) -> str:
        """`prompting/response/<id>`."""
        return f"{self._prefix}prompting/response/{question}"

    def owner(self, topic: str) -> tuple[str, str] | None:
        """Return `("workflow", name)` or `("backend", name)` for a topic of one; ("", "") for other topics of ours."""
        if not topic.startswith(self._prefix):
            return None
        match topic[len(self._prefix) :].split("/"):
            case [("workflow" | "backend") as kind, name, *_]:
                return kind, name
        return "", ""


def _level(event_type: str) -> str:
    """Return an add-on's event type as one level of a topic; ComfyUI's own stay as they are."""
    return _UNFIT.sub("-", event_type).strip("-") or "other"
