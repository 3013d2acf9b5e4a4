"""What happens, as histories that server-sent events are read from.

Readers keep a place in a history and come back for what is behind it: there is no queue for each of them, a slow one
skips what the history no longer holds and slows nobody. Of progress and previews a history holds the newest few.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge import events
from bridge.http.answers import dump

STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Of an answer that is a stream: no proxy is to hold it back."""

_KEPT_OF_JOB = 100
_LOOSE_OF_JOB = 50
_KEPT_OF_ALL = 1_000
_LOOSE_OF_ALL = 200
_ENDED = 256
"""Histories of jobs that have ended: for those who come back."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An event of a history: its number, its name, its JSON."""

    seq: int
    kind: str
    document: Mapping[str, Any]
    last: bool = False


class History:
    """Events in their order; `kept` and `loose` are how many of each sort are held."""

    def __init__(self, *, kept: int, loose: int) -> None:
        self._numbers = itertools.count(1)
        self._kept: deque[Entry] = deque(maxlen=kept)
        self._loose: deque[Entry] = deque(maxlen=loose)
        self._forgotten = 0
        self._readers: set[asyncio.Future[None]] = set()
        self.last = 0
        """The number of the newest event."""
        self.over = False
        """Whether nothing follows."""

    def append(self, kind: str, document: Mapping[str, Any], *, loose: bool = False, last: bool = False) -> None:
        """Add an event and wake the readers."""
        entry = Entry(next(self._numbers), kind, document, last)
        self.last = entry.seq
        entries = self._loose if loose else self._kept
        if not loose and len(entries) == entries.maxlen:
            self._forgotten = entries[0].seq
        entries.append(entry)
        if last:
            self.over = True
            self._loose.clear()
        self.wake()

    def wake(self) -> None:
        """Let the readers look."""
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)

    def complete_after(self, seq: int) -> bool:
        """Tell whether nothing that had to be kept was forgotten behind a place."""
        return self._forgotten <= seq <= self.last

    def after(self, seq: int) -> list[Entry]:
        """Return what is held of the events behind a place."""
        newer = [
            *itertools.takewhile(lambda entry: entry.seq > seq, reversed(self._kept)),
            *itertools.takewhile(lambda entry: entry.seq > seq, reversed(self._loose)),
        ]
        return sorted(newer, key=lambda entry: entry.seq)

    async def wait(self, seq: int, seconds: float) -> bool:
        """Wait for an event behind a place; False if none came in time, or the reader was woken for another reason."""
        if self.last > seq:
            return True
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.add(reader)
        try:
            await asyncio.wait({reader}, timeout=seconds)
        finally:
            self._readers.discard(reader)
        return self.last > seq


class JobFeed(History):
    """The history of a job, with its latest preview."""

    def __init__(self) -> None:
        super().__init__(kept=_KEPT_OF_JOB, loose=_LOOSE_OF_JOB)
        self.preview: events.PromptPreview | None = None
        self.result: Mapping[str, Any] = {}


class Feeds:
    """The histories of the jobs and of everything. `listen` is for the hub; preview_url: where a job's preview is."""

    def __init__(self, *, preview_url: Callable[[str], str]) -> None:
        self._preview_url = preview_url
        self._jobs: dict[str, JobFeed] = {}
        self._ended: OrderedDict[str, JobFeed] = OrderedDict()
        self.everything = History(kept=_KEPT_OF_ALL, loose=_LOOSE_OF_ALL)
        self.boot = f"{time.time_ns() // 1_000_000:x}"
        """Tells the numbers of this run of the bridge from those of another."""
        self.closing = False

    def open(self) -> None:
        """Take readers, after `close` too."""
        self.closing = False

    def close(self) -> None:
        """End every reader's stream."""
        self.closing = True
        for history in (*self._jobs.values(), *self._ended.values(), self.everything):
            history.wake()

    def of(self, job_id: str) -> JobFeed | None:
        """Return the history of a job; None for one that ended long ago."""
        return self._jobs.get(job_id) or self._ended.get(job_id)

    def opened(self, job_id: str) -> JobFeed:
        """Return the history of a job that has not ended."""
        feed = self._jobs.get(job_id)
        if feed is None:
            feed = self._jobs[job_id] = JobFeed()
        return feed

    def place(self, last_event_id: str | None) -> int | None:
        """Return the place that a reader comes back to; None for none, or one of another run."""
        boot, _, seq = (last_event_id or "").partition("-")
        return int(seq) if boot == self.boot and seq.isascii() and seq.isdigit() and len(seq) < 16 else None

    def listen(self, event: events.Event) -> None:
        """Take an event."""
        match event:
            case events.JobStatus():
                self._on_status(event)
            case events.JobProgress():
                self._tell(event.job_id, "progress", event.document, loose=True)
            case events.PromptPreview():
                self.opened(event.job_id).preview = event
                document = {
                    "id": event.job_id,
                    "seq": event.seq,
                    "node": event.node,
                    "content_type": event.content_type,
                    "url": self._preview_url(event.job_id),
                }
                self._tell(event.job_id, "preview", document, loose=True)
            case events.JobOutput():
                document = {"id": event.job_id, **event.document}
                self._tell(event.job_id, "output", document)
            case events.JobResult():
                self.opened(event.job_id).result = event.document
            case events.BatchStatus():
                self.everything.append("batch", event.document)
            case events.BatchResult():
                self.everything.append("batch_result", event.document)
            case events.QueueChanged():
                self.everything.append("queue", {}, loose=True)
            case events.BackendState():
                state = "online" if event.online else "offline"
                self.everything.append("backend", {"name": event.backend, "state": state, "reason": event.reason})
            case events.WorkflowsChanged():
                self.everything.append("workflows", {})
            case events.ValuesChanged():
                self.everything.append("values", {"workflow": event.workflow})
            case events.PromptWritten():
                self.everything.append("idea", event.document)
            case events.ModelPull():
                self.everything.append("pull", event.document, loose=not event.final)
            case events.WriterState():
                state = "online" if event.online else "offline"
                self.everything.append("writer", {"state": state, "reason": event.reason})

    def _on_status(self, event: events.JobStatus) -> None:
        job_id, document = event.job_id, event.document
        if document["status"] == "queued" and job_id not in self._jobs:
            # Thousands may wait: a history begins when somebody reads it, or when there is more to tell.
            self.everything.append("status", document)
            return
        self._tell(job_id, "status", document)
        if not event.final:
            return
        feed = self._jobs.pop(job_id)
        result = {**feed.result, **document}
        feed.preview = None
        feed.append("result", result, last=True)
        self.everything.append("result", result)
        self._ended[job_id] = feed
        if len(self._ended) > _ENDED:
            self._ended.popitem(last=False)

    def _tell(self, job_id: str, kind: str, document: Mapping[str, Any], *, loose: bool = False) -> None:
        self.opened(job_id).append(kind, document, loose=loose)
        self.everything.append(kind, document, loose=loose)

    def with_image(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return a preview with its image in base64 instead of an address; None if there is a newer one."""
        feed = self.of(str(document["id"]))
        preview = None if feed is None else feed.preview
        if preview is None or preview.seq != document["seq"]:
            return None
        image = base64.b64encode(preview.image).decode()
        return {**{key: value for key, value in document.items() if key != "url"}, "image": image}


def sse(kind: str, document: Mapping[str, Any], event_id: str | None = None) -> bytes:
    """Write one server-sent event."""
    head = f"id: {event_id}\nevent: {kind}\ndata: " if event_id is not None else f"event: {kind}\ndata: "
    return head.encode() + dump(document) + b"\n\n"
