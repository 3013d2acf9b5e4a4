"""Which frame belongs to which job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge import events
from bridge.comfyui import protocol
from bridge.jobs.backend import Active, Backend, Verdict
from bridge.jobs.lifecycle import Change
from bridge.jobs.model import Job, Payload
from tests.support.brokers import until
from tests.support.replay import posts
from tests.unit.recordings import load

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}


class Side:
    """A backend that is not connected, with what it told."""

    def __init__(self) -> None:
        self.hub = events.Hub()
        self.happened: list[events.Event] = []
        self.changes: list[tuple[str, Change]] = []
        self.backend = Backend(
            "http://127.0.0.1:1",
            hub=self.hub,
            on_change=lambda _, active, change: self.changes.append((active.job.id, change)),
            on_state=lambda _: None,
        )

    def take(self, name: str, graph: Any = None) -> Active:
        job = Job(name, "fox", {}, 0.0)
        used = graph or GRAPH
        active = Active(job, Payload(used), submitted=True)
        self.backend.take(active)
        return active

    def say(self, *coming: protocol.Message | str | bytes) -> None:
        with self.hub.subscribed(self.happened.append):
            for one in coming:
                if isinstance(one, str):
                    self.backend._on_message(protocol.decode_text(one))
                elif isinstance(one, bytes):
                    self.backend._on_message(protocol.decode_binary(one))
                else:
                    self.backend._on_message(one)

    def previews(self) -> list[str]:
        return [one.job_id for one in self.happened if isinstance(one, events.PromptPreview)]


@pytest.fixture
async def side() -> Side:
    return Side()


def frame(event_type: str, **data: Any) -> str:
    return json.dumps({"type": event_type, "data": data})


OLD_PREVIEW = bytes([0, 0, 0, 1, 0, 0, 0, 1]) + b"\xff\xd8\xff"
TEXT_OF_2 = bytes([0, 0, 0, 3, 0, 0, 0, 1]) + b"2hello"


async def test_frames_of_a_prompt_are_its_own_verbatim(side: Side) -> None:
    side.take("a")
    side.take("b")
    raws = [frame("execution_start", prompt_id="b"), frame("some_addon", prompt_id="b", x=[1])]
    side.say(*raws)
    told = [(one.job_id, one.event_type, one.raw) for one in side.happened if isinstance(one, events.PromptEvent)]
    assert told == [("b", "execution_start", raws[0]), ("b", "some_addon", raws[1])]
    assert side.changes == [("b", Change.STARTED)]


async def test_frames_of_strangers_are_events_of_the_backend(side: Side) -> None:
    side.take("a")
    raw = frame("execution_start", prompt_id="of another client")
    side.say(raw, frame("status", status={"exec_info": {"queue_remaining": 3}}), frame("addon", x=1))
    told = [(one.backend, one.event_type) for one in side.happened if isinstance(one, events.BackendEvent)]
    assert told == [("127-0-0-1-1", "execution_start"), ("127-0-0-1-1", "status"), ("127-0-0-1-1", "addon")]
    assert side.changes == []


async def test_frames_that_come_after_the_end_are_dropped(side: Side) -> None:
    active = side.take("a")
    side.backend.release(active)
    side.say(frame("executing", node=None, prompt_id="a"))
    assert side.happened == []


async def test_a_preview_that_names_no_prompt_belongs_to_the_one_that_runs(side: Side) -> None:
    side.take("waits")
    side.take("runs")
    side.say(OLD_PREVIEW)
    assert side.previews() == []
    side.say(frame("execution_start", prompt_id="runs"), OLD_PREVIEW)
    assert side.previews() == ["runs"]


async def test_the_one_that_runs_is_the_one_that_started_last(side: Side) -> None:
    # The end of the first was missed with a lost connection; ComfyUI runs one prompt at a time.
    first, second = side.take("first"), side.take("second")
    side.say(frame("execution_start", prompt_id="first"))
    side.say(frame("execution_start", prompt_id="second"), OLD_PREVIEW, TEXT_OF_2)
    assert side.previews() == ["second"]  # defect 18
    assert first.life.texts == []
    assert [entry["text"] for entry in second.life.texts] == ["hello"]


async def test_a_prompt_is_over_when_all_of_it_was_seen(side: Side) -> None:
    active = side.take("a")
    active.epoch = side.backend.epoch
    file = {"filename": "x.png", "subfolder": "", "type": "output"}
    side.say(
        frame("execution_start", prompt_id="a"),
        frame("executed", prompt_id="a", node="2", display_node="2", output={"images": [file]}),
        frame("execution_success", prompt_id="a"),
    )
    assert not active.done.is_set()
    side.say(frame("executing", node=None, prompt_id="a"))
    assert active.verdict is Verdict.OVER


@pytest.mark.parametrize("missed", ["the end", "the output", "a connection"])
async def test_what_may_have_been_missed_is_asked_for(side: Side, missed: str) -> None:
    active = side.take("a")
    active.epoch = side.backend.epoch - (missed == "a connection")
    side.say(frame("execution_start", prompt_id="a"))
    if missed != "the output":
        file = {"filename": "x.png", "subfolder": "", "type": "output"}
        side.say(frame("executed", prompt_id="a", node="2", display_node="2", output={"images": [file]}))
    if missed != "the end":
        side.say(frame("execution_success", prompt_id="a"))
    side.say(frame("executing", node=None, prompt_id="a"))
    assert not active.done.is_set()
    assert active.ambiguous
    assert side.backend.suspicious.is_set()


async def test_a_recorded_session_of_two_clients(side: Side) -> None:
    """What one connection of two gets: its own prompt, and of the other only what the server says to all."""
    (_, mine, mine_id), (_, _, other_id) = posts("i_two_clients")
    active = side.take(mine_id, mine["prompt"])
    side.say(*load("i_two_clients").received("A"))
    assert active.verdict is Verdict.OVER
    assert [found.file.filename for found in active.life.found] == ["i_00001_.png"]
    assert {one.job_id for one in side.happened if isinstance(one, events.PromptEvent)} == {mine_id}
    assert len(side.previews()) == 4
    assert other_id not in {job_id for job_id, _ in side.changes}


async def test_a_warm_up_with_a_defect_keeps_no_backend_away(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_: Backend) -> None:
        raise KeyError("seed")

    side.backend.warm_up = broken
    side.backend.socket._connected = True
    side.backend._on_connected()
    await until(lambda: side.backend.online)
    assert "failed inside the bridge" in caplog.text
