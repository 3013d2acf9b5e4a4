"""Answers to commands: where they go, in which form, and that a transaction runs once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support.bridge_process import house
from tests.support.brokers import mosquitto
from tests.support.graphs import picture
from tests.support.mqtt_eye import watching


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("spoken", ["5", "3.1.1"])
async def test_clients_and_bridges_of_both_versions(
    tmp_path: Path, broker_port: int, version: str, spoken: str
) -> None:
    more = {"mqtt": {"protocol": spoken}}
    async with house(tmp_path, broker_port, version=version, more=more) as here:
        here.eye.direct = (version, spoken) == ("5", "5")
        await here.eye.send("update/text/6", "a hare")
        reply = await here.eye.first("response/update/text")
        assert reply.json["status"] == "ok"
        prompt_id = await here.eye.queue()
        result = await here.eye.over(prompt_id)
        assert result["status"] == "completed"
        assert here.graph(prompt_id)["6"]["inputs"]["text"] == "a hare"
        assert here.eye.outputs(prompt_id).keys() == {0}
        await here.eye.send("update/image/10", picture())
        refused = await here.eye.first("response/update/image")
        assert refused.json["code"] == "unknown_node"
        await here.eye.done("bridge/request/health")
        await here.eye.payload("bridge/state", "online")


TOPICS = [
    ("load", "response/load"),
    ("update/text/6", "response/update/text"),
    ("update/values", "response/update/values"),
    ("workflow/fox/set/seed", "response/workflow/fox/set"),
    ("workflow/fox/set", "response/workflow/fox/set"),
    ("workflow/fox/interrupt", "response/workflow/fox/interrupt"),
    ("bridge/request/health", "response/bridge/request/health"),
    ("bridge/request/nonsense", "response/bridge/request/nonsense"),
]


async def test_every_answer_comes_on_its_own_topic_and_on_the_response_topic(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        for number, (command, topic) in enumerate(TOPICS):
            before = len(here.eye.of(topic))
            asked = f"mine/answer/{number}"
            await here.eye.send(command, "", response_topic=f"{here.base}/{asked}", correlation=b"\x00\x01\xff")
            mine = await here.eye.first(asked)
            known = await here.eye.count(topic, before + 1)
            assert mine.payload == known.payload
            assert mine.correlation == b"\x00\x01\xff"
            assert mine.content_type == "application/json"
            assert (mine.retain, known.retain) == (False, False)
            assert mine.json["status"] in {"ok", "error"}


async def test_a_response_topic_outside_of_the_base(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here, watching(broker_port, "elsewhere") as other:
        await here.eye.send("bridge/request/health", "", response_topic="elsewhere/answer", correlation=b"7")
        assert (await other.first("answer")).correlation == b"7"


async def test_a_response_topic_that_is_a_command_starts_nothing(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        await here.eye.send("bridge/request/health", "", response_topic=f"{here.base}/queue")
        await here.eye.first("response/bridge/request/health")
        await here.eye.done("bridge/request/health")
        assert here.eye.prompt_ids() == []
        assert here.eye.of("response/queue") == []


async def test_msgpack_is_answered_in_msgpack(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        packed: dict[str, Any] = {"content_type": "application/msgpack"}
        reply = await here.eye.ask("update/text", msgpack.packb({"node_id": 6, "text": "packed"}), **packed)
        assert (reply["status"], reply["data"]["values"]["prompt"]) == ("ok", "packed")
        assert here.eye.last("response/update/text").content_type == "application/msgpack"
        reply = await here.eye.ask("queue", msgpack.packb({"values": {"seed": 9}}), **packed)
        (prompt_id,) = reply["data"]["prompt_ids"]
        await here.eye.over(prompt_id)
        assert here.graph(prompt_id)["3"]["inputs"]["seed"] == 9
        reply = await here.eye.ask("queue", msgpack.packb({"count": 0}), **packed)
        assert reply["code"] == "bad_payload"
        picture_bytes = msgpack.packb({"node_id": 10, "filename": "example.png"})
        assert (await here.eye.ask("update/image", picture_bytes, **packed))["code"] == "unknown_node"


async def test_a_transaction_runs_once(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="plain") as here:
        replies = await asyncio.gather(*(here.eye.ask("queue", {"transaction": "t1"}) for _ in range(3)))
        assert replies[0] == replies[1] == replies[2]
        assert replies[0]["transaction"] == "t1"
        # By a user property, for payloads that are plain.
        user = [("transaction", "t2")]
        first = await here.eye.ask("queue", "", user=user)
        again = await here.eye.ask("queue", "", user=user)
        assert first == again
        assert first["transaction"] == "t2"
        assert first["data"] != replies[0]["data"]
        # Errors are answers too; another command may use the same key; a number is a key like its digits.
        wrong = await here.eye.ask("load", {"workflow": "none", "transaction": "t1"})
        assert (wrong["code"], wrong["transaction"]) == ("unknown_workflow", "t1")
        assert (await here.eye.ask("load", {"workflow": "none", "transaction": "t1"})) == wrong
        number = await here.eye.ask("queue", {"transaction": 5})
        assert (await here.eye.ask("queue", {"transaction": "5"})) == number
        for reply in (replies[0], first, number):
            await here.eye.over(reply["data"]["prompt_ids"][0])
        assert len(here.eye.prompt_ids()) == 3


async def test_a_transaction_runs_once_over_a_restart(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port, loaded="plain", base="transact") as here:
        first = await here.eye.ask("queue", {"transaction": "once"})
        await here.eye.over(first["data"]["prompt_ids"][0])
    async with house(tmp_path, broker_port, loaded="plain", base="transact") as here:
        assert (await here.eye.ask("queue", {"transaction": "once"})) == first
        await here.eye.done("bridge/request/health")
        assert here.eye.prompt_ids() == []
        assert here.comfy.stats.submitted == 0


async def test_no_parameter_may_be_called_transaction(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        user = [("transaction", "p")]
        first = await here.eye.ask("workflow/fox/set/prompt", "one", user=user)
        await here.eye.done("workflow/fox/set/prompt", "two")
        assert (await here.eye.ask("workflow/fox/set/prompt", "one", user=user)) == first
        assert here.eye.last("workflow/fox/values").json["prompt"] == "two"


async def test_many_commands_at_once_are_all_answered(tmp_path: Path, broker_port: int) -> None:
    async with house(tmp_path, broker_port) as here:
        asked = [here.eye.ask("workflow/fox/set/seed", str(number)) for number in range(150)]
        replies = await asyncio.gather(*asked)
        assert all(reply["status"] == "ok" for reply in replies)
        assert here.eye.last("workflow/fox/values").json["seed"] == 149


async def test_an_answer_that_the_broker_does_not_take_is_told(tmp_path: Path) -> None:
    async with mosquitto(tmp_path / "m", lines=["max_packet_size 3000"]) as broker:
        port = int(broker.url.rpartition(":")[2])
        async with house(tmp_path, port, check=False) as here:
            words = "the broker takes packets of at most 3000"
            await here.eye.refused("bridge/request/workflows", None, "too_large", "the answer has", words)
            assert (await here.eye.done("load", "img")) == {"workflow": "img"}
