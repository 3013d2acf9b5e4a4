"""Which of its jobs the topics of a workflow tell of: one that is being made before one that waits. Pure."""

from __future__ import annotations

from bridge.events import Document
from bridge.jobs.model import Status

_RANKS = {Status.PREPARING: 1, Status.RUNNING: 2, Status.FINISHING: 2}


class Foremost:
    """Keeps the newest status of each job that is being made, so that none is hidden by one that waits behind it."""

    def __init__(self) -> None:
        self._made: dict[str, dict[str, Document]] = {}
        """By workflow and job."""

    def take(self, workflow: str, document: Document) -> list[Document]:
        """Take the status of a job; return what is to be told of its workflow now, in order.

        An end is always told, and after it the job that goes on beside it.
        """
        job_id = str(document["id"])
        made = self._made.setdefault(workflow, {})
        made.pop(job_id, None)
        others = max(made.values(), key=_rank, default=None)
        if _rank(document):
            made[job_id] = document
        elif not made:
            del self._made[workflow]
        if others is None:
            return [document]
        if Status(document["status"]).final:
            return [document, others]
        return [document] if _rank(document) >= _rank(others) else []


def _rank(document: Document) -> int:
    return _RANKS.get(Status(document["status"]), 0)
