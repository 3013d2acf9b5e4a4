"""What happens, as typed events, and the hub that hands them to the faces.

The documents in the events are JSON objects with the names of the wire (DESIGN section 5); every face shows the same.
`Hub.publish` calls its listeners at once, in the order in which they subscribed, and never waits: a listener that needs
time keeps a bounded queue of its own, with a named policy for what does not fit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job's status changed; the final one is the last event of a job."""

    job_id: str
    workflow: str | None
    document: Document
    final: bool


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The node at work or its progress changed; as often as ComfyUI says so."""

    job_id: str
    workflow: str | None
    document: Document


@dataclass(frozen=True, slots=True)
class PromptEvent:
    """An event of ComfyUI that belongs to a prompt of ours; `raw` is the frame verbatim."""

    job_id: str
    workflow: str | None
    event_type: str
    raw: str
    frame: bytes | None = None
    """The binary frame that `raw` was made of, verbatim; None for an event that came as text."""


@dataclass(frozen=True, slots=True)
class PromptPreview:
    """A preview image; `seq` counts from 1 within the job, `node` is None where ComfyUI does not tell."""

    job_id: str
    workflow: str | None
    node: str | None
    seq: int
    content_type: str
    image: bytes
    frame: bytes = b""
    """The frame that it came in, verbatim; none in a chain's, which repeats those of its parts."""


@dataclass(frozen=True, slots=True)
class JobOutput:
    """An output's bytes; `document` is its entry in the result."""

    job_id: str
    workflow: str | None
    document: Document
    data: bytes
    answer: bool
    """The picture that stands for the whole job: the first image, or the first of the node `save_image` names."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result; one for every end. The final JobStatus follows it."""

    job_id: str
    workflow: str | None
    document: Document


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """How a batch as a whole stands; the final one is the last event of a batch."""

    batch_id: str
    document: Document
    final: bool


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of a whole batch; the final BatchStatus follows it."""

    batch_id: str
    document: Document


@dataclass(frozen=True, slots=True)
class QueueChanged:
    """Jobs came, started, moved or went."""


@dataclass(frozen=True, slots=True)
class BackendState:
    """A ComfyUI server came (`online`) or went; `reason` says why."""

    backend: str
    online: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BackendEvent:
    """An event of ComfyUI that belongs to no prompt of ours; `raw` is the frame verbatim."""

    backend: str
    event_type: str
    raw: str


@dataclass(frozen=True, slots=True)
class WorkflowsChanged:
    """Workflows came, changed or went, or another one is loaded."""


@dataclass(frozen=True, slots=True)
class ValuesChanged:
    """The values of a workflow changed."""

    workflow: str


@dataclass(frozen=True, slots=True)
class PromptText:
    """A piece of the text that a prompt writer writes, as it comes; `so_far` is the prompt as far as it can be read."""

    idea_id: str
    text: str
    so_far: str


@dataclass(frozen=True, slots=True)
class PromptWritten:
    """What became of an idea: its prompt, or an error; one for every idea that was accepted."""

    idea_id: str
    document: Document


@dataclass(frozen=True, slots=True)
class WriterState:
    """The prompt writer came (`online`) or went; `reason` says why."""

    online: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class WriterModels:
    """The models of the prompt writer, as `ollama/models` has them."""

    document: Document


@dataclass(frozen=True, slots=True)
class ModelPull:
    """How far the download of a model is; `final` for its end, good or bad."""

    model: str
    document: Document
    final: bool


@dataclass(frozen=True, slots=True)
class PromptValuesChanged:
    """What ideas have that do not say it themselves, as `ollama/values` has it."""

    document: Document


Event = (
    JobStatus
    | JobProgress
    | PromptEvent
    | PromptPreview
    | JobOutput
    | JobResult
    | BatchStatus
    | BatchResult
    | QueueChanged
    | BackendState
    | BackendEvent
    | WorkflowsChanged
    | ValuesChanged
    | PromptText
    | PromptWritten
    | WriterState
    | WriterModels
    | ModelPull
    | PromptValuesChanged
)
Listener = Callable[[Event], None]


class Hub:
    """Hands each event to every listener."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._waiting: deque[Event] = deque()
        self._publishing = False

    @contextmanager
    def subscribed(self, listener: Listener) -> Iterator[None]:
        """Call `listener` for each event, within the block."""
        self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            self._listeners = tuple(one for one in self._listeners if one is not listener)

    def publish(self, event: Event) -> None:
        """Hand an event on; a listener that raises is logged and harms no other.

        What a listener publishes comes after the event that it listens to, for everybody.
        """
        self._waiting.append(event)
        if self._publishing:
            return
        self._publishing = True
        try:
            while self._waiting:
                self._hand_on(self._waiting.popleft())
        finally:
            self._publishing = False

    def _hand_on(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("a listener failed on %s", type(event).__name__)
