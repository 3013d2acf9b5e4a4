"""Several jobs under one id: one progress, one end, one result for all. Pure."""

from __future__ import annotations

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
    statuses: dict[str, Status] = field(default_factory=dict)
    percents: dict[str, float] = field(default_factory=dict)
    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether every job has ended."""
        return len(self.results) == len(self.job_ids)

    @property
    def status(self) -> Status:
        """How the whole stands."""
        if self.over:
            ends = {Status(result["status"]) for result in self.results.values()}
            return next(status for status in _WORST if status in ends)
        waits = all(status is Status.QUEUED for status in self.statuses.values())
        return Status.QUEUED if waits and not self.results else Status.RUNNING

    def progress(self, job_id: str, status: Status, percent: float) -> None:
        """Take a job's status; its end is taken by `end`."""
        self.statuses[job_id] = status
        self.percents[job_id] = percent

    def end(self, job_id: str, result: Mapping[str, Any]) -> None:
        """Take a job's result."""
        self.results[job_id] = result
        self.statuses[job_id] = Status(result["status"])

    def document(self) -> dict[str, Any]:
        """`batch/<id>/status`."""
        counts = dict.fromkeys(_WORST, 0)
        for result in self.results.values():
            counts[Status(result["status"])] += 1
        done = 100.0 * len(self.results) + sum(
            percent for job_id, percent in self.percents.items() if job_id not in self.results
        )
        return {
            "id": self.id,
            "kind": self.kind,
            "status": self.status,
            "workflow": self.workflow,
            "percent": round(done / max(1, len(self.job_ids)), 1),
            "total": len(self.job_ids),
            **{str(status): counts[status] for status in reversed(_WORST)},
            "prompt_ids": list(self.job_ids),
            "created_at": self.created_at,
        }

    def result(self) -> dict[str, Any]:
        """`batch/<id>/result`: the results of all jobs, in the order of the batch."""
        return {**self.document(), "results": [self.results[one] for one in self.job_ids if one in self.results]}
