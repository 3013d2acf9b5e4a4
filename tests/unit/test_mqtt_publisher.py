"""What happens, as messages: their order, what is retained, what is cleared."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from bridge import events
from bridge.core import Core
from bridge.errors import StoreError
from bridge.jobs.model import Job, Payload, Status
from bridge.jobs.store import Store
from bridge.mqtt.log import LogForwarder
from bridge.mqtt.message import Message
from bridge.mqtt.outbox import Policy
from bridge.mqtt.publisher import Publisher
from bridge.mqtt.topics import Topics
from bridge.settings import MqttSettings
from tests.support.brokers import until

PNG = b"\x89PNG" + bytes(20)


@dataclass
class FakeCore:
    """As much of the core as the publisher asks."""

    names: list[str] = field(default_factory=lambda: ["fox", "photo"])
    is_online: bool = True

    def workflow_names(self) -> tuple[str, ...]:
        return tuple(self.names)

    def backend_names(self) -> list[str]:
        return ["b"]

    def backends(self) -> list[dict[str, Any]]:
        return [{"name": "b", "online": self.is_online}]

    def online(self) -> bool:
        return self.is_online

    def online_workflows(self) -> set[str]:
        return set(self.names) if self.is_online else set()

    def can_run(self, _: str) -> bool:
        return self.is_online

    def info(self) -> dict[str, Any]:
        return {"version": "1"}

    def workflows(self) -> dict[str, Any]:
        return {"loaded": "fox", "workflows": [{"name": name} for name in self.names]}

    def values(self, name: str | None = None) -> dict[str, Any]:
        return {"of": name}

    def queue_state(self) -> dict[str, Any]:
        return {"running": [], "waiting": []}


@dataclass
class Sent:
    message: Message
    policy: Policy
    key: str | None
    on_acknowledged: Callable[[], None] | None
    bulky: bool | None


class Side:
    def __init__(self, store: Store, **settings: Any) -> None:
        self.store = store
        self.core = FakeCore()
        self.sent: list[Sent] = []
        self.publisher = Publisher(cast("Core", self.core), store, Topics("c"), MqttSettings(**settings), self._send)

    def _send(
        self,
        message: Message,
        *,
        policy: Policy,
        key: str | None = None,
        on_acknowledged: Callable[[], None] | None = None,
        bulky: bool | None = None,
    ) -> None:
        self.sent.append(Sent(message, policy, key, on_acknowledged, bulky))

    def happen(self, *coming: events.Event) -> None:
        for event in coming:
            self.publisher.listen(event)

    def topics(self, prefix: str = "c/") -> list[str]:
        return [one.message.topic for one in self.sent if one.message.topic.startswith(prefix)]

    def last(self, topic: str) -> Sent:
        return [one for one in self.sent if one.message.topic == topic][-1]

    def json(self, topic: str) -> Any:
        return json.loads(self.last(topic).message.payload)

    def acknowledge(self) -> None:
        """Let the broker have all that was sent."""
        for one in self.sent:
            if one.on_acknowledged is not None:
                one.on_acknowledged()

    async def settled(self) -> None:
        """Wait for what the store was given."""
        await self.store.fact("nothing")
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Side]:
    async with Store(f"sqlite:///{folder / 'x.db'}", keep=1e6) as store:
        made = Side(store, **settings)
        await made.publisher.start()
        yield made
        made.publisher.say_goodbye()
        await made.settled()


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    async with opened(tmp_path) as made:
        yield made


def status(
    word: str, job: str = "j", *, workflow: str | None = "fox", seq: int = 1, final: bool = False
) -> events.JobStatus:
    return events.JobStatus(job, workflow, {"id": job, "status": word, "workflow": workflow, "seq": seq}, final=final)


def progress(percent: float, job: str = "j", workflow: str | None = "fox") -> events.JobProgress:
    document = {"id": job, "status": "running", "workflow": workflow, "percent": percent}
    return events.JobProgress(job, workflow, document)


def output(n: int = 0, *, data: bytes = PNG, answer: bool = True, content_type: str = "image/png") -> events.JobOutput:
    document = {"n": n, "filename": f"{n}.png", "content_type": content_type, "node": "9"}
    return events.JobOutput("j", "fox", document, data, answer=answer)


def result(word: str = "completed", job: str = "j", workflow: str | None = "fox") -> events.JobResult:
    return events.JobResult(job, workflow, {"id": job, "status": word, "workflow": workflow})


def event(event_type: str) -> events.PromptEvent:
    return events.PromptEvent("j", "fox", event_type, json.dumps({"type": event_type, "data": {"prompt_id": "j"}}))


def preview(seq: int = 1) -> events.PromptPreview:
    return events.PromptPreview("j", "fox", "3", seq, "image/jpeg", b"\xff\xd8" + bytes([seq]))


WHOLE_JOB: tuple[events.Event, ...] = (
    status("queued"),
    status("preparing"),
    status("running"),
    event("execution_start"),
    event("execution_cached"),
    event("progress"),
    preview(),
    progress(50),
    event("executed"),
    event("execution_success"),
    status("finishing"),
    output(0),
    output(1, answer=False),
    result(),
    status("completed", final=True),
)


# One prompt


async def test_the_order_for_one_prompt(side: Side) -> None:
    side.happen(*WHOLE_JOB)
    assert side.topics("c/prompt/j/") == [
        "c/prompt/j/status",
        "c/prompt/j/status",
        "c/prompt/j/status",
        "c/prompt/j/event/execution_start",
        "c/prompt/j/event/execution_cached",
        "c/prompt/j/event/progress",
        "c/prompt/j/preview",
        "c/prompt/j/status",
        "c/prompt/j/event/executed",
        "c/prompt/j/event/execution_success",
        "c/prompt/j/status",
        "c/prompt/j/output/0",
        "c/prompt/j/output/1",
        "c/prompt/j/result",
        "c/prompt/j/status",
    ]
    assert side.json("c/prompt/j/status")["status"] == "completed"
    assert side.topics()[-1] == "c/prompt/j/status"


async def test_nothing_comes_after_the_final_status(side: Side) -> None:
    side.happen(status("running"), *(progress(n) for n in range(5)), *(preview(n) for n in range(5)))
    side.happen(result(), status("completed", final=True))
    before = len([one for one in side.sent if one.message.topic != "c/queue/state"])
    await asyncio.sleep(0.4)
    assert len([one for one in side.sent if one.message.topic != "c/queue/state"]) == before
    assert side.json("c/workflow/fox/status")["status"] == "completed"


async def test_quality_retention_and_policy_of_a_prompts_topics(side: Side) -> None:
    side.happen(*WHOLE_JOB)
    expected = {
        "c/prompt/j/event/execution_start": (1, Policy.KEEP),
        "c/prompt/j/event/executed": (1, Policy.KEEP),
        "c/prompt/j/event/execution_success": (1, Policy.KEEP),
        "c/prompt/j/event/execution_cached": (0, Policy.DROP),
        "c/prompt/j/event/progress": (0, Policy.DROP),
        "c/prompt/j/preview": (0, Policy.LATEST),
        "c/prompt/j/output/0": (1, Policy.KEEP),
        "c/prompt/j/result": (1, Policy.KEEP),
        "c/prompt/j/status": (1, Policy.KEEP),
        "c/workflow/fox/event": (1, Policy.KEEP),
    }
    for topic, (qos, policy) in expected.items():
        sent = side.last(topic)
        assert (sent.message.qos, sent.policy) == (qos, policy), topic
        assert not sent.message.retain, topic
    for what in ("status", "image", "result"):
        sent = side.last(f"c/workflow/fox/{what}")
        assert (sent.message.qos, sent.message.retain, sent.policy) == (1, True, Policy.KEEP), what
    for what in ("preview", "progress"):
        sent = side.last(f"c/workflow/fox/{what}")
        assert (sent.message.qos, sent.message.retain) == (0, False), what
    assert side.last("c/prompt/j/output/0").bulky


async def test_events_are_verbatim(side: Side) -> None:
    raw = '{"type": "executed",  "data": {"ü": 1, "prompt_id": "j"}}'
    side.happen(events.PromptEvent("j", "fox", "executed", raw))
    assert side.last("c/prompt/j/event/executed").message.payload == raw.encode()
    side.happen(events.BackendEvent("b", "status", raw))
    assert side.last("c/backend/b/event/status").message.payload == raw.encode()
    assert side.last("c/backend/b/event/status").policy is Policy.DROP


async def test_bytes_and_their_properties(side: Side) -> None:
    side.happen(preview(7), output(0))
    message = side.last("c/prompt/j/preview").message
    assert (message.payload, message.content_type, message.text) == (preview(7).image, "image/jpeg", False)
    assert dict(message.user) == {"node": "3", "seq": "7"}
    message = side.last("c/prompt/j/output/0").message
    assert (message.payload, message.content_type, message.text) == (PNG, "image/png", False)
    assert dict(message.user) == {"filename": "0.png", "node": "9"}
    assert dict(side.last("c/workflow/fox/image").message.user)["prompt_id"] == "j"


@pytest.mark.parametrize("word", ["failed", "interrupted"])
async def test_every_end_has_a_result_and_an_event(side: Side, word: str) -> None:
    side.happen(status("queued"), result(word), status(word, final=True))
    assert side.json("c/prompt/j/result")["status"] == word
    assert side.json("c/workflow/fox/event")["event_type"] == word
    assert side.json("c/workflow/fox/result")["status"] == word


async def test_the_events_of_a_workflow(side: Side) -> None:
    side.happen(*WHOLE_JOB)
    sent = [json.loads(one.message.payload) for one in side.sent if one.message.topic == "c/workflow/fox/event"]
    assert [one["event_type"] for one in sent] == ["queued", "started", "completed"]
    assert {one["id"] for one in sent} == {"j"}


async def test_a_job_without_a_workflow(side: Side) -> None:
    side.happen(status("queued", workflow=None), progress(5, workflow=None), result(workflow=None))
    side.happen(status("completed", workflow=None, final=True))
    assert side.topics("c/workflow") == []
    assert len(side.topics("c/prompt/j/status")) == 3


async def test_the_acknowledged_final_status_marks_the_store(side: Side) -> None:
    job = Job("j", "fox", {}, 0.0)
    await side.store.add([(job, Payload({}).dump())])
    job.status, job.finished_at = Status.COMPLETED, 1.0
    await side.store.save(job)
    side.happen(*WHOLE_JOB)
    finals = [one for one in side.sent if one.on_acknowledged is not None]
    assert [json.loads(one.message.payload)["status"] for one in finals] == ["completed"]
    assert [one.id for one in await side.store.unpublished()] == ["j"]
    assert finals[0].on_acknowledged is not None
    finals[0].on_acknowledged()
    assert await side.store.unpublished() == []


async def test_each_end_is_noted_once_and_those_that_were_not_with_the_next(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []
    outcomes: list[asyncio.Future[None]] = []

    def mark(jobs: Collection[str]) -> asyncio.Future[None]:
        asked.append(set(jobs))
        outcomes.append(asyncio.get_running_loop().create_future())
        return outcomes[-1]

    async def acknowledge(*jobs: str) -> None:
        before = len(side.sent)
        side.happen(*(status("completed", job=job, final=True) for job in jobs))
        for one in side.sent[before:]:
            if one.on_acknowledged is not None:
                one.on_acknowledged()
        await asyncio.sleep(0)

    monkeypatch.setattr(side.store, "mark_published", mark)
    await acknowledge("a", "b", "c")
    assert asked == [{"a"}]
    outcomes[0].set_result(None)
    await asyncio.sleep(0)
    assert asked == [{"a"}, {"b", "c"}]
    outcomes[1].set_exception(StoreError("the disk is full"))
    await asyncio.sleep(0)
    await acknowledge("the next")
    assert asked[2:] == [{"b", "c", "the next"}]


async def test_an_output_that_is_too_large_is_left_to_its_address(tmp_path: Path) -> None:
    async with opened(tmp_path, max_output=10, max_retained_image=10) as side:
        side.happen(output(0, data=bytes(11)), output(1, data=bytes(10)))
        assert side.topics("c/prompt/j/output") == ["c/prompt/j/output/1"]
        assert len(side.topics("c/workflow/fox/image")) == 1


async def test_only_the_answer_and_only_an_image_is_the_picture_of_the_workflow(side: Side) -> None:
    side.happen(output(0, answer=False), output(1, content_type="video/mp4"))
    assert side.topics("c/workflow/fox/image") == []
    side.happen(output(2))
    assert len(side.topics("c/workflow/fox/image")) == 1


# Throttling


async def test_progress_and_previews_of_a_workflow_are_throttled_and_the_newest_wins(tmp_path: Path) -> None:
    async with opened(tmp_path, previews_per_second=10, progress_per_second=10) as side:
        side.happen(status("running"))
        for n in range(1, 30):
            side.happen(progress(n), preview(n))
        assert len(side.topics("c/prompt/j/preview")) == 29
        assert len(side.topics("c/workflow/fox/preview")) == 1
        assert len(side.topics("c/workflow/fox/progress")) <= 2
        await until(lambda: len(side.topics("c/workflow/fox/preview")) == 2)
        await until(lambda: side.json("c/workflow/fox/progress").get("percent") == 29)
        assert side.last("c/workflow/fox/preview").message.payload == preview(29).image
        assert side.json("c/workflow/fox/status")["percent"] == 29


async def test_a_job_that_waits_hides_none_that_runs(tmp_path: Path) -> None:
    async with opened(tmp_path, progress_per_second=20) as side:
        side.happen(progress(40), status("queued", "k"), progress(50))
        await until(lambda: side.json("c/workflow/fox/status") == progress(50).document)
        side.happen(status("interrupted", "k", final=True))
        assert side.json("c/workflow/fox/status")["status"] == "interrupted"
        await until(lambda: side.json("c/workflow/fox/status") == progress(50).document)
        told = [json.loads(one.message.payload) for one in side.sent if one.message.topic == "c/workflow/fox/status"]
        assert [one["status"] for one in told] == ["running", "running", "interrupted", "running"]
        assert side.topics("c/prompt/k/status")


async def test_the_queue_is_throttled(side: Side) -> None:
    for _ in range(50):
        side.happen(events.QueueChanged())
    assert len(side.topics("c/queue/state")) == 1


# Retained state


async def test_the_greeting_and_online_after_it(side: Side) -> None:
    side.happen(events.BackendState("b", online=True))
    side.sent.clear()
    side.publisher.greet()
    assert "c/bridge/state" not in side.topics()
    side.publisher.say_online()
    assert side.topics()[-1] == "c/bridge/state"
    assert side.last("c/bridge/state").message.payload == b"online"
    assert {
        "c/bridge/info",
        "c/bridge/workflows",
        "c/queue/state",
        "c/backend/b/state",
        "c/workflow/fox/values",
        "c/workflow/fox/state",
        "c/workflow/photo/values",
        "c/workflow/photo/state",
    } <= set(side.topics())
    for one in side.sent:
        assert one.message.retain, one.message.topic
        assert (one.message.qos, one.policy) == (1, Policy.KEEP)


async def test_all_that_is_retained_comes_again_at_each_greeting_and_once(side: Side) -> None:
    side.publisher.greet()
    side.happen(*WHOLE_JOB, events.BackendState("b", online=True))
    side.publisher.publish_health({"status": "ok"})
    latest = {one.message.topic: one.message for one in side.sent if one.message.retain}
    side.sent.clear()
    side.publisher.greet()
    again = {one.message.topic: one.message for one in side.sent}
    assert again == latest
    assert len(side.sent) == len(again)


async def test_what_did_not_change_is_not_sent_again(side: Side) -> None:
    side.publisher.greet()
    side.sent.clear()
    side.happen(events.WorkflowsChanged(), events.ValuesChanged("fox"))
    assert side.topics() == []


async def test_the_will_and_the_goodbye(side: Side) -> None:
    will = side.publisher.state(online=False)
    assert (will.topic, will.payload, will.qos, will.retain) == ("c/bridge/state", b"offline", 1, True)
    side.happen(progress(1), progress(2), preview(1), preview(2))
    side.publisher.say_goodbye()
    assert side.sent[-1].message == will
    before = len(side.sent)
    await asyncio.sleep(0.3)
    assert len(side.sent) == before


async def test_whoever_left_while_greeting_does_not_say_that_it_is_there(side: Side) -> None:
    side.publisher.greet()
    side.publisher.say_goodbye()
    side.publisher.say_online()
    assert side.last("c/bridge/state").message.payload == b"offline"


async def test_states_of_workflows_follow_the_backends(side: Side) -> None:
    side.publisher.greet()
    assert side.last("c/workflow/fox/state").message.payload == b"online"
    side.core.is_online = False
    side.happen(events.BackendState("b", online=False))
    assert side.last("c/workflow/fox/state").message.payload == b"offline"
    assert side.last("c/backend/b/state").message.payload == b"offline"


async def test_a_workflow_that_goes_is_cleared(side: Side) -> None:
    side.publisher.greet()
    side.happen(*WHOLE_JOB)
    side.core.names.remove("fox")
    side.sent.clear()
    side.happen(events.WorkflowsChanged())
    cleared = {one.message.topic for one in side.sent if not one.message.payload}
    assert cleared == {f"c/workflow/fox/{what}" for what in ("state", "values", "status", "image", "result")}
    assert all(one.message.retain and one.policy is Policy.KEEP for one in side.sent if not one.message.payload)
    # A bridge that ends before the broker has that must clear it at its next start.
    await side.settled()
    assert cleared <= await side.store.retained()
    side.acknowledge()
    await side.settled()
    assert not any("/fox/" in topic for topic in await side.store.retained())
    side.sent.clear()
    side.publisher.greet()
    assert not any("/fox/" in topic for topic in side.topics())


async def test_a_workflow_that_comes_back_before_it_is_cleared_stays_known(side: Side) -> None:
    side.publisher.greet()
    side.core.names.remove("fox")
    side.happen(events.WorkflowsChanged())
    side.core.names.append("fox")
    side.happen(events.WorkflowsChanged())
    side.acknowledge()
    await side.settled()
    assert "c/workflow/fox/values" in await side.store.retained()


async def test_a_job_that_ends_after_its_workflow_has_gone_leaves_nothing_retained(side: Side) -> None:
    side.publisher.greet()
    side.happen(status("running"))
    side.core.names.remove("fox")
    side.happen(events.WorkflowsChanged())
    side.sent.clear()
    side.happen(progress(50), output(0), result(), status("completed", final=True), events.ValuesChanged("photo"))
    left = {one.message.topic: one.message.payload for one in side.sent if one.message.retain}
    assert not any(payload for topic, payload in left.items() if "/fox/" in topic)  # defect 17
    assert "c/prompt/j/result" in side.topics()


async def test_what_an_earlier_start_left_is_cleared_at_the_greeting(tmp_path: Path) -> None:
    async with opened(tmp_path) as side:
        side.publisher.greet()
        side.happen(events.BackendState("b", online=True), *WHOLE_JOB)
    async with opened(tmp_path) as side:
        side.core.names = ["photo"]
        await side.store.change_retained(added=["c/backend/gone/state", "old-base/workflow/photo/state"])
        await side.publisher.start()
        side.publisher.greet()
        cleared = {one.message.topic for one in side.sent if not one.message.payload}
        assert {"c/backend/gone/state", "old-base/workflow/photo/state", "c/workflow/fox/image"} <= cleared
        assert not any("photo" in topic and topic.startswith("c/") for topic in cleared)
        assert "c/backend/b/state" not in cleared
        side.acknowledge()
        await side.settled()
        assert not any("fox" in topic or "gone" in topic or "old" in topic for topic in await side.store.retained())


async def test_a_later_start_tells_again_how_the_last_job_of_each_workflow_ended(tmp_path: Path) -> None:
    async with opened(tmp_path) as side:
        for n, word in enumerate((Status.COMPLETED, Status.FAILED)):
            job = Job(f"j{n}", "fox", {}, float(n), status=word, finished_at=float(n))
            await side.store.add([(job, Payload({}).dump())])
            await side.store.save(job)
        # The broker may have lost everything: `owl` ran so long ago that nobody knows, `photo` never did.
        statuses = [f"c/workflow/{name}/status" for name in ("fox", "owl", "photo")]
        await side.store.change_retained(added=[*statuses, "c/workflow/owl/result"])
    async with opened(tmp_path) as side:
        side.core.names = ["fox", "owl", "photo"]
        side.publisher.greet()
        told = side.json("c/workflow/fox/status")
        assert (told["id"], told["status"]) == ("j1", "failed")
        assert side.json("c/workflow/photo/status")["status"] == "idle"
        assert side.topics("c/workflow/owl/status") == []
        side.happen(status("running"), events.WorkflowsChanged())
        assert side.json("c/workflow/fox/status")["status"] == "running"


async def test_what_runs_already_is_not_hidden_by_what_an_earlier_start_ended(tmp_path: Path) -> None:
    async with opened(tmp_path) as side:
        job = Job("old", "fox", {}, 0.0, status=Status.COMPLETED, finished_at=0.0)
        await side.store.add([(job, Payload({}).dump())])
        await side.store.save(job)
        await side.publisher.start()
        side.happen(progress(40))
        side.publisher.greet()
        assert side.json("c/workflow/fox/status") == progress(40).document


async def test_values_of_a_workflow_that_has_just_gone_harm_nobody(side: Side) -> None:
    def gone(name: str | None = None) -> dict[str, Any]:
        from bridge.errors import UnknownWorkflow

        raise UnknownWorkflow(f"there is no workflow {name}")

    hub = events.Hub()
    side.core.values = gone  # type: ignore[method-assign]
    with hub.subscribed(side.publisher.listen):
        hub.publish(events.ValuesChanged("fox"))
        hub.publish(status("queued"))
    assert "c/prompt/j/status" in side.topics()


# The log


async def test_the_log_is_forwarded_without_an_echo(side: Side) -> None:
    logger = logging.getLogger("bridge.somewhere")
    seen: list[Any] = []
    before = logging.getLogger("bridge").level
    logging.getLogger("bridge").setLevel(logging.DEBUG)
    try:
        with LogForwarder(seen.append):
            logger.debug("not this")
            logger.info("one %d", 1)
            logger.info("one %d", 1)
            logging.getLogger("bridge.mqtt.connection").warning("the broker is away")
            logging.getLogger("bridge.mqtt.connection").error("the broker is wrong")
            logging.getLogger("elsewhere").error("not ours")
            logger.warning("%s", "two")
            await until(lambda: len(seen) == 3)
            await asyncio.to_thread(logger.error, "from a thread")
            await until(lambda: len(seen) == 4)
        logger.error("after the end")
        await asyncio.sleep(0.01)
    finally:
        logging.getLogger("bridge").setLevel(before)
    assert [one["message"] for one in seen] == ["one 1", "the broker is wrong", "two", "from a thread"]
    assert [one["level"] for one in seen] == ["info", "error", "warning", "error"]
    assert seen[0]["time"].endswith("Z")
    side.publisher.log(seen[0])
    assert side.json("c/bridge/log") == seen[0]
    assert side.last("c/bridge/log").policy is Policy.DROP
