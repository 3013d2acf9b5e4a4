from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from bridge.mqtt.throttle import Throttle


class Loop:
    """A clock and timers that move when they are told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any, *args: Any) -> Timer:
        timer = Timer(when, callback, args)
        self.timers.append(timer)
        return timer

    def go(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = sorted((one for one in self.timers if one.when <= end), key=lambda one: one.when)
            if not due:
                break
            self.timers.remove(due[0])
            self.now = max(self.now, due[0].when)
            if not due[0].cancelled:
                due[0].callback(*due[0].args)
        self.now = end


class Timer:
    def __init__(self, when: float, callback: Any, args: Any) -> None:
        self.when, self.callback, self.args, self.cancelled = when, callback, args, False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    yield made
    monkeypatch.undo()


class Sent(list[tuple[float, str, int]]):
    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def note(self, key: str, value: int) -> None:
        self.append((self._loop.now, key, value))


def test_the_first_goes_at_once_and_of_the_rest_the_newest(loop: Loop) -> None:
    sent = Sent(loop)
    throttle: Throttle[int] = Throttle(4, sent.note)
    for value in range(10):
        throttle.put("a", value)
    assert sent == [(100.0, "a", 0)]
    loop.go(0.25)
    assert sent == [(100.0, "a", 0), (100.25, "a", 9)]
    loop.go(10)
    assert len(sent) == 2
    throttle.put("a", 10)
    assert sent[-1] == (110.25, "a", 10)


def test_never_more_than_so_many_a_second_and_never_stale(loop: Loop) -> None:
    sent = Sent(loop)
    throttle: Throttle[int] = Throttle(5, sent.note)
    for value in range(100):
        throttle.put("a", value)
        loop.go(0.01)
    loop.go(1)
    times = [time for time, _, _ in sent]
    assert all(after - before >= 0.2 - 1e-9 for before, after in pairwise(times))
    assert sent[-1][2] == 99
    assert 5 <= len(sent) <= 7
    assert [value for _, _, value in sent] == sorted(value for _, _, value in sent)


def test_keys_do_not_wait_for_each_other(loop: Loop) -> None:
    sent = Sent(loop)
    throttle: Throttle[int] = Throttle(1, sent.note)
    throttle.put("a", 1)
    throttle.put("b", 2)
    throttle.put("a", 3)
    assert [(key, value) for _, key, value in sent] == [("a", 1), ("b", 2)]
    loop.go(1)
    assert [(key, value) for _, key, value in sent] == [("a", 1), ("b", 2), ("a", 3)]


def test_what_is_dropped_is_not_sent_and_the_pause_stays(loop: Loop) -> None:
    sent = Sent(loop)
    throttle: Throttle[int] = Throttle(1, sent.note)
    throttle.put("a", 1)
    throttle.put("a", 2)
    throttle.drop("a")
    throttle.drop("unknown")
    throttle.put("a", 3)
    assert len(sent) == 1
    loop.go(5)
    assert [value for _, _, value in sent] == [1, 3]


def test_a_forgotten_key_leaves_nothing(loop: Loop) -> None:
    sent = Sent(loop)
    throttle: Throttle[int] = Throttle(1, sent.note)
    for n in range(100):
        throttle.put(f"job {n}", n)
        throttle.put(f"job {n}", n)
        throttle.forget(f"job {n}")
    loop.go(5)
    assert len(sent) == 100
    assert not throttle._last
    assert not throttle._waiting


def test_nothing_comes_after_the_close(loop: Loop) -> None:
    sent = Sent(loop)
    throttle: Throttle[int] = Throttle(1, sent.note)
    throttle.put("a", 1)
    throttle.put("a", 2)
    throttle.close()
    loop.go(5)
    assert [value for _, _, value in sent] == [1]


async def test_on_a_real_loop() -> None:
    sent: list[int] = []
    last = asyncio.Event()

    def send(_: str, value: int) -> None:
        sent.append(value)
        if value == 2:
            last.set()

    throttle: Throttle[int] = Throttle(50, send)
    for value in range(3):
        throttle.put("a", value)
    assert sent == [0]
    await asyncio.wait_for(last.wait(), 5)
    assert sent == [0, 2]
