"""The jobs that wait: by priority, then age; positions and estimates. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator

from bridge.jobs.model import Job

_RECENT = 0.3
"""How much the last run of a workflow weighs in the estimate of the next."""
_GUESS = 10.0
"""Seconds that are assumed for a workflow that never ran."""


class Waiting:
    """The queue of the bridge. A job that comes back (its backend was lost) keeps its place by age."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._heap: list[tuple[int, int, int, str]] = []
        self._expiring: list[tuple[float, str]] = []
        self._priorities: Counter[int] = Counter()
        self._order: dict[str, int] = {}
        self._count = 0
        self._durations: dict[str | None, float] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def get(self, job_id: str) -> Job | None:
        """Return a waiting job."""
        return self._jobs.get(job_id)

    def add(self, job: Job) -> None:
        """Add a job."""
        self._count += 1
        self._jobs[job.id] = job
        self._order[job.id] = self._count
        self._priorities[job.priority] += 1
        heapq.heappush(self._heap, (-job.priority, job.order, self._count, job.id))
        if job.expires_at is not None:
            heapq.heappush(self._expiring, (job.expires_at, job.id))

    def remove(self, job_id: str) -> Job | None:
        """Take a job out; None if it does not wait."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            del self._order[job_id]
            self._priorities[job.priority] -= 1
            if self._priorities[job.priority] == 0:
                del self._priorities[job.priority]
            if len(self._heap) > 2 * len(self._jobs) + 64:
                self._heap = [entry for entry in self._heap if self._stands(entry)]
                heapq.heapify(self._heap)
            if len(self._expiring) > 2 * len(self._jobs) + 64:
                self._expiring = [entry for entry in self._expiring if entry[1] in self._jobs]
                heapq.heapify(self._expiring)
        return job

    def expired(self, now: float) -> list[Job]:
        """Take out the jobs whose `expires_at` has passed."""
        gone = []
        while self._expiring and self._expiring[0][0] <= now:
            _, job_id = heapq.heappop(self._expiring)
            job = self._jobs.get(job_id)
            if job is not None and job.expires_at is not None and job.expires_at <= now:
                self.remove(job_id)
                gone.append(job)
        return gone

    def first(self, limit: int) -> list[Job]:
        """Return the next jobs in their order, at most `limit`."""
        if limit == 1:
            while self._heap and not self._stands(self._heap[0]):
                heapq.heappop(self._heap)
            return [self._jobs[self._heap[0][3]]] if self._heap else []
        entries = heapq.nsmallest(limit, (entry for entry in self._heap if self._stands(entry)))
        return [self._jobs[entry[3]] for entry in entries]

    def next_position(self, priority: int) -> int:
        """Return the position, from 1, of a job of this priority that would be added now."""
        return 1 + sum(count for other, count in self._priorities.items() if other >= priority)

    def ran(self, workflow: str | None, seconds: float) -> None:
        """Note how long a run took."""
        before = self._durations.get(workflow)
        self._durations[workflow] = seconds if before is None else before + _RECENT * (seconds - before)

    def position(self, job_id: str) -> int:
        """Return the position, from 1, of a waiting job."""
        job = self._jobs[job_id]
        entry = (-job.priority, job.order, self._order[job_id], job_id)
        return 1 + sum(other < entry and self._stands(other) for other in self._heap)

    def expected(self, workflow: str | None) -> float:
        """Return the seconds that a run is expected to take."""
        known = self._durations.get(workflow)
        if known is not None:
            return known
        return sum(self._durations.values()) / len(self._durations) if self._durations else _GUESS

    def estimates(self, limit: int, *, ahead: float, lanes: int) -> Iterator[tuple[int, Job, float]]:
        """Yield position, job and the seconds until it starts.

        ahead: seconds of work that the backends hold already; lanes: how many backends share the work.
        """
        for position, job in enumerate(self.first(limit), 1):
            yield position, job, ahead / max(1, lanes)
            ahead += self.expected(job.workflow)

    def _stands(self, entry: tuple[int, int, int, str]) -> bool:
        return self._order.get(entry[3]) == entry[2]
