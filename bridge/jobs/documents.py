"""The JSON that the faces show of a job (DESIGN sections 5 and 10). Pure."""

from __future__ import annotations

from typing import Any

from bridge.errors import Expired
from bridge.jobs.lifecycle import Lifecycle
from bridge.jobs.model import Job, Status, iso


def status(job: Job, *, life: Lifecycle | None = None, position: int | None = None) -> dict[str, Any]:
    """`prompt/<id>/status`."""
    return {
        "id": job.id,
        "status": job.status,
        "workflow": job.workflow,
        "position": position,
        "percent": _percent(job, life),
        "node": None if life is None else life.node,
        "title": None if life is None else life.node_title,
        "seq": job.seq,
        "error": job.error if job.status.final else None,
        **({"batch_id": job.batch_id} if job.batch_id is not None else {}),
    }


def job(one: Job, *, life: Lifecycle | None = None, position: int | None = None) -> dict[str, Any]:
    """A job in full: its status and, as far as it has come, its result."""
    return {**one.result(), **status(one, life=life, position=position)}


def queued(
    one: Job, *, percent: float = 0.0, position: int | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """An entry of `queue/state`."""
    document: dict[str, Any] = {"id": one.id, "workflow": one.workflow, "created_at": iso(one.created_at)}
    if position is None:
        document |= {"status": one.status, "percent": percent, "backend": one.backend}
    else:
        document |= {"position": position, "priority": one.priority}
        document["estimate"] = None if seconds is None else round(seconds, 1)
    return document


def interrupted() -> dict[str, Any]:
    """The error of a job that a command ended."""
    return {"code": "interrupted", "message": "interrupted by a command"}


def expired(one: Job) -> Expired:
    """The error of a job that was not started in time."""
    return Expired(f"the job was to start before {iso(one.expires_at)} and could not")


def _percent(one: Job, life: Lifecycle | None) -> float:
    if one.status is Status.COMPLETED:
        return 100.0
    return 0.0 if life is None else life.percent
