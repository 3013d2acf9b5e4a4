"""One ComfyUI server as the runner sees it: what of ours is in it, and which frame belongs to which job."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from bridge import events
from bridge.comfyui import protocol
from bridge.comfyui.client import ComfyClient
from bridge.comfyui.shapes import HistoryEntry
from bridge.comfyui.socket import ComfySocket
from bridge.errors import BridgeError
from bridge.jobs.lifecycle import Change, Lifecycle
from bridge.jobs.model import Job, Output, Payload, slug_of_url
from bridge.workflow.needs import Catalogue

logger = logging.getLogger(__name__)

_REMEMBERED = 256
_FORGET = 0.7
"""What is left of `longest_gap` after each job: the next one may have its models loaded."""
_RENEWAL = 3.0
"""Seconds that a new connection may take before the backend counts as offline."""


class Verdict(Enum):
    """What became of a submission, as far as ComfyUI tells."""

    OVER = auto()
    LOST = auto()
    DELETED = auto()
    STUCK = auto()


@dataclass(slots=True)
class Active:
    """A job that a backend holds, from its preparation to the end of the prompt."""

    job: Job
    payload: Payload
    life: Lifecycle = field(init=False)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    verdict: Verdict | None = None
    fetches: list[asyncio.Task[tuple[Output, bytes | None]]] = field(default_factory=list)
    submitted: bool = False
    reserved: bool = False
    """That it goes to this backend was written when it was accepted."""
    epoch: int = 0
    """The backend's epoch at the submission: another one now means that frames, or the prompt, may be lost."""
    missed: bool = False
    """Frames may have been missed: the history has the last word."""
    ambiguous: bool = False
    """Whether ComfyUI has taken the prompt is not known."""
    missing: int = 0
    """How many times in a row neither the queue nor the history knew the prompt."""
    last_sign: float = 0.0
    """When ComfyUI last said something about it (loop time)."""

    def __post_init__(self) -> None:
        self.life = Lifecycle(self.job.id, self.payload.graph, outputs=self.payload.output_nodes)

    def decide(self, verdict: Verdict) -> None:
        """End the waiting for this submission."""
        if self.verdict is None:
            self.verdict = verdict
            self.done.set()

    def drop_fetches(self) -> None:
        """End the fetching of outputs that nobody will ask for."""
        for fetch in self.fetches:
            fetch.cancel()


class Backend:
    """A ComfyUI server. `run` keeps its websocket and tells `on_change` of each life's changes."""

    def __init__(
        self,
        url: str,
        *,
        hub: events.Hub,
        on_change: Callable[[Backend, Active, Change], None],
        on_state: Callable[[Backend], None],
        previews: bool = True,
    ) -> None:
        self.url = url
        self.name = slug_of_url(url)
        self.client = ComfyClient(url)
        self.socket = ComfySocket(
            url,
            on_message=self._on_message,
            on_connected=self._on_connected,
            on_disconnected=self._on_disconnected,
            previews=previews,
        )
        self.active: dict[str, Active] = {}
        self.online = False
        self.epoch = 0
        self.stuck = False
        """It holds a prompt and does nothing; nothing more is sent to it."""
        self.stuck_on: set[str] = set()
        """What it ran when it got stuck."""
        self.failures = 0
        """Attempts in a row that failed for the server's sake."""
        self.rested_until = 0.0
        """Loop time before which nothing is sent to it."""
        self.last_workflow: str | None = None
        self.uploaded: dict[str, str] = {}
        """Names in its input folder of the images uploaded last since it came online, by what they were made of."""
        self.catalogue: Catalogue | None = None
        """Its node classes and models; None: not known yet."""
        self.restart: Callable[[], Awaitable[bool]] | None = None
        """Starts the server anew, if it is ours to start."""
        self.warm_up: Callable[[Backend], Awaitable[None]] | None = None
        """What comes before it counts as online."""
        self.leftovers: set[str] = set()
        """Prompts that we gave up while it was away: deleted and interrupted when it is back."""
        self.suspicious = asyncio.Event()
        """Set when the queue and the history should be asked soon."""
        self.live_frames = 0
        """Frames since the connection was made."""
        self.frames = 0
        """Frames since the start."""
        self.connects = 0
        self.offline_since: float | None = None
        """Loop time since when it is away; None while it is there."""
        self._hub = hub
        self._on_change = on_change
        self._on_state = on_state
        self._started: Active | None = None
        self.longest_gap = 0.0
        """Seconds between two signs of life of a running prompt, the longest of late."""
        self._renewal: asyncio.TimerHandle | None = None
        self._warming: asyncio.Task[None] | None = None
        self._recent: deque[str] = deque(maxlen=_REMEMBERED)

    async def run(self) -> None:
        """Keep the websocket, until cancelled."""
        self.offline_since = asyncio.get_running_loop().time()
        await self.socket.run()

    def take(self, active: Active) -> None:
        """Hold a job; its frames are its own from now on."""
        self.active[active.job.id] = active
        active.last_sign = asyncio.get_running_loop().time()

    def release(self, active: Active) -> None:
        """Let go of a job; frames that still come for it are dropped."""
        self.longest_gap *= _FORGET
        if self.active.pop(active.job.id, None) is not None:
            self._recent.append(active.job.id)

    @property
    def current(self) -> Active | None:
        """The job of ours that runs just now, the one that started last: frames without a prompt_id are its own."""
        active = self._started
        return active if active is not None and active.job.id in self.active and not active.life.over else None

    def mark_started(self, active: Active) -> None:
        """Note that the queue shows the prompt as running, its start having been missed."""
        if not active.life.started:
            self._changed(active, active.life.feed(protocol.ExecutionStart(active.job.id)))

    def renew(self) -> None:
        """Make a new connection instead of one that is silent; it counts as online meanwhile."""
        loop = asyncio.get_running_loop()
        if self._renewal is None:
            self._renewal = loop.call_later(_RENEWAL, self._renewal_failed)
        self.socket.renew()

    def learn(self, active: Active, entry: HistoryEntry) -> None:
        """Take the history's word for the end of a prompt."""
        self._tell(active, active.life.learn(entry))
        active.decide(Verdict.OVER)

    def _on_connected(self) -> None:
        self.live_frames = 0
        self.connects += 1
        self._end_renewal()
        if self.online:
            return
        self.offline_since = None
        self.uploaded.clear()
        self.suspicious.set()
        if self.warm_up is None:
            self._come_online()
        else:
            self._warming = asyncio.get_running_loop().create_task(self._warm(self.warm_up))

    async def _warm(self, warm_up: Callable[[Backend], Awaitable[None]]) -> None:
        try:
            # After a mere change of connection it is as warm as before.
            if not await self._remembers():
                await warm_up(self)
        except Exception:
            logger.exception("the warm-up of %s failed inside the bridge; it is used all the same", self.name)
        if self.socket.connected:
            self._come_online()

    async def _remembers(self) -> bool:
        """Tell whether the server knows a prompt of ours: one that was restarted knows none."""
        try:
            return any([await self.client.knows(job_id) for job_id in tuple(self.active)])
        except BridgeError:
            return bool(self.active)

    def _come_online(self) -> None:
        self.online = True
        self._hub.publish(events.BackendState(self.name, online=True))
        self._on_state(self)

    def _on_disconnected(self, reason: str) -> None:
        self.epoch += 1
        self.suspicious.set()
        if self._warming is not None:
            self._warming.cancel()
        if self.online and self._renewal is None:
            self._go_offline(reason)

    def _renewal_failed(self) -> None:
        self._end_renewal()
        if self.online and not self.socket.connected:
            self._go_offline("a new connection could not be made")

    def _end_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _go_offline(self, reason: str) -> None:
        self.online = False
        self.offline_since = asyncio.get_running_loop().time()
        self._hub.publish(events.BackendState(self.name, online=False, reason=reason))
        self._on_state(self)

    def _on_message(self, message: protocol.Message) -> None:
        self.live_frames += 1
        self.frames += 1
        match message:
            case protocol.PreviewImage():
                self._on_preview(message)
            case protocol.TextFrame():
                self._on_text(message)
            case protocol.Malformed():
                logger.debug("%s sent a frame that is none of ComfyUI's: %s", self.name, message.reason)
            case protocol.Status(queue_remaining=remaining):
                # Fewer than we have there: one of ours ended, or was deleted without a word.
                if remaining < sum(active.submitted and active.life.end is None for active in self.active.values()):
                    self.suspicious.set()
                self._hub.publish(events.BackendEvent(self.name, message.event_type, message.raw))
            case protocol.Executing(prompt_id=None):
                self._on_event(self.current, message)
            case _:
                self._on_event(self.active.get(message.prompt_id or ""), message)

    def _on_event(self, active: Active | None, message: protocol.TextMessage) -> None:
        if active is None:
            if message.prompt_id not in self._recent:
                self._hub.publish(events.BackendEvent(self.name, message.event_type, message.raw))
            return
        self._hub.publish(events.PromptEvent(active.job.id, active.job.workflow, message.event_type, message.raw))
        change = active.life.feed(message)
        if message.prompt_id is None:  # said to every new connection: no sign of life
            self._tell(active, change)
        else:
            self._changed(active, change)

    def _on_preview(self, message: protocol.PreviewImage) -> None:
        active = self.active.get(message.prompt_id) if message.prompt_id else self.current
        if active is None:
            return
        job, life = active.job, active.life
        change = life.feed(message)
        node = message.node or life.node
        seq, kind = life.preview_count, message.content_type
        self._hub.publish(events.PromptPreview(job.id, job.workflow, node, seq, kind, message.image, frame=message.raw))
        self._changed(active, change)

    def _on_text(self, message: protocol.TextFrame) -> None:
        raw = json.dumps({"type": "text", "data": {"node": message.node, "text": message.text}})
        active = self.current
        if active is None or message.node not in active.payload.graph:
            self._hub.publish(events.BackendEvent(self.name, message.event_type, raw))
            return
        self._hub.publish(
            events.PromptEvent(active.job.id, active.job.workflow, message.event_type, raw, frame=message.raw)
        )
        self._changed(active, active.life.feed(message))

    def _changed(self, active: Active, change: Change) -> None:
        now = asyncio.get_running_loop().time()
        if active.life.started and Change.STARTED not in change:
            self.longest_gap = max(self.longest_gap, now - active.last_sign)
        active.last_sign = now
        self._tell(active, change)
        if Change.OVER not in change:
            return
        life = active.life
        if life.end is None or active.missed or active.epoch != self.epoch or not life.found:
            # The frame that tells the end, or an output, may have been missed: the history has them.
            self.suspicious.set()
            active.ambiguous = True
        else:
            active.decide(Verdict.OVER)

    def _tell(self, active: Active, change: Change) -> None:
        if Change.STARTED in change:
            self._started = active
        if change:
            self._on_change(self, active, change)
