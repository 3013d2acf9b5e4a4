"""A job that is tried again: what the server has of it already counts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from bridge import errors, events
from bridge.comfyui.client import ComfyClient, Submitted
from bridge.comfyui.shapes import FileRef, HistoryEntry
from bridge.jobs import submission
from bridge.jobs.backend import Active, Backend
from bridge.jobs.model import ImageValue, Job, Payload
from bridge.jobs.pool import Pool
from bridge.jobs.runner import Runner
from bridge.jobs.store import Store
from bridge.jobs.submission import Again, Submitter, refused_before
from bridge.settings import Settings

GRAPH = {"1": {"class_type": "SaveImage", "inputs": {}}}


class Server:
    """A ComfyUI's queue and history; `answer` is what it says to a prompt that it has taken."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.ended: dict[str, str] = {}
        self.submitted: list[str] = []
        self.answer: Exception | None = None
        self.node_errors: dict[str, Any] = {}
        self.takes = True
        self.files: set[str] = set()
        self.uploads = 0

    async def knows(self, prompt_id: str) -> bool:
        return prompt_id in self.running or prompt_id in self.ended

    async def history(self, prompt_id: str) -> HistoryEntry | None:
        status = self.ended.get(prompt_id)
        return None if status is None else HistoryEntry(prompt_id, status, status == "success", {})

    async def delete_history(self, prompt_id: str) -> None:
        del self.ended[prompt_id]

    async def upload_image(self, _data: bytes, filename: str) -> FileRef:
        self.files.add(filename)
        self.uploads += 1
        return FileRef(filename, "", "input")

    async def submit(self, graph: Mapping[str, Any], *, prompt_id: str, client_id: str) -> Submitted:
        assert client_id
        image = graph["1"]["inputs"].get("image")
        if image is not None and image not in self.files:
            raise errors.NodeErrors(f"there is no {image}")
        if self.takes:
            self.submitted.append(prompt_id)
            self.running.append(prompt_id)
        if self.answer is not None:
            raise self.answer
        return Submitted(prompt_id, 0, self.node_errors)


class Case:
    """One job at one server, handed over by `submit`."""

    def __init__(self, store: Store, *, attempts: int) -> None:
        self.store = store
        self.server = Server()
        self.backend = Backend(
            "http://127.0.0.1:1", hub=events.Hub(), on_change=lambda *_: None, on_state=lambda _: None
        )
        self.backend.client = cast("ComfyClient", self.server)
        self.job = Job("j", "fox", {}, 0.0, attempts=attempts)

    async def submit(self, *images: ImageValue) -> Active:
        active = Active(self.job, Payload(GRAPH, tuple(("1", "image", image) for image in images)))
        await Submitter(self.store, clock=time.time).submit(self.backend, active)
        return active

    async def another(self, image: ImageValue) -> Active:
        """Submit a new job with an image, the one before having ended."""
        self.job = Job("j", "fox", {}, 0.0)
        self.server.running.clear()
        return await self.submit(image)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path / 'bridge.db'}", keep=1000.0) as opened:
        yield opened


@pytest.mark.parametrize("where", ["queue", "history"])
async def test_an_earlier_attempt_that_runs_or_ended_well_is_followed(store: Store, where: str) -> None:
    case = Case(store, attempts=1)
    if where == "queue":
        case.server.running.append("j")
    else:
        case.server.ended["j"] = "success"
    active = await case.submit()
    assert case.server.submitted == []
    assert (active.submitted, active.ambiguous, active.missed) == (True, True, True)
    assert (case.job.submitted, case.job.backend, case.job.attempts) == (True, "127-0-0-1-1", 1)


async def test_an_earlier_attempt_that_failed_is_forgotten_there(store: Store) -> None:
    case = Case(store, attempts=1)
    case.server.ended["j"] = "error"
    await case.submit()
    assert case.server.submitted == ["j"]
    assert case.server.ended == {}
    assert case.job.attempts == 2


async def test_an_error_500_after_which_the_prompt_is_there(store: Store) -> None:
    case = Case(store, attempts=0)
    case.server.answer = errors.InvalidGraph("500", details={"status": 500})
    active = await case.submit()
    assert (active.submitted, active.ambiguous, case.job.submitted) == (True, True, True)


async def test_an_error_500_after_which_it_is_not(store: Store) -> None:
    case = Case(store, attempts=0)
    case.server.answer, case.server.takes = errors.InvalidGraph("500", details={"status": 500}), False
    with pytest.raises(Again) as raised:
        await case.submit()
    assert raised.value.counts
    assert raised.value.backend_failed
    assert not case.job.submitted


async def test_outputs_that_were_refused_are_known_after_a_restart(store: Store) -> None:
    case = Case(store, attempts=0)
    await store.add([(case.job, Payload(GRAPH).dump())])
    case.server.node_errors = {"2": {"errors": [], "dependent_outputs": ["2"], "class_type": "PreviewImage"}}
    active = await case.submit()
    (written,) = await store.unfinished()
    before, after = active.life.error, refused_before(written)
    assert before is not None
    assert after is not None
    assert (after.to_json(), after.details) == (before.to_json(), before.details)
    assert refused_before(Job("k", "fox", {}, 0.0, error={"code": "lost", "message": "x"})) is None


async def test_a_backend_that_still_has_to_end_an_attempt_gets_no_other(store: Store) -> None:
    case = Case(store, attempts=1)
    case.backend.online = True
    pool = Pool([case.backend], depth=2)
    case.backend.leftovers.add("j")
    assert pool.choose(case.job, GRAPH) is None
    case.backend.leftovers.clear()
    assert pool.choose(case.job, GRAPH) is case.backend


async def test_a_job_whose_graph_cannot_be_read_now_waits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(Settings(), store, events.Hub())
    job = Job("j", "fox", {}, 0.0)
    await runner.accept([(job, Payload(GRAPH))])
    runner.pool.backends[0].online = True
    runner._payloads.clear()

    async def full(_: str) -> Payload:
        raise errors.StoreError("the store cannot be written: database or disk is full")

    monkeypatch.setattr(store, "payload", full)
    assert await runner._dispatch_one() is False
    assert [one["status"] for one in runner.job_documents(None)] == ["queued"]


async def test_an_image_that_was_deleted_there_is_uploaded_once_more(store: Store) -> None:
    case = Case(store, attempts=0)
    image = ImageValue("a.png", await store.put_media(b"picture"))
    await case.another(image)
    await case.another(image)
    assert case.server.uploads == 1
    case.server.files.clear()
    await case.another(image)
    assert case.server.uploads == 2
    assert len(case.server.submitted) == 3


async def test_a_graph_that_is_refused_for_another_reason_is_refused(store: Store) -> None:
    case = Case(store, attempts=0)
    image = ImageValue("a.png", await store.put_media(b"picture"))
    await case.another(image)
    case.server.answer = errors.NodeErrors("the model is missing")
    with pytest.raises(errors.NodeErrors, match="the model"):
        await case.another(image)
    assert case.server.uploads == 2


async def test_of_a_camera_the_newest_uploads_are_remembered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_UPLOADED", 2)
    case = Case(store, attempts=0)
    for name in ("a.png", "b.png", "a.png", "c.png"):
        await case.another(ImageValue(name, await store.put_media(b"picture")))
    assert list(case.backend.uploaded.values()) == ["a.png", "c.png"]
