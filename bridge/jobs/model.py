"""A job and its parts, as data. Times are seconds since the epoch, durations seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from bridge.workflow.graph import Graph


class Status(StrEnum):
    """The statuses of a job (DESIGN section 2); the last three are final."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    FINISHING = "finishing"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in _FINAL


_FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.INTERRUPTED})
CHAIN = "chain"
"""The kind of a job whose parts are jobs."""


@dataclass(frozen=True, slots=True)
class ImageValue:
    """An image that an input is set to: bytes kept in the store, or a file that ComfyUI has, with a mask perhaps."""

    filename: str
    """The name to upload the bytes under, or of the file in ComfyUI's input folder."""
    sha256: str | None = None
    """Names the bytes in the store; None: the file is in ComfyUI already."""
    mask: str | None = None
    """sha256 of the mask's bytes in the store."""

    def to_json(self) -> dict[str, Any]:
        """`{"filename", "sha256"?, "mask"?}`."""
        document = {"filename": self.filename, "sha256": self.sha256, "mask": self.mask}
        return {key: value for key, value in document.items() if value is not None}

    @classmethod
    def from_json(cls, document: object) -> ImageValue | None:
        """Read what `to_json` wrote; None for any other value."""
        if not isinstance(document, dict) or not {"filename"} < document.keys() <= {"filename", "sha256", "mask"}:
            return None
        return cls(document["filename"], document.get("sha256"), document.get("mask"))


def value_to_json(value: Any) -> Any:
    """The value of an input as JSON; an image as what names it."""
    return value.to_json() if isinstance(value, ImageValue) else value


def value_from_json(value: Any) -> Any:
    """The value that `value_to_json` wrote."""
    return ImageValue.from_json(value) or value


@dataclass(frozen=True, slots=True)
class Output:
    """One file that a job made."""

    n: int
    node: str | None
    filename: str
    subfolder: str
    type: str
    content_type: str
    url: str | None
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    error: Mapping[str, Any] | None = None
    """Why its bytes could not be fetched."""

    def to_json(self) -> dict[str, Any]:
        """Its entry in the result."""
        document = {
            "n": self.n,
            "filename": self.filename,
            "subfolder": self.subfolder,
            "type": self.type,
            "url": self.url,
            "content_type": self.content_type,
            "width": self.width,
            "height": self.height,
            "bytes": self.bytes,
            "node": self.node,
        }
        if self.error is not None:
            document["error"] = dict(self.error)
        return document


@dataclass(frozen=True, slots=True)
class Payload:
    """What a job runs: its snapshot, made when it was accepted and never changed."""

    graph: Graph
    images: tuple[tuple[str, str, ImageValue], ...] = ()
    """Node, input, image: uploaded before the graph is submitted, the returned name put into the input."""
    answer_node: str | None = None
    """The node whose output stands for the job (`save_image` of the node mappings)."""
    output_nodes: tuple[str, ...] = ()
    """The nodes whose outputs matter; none: all of them."""
    stall_timeout: float | None = None
    """Seconds without any sign of life that the workflow is allowed; None: as the settings say."""

    def dump(self) -> bytes:
        """As JSON, for the store."""
        document: dict[str, Any] = {
            "graph": self.graph,
            "images": [(node, name, value.to_json()) for node, name, value in self.images],
            "answer_node": self.answer_node,
        }
        if self.output_nodes:
            document["output_nodes"] = self.output_nodes
        if self.stall_timeout is not None:
            document["stall_timeout"] = self.stall_timeout
        return json.dumps(document).encode()

    @classmethod
    def load(cls, data: bytes) -> Payload:
        """Read what `dump` wrote."""
        document = json.loads(data)
        images = tuple((node, name, ImageValue(**value)) for node, name, value in document["images"])
        return cls(
            document["graph"],
            images,
            document["answer_node"],
            tuple(document.get("output_nodes", ())),
            document.get("stall_timeout"),
        )


@dataclass(slots=True)
class Job:
    """A job and where it stands. `id` is the prompt_id that ComfyUI gets, the same over all attempts."""

    id: str
    workflow: str | None
    values: Mapping[str, Any]
    created_at: float
    priority: int = 0
    expires_at: float | None = None
    order: int = 0
    """Counts the jobs in the order of their acceptance, whatever the clock does; a part has that of its chain."""
    batch_id: str | None = None
    kind: str = "job"
    """`job`, or `chain`: a job whose parts are jobs."""
    parent: str | None = None
    """The chain that it is a part of."""
    parts: tuple[Mapping[str, Any], ...] = ()
    """Of a chain: `{"step", "status", "job_id", "tries"}` of each step so far."""
    status: Status = Status.QUEUED
    attempts: int = 0
    """How often it was submitted."""
    failures: int = 0
    """Attempts that failed after it had begun to run: these are limited by `jobs.attempts`."""
    transaction: tuple[str, str] | None = None
    """Command and key of the transaction that it was accepted in."""
    alias: str | None = None
    """A name that the caller chose for it."""
    owed: Mapping[str, Any] | None = field(default=None, repr=False)
    """What is to be delivered at its end, as the face that took it wrote it down. It may hold secrets: `Store.add`
    keeps it apart, and only until it is delivered."""
    backend: str | None = None
    """The backend that it was handed to; None while it waits."""
    client_id: str | None = None
    """Whose events ComfyUI sends for it."""
    submitted: bool = False
    """The prompt may be known to `backend`: look there before it is submitted again."""
    interrupting: bool = False
    """A command asked for its end."""
    error: Mapping[str, Any] | None = None
    """Why it ended; of a completed job: what went wrong without ending it, such as outputs that ComfyUI refused."""
    started_at: float | None = None
    finished_at: float | None = None
    durations: dict[str, float] = field(default_factory=dict)
    """Seconds spent in each status so far."""
    outputs: tuple[Output, ...] = ()
    answer: int | None = None
    """Which output stands for the job."""
    text: tuple[Mapping[str, Any], ...] = ()
    seq: int = 0
    """Counts the status messages of the job."""

    def result(self) -> dict[str, Any]:
        """The result document (`prompt/<id>/result`), and the job on every face once it has ended."""
        return {
            "id": self.id,
            "status": self.status,
            "workflow": self.workflow,
            "values": dict(self.values),
            "outputs": [output.to_json() for output in self.outputs],
            "text": [dict(entry) for entry in self.text],
            "timings": {key: round(value, 4) for key, value in self.durations.items()},
            "error": self.error,
            **({"batch_id": self.batch_id} if self.batch_id else {}),
            **({"alias": self.alias} if self.alias else {}),
            **({"parent": self.parent} if self.parent else {}),
            **({"parts": [dict(part) for part in self.parts]} if self.parts else {}),
            "backend": self.backend,
            "attempts": self.attempts,
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "finished_at": iso(self.finished_at),
        }


def iso(seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC with milliseconds, as every face shows it."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def slug_of_url(url: str) -> str:
    """The name of a backend in topics: host and port, `127-0-0-1-8188`, and its prefix if it has one."""
    host, _, prefix = url.split("://", 1)[-1].partition("/")
    host = host.rsplit("@", 1)[-1]
    if not re.search(r":\d+$", host):
        host += ":443" if url.startswith("https") else ":80"
    return re.sub(r"[^a-z0-9]+", "-", f"{host}/{prefix}".lower()).strip("-")
