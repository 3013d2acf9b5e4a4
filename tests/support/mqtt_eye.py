"""An independent MQTT client (aiomqtt) below one base topic: it sees everything, in order, and gives commands."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
import msgpack
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

FINAL = frozenset({"completed", "failed", "interrupted"})
PATIENCE = 20.0
"""Seconds that anything may take on a machine that runs other things as well."""


@dataclass(frozen=True)
class Seen:
    """A message; `topic` is relative to the base."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 0
    content_type: str | None = None
    user: dict[str, str] = field(default_factory=dict)
    correlation: bytes | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def text(self) -> str:
        return self.payload.decode()


class Eye:
    """What was seen below `base`, and answers to commands."""

    def __init__(self, client: aiomqtt.Client, base: str, version: str) -> None:
        self.client = client
        self.base = base
        self.version = version
        self.seen: list[Seen] = []
        self.direct = version == "5"
        """Whether answers come on a response topic; False for a bridge that speaks 3.1.1."""
        self._news = asyncio.Event()
        self._numbers = itertools.count(1)

    # Looking

    def of(self, topic: str) -> list[Seen]:
        return [one for one in self.seen if one.topic == topic]

    def below(self, prefix: str) -> list[Seen]:
        return [one for one in self.seen if one.topic.startswith(prefix)]

    def last(self, topic: str) -> Seen:
        return self.of(topic)[-1]

    async def until(self, condition: Callable[[], Any], within: float = PATIENCE, what: str = "it") -> Any:
        """Wait for a condition on what was seen (or anything else), and return what it gave."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            self._news.clear()
            found = condition()
            if found:
                return found
            assert loop.time() < deadline, f"{what} did not come within {within} s; seen: {self.summary()}"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._news.wait()

    async def first(
        self, topic: str, where: Callable[[Seen], Any] = lambda _: True, *, within: float = PATIENCE
    ) -> Seen:
        """Wait for a message on a topic; the first one that fits."""
        found: Seen = await self.until(
            lambda: next((one for one in self.of(topic) if where(one)), None), within, f"a message on {topic}"
        )
        return found

    async def count(self, topic: str, number: int) -> Seen:
        """Wait until there are so many messages on a topic, and return the last of them."""
        await self.until(lambda: len(self.of(topic)) >= number, what=f"message {number} on {topic}")
        return self.of(topic)[number - 1]

    async def payload(self, topic: str, payload: str, *, within: float = PATIENCE) -> None:
        """Wait until the newest message on a topic is this one."""
        await self.until(
            lambda: bool(self.of(topic)) and self.last(topic).payload == payload.encode(), within, f"{topic} {payload}"
        )

    def summary(self) -> str:
        return "\n".join(f"{one.topic} {one.payload[:160]!r}" for one in self.seen[-60:])

    # Jobs

    def statuses(self, prompt_id: str) -> list[str]:
        """The statuses in their order, each once in a row."""
        words = [one.json["status"] for one in self.of(f"prompt/{prompt_id}/status")]
        return [word for word, _ in itertools.groupby(words)]

    def finals(self, prompt_id: str) -> list[dict[str, Any]]:
        return [one.json for one in self.of(f"prompt/{prompt_id}/status") if one.json["status"] in FINAL]

    async def over(self, prompt_id: str, *, within: float = PATIENCE) -> dict[str, Any]:
        """Wait for the final status, and return the result."""
        await self.until(lambda: self.finals(prompt_id), within, f"the final status of {prompt_id}")
        result: dict[str, Any] = self.of(f"prompt/{prompt_id}/result")[-1].json
        return result

    async def status(self, prompt_id: str, status: str, *, within: float = PATIENCE) -> None:
        await self.first(f"prompt/{prompt_id}/status", lambda one: one.json["status"] == status, within=within)

    async def progress(self, prompt_id: str, *, within: float = PATIENCE) -> None:
        """Wait until a node of it is at work."""
        await self.first(f"prompt/{prompt_id}/event/progress", within=within)

    def outputs(self, prompt_id: str) -> dict[int, bytes]:
        prefix = f"prompt/{prompt_id}/output/"
        return {int(one.topic.removeprefix(prefix)): one.payload for one in self.below(prefix)}

    def prompt_ids(self) -> list[str]:
        return list(dict.fromkeys(one.topic.split("/")[1] for one in self.below("prompt/")))

    async def settled(self) -> None:
        """Wait until each prompt whose result was seen has its final status; another client may have seen it before."""
        results = [topic for topic in (f"prompt/{one}/result" for one in self.prompt_ids()) if self.of(topic)]
        await self.until(
            lambda: all(self.finals(topic.split("/")[1]) for topic in results), what="the final status after a result"
        )

    def check_prompts(self) -> None:
        """Hold every prompt that was seen to the order that DESIGN section 5 gives."""
        for prompt_id in self.prompt_ids():
            mine = self.below(f"prompt/{prompt_id}/")
            topics = [one.topic.split("/", 2)[2] for one in mine]
            trace = (
                f"{prompt_id}: {[t if t != 'status' else m.json['status'] for t, m in zip(topics, mine, strict=True)]}"
            )
            assert topics[0] == "status", trace
            assert mine[0].json["status"] == "queued", trace
            finals = self.finals(prompt_id)
            assert len(finals) <= 1, trace
            assert topics.count("result") == len(finals), trace
            if finals:
                assert topics[-1] == "status", trace
                assert topics[-2] == "result", trace
                assert mine[-1].json["status"] == mine[-2].json["status"], trace
                after = topics[topics.index("output/0") :] if "output/0" in topics else []
                assert not [topic for topic in after if topic.startswith("event/")], trace
            assert not [one for one in mine if one.retain], trace

    # Commands

    async def send(
        self,
        command: str,
        payload: str | bytes | dict[str, Any] | None = None,
        *,
        retain: bool = False,
        qos: int = 1,
        content_type: str | None = None,
        response_topic: str | None = None,
        correlation: bytes | None = None,
        user: list[tuple[str, str]] | None = None,
    ) -> None:
        properties: Properties | None = None
        if self.version == "5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # of paho
            for name, value in (
                ("ContentType", content_type),
                ("ResponseTopic", response_topic),
                ("CorrelationData", correlation),
                ("UserProperty", user),
            ):
                if value is not None:
                    setattr(properties, name, value)
        if isinstance(payload, dict):
            payload = json.dumps(payload)
        await self.client.publish(f"{self.base}/{command}", payload, qos=qos, retain=retain, properties=properties)

    async def ask(
        self,
        command: str,
        payload: str | bytes | dict[str, Any] | None = None,
        *,
        within: float = PATIENCE,
        content_type: str | None = None,
        user: list[tuple[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Give a command and return its answer.

        On MQTT 5 by a response topic of its own, else the next answer on `response/<command>`.
        """
        if not self.direct:
            topic = f"response/{answer_name(command)}"
            before = len(self.of(topic))
            await self.send(command, payload)
            answers = await self.until(lambda: self.of(topic)[before:], within, f"an answer to {command}")
            return dict(answers[0].json)
        number = str(next(self._numbers))
        topic = f"answers/{number}"
        await self.send(
            command,
            payload,
            content_type=content_type,
            user=user,
            response_topic=f"{self.base}/{topic}",
            correlation=number.encode(),
        )
        answer = await self.first(topic, within=within)
        assert answer.correlation == number.encode()
        if content_type == "application/msgpack":
            return dict(msgpack.unpackb(answer.payload))
        return dict(answer.json)

    async def done(self, command: str, payload: str | bytes | dict[str, Any] | None = None) -> dict[str, Any]:
        """Give a command that must succeed, and return its data."""
        reply = await self.ask(command, payload)
        assert reply["status"] == "ok", reply
        return dict(reply["data"])

    async def queue(self, payload: str | dict[str, Any] | None = None, *, workflow: str | None = None) -> str:
        """Queue one run, and return its id."""
        data = await self.done("queue" if workflow is None else f"workflow/{workflow}/queue", payload)
        (prompt_id,) = data["prompt_ids"]
        return str(prompt_id)

    async def refused(self, command: str, payload: str | bytes | dict[str, Any] | None, code: str, *words: str) -> None:
        """Give a command that must be refused with this code and a sentence that has these words."""
        reply = await self.ask(command, payload)
        assert (reply["status"], reply.get("code"), reply["data"]) == ("error", code, {}), reply
        assert len(reply["error"]) > 10, reply
        for word in words:
            assert word in reply["error"], reply

    async def read(self) -> None:
        async for message in self.client.messages:
            self._take(message)

    def _take(self, message: aiomqtt.Message) -> None:
        properties = message.properties
        user = dict(getattr(properties, "UserProperty", []))
        topic = message.topic.value.removeprefix(f"{self.base}/")
        self.seen.append(
            Seen(
                topic,
                bytes(message.payload),
                bool(message.retain),
                message.qos,
                getattr(properties, "ContentType", None),
                user,
                getattr(properties, "CorrelationData", None),
            )
        )
        self._news.set()


def answer_name(command: str) -> str:
    """`<command>` of `response/<command>`: without node and parameter."""
    parts = command.split("/")
    if parts[0] == "update":
        return "/".join(parts[:2])
    if parts[0] == "workflow":
        return "/".join(parts[:3])
    return command


@contextlib.asynccontextmanager
async def watching(
    port: int, base: str, *, version: str = "5", qos: int = 0, filters: tuple[str, ...] = ("#",), **options: Any
) -> AsyncIterator[Eye]:
    """A connected `Eye`. With QoS 0 the order is the publisher's: brokers let QoS 0 overtake QoS 1."""
    protocol = aiomqtt.ProtocolVersion.V5 if version == "5" else aiomqtt.ProtocolVersion.V311
    options.setdefault("hostname", "127.0.0.1")
    async with aiomqtt.Client(port=port, protocol=protocol, max_queued_incoming_messages=0, **options) as client:
        eye = Eye(client, base, version)
        reading = asyncio.create_task(eye.read())
        for one in filters:
            await client.subscribe(f"{base}/{one}", qos=qos)
        try:
            yield eye
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await reading
