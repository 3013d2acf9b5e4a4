"""The judge finds each kind of defect, and nothing where there is none."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tests.chaos.processes import Outage
from tests.chaos.recorder import Note
from tests.chaos.verdict import Evidence, Picture, judge, undisturbed

OUTPUT = {"n": 0, "filename": "job_00001_.png"}


def note(at: float, part: str, document: Any = None) -> Note:
    return Note(at, f"prompt/p/{part}", b"png" if document is None else json.dumps(document).encode())


def result(status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"status": status, "error": None, "attempts": 1, "backend": "a", "outputs": [OUTPUT], **more}


def status(word: str = "completed", **more: Any) -> dict[str, Any]:
    return {"status": word, "error": None, **more}


GOOD = Evidence(
    accepted={"job": "p"},
    interrupted=frozenset(),
    replies={"job": [{"status": "ok"}]},
    notes=[
        note(1, "status", status("queued")),
        note(3, "output/0"),
        note(3, "result", result()),
        note(3, "status", status()),
    ],
    pictures=[Picture("job", "a", 2.0)],
    outages={},
    kills={},
)


def problems(**changes: Any) -> list[str]:
    return judge(dataclasses.replace(GOOD, **changes)).problems


def found(words: str, **changes: Any) -> bool:
    return any(words in problem for problem in problems(**changes))


def test_a_good_run_has_no_problems() -> None:
    assert problems() == []
    assert judge(GOOD).statuses["completed"] == 1


def test_a_redelivery_is_counted_and_no_defect() -> None:
    report = judge(dataclasses.replace(GOOD, notes=[*GOOD.notes, *GOOD.notes[2:]]))
    assert report.problems == []
    assert report.redelivered == 2


def test_what_is_missing_is_found() -> None:
    assert found("no final status", notes=GOOD.notes[:3])
    assert found("no result", notes=[GOOD.notes[0], GOOD.notes[3]])
    assert found("completed without a picture", pictures=[])
    assert found("did not go out", notes=[GOOD.notes[0], *GOOD.notes[2:]])


def test_contradictions_are_found() -> None:
    assert found("different final statuses", notes=[*GOOD.notes, note(4, "status", status("interrupted"))])
    assert found("different results", notes=[*GOOD.notes, note(4, "result", result(attempts=2))])
    assert found("before the result", notes=[GOOD.notes[0], GOOD.notes[1], GOOD.notes[3], GOOD.notes[2]])
    assert found("disagree", notes=[GOOD.notes[1], note(3, "result", result("failed")), GOOD.notes[3]])
    assert found("answered differently", replies={"job": [{"status": "ok"}, {"status": "error"}]})
    assert found("its picture is on b", pictures=[Picture("job", "b", 2.0)])


def test_jobs_that_nobody_sent_are_found() -> None:
    assert found("a job that nobody was told of", accepted={})
    assert found("a picture of other", pictures=[*GOOD.pictures, Picture("other", "a", 2.0)])


def test_ends_without_a_reason_are_found() -> None:
    error = {"code": "lost", "message": "…"}
    failed = [note(3, "result", result("failed", error=error)), note(3, "status", status("failed", error=error))]
    assert found("failed after 1 attempts", notes=failed)
    three = [note(3, "result", result("failed", error=error, attempts=3)), failed[1]]
    assert problems(notes=three) == []
    gone = {"code": "interrupted", "message": "…"}
    ended = [
        note(3, "result", result("interrupted", error=gone)),
        note(3, "status", status("interrupted", error=gone)),
    ]
    assert found("nobody asked for it", notes=ended)
    assert problems(notes=ended, interrupted=frozenset({"job"})) == []


def test_a_second_run_is_allowed_only_if_nobody_could_know_of_the_first() -> None:
    twice = [Picture("job", "a", 2.0), Picture("job", "a", 20.0)]
    assert found("was not killed in between", pictures=twice)
    assert found("was not killed in between", pictures=twice, kills={"a": [1.0, 25.0]})
    assert problems(pictures=twice, kills={"a": [2.5]}) == []
    assert judge(dataclasses.replace(GOOD, pictures=twice, kills={"a": [2.5]})).excused_runs == 1
    assert found("undisturbed", pictures=twice, kills={"a": [12.0]})
    down = {"bridge": [Outage(1.0, "kill bridge", 11.0)]}
    assert problems(pictures=twice, kills={"a": [12.0]}, outages=down) == []


def test_undisturbed_time_counts_overlapping_outages_once() -> None:
    outages = [Outage(1.0, "x", 3.0), Outage(2.0, "y", 5.0), Outage(8.0, "z", None)]
    assert undisturbed(outages, 0.0, 10.0) == 1.0 + 3.0
    assert undisturbed([], 2.0, 4.0) == 2.0
