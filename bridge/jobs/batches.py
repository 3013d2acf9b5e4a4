"""Several jobs under one id: one progress, one end, one result for all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.jobs.model import Status

_WORST = (Status.INTERRUPTED, Status.FAILED, Status.COMPLETED)


@dataclass(slots=True)
class Batch:
    """A batch: told what its jobs do (`progress`, `end`), it says how the whole stands.

    It has ended when all its jobs have: as `interrupted` if one was, else `failed` if one was, else `completed`.
    """

    id: str
    workflow: str | None
    job_ids: tuple[str, ...]
    created_at: str | None
    kind: str = "batch"
    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)
    _percents: dict[str, float] = field(default_factory=dict)
    """Of the jobs that are at work."""
    _ends: Counter[Status] = field(default_factory=Counter)

    @property
    def over(self) -> bool:
        """Whether every job has ended."""
        return len(self.results) == len(self.job_ids)

    @property
    def status(self) -> Status:
        """How the whole stands."""
        if self.over:
            return next(status for status in _WORST if self._ends[status])
        return Status.RUNNING if self._begun or self.results else Status.QUEUED

    def progress(self, job_id: str, status: Status, percent: float) -> None:
        """Take a job's status; its end is taken by `end`."""
        if status is not Status.QUEUED:
            self._begun.add(job_id)
            self._percents[job_id] = percent

    def end(self, job_id: str, result: Mapping[str, Any]) -> None:
        """Take a job's result."""
        before = self.results.get(job_id)
        if before is not None:
            self._ends[Status(before["status"])] -= 1
        self.results[job_id] = result
        self._ends[Status(result["status"])] += 1
        self._percents.pop(job_id, None)

    def document(self) -> dict[str, Any]:
        """`batch/<id>/status`."""
        done = 100.0 * len(self.results) + sum(self._percents.values())
        return {
            "id": self.id,
            "kind": self.kind,
            "status": self.status,
            "workflow": self.workflow,
            "percent": round(done / max(1, len(self.job_ids)), 1),
            "total": len(self.job_ids),
            **{str(status): self._ends[status] for status in reversed(_WORST)},
            "prompt_ids": list(self.job_ids),
            "created_at": self.created_at,
        }

    def result(self) -> dict[str, Any]:
        """`batch/<id>/result`: the results of all jobs, in the order of the batch."""
        return {**self.document(), "results": [self.results[one] for one in self.job_ids if one in self.results]}
