"""Which of its jobs the topics of a workflow tell of."""

from typing import Any

import pytest

from bridge.mqtt.foremost import Foremost


def said(foremost: Foremost, job: str, status: str, workflow: str = "fox") -> list[str]:
    document: dict[str, Any] = {"id": job, "status": status}
    return [f"{one['id']} {one['status']}" for one in foremost.take(workflow, document)]


@pytest.mark.parametrize("status", ["preparing", "running", "finishing"])
def test_one_that_waits_does_not_hide_one_that_is_made(status: str) -> None:
    foremost = Foremost()
    assert said(foremost, "a", status) == [f"a {status}"]
    assert said(foremost, "b", "queued") == []
    assert said(foremost, "b", "queued", "owl") == ["b queued"]


def test_one_that_is_prepared_does_not_hide_one_that_runs() -> None:
    foremost = Foremost()
    said(foremost, "a", "running")
    assert said(foremost, "b", "preparing") == []
    assert said(foremost, "a", "finishing") == ["a finishing"]
    assert said(foremost, "a", "completed") == ["a completed", "b preparing"]
    assert said(foremost, "b", "running") == ["b running"]


def test_of_two_that_run_the_newest_is_told() -> None:
    foremost = Foremost()
    said(foremost, "a", "running")
    assert said(foremost, "b", "running") == ["b running"]
    assert said(foremost, "a", "running") == ["a running"]


@pytest.mark.parametrize("end", ["completed", "failed", "interrupted"])
def test_after_an_end_the_one_that_goes_on_is_told_again(end: str) -> None:
    foremost = Foremost()
    said(foremost, "a", "running")
    said(foremost, "b", "queued")
    assert said(foremost, "b", end) == [f"b {end}", "a running"]
    assert said(foremost, "a", end) == [f"a {end}"]


def test_one_that_waits_again_hides_nothing() -> None:
    foremost = Foremost()
    said(foremost, "a", "running")
    assert said(foremost, "a", "queued") == ["a queued"]
    assert said(foremost, "b", "queued") == ["b queued"]


def test_nothing_is_kept_of_what_has_ended() -> None:
    foremost = Foremost()
    for status in ("queued", "preparing", "running", "finishing", "completed"):
        assert said(foremost, "a", status) == [f"a {status}"]
    assert not foremost._made
