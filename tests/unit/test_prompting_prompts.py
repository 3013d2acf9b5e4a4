"""The prompt step as other faces call it: awaited, cancelled with its caller, with a core of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bridge import errors, events, requests
from bridge.ideas import Painter
from bridge.jobs.store import Store
from bridge.prompting.model import ModelInfo, OnText, Question, Written
from bridge.prompting.ollama import PullProgress
from bridge.prompting.pulls import Pulls
from bridge.prompts import Prompts
from bridge.settings import load
from tests.support.brokers import until


class FakePictures:
    """A core that notes what it is asked."""

    def __init__(self) -> None:
        self.queued: list[tuple[dict[str, Any], tuple[str, str] | None]] = []
        self.fails: errors.BridgeError | None = None

    def check_then(self, request: requests.Then) -> Painter:
        is_flux = request.workflow == "flux"
        return Painter(request.workflow or "loaded", takes_negative=not is_flux, reads_sentences=is_flux)

    async def queue(
        self, request: requests.Queue, *, workflow: str | None = None, transaction: tuple[str, str] | None = None
    ) -> dict[str, Any]:
        del workflow
        if self.fails is not None:
            raise self.fails
        assert isinstance(request.values, dict)
        self.queued.append((dict(request.values), transaction))
        return {"prompt_ids": ["p1"], "workflow": request.workflow}

    async def free_for_writer(self) -> None:
        return None


class FakeWriter:
    """A writer that waits for `go`."""

    name = "fake"
    where = "nobody"

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.questions: list[Question] = []
        self.ended = 0
        self.pieces = ['{"prompt": "a fo', 'x"}']
        self.fails: Exception | None = None

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def write(self, question: Question, on_text: OnText) -> Written:
        self.questions.append(question)
        try:
            await self.go.wait()
        finally:
            self.ended += 1
        if self.fails is not None:
            raise self.fails
        for piece in self.pieces:
            on_text(piece)
        return Written("a fox", "text", "Fox", model="m")

    async def models(self) -> tuple[ModelInfo, ...] | None:
        return (ModelInfo("m", 1),)

    async def settle(self, model: str | None) -> None:
        assert model == "m"


class Bench:
    def __init__(self, folder: Path) -> None:
        self.pictures = FakePictures()
        self.writer = FakeWriter()
        self.hub = events.Hub()
        self.seen: list[events.Event] = []
        self.settings = load(environ={"BRIDGE_PROMPTING__TIMEOUT": "5"})
        self.url = f"sqlite:///{folder / 'store.db'}"

    def starts(self) -> int:
        return sum(isinstance(one, events.WriterState) for one in self.seen)

    def results(self) -> list[dict[str, Any]]:
        return [dict(one.document) for one in self.seen if isinstance(one, events.PromptWritten)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Prompts]:
        async with Store(self.url, keep=60.0) as store:
            prompts = Prompts(self.settings, store, self.hub, self.pictures)
            prompts.use(self.writer)
            await prompts.load()
            with self.hub.subscribed(self.seen.append):
                task = asyncio.create_task(prompts.run())
                try:
                    yield prompts
                finally:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


FOX = requests.WritePrompt(idea="a fox")


async def written(prompts: Prompts, request: requests.WritePrompt) -> dict[str, Any]:
    """Have it written, and return the result or raise its error."""
    document, error = await prompts.outcome((await prompts.accept(request))["id"])
    if error is not None:
        raise error
    return document


async def test_the_result_is_awaited(bench: Bench) -> None:
    bench.writer.go.set()
    async with bench.running() as prompts:
        document = await written(prompts, requests.WritePrompt(idea="a fox", then=requests.Then()))
    assert (document["prompt"], document["prompt_id"], document["workflow"]) == ("a fox", "p1", "loaded")
    assert bench.results() == [document]
    assert bench.pictures.queued == [({"negative": "text", "prompt": "a fox"}, None)]
    texts = [(one.text, one.so_far) for one in bench.seen if isinstance(one, events.PromptText)]
    assert texts == [('{"prompt": "a fo', "a fo"), ('x"}', "a fox")]


async def test_a_model_gone_wild_is_not_read_for_ever(bench: Bench) -> None:
    bench.writer.pieces = ['{"prompt": "', *["la "] * 5_000]
    bench.writer.go.set()
    async with bench.running() as prompts:
        await written(prompts, FOX)
    told = [one for one in bench.seen if isinstance(one, events.PromptText)]
    assert "".join(one.text for one in told) == "".join(bench.writer.pieces)
    assert len(told[-1].so_far) < 4_100
    assert told[100].so_far == ("la " * 100).strip()


async def test_a_negative_that_the_caller_gives_wins_and_none_goes_where_none_is(bench: Bench) -> None:
    bench.writer.go.set()
    async with bench.running() as prompts:
        for workflow, values in (("fox", {"negative": "mine", "prompt": "x"}), ("flux", {"seed": 1})):
            then = requests.Then(workflow=workflow, values=values)
            await written(prompts, requests.WritePrompt(idea="a fox", then=then))
    assert [values for values, _ in bench.pictures.queued] == [
        {"negative": "mine", "prompt": "a fox"},
        {"seed": 1, "prompt": "a fox"},
    ]
    assert [question.profile for question in bench.writer.questions] == ["sd", "flux"]


async def test_the_answer_comes_before_the_result(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.writer.go.set()
    bench.writer.fails = errors.WriterFailed("at once")
    async with bench.running() as prompts:
        may = asyncio.Event()
        remember = prompts._remember

        async def slowly() -> None:
            await may.wait()
            await remember()

        monkeypatch.setattr(prompts, "_remember", slowly)
        accepting = asyncio.create_task(prompts.accept(FOX))
        for _ in range(20):  # as often as the writing would need
            await asyncio.sleep(0)
        assert not bench.results()
        may.set()
        accepted = await accepting
        assert not bench.results()
        await prompts.outcome(accepted["id"])
        assert bench.results()[0]["code"] == "writer_failed"


async def test_who_waits_for_an_idea_may_go_and_ask_again(bench: Bench) -> None:
    async with bench.running() as prompts:
        accepted = await prompts.accept(FOX)
        prompts.outcome(accepted["id"]).cancel()
        waiting = prompts.outcome(accepted["id"])
        bench.writer.go.set()
        document, error = await waiting
        assert (document["prompt"], error) == ("a fox", None)
        assert await prompts.outcome(accepted["id"]) == (document, None)
        with pytest.raises(errors.UnknownIdea, match="nobody"):
            prompts.outcome("nobody's")


async def test_of_ideas_that_ended_the_last_are_known(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.prompts._ENDED", 2)
    bench.writer.go.set()
    async with bench.running() as prompts:
        ids = [(await written(prompts, FOX))["id"] for _ in range(3)]
        with pytest.raises(errors.UnknownIdea):
            prompts.outcome(ids[0])
        assert [(await prompts.outcome(one))[0]["id"] for one in ids[1:]] == ids[1:]


async def test_what_went_wrong_is_raised(bench: Bench) -> None:
    bench.writer.go.set()
    async with bench.running() as prompts:
        bench.writer.fails = errors.WriterFailed("tired")
        with pytest.raises(errors.WriterFailed, match="tired"):
            await written(prompts, FOX)
        bench.writer.fails = ZeroDivisionError("a defect")
        with pytest.raises(errors.Internal):
            await written(prompts, FOX)
        bench.writer.fails = None
        bench.pictures.fails = errors.QueueFull("full")
        with pytest.raises(errors.QueueFull):
            await written(prompts, requests.WritePrompt(idea="a fox", then=requests.Then()))
        assert (await written(prompts, FOX))["status"] == "ok"
    assert bench.results()[2]["prompt"] == "a fox"


async def test_an_idea_cancelled_before_its_first_step_has_its_result(bench: Bench) -> None:
    async with bench.running() as prompts:
        await asyncio.sleep(0)
        accepted = await prompts.accept(FOX)
        await prompts.cancel(requests.CancelPrompt(id=accepted["id"]))
        await until(bench.results)
        assert bench.results()[0]["code"] == "cancelled"
        with pytest.raises(errors.UnknownIdea):
            await prompts.cancel(requests.CancelPrompt(id=accepted["id"]))
        assert len(bench.results()) == 1


async def test_the_transaction_goes_with_the_job_and_the_result(bench: Bench) -> None:
    bench.writer.go.set()
    async with bench.running() as prompts:
        request = requests.WritePrompt(idea="a fox", then=requests.Then(workflow="fox"))
        await prompts.accept(request, transaction=("ollama/generate", "t"))
        await until(bench.results)
    assert bench.pictures.queued[0][1] == ("ollama/generate", "t")
    assert bench.results()[0]["transaction"] == "t"


async def test_the_idea_of_an_earlier_start_is_told_once(bench: Bench) -> None:
    async with bench.running() as prompts:
        accepted = await prompts.accept(FOX)
        await until(lambda: bench.writer.questions)
    assert bench.results() == []
    for start in (2, 3):
        async with bench.running():
            await until(lambda: bench.starts() == start)  # noqa: B023  it is awaited here
    (lost,) = bench.results()
    assert (lost["id"], lost["code"], lost["idea"]) == (accepted["id"], "cancelled", "a fox")


async def test_a_download_tells_how_far_all_its_layers_are(bench: Bench) -> None:
    async def pull(_: str) -> AsyncGenerator[PullProgress, None]:
        yield PullProgress("pulling manifest")
        yield PullProgress("pulling a", "a", 0, 900)
        yield PullProgress("pulling a", "a", 450, 900)
        yield PullProgress("pulling a", "a", 900, 900)
        yield PullProgress("pulling b", "b", 0, 100)
        yield PullProgress("pulling b", "b", 100, 100)
        yield PullProgress("verifying sha256 digest")

    pulls = Pulls(bench.hub, lambda: None)
    with bench.hub.subscribed(bench.seen.append):
        pulls.start("m", pull)
        await until(lambda: isinstance(bench.seen[-1], events.ModelPull) and bench.seen[-1].final if bench.seen else 0)
    told = [one.document for one in bench.seen if isinstance(one, events.ModelPull)]
    assert [one.get("percent") for one in told] == [None, 0.0, 50.0, 100.0, 90.0, 100.0, 100.0, 100.0]
    assert [one.get("total") for one in told] == [None, 900, 900, 900, 1000, 1000, 1000, None]
