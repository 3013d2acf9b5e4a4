"""The histories that server-sent events are read from."""

from __future__ import annotations

import asyncio
from typing import Any

from bridge import events
from bridge.http.feeds import Feeds, History, sse


def status(job_id: str, word: str, *, final: bool = False) -> events.JobStatus:
    return events.JobStatus(job_id, "fox", {"id": job_id, "status": word}, final)


def feeds() -> Feeds:
    return Feeds(preview_url=lambda job_id: f"http://here/{job_id}/preview")


def ended(made: Feeds, job_id: str) -> None:
    made.listen(status(job_id, "running"))
    made.listen(events.JobResult(job_id, "fox", {"id": job_id, "values": {}}))
    made.listen(status(job_id, "completed", final=True))


def test_events_keep_their_order_and_numbers() -> None:
    history = History(kept=10, loose=10)
    for number in range(6):
        history.append("a", {"n": number}, loose=bool(number % 2))
    assert [entry.document["n"] for entry in history.after(0)] == [0, 1, 2, 3, 4, 5]
    assert [entry.seq for entry in history.after(3)] == [4, 5, 6]
    assert history.after(6) == []


def test_progress_goes_first_and_what_must_be_kept_is_missed_openly() -> None:
    history = History(kept=3, loose=2)
    history.append("status", {})
    for number in range(10):
        history.append("progress", {"n": number}, loose=True)
    assert [entry.kind for entry in history.after(0)] == ["status", "progress", "progress"]
    assert history.complete_after(0)
    for _ in range(3):
        history.append("status", {})
    assert not history.complete_after(0)
    assert history.complete_after(1)
    assert not history.complete_after(history.last + 1)


async def test_a_reader_is_woken() -> None:
    history = History(kept=3, loose=2)
    waiting = asyncio.create_task(history.wait(0, 10))
    await asyncio.sleep(0)
    history.append("status", {})
    assert await waiting
    assert not await history.wait(history.last, 0)
    waiting = asyncio.create_task(history.wait(history.last, 10))
    await asyncio.sleep(0)
    history.wake()
    assert not await waiting


def test_a_job_ends_with_its_result() -> None:
    made = feeds()
    made.listen(status("a", "queued"))
    assert made.of("a") is None  # thousands may wait
    ended(made, "a")
    feed = made.of("a")
    assert feed is not None
    assert feed.over
    entries = feed.after(0)
    assert [entry.kind for entry in entries] == ["status", "status", "result"]
    assert entries[-1].document == {"id": "a", "values": {}, "status": "completed"}


def test_a_job_that_goes_back_to_the_queue_tells_so() -> None:
    made = feeds()
    for word in ("queued", "running", "queued", "running"):
        made.listen(status("a", word))
    feed = made.of("a")
    assert feed is not None
    assert [entry.document["status"] for entry in feed.after(0)] == ["running", "queued", "running"]


def test_only_the_newest_of_the_ended_jobs_are_held() -> None:
    made = feeds()
    for number in range(1_000):
        ended(made, f"job{number}")
    assert made.of("job0") is None
    assert made.of("job999") is not None
    assert sum(made.of(f"job{number}") is not None for number in range(1_000)) < 500


def test_of_previews_only_the_newest_image_is_held() -> None:
    made = feeds()
    made.listen(status("a", "running"))
    for seq in (1, 2):
        made.listen(events.PromptPreview("a", "fox", "3", seq, "image/jpeg", b"image %d" % seq))
    feed = made.of("a")
    assert feed is not None
    old, new = [entry.document for entry in feed.after(0) if entry.kind == "preview"]
    assert old["url"] == "http://here/a/preview"
    assert made.with_image(old) is None
    with_image = made.with_image(new)
    assert with_image is not None
    assert with_image["image"] == "aW1hZ2UgMg=="
    ended(made, "a")
    assert made.with_image(new) is None


def test_places_of_another_run_are_none() -> None:
    made = feeds()
    assert made.place(f"{made.boot}-12") == 12
    wrong: list[Any] = [None, "", "12", "other-12", f"{made.boot}-", f"{made.boot}-x", f"{made.boot}-{'9' * 50}"]
    for place in wrong:
        assert made.place(place) is None


def test_an_event_is_three_lines() -> None:
    assert sse("status", {"text": "a\nb"}, "x-1") == b'id: x-1\nevent: status\ndata: {"text":"a\\nb"}\n\n'
