"""What must be true when the faults are over. Pure: judges what was seen."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.processes import Outage
from tests.chaos.recorder import FINAL, Note

KNOWABLE = 3.0
"""Seconds of an undisturbed bridge and server within which the end of a prompt must have been learnt and written."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that a server made: for which job (its name), where, when (seconds since the epoch)."""

    name: str
    server: str
    at: float


@dataclass(slots=True)
class Evidence:
    """All that was seen of a run."""

    accepted: Mapping[str, str]
    """Name of each job that was answered ok to its prompt id."""
    interrupted: frozenset[str]
    """Names of the jobs whose end was asked for."""
    replies: Mapping[str, Sequence[Mapping[str, Any]]]
    """All answers by transaction, which is the job's name."""
    notes: Sequence[Note]
    pictures: Sequence[Picture]
    outages: Mapping[str, Sequence[Outage]]
    """By process; the bridge's stand under `bridge`."""
    kills: Mapping[str, Sequence[float]]
    """When each server was killed."""
    attempts: int = 3


@dataclass(slots=True)
class Report:
    """The judgement. `problems` is empty if all is well; the counters tell how hard it was."""

    problems: list[str] = field(default_factory=list)
    accepted: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    redelivered: int = 0
    """Final statuses and results that came more than once, each time the same."""
    excused_runs: int = 0
    """Runs that came to an end which nobody could learn before the server was killed."""
    resubmitted: int = 0

    def __str__(self) -> str:
        words = [
            f"{self.accepted} accepted: {_counted(self.statuses)}",
            f"codes: {_counted(self.codes)}",
            f"second attempts: {self.resubmitted}",
            f"redelivered: {self.redelivered}",
            f"runs that ended unseen before a kill: {self.excused_runs}",
        ]
        return "; ".join(words) + "".join(f"\n  {problem}" for problem in self.problems)


def judge(evidence: Evidence) -> Report:
    """Hold a run to what must be true of it."""
    report = Report(accepted=len(evidence.accepted))
    _judge_answers(evidence, report)
    by_prompt: dict[str, list[Note]] = {}
    for note in evidence.notes:
        parts = note.topic.split("/")
        if parts[0] == "prompt":
            by_prompt.setdefault(parts[1], []).append(note)
    for stranger in by_prompt.keys() - set(evidence.accepted.values()):
        report.problems.append(f"{stranger}: a job that nobody was told of ({_line(by_prompt[stranger])})")
    pictures: dict[str, list[Picture]] = {}
    for picture in sorted(evidence.pictures, key=lambda one: one.at):
        pictures.setdefault(picture.name, []).append(picture)
    for stranger in pictures.keys() - evidence.accepted.keys():
        report.problems.append(f"a picture of {stranger}, which was never accepted")
    for name, prompt_id in evidence.accepted.items():
        _judge_job(evidence, report, name, by_prompt.get(prompt_id, []), pictures.get(name, []))
    return report


def _judge_answers(evidence: Evidence, report: Report) -> None:
    for transaction, replies in evidence.replies.items():
        different = {repr(sorted(reply.items())) for reply in replies}
        if len(different) > 1:
            report.problems.append(f"{transaction}: answered differently: {different}")


def _judge_job(
    evidence: Evidence, report: Report, name: str, notes: Sequence[Note], pictures: Sequence[Picture]
) -> None:
    who = f"{name} ({evidence.accepted[name]})"

    def problem(words: str) -> None:
        report.problems.append(f"{who}: {words} ({_line(notes)})")

    results = [note for note in notes if note.topic.endswith("/result")]
    finals = [note for note in notes if note.topic.endswith("/status") and note.document["status"] in FINAL]
    if not finals:
        problem("no final status")
        return
    if not results:
        problem("no result")
        return
    if len({note.payload for note in finals}) > 1:
        problem(f"different final statuses: {[note.document for note in finals]}")
    if len({note.payload for note in results}) > 1:
        problem(f"different results: {_differences(results)}")
    report.redelivered += len(finals) + len(results) - 2
    if notes.index(results[0]) > notes.index(finals[0]):
        problem("the final status came before the result")
    status, result = finals[0].document, results[0].document
    report.statuses[status["status"]] += 1
    if (status["status"], status["error"]) != (result["status"], result["error"]):
        problem(f"status and result disagree: {status} {result}")
    if result["attempts"] > 1:
        report.resubmitted += 1
    code = (status["error"] or {}).get("code")
    if code is not None:
        report.codes[code] += 1
    match status["status"]:
        case "completed":
            _judge_completed(result, notes, pictures, problem)
        case "interrupted" if name not in evidence.interrupted:
            problem(f"interrupted, and nobody asked for it: {status['error']}")
        case "failed" if result["attempts"] < evidence.attempts:
            problem(f"failed after {result['attempts']} attempts: {status['error']}")
    _judge_runs(evidence, report, pictures, problem)


def _judge_completed(
    result: Mapping[str, Any], notes: Sequence[Note], pictures: Sequence[Picture], problem: Any
) -> None:
    if not pictures:
        problem("completed without a picture")
    if len(result["outputs"]) != 1 or result["outputs"][0].get("error"):
        problem(f"completed, and its outputs are {result['outputs']}")
    elif pictures and result["backend"] not in {one.server for one in pictures}:
        problem(f"its result names {result['backend']}, its picture is on {pictures[-1].server}")
    if not any("/output/" in note.topic for note in notes):
        problem("completed, and its picture did not go out")


def _judge_runs(evidence: Evidence, report: Report, pictures: Sequence[Picture], problem: Any) -> None:
    """Each picture but the last is of a run that was followed by another: allowed if nobody could know of its end."""
    for picture, following in itertools.pairwise(pictures):
        kill = next((at for at in evidence.kills.get(picture.server, ()) if at >= picture.at), None)
        if kill is None or kill > following.at:
            problem(
                f"run again after its end: on {picture.server} at {picture.at:.2f}, then on {following.server} "
                f"at {following.at:.2f}, and {picture.server} was not killed in between"
            )
            continue
        outages = [*evidence.outages.get("bridge", ()), *evidence.outages.get(picture.server, ())]
        quiet = undisturbed(outages, picture.at, kill)
        if quiet >= KNOWABLE:
            problem(
                f"run again after its end: it ended at {picture.at:.2f} on {picture.server}, which was killed "
                f"{kill - picture.at:.2f} s later, {quiet:.2f} s of them undisturbed"
            )
        else:
            report.excused_runs += 1


def undisturbed(outages: Iterable[Outage], start: float, end: float) -> float:
    """Seconds of [start, end] that no outage covers."""
    left, at = 0.0, start
    for low, high in sorted(outage.overlap(start, end) for outage in outages):
        if high <= low:
            continue
        left += max(0.0, low - at)
        at = max(at, high)
    return left + max(0.0, end - at)


def _differences(notes: Sequence[Note]) -> dict[str, list[Any]]:
    documents = [note.document for note in notes]
    keys = {key for document in documents for key in document}
    found = {key: [document.get(key) for document in documents] for key in sorted(keys)}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _line(notes: Sequence[Note]) -> str:
    """What was seen of a job, in short."""
    words = []
    for note in notes:
        part = note.topic.split("/", 2)[2]
        if part == "status":
            words.append(str(note.document["status"]))
        else:
            words.append(part)
    return " ".join(word if count == 1 else f"{word}x{count}" for word, count in _runs(words))


def _runs(words: Iterable[str]) -> list[tuple[str, int]]:
    return [(word, len(list(group))) for word, group in itertools.groupby(words)]


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counter.most_common()) or "none"
