from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from bridge.jobs.batches import Batch
from bridge.jobs.model import Status

ENDS = [Status.COMPLETED, Status.FAILED, Status.INTERRUPTED]


def batch(count: int) -> Batch:
    return Batch("b", "fox", tuple(f"j{n}" for n in range(count)), "2030-01-01T00:00:00.000Z")


def test_a_batch_from_its_beginning_to_its_end() -> None:
    one = batch(2)
    assert (one.status, one.document()["percent"], one.over) == (Status.QUEUED, 0.0, False)
    one.progress("j0", Status.RUNNING, 50.0)
    assert (one.status, one.document()["percent"]) == (Status.RUNNING, 25.0)
    one.end("j0", {"id": "j0", "status": "completed"})
    assert (one.status, one.document()["percent"], one.document()["completed"]) == (Status.RUNNING, 50.0, 1)
    one.end("j1", {"id": "j1", "status": "completed"})
    assert (one.status, one.over, one.document()["percent"]) == (Status.COMPLETED, True, 100.0)
    assert [result["id"] for result in one.result()["results"]] == ["j0", "j1"]


def test_the_worst_end_is_that_of_the_whole() -> None:
    for ends, whole in (
        (["completed", "failed"], Status.FAILED),
        (["failed", "interrupted"], Status.INTERRUPTED),
        (["completed", "completed"], Status.COMPLETED),
    ):
        one = batch(len(ends))
        for n, end in enumerate(ends):
            one.end(f"j{n}", {"id": f"j{n}", "status": end})
        assert one.status is whole


@given(st.lists(st.sampled_from(ENDS), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_in_any_order_the_results_keep_that_of_the_batch(ends: list[Status], random: Random) -> None:
    one = batch(len(ends))
    order = list(range(len(ends)))
    random.shuffle(order)
    percent = 0.0
    for n in order:
        assert not one.over
        one.end(f"j{n}", {"id": f"j{n}", "status": ends[n].value})
        assert one.document()["percent"] >= percent
        percent = one.document()["percent"]
    assert one.over
    assert [result["id"] for result in one.result()["results"]] == [f"j{n}" for n in range(len(ends))]
    counts = one.document()
    assert counts["completed"] + counts["failed"] + counts["interrupted"] == counts["total"] == len(ends)
