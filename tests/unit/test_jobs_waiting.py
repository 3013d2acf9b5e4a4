"""The queue against a model of it, and its estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge.jobs.model import Job
from bridge.jobs.waiting import Waiting


def job(name: str, *, at: float = 0.0, priority: int = 0, expires_at: float | None = None, workflow: str = "w") -> Job:
    return Job(name, workflow, {}, at, order=int(at), priority=priority, expires_at=expires_at)


@dataclass(slots=True)
class Entry:
    job: Job
    added: int


class Model(RuleBasedStateMachine):
    """A plain list that is sorted at each look."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting()
        self.model: dict[str, Entry] = {}
        self.gone: list[Job] = []
        self.count = 0

    def order(self) -> list[Job]:
        entries = sorted(self.model.values(), key=lambda one: (-one.job.priority, one.job.order, one.added))
        return [entry.job for entry in entries]

    @rule(
        at=st.integers(0, 5),
        priority=st.integers(-2, 2),
        expires=st.none() | st.integers(0, 10),
    )
    def add(self, at: int, priority: int, expires: int | None) -> None:
        self.count += 1
        one = job(
            f"j{self.count}", at=float(at), priority=priority, expires_at=None if expires is None else float(expires)
        )
        self.put(one)

    @rule(data=st.data())
    def come_back(self, data: Any) -> None:
        if self.gone:
            one = data.draw(st.sampled_from(self.gone))
            self.gone.remove(one)
            self.put(one)

    def put(self, one: Job) -> None:
        self.count += 1
        position = self.waiting.next_position(one.priority)
        self.waiting.add(one)
        self.model[one.id] = Entry(one, self.count)
        ahead = sum(entry.job.priority >= one.priority for entry in self.model.values())
        assert position == ahead

    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        name = data.draw(st.sampled_from([*sorted(self.model), "unknown"]))
        removed = self.waiting.remove(name)
        known = self.model.pop(name, None)
        assert removed is (None if known is None else known.job)
        if removed is not None:
            self.gone.append(removed)

    @rule(now=st.integers(0, 10))
    def expire(self, now: int) -> None:
        expected = {
            one.job.id for one in self.model.values() if one.job.expires_at is not None and one.job.expires_at <= now
        }
        got = self.waiting.expired(float(now))
        assert {one.id for one in got} == expected
        assert len(got) == len(expected)
        for name in expected:
            del self.model[name]

    @rule(limit=st.integers(0, 12))
    def look(self, limit: int) -> None:
        assert self.waiting.first(limit) == self.order()[:limit]

    @invariant()
    def same(self) -> None:
        assert len(self.waiting) == len(self.model)
        assert self.waiting.first(1) == self.order()[:1]
        assert all(name in self.waiting for name in self.model)
        assert self.waiting.get("unknown") is None
        positions = [position for position, _, _ in self.waiting.estimates(100, ahead=0, lanes=1)]
        assert positions == list(range(1, len(self.model) + 1))


TestModel = Model.TestCase


def test_a_thousand_come_and_go_without_a_trace() -> None:
    waiting = Waiting()
    for n in range(5000):
        waiting.add(job(f"j{n}", at=n, expires_at=1e9))
        if n >= 3:
            waiting.remove(f"j{n - 3}")
    assert [one.id for one in waiting.first(10)] == ["j4997", "j4998", "j4999"]
    assert len(waiting._heap) < 200
    assert len(waiting._expiring) < 200


def test_a_job_that_comes_back_keeps_its_place_by_age() -> None:
    waiting = Waiting()
    old, new = job("old", at=1), job("new", at=2)
    waiting.add(old)
    waiting.add(new)
    waiting.remove("old")
    waiting.add(old)
    assert [one.id for one in waiting.first(2)] == ["old", "new"]


def test_estimates_are_what_is_ahead_shared_by_the_backends() -> None:
    waiting = Waiting()
    for n in range(4):
        waiting.add(job(f"j{n}", at=n))
    waiting.ran("w", 8.0)
    assert [seconds for _, _, seconds in waiting.estimates(10, ahead=4.0, lanes=1)] == [4.0, 12.0, 20.0, 28.0]
    assert [seconds for _, _, seconds in waiting.estimates(10, ahead=4.0, lanes=2)] == [2.0, 6.0, 10.0, 14.0]
    assert [one.id for _, one, _ in waiting.estimates(2, ahead=0.0, lanes=0)] == ["j0", "j1"]


def test_what_a_run_takes_is_learned_and_guessed_by_others() -> None:
    waiting = Waiting()
    assert waiting.expected("w") > 0
    waiting.ran("w", 10.0)
    waiting.ran("w", 20.0)
    assert 10.0 < waiting.expected("w") < 20.0
    waiting.ran("v", 1.0)
    assert waiting.expected("v") == 1.0
    assert waiting.expected("never ran") == pytest.approx((waiting.expected("w") + 1.0) / 2)
    assert waiting.expected(None) == waiting.expected("never ran")
