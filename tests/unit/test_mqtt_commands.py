"""Every form of a command, against a core that only notes what it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge import errors, requests
from bridge.core import Core
from bridge.jobs.store import Store
from bridge.mqtt.commands import Commands
from bridge.mqtt.message import Message
from bridge.mqtt.outbox import Policy
from bridge.mqtt.topics import Topics
from bridge.transactions import Transactions
from tests.support.brokers import until


class FakeCore:
    """Notes each call; `answer` may raise or wait instead."""

    def __init__(self, transactions: Transactions) -> None:
        self.transactions = transactions
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.answer: Callable[[str], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any, **options: Any) -> Any:
            options.pop("transaction", None)
            self.calls.append((name, arguments, options))

            async def answer() -> dict[str, Any]:
                if self.answer is not None:
                    await self.answer(name)
                return {"called": name}

            return {"called": name} if name == "workflows" else answer()

        return note


class Side:
    """Commands with everything that they published."""

    def __init__(self, store: Store) -> None:
        self.core = FakeCore(Transactions(store, clock=lambda: 0.0))
        self.sent: list[Message] = []
        self.policies: list[Policy] = []
        self.commands = Commands(cast("Core", self.core), Topics("c"), self._publish)

    def _publish(self, message: Message, policy: Policy) -> None:
        self.sent.append(message)
        self.policies.append(policy)

    async def send(
        self,
        topic: str,
        payload: bytes | str | dict[str, Any] | list[Any] = b"",
        *,
        sees_own: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        """Handle a message and return its answer."""
        if isinstance(payload, (dict, list)):
            payload = json.dumps(payload)
        data = payload.encode() if isinstance(payload, str) else payload
        self.sent.clear()
        self.commands.handle(Message(f"c/{topic}", data, **more), sees_own=sees_own)
        await until(lambda: not self.commands._tasks.running)
        answers = [one for one in self.sent if one.topic.startswith("c/response/")]
        assert len(answers) == 1
        self.answer = answers[0]
        unpack = msgpack.unpackb if answers[0].content_type == "application/msgpack" else json.loads
        document: dict[str, Any] = unpack(answers[0].payload)
        assert answers[0].qos == 1
        assert not answers[0].retain
        return document


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[Side]:
    async with Store(f"sqlite:///{tmp_path / 'x.db'}", keep=1e6) as store:
        made = Side(store)
        yield made
        await made.commands.close()


def queue(**fields: Any) -> requests.Queue:
    return requests.parse(requests.Queue, fields)


IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(20)
FORMS: list[tuple[str, Any, tuple[str, tuple[Any, ...], dict[str, Any]]]] = [
    ("load", {"workflow": "fox"}, ("load", (requests.Load(workflow="fox"),), {})),
    ("load", " fox\n", ("load", (requests.Load(workflow="fox"),), {})),
    ("load", "sdxl/fox.json", ("load", (requests.Load(workflow="sdxl/fox.json"),), {})),
    ("update/text", {"node_id": 6, "text": "a"}, ("update_text", (requests.UpdateText(node_id=6, text="a"),), {})),
    (
        "update/text",
        {"node": "seed", "text": "a"},
        ("update_text", (requests.UpdateText(node_id="seed", text="a"),), {}),
    ),
    ("update/text", {"text": ""}, ("update_text", (requests.UpdateText(text=""),), {})),
    ("update/text", "a red fox ", ("update_text", (requests.UpdateText(text="a red fox "),), {})),
    (
        "update/text/6",
        '{"not": "parsed"}',
        ("update_text", (requests.UpdateText(node_id="6", text='{"not": "parsed"}'),), {}),
    ),
    ("update/text/6", "", ("update_text", (requests.UpdateText(node_id="6", text=""),), {})),
    ("update/text/6", "PRESS", ("update_text", (requests.UpdateText(node_id="6", text="PRESS"),), {})),
    ("update/text/12:5", " x\n", ("update_text", (requests.UpdateText(node_id="12:5", text=" x\n"),), {})),
    (
        "update/image",
        {"node_id": 46, "filename": "a.png"},
        ("update_image", (requests.UpdateImage(node_id=46, filename="a.png"),), {}),
    ),
    ("update/image", {"url": "http://x"}, ("update_image", (requests.UpdateImage(url="http://x"),), {})),
    ("update/image", IMAGE, ("update_image_bytes", (None, IMAGE), {})),
    ("update/image/46", IMAGE, ("update_image_bytes", ("46", IMAGE), {})),
    ("update/image/46", b"{no json", ("update_image_bytes", ("46", b"{no json"), {})),
    ("update/values", {"seed": 1, "6.text": "x"}, ("update_values", ({"seed": 1, "6.text": "x"},), {"workflow": None})),
    ("queue", "", ("queue", (queue(),), {"workflow": None})),
    ("queue", "PRESS", ("queue", (queue(),), {"workflow": None})),
    ("queue", " \n", ("queue", (queue(),), {"workflow": None})),
    ("queue", {}, ("queue", (queue(),), {"workflow": None})),
    (
        "queue",
        {"count": 2, "values": {"seed": 1}},
        ("queue", (queue(count=2, values={"seed": 1}),), {"workflow": None}),
    ),
    ("interrupt", "", ("interrupt", (requests.Interrupt(),), {"workflow": None})),
    ("interrupt", "PRESS", ("interrupt", (requests.Interrupt(),), {"workflow": None})),
    ("interrupt", "some-id", ("interrupt", (requests.Interrupt(prompt_id="some-id"),), {"workflow": None})),
    ("interrupt", {"batch_id": "b"}, ("interrupt", (requests.Interrupt(batch_id="b"),), {"workflow": None})),
    ("workflow/fox/set", {"seed": 1}, ("update_values", ({"seed": 1},), {"workflow": "fox"})),
    ("workflow/fox/set/seed", "42", ("set_parameter", ("seed", b"42"), {"workflow": "fox"})),
    ("workflow/fox/set/prompt", "{as it is", ("set_parameter", ("prompt", b"{as it is"), {"workflow": "fox"})),
    ("workflow/fox/set/image", IMAGE, ("set_parameter", ("image", IMAGE), {"workflow": "fox"})),
    ("workflow/fox/queue", "PRESS", ("queue", (queue(),), {"workflow": "fox"})),
    ("workflow/fox/interrupt", "", ("interrupt", (requests.Interrupt(),), {"workflow": "fox"})),
    ("bridge/request/health", "", ("health", (), {})),
    ("bridge/request/workflows", {}, ("workflows", (), {})),
    ("bridge/request/reload", "PRESS", ("reload", (), {})),
    ("bridge/request/jobs", {"limit": 3}, ("jobs", (requests.JobsRequest(limit=3),), {})),
    ("bridge/request/job", "some-id", ("job", (requests.parse(requests.JobRequest, {"id": "some-id"}),), {})),
    ("bridge/request/job", {"prompt_id": "x"}, ("job", (requests.parse(requests.JobRequest, {"id": "x"}),), {})),
    ("bridge/request/free", "", ("free", (requests.Free(),), {})),
    ("bridge/request/log_level", "debug", ("log_level", (requests.LogLevel(level="debug"),), {})),
]


@pytest.mark.parametrize(("topic", "payload", "call"), FORMS)
async def test_every_form(side: Side, topic: str, payload: Any, call: tuple[Any, ...]) -> None:
    reply = await side.send(topic, payload)
    assert reply == {"status": "ok", "data": {"called": call[0]}}
    assert side.core.calls == [call]
    levels = topic.split("/")
    name = "/".join(levels[:3] if levels[0] in {"workflow", "bridge"} else levels[:2])
    assert side.answer.topic == f"c/response/{name}"
    assert side.answer.content_type == "application/json"
    assert side.policies == [Policy.KEEP]


@pytest.mark.parametrize(
    ("topic", "payload", "code"),
    [
        ("load", "{broken", "bad_payload"),
        ("load", "", "bad_payload"),
        ("load", b"\xff\xfe", "bad_payload"),
        ("load", [], "bad_payload"),
        ("update/text", {"node_id": 6}, "bad_payload"),
        ("update/text", b"\xff", "bad_payload"),
        ("update/text/6", b"\xff", "bad_payload"),
        ("update/image", {"file": "x"}, "bad_payload"),
        ("update/image", [1], "bad_payload"),
        ("update/values", "seed=3", "bad_payload"),
        ("update/values", [1], "bad_payload"),
        ("update/values", "", "bad_payload"),
        ("queue", "go", "bad_payload"),
        ("queue", {"counts": 1}, "bad_payload"),
        ("queue", {"transaction": {}}, "bad_payload"),
        ("queue", {"transaction": None}, "bad_payload"),
        ("queue", {"transaction": ""}, "bad_payload"),
        ("queue", {"transaction": True}, "bad_payload"),
        ("queue", '{"transaction": "\\ud83e"}', "bad_payload"),
        ("workflow/fox/set", "3", "bad_payload"),
        ("bridge/request/health", "now", "bad_payload"),
        ("bridge/request/health", {"x": 1}, "bad_payload"),
        ("bridge/request/job", "", "bad_payload"),
        ("bridge/request/log_level", "loud", "bad_payload"),
        ("bridge/request/nonsense", "", "unknown_command"),
        ("bridge/request", "", "unknown_command"),
        ("update/sound", "x", "unknown_command"),
        ("update", "x", "unknown_command"),
    ],
)
async def test_bad_input_is_answered_with_a_code(side: Side, topic: str, payload: Any, code: str) -> None:
    reply = await side.send(topic, payload)
    assert reply["status"] == "error"
    assert reply["code"] == code
    assert reply["error"]
    assert reply["data"] == {}
    assert side.core.calls == []


async def test_an_error_of_the_core_is_the_answer(side: Side) -> None:
    async def refuse(_: str) -> None:
        raise errors.IsLink("6.text is fed by node 4", node="6", details={"link": ["4", 0]})

    side.core.answer = refuse
    assert await side.send("update/text", {"text": "x"}) == {
        "status": "error",
        "code": "is_link",
        "error": "6.text is fed by node 4",
        "details": {"node": "6", "link": ["4", 0]},
        "data": {},
    }


async def test_a_defect_is_internal_and_shows_nothing(side: Side) -> None:
    async def break_down(_: str) -> None:
        raise KeyError("secret path /home/me")

    side.core.answer = break_down
    reply = await side.send("queue")
    assert (reply["status"], reply["code"]) == ("error", "internal")
    assert "secret" not in json.dumps(reply)


# Retained commands


async def test_a_retained_command_is_refused_and_cleared(side: Side) -> None:
    reply = await side.send("load", "fox", retain=True)
    assert reply["code"] == "retained"
    assert side.core.calls == []
    clearing = [one for one in side.sent if one.topic == "c/load"]
    assert [(one.payload, one.retain) for one in clearing] == [(b"", True)]


@pytest.mark.parametrize("sees_own", [True, False])
async def test_a_cleared_command_is_no_command(side: Side, sees_own: bool) -> None:
    side.commands.handle(Message("c/queue", b"", retain=True), sees_own=sees_own)
    await asyncio.sleep(0)
    assert side.core.calls == []
    assert side.sent == []


async def test_on_3_1_1_our_own_clearing_does_not_start_a_job(side: Side) -> None:
    await side.send("queue", "PRESS", retain=True, sees_own=True)
    side.commands.handle(Message("c/queue", b""), sees_own=True)
    await until(lambda: not side.commands._tasks.running)
    assert side.core.calls == []
    await side.send("queue", b"", sees_own=True)
    assert [name for name, _, _ in side.core.calls] == ["queue"]


async def test_on_5_an_empty_queue_after_a_clearing_runs(side: Side) -> None:
    await side.send("queue", "PRESS", retain=True, sees_own=False)
    await side.send("queue", b"", sees_own=False)
    assert [name for name, _, _ in side.core.calls] == ["queue"]


async def test_a_real_command_right_after_our_clearing_is_not_swallowed(side: Side) -> None:
    await side.send("queue", "PRESS", retain=True, sees_own=True)
    await side.send("queue", "PRESS", sees_own=True)
    assert len(side.core.calls) == 1


# Transactions


async def test_a_transaction_is_run_once_and_answered_twice(side: Side) -> None:
    for _ in range(2):
        reply = await side.send("queue", {"transaction": "t-1"})
        assert reply["transaction"] == "t-1"
        assert reply["status"] == "ok"
    assert len(side.core.calls) == 1
    await side.send("queue", {"transaction": "t-2"})
    assert len(side.core.calls) == 2


async def test_a_transaction_of_a_plain_payload_is_a_user_property(side: Side) -> None:
    for _ in range(2):
        reply = await side.send("update/text/6", "x", user=(("other", "y"), ("transaction", "t")))
        assert reply["transaction"] == "t"
    assert len(side.core.calls) == 1


async def test_a_transaction_may_be_a_number_and_is_no_value(side: Side) -> None:
    reply = await side.send("update/values", {"seed": 1, "transaction": 17})
    assert reply["transaction"] == "17"
    assert side.core.calls[0][1] == ({"seed": 1},)


@pytest.mark.parametrize("topic", ["queue", "update/text/6", "workflow/fox/set/prompt"])
async def test_a_transaction_that_was_never_filled_in_is_none(side: Side, topic: str) -> None:
    reply = await side.send(topic, user=(("transaction", ""),))
    assert (reply["code"], reply["error"]) == ("bad_payload", "transaction must not be empty")
    assert side.core.calls == []


@pytest.mark.parametrize(
    ("topic", "instead"),
    [
        ("load/fox", "the name of the workflow is the payload of load"),
        ("interrupt/0c1f6a0e", "the id is the payload of interrupt"),
        ("update/sound", "there are update/text, update/image and update/values"),
        ("workflow//queue", "the name of the workflow stands before it"),
        ("bridge/request/helth", "the requests are health, "),
    ],
)
async def test_an_unknown_command_is_told_what_is_right(side: Side, topic: str, instead: str) -> None:
    reply = await side.send(topic)
    assert reply["code"] == "unknown_command"
    assert instead in reply["error"]


async def test_a_refusal_names_its_transaction_too(side: Side) -> None:
    reply = await side.send("queue", {"count": 0, "transaction": "t"})
    assert (reply["code"], reply["transaction"]) == ("bad_payload", "t")
    reply = await side.send("queue", "{", user=(("transaction", "t"),))
    assert (reply["code"], reply["transaction"]) == ("bad_payload", "t")


# MQTT 5 and msgpack


async def test_the_answer_goes_to_the_response_topic_with_its_correlation(side: Side) -> None:
    await side.send("queue", "", response_topic="me/answers", correlation=b"\x00\x01")
    assert [one.topic for one in side.sent] == ["c/response/queue", "me/answers"]
    assert {one.correlation for one in side.sent} == {b"\x00\x01"}
    assert side.sent[0].payload == side.sent[1].payload


@pytest.mark.parametrize(
    "topic", ["c/queue", "c/update/text/6", "c/workflow/fox/queue", "a/+/b", "a/#", "a\0b", "a\tb", ""]
)
async def test_a_response_topic_that_is_a_command_or_none_at_all_is_not_used(side: Side, topic: str) -> None:
    await side.send("queue", "", response_topic=topic)
    assert [one.topic for one in side.sent] == ["c/response/queue"]


async def test_a_response_topic_that_is_the_usual_one_is_answered_once(side: Side) -> None:
    await side.send("queue", "", response_topic="c/response/queue")
    assert len(side.sent) == 1


@pytest.mark.parametrize("topic", ["c/bridge/state", "c/workflow/fox/state", "c/prompt/x/status"])
async def test_a_response_topic_does_not_overwrite_what_we_say(side: Side, topic: str) -> None:
    await side.send("queue", "", response_topic=topic)
    assert [one.topic for one in side.sent] == ["c/response/queue"]  # defect 11


async def test_msgpack_is_answered_with_msgpack(side: Side) -> None:
    payload = msgpack.packb({"node_id": 6, "text": "x", "transaction": "t"})
    reply = await side.send("update/text", payload, content_type="application/msgpack")
    assert reply == {"status": "ok", "data": {"called": "update_text"}, "transaction": "t"}
    assert side.answer.content_type == "application/msgpack"
    assert not side.answer.text
    reply = await side.send("update/text", b"\xc1", content_type="application/msgpack")
    assert reply["code"] == "bad_payload"
    assert side.answer.content_type == "application/msgpack"


# Order and life


async def test_commands_reach_the_core_in_the_order_of_their_coming(side: Side) -> None:
    never = asyncio.Event()

    async def hang(name: str) -> None:
        if name == "update_image":
            await never.wait()

    side.core.answer = hang
    side.commands.handle(Message("c/update/image", b'{"url": "http://slow"}'), sees_own=False)
    side.commands.handle(Message("c/update/text", b"x", user=(("transaction", "t"),)), sees_own=False)
    side.commands.handle(Message("c/queue", b""), sees_own=False)
    side.commands.handle(Message("c/bridge/request/health", b""), sees_own=False)
    await until(lambda: len(side.sent) == 3)
    assert [name for name, _, _ in side.core.calls] == ["update_image", "update_text", "queue", "health"]
    assert {one.topic for one in side.sent} == {
        "c/response/update/text",
        "c/response/queue",
        "c/response/bridge/request/health",
    }


async def test_what_is_no_command_is_passed_over(side: Side) -> None:
    for topic in ("c/response/queue", "other/queue", "c/prompt/x/status"):
        side.commands.handle(Message(topic, b"x"), sees_own=True)
    await asyncio.sleep(0)
    assert side.core.calls == []
    assert side.sent == []


async def test_closing_ends_what_is_at_work(side: Side) -> None:
    async def hang(_: str) -> None:
        await asyncio.Event().wait()

    side.core.answer = hang
    side.commands.handle(Message("c/queue", b""), sees_own=False)
    await asyncio.sleep(0)
    await side.commands.close()
    assert side.sent == []


TOPICS = st.sampled_from([topic for topic, _, _ in FORMS])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    TOPICS,
    st.binary(max_size=30) | st.text(max_size=20).map(str.encode) | st.sampled_from([b'{"a":1}', b"[]", b"{"]),
    st.sampled_from([None, "application/json", "application/msgpack"]),
)
async def test_every_message_is_answered_once(side: Side, topic: str, payload: bytes, content_type: str | None) -> None:
    reply = await side.send(topic, payload, content_type=content_type)
    assert reply["status"] in {"ok", "error"}
    if reply["status"] == "error":
        assert reply["code"] in {"bad_payload", "bad_value"}
