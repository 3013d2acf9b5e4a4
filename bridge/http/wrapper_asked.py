"""A request in the way of ai-dock's wrapper, and the note that the store keeps of one that something is owed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from bridge.http.wrapper_shapes import Bucket, Document, Hook, revealed


@dataclass(slots=True, eq=False)
class Asked:
    """A request. Times are seconds since 1970, durations seconds."""

    id: str
    queued_at: float
    base64: bool = False
    bucket: Bucket | None = None
    """Where its outputs are still to go."""
    hook: Hook | None = None
    """Where its result is still to go."""
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    """What the store keeps its note under: its job's id, where it became a job."""
    job_id: str | None = None
    error: str | None = None
    """Why it became no job."""
    is_cancelled: bool = False
    prepared: float = 0.0
    posted: float | None = None
    """How long the uploads took; None before their end."""
    uploads: dict[int, Document] = field(default_factory=dict)
    """Of each output by n: `url`, or `upload_error`."""
    over: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done once nothing of it is left to be done but its webhook."""

    @property
    def is_owed(self) -> bool:
        """Whether something is left to be delivered."""
        return self.bucket is not None or self.hook is not None

    def become(self, job_id: str) -> None:
        """Note the job that it is; a request without a name of its own has the job's."""
        self.job_id = self.key = job_id
        self.id = self.id or job_id

    def uploaded(self) -> None:
        """Note that there is nothing to upload, or no longer; the bucket is forgotten."""
        self.bucket = None
        if not self.over.done():
            self.over.set_result(None)

    def note(self) -> Document:
        """Return the note of it, with the secrets that are still needed."""
        return {
            "id": self.id,
            "queued_at": self.queued_at,
            "base64": self.base64,
            "error": self.error,
            "prepared": self.prepared,
            "posted": self.posted,
            "uploads": self.uploads,
            "s3": None if self.bucket is None else revealed(self.bucket),
            "webhook": None if self.hook is None else revealed(self.hook),
        }

    @classmethod
    def of_note(cls, key: str, note: Mapping[str, Any]) -> Self:
        """Return the request that a note is of."""
        asked = cls(
            id=note["id"] or key,
            queued_at=note["queued_at"],
            base64=note["base64"],
            bucket=None if note["s3"] is None else Bucket(**note["s3"]),
            hook=None if note["webhook"] is None else Hook(**note["webhook"]),
            key=key,
            job_id=key if note["error"] is None else None,
            error=note["error"],
            prepared=note["prepared"],
            posted=note["posted"],
            uploads={int(n): upload for n, upload in note["uploads"].items()},
        )
        if asked.bucket is None:
            asked.uploaded()
        return asked
