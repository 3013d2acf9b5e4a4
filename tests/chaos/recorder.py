"""The independent witness: an MQTT client that notes everything, over any outage of the broker, and gives commands."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

FINAL = frozenset({"completed", "failed", "interrupted"})
# nats-server keeps the order within a subscription only: what must be in order has to come by one.
FILTERS = ("prompt/#", "response/#", "bridge/state", "queue/state")
_NOTED = frozenset({"status", "result", "output"})
_AGAIN = 2.0
"""Seconds after which a command that was not answered is sent again."""


@dataclass(frozen=True, slots=True)
class Note:
    """A message; `topic` is below the base topic, `at` in seconds since the epoch."""

    at: float
    topic: str
    payload: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.payload)


class Recorder:
    """`async with Recorder(port) as recorder`. A durable session at QoS 1: what it was owed while it was away comes."""

    def __init__(
        self, port: int, *, base: str = "comfyui", name: str = "recorder", filters: Sequence[str] = FILTERS
    ) -> None:
        self.base = base
        self.notes: list[Note] = []
        self.connects = 0
        self.queue_state: Note | None = None
        self.replies: dict[str, list[dict[str, Any]]] = {}
        """All answers by transaction."""
        self._port = port
        self._filters = tuple(filters)
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=False,
            protocol=MQTTProtocolVersion.MQTTv311,
        )
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_socket_open = _without_delay
        self._client.reconnect_delay_set(1, 1)
        self._client.max_inflight_messages_set(1000)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._client.connect_async("127.0.0.1", self._port, keepalive=10)
        self._client.loop_start()
        await self.until(lambda: self.connects, within=20.0, what="the recorder's connection")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def of(self, topic: str) -> list[Note]:
        return [note for note in self.notes if note.topic == topic]

    def finals(self) -> dict[str, list[Note]]:
        """The final statuses of each prompt."""
        found: dict[str, list[Note]] = {}
        for note in self.notes:
            parts = note.topic.split("/")
            if parts[0] == "prompt" and parts[2] == "status" and note.document["status"] in FINAL:
                found.setdefault(parts[1], []).append(note)
        return found

    async def until(self, condition: Callable[[], Any], *, within: float, what: str) -> Any:
        """Wait for a condition, looked at with each message, and return what it gave."""
        deadline = time.monotonic() + within
        while True:
            self._news.clear()
            found = condition()
            if found:
                return found
            left = deadline - time.monotonic()
            assert left > 0, f"{what} did not come within {within} s; last: {self.notes[-20:]}"
            try:
                async with asyncio.timeout(min(left, 0.5)):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def online(self, *, within: float = 30.0) -> None:
        """Wait until the bridge says that it is there."""
        await self.until(
            lambda: (states := self.of("bridge/state")) and states[-1].payload == b"online",
            within=within,
            what="bridge/state online",
        )

    def send(self, command: str, document: Any) -> None:
        """Give a command, once; when the broker is away it goes out when it is back."""
        payload = document if isinstance(document, (str, bytes)) else json.dumps(document)
        self._client.publish(f"{self.base}/{command}", payload, qos=1)

    async def ask(
        self, command: str, document: dict[str, Any], transaction: str, *, within: float = 120.0
    ) -> dict[str, Any]:
        """Give a command, again and again until it is answered: a transaction is run once."""
        deadline = time.monotonic() + within
        while True:
            self.send(command, {**document, "transaction": transaction})
            try:
                replies = await self.until(
                    lambda: self.replies.get(transaction), within=_AGAIN, what=f"the answer to {transaction}"
                )
            except AssertionError:
                assert time.monotonic() < deadline, f"no answer to {transaction} within {within} s"
            else:
                return dict(replies[0])

    def _on_connect(self, client: paho.Client, _userdata: object, _flags: object, reason: Any, _: object) -> None:
        if not reason.is_failure:
            client.subscribe([(f"{self.base}/{one}", 1) for one in self._filters])
            self.connects += 1
            self._wake()

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        note = Note(time.time(), message.topic.removeprefix(f"{self.base}/"), bytes(message.payload))
        if note.topic.startswith("prompt/") and note.topic.split("/")[2] not in _NOTED:
            return
        if note.topic == "queue/state":  # only the newest is of use
            self.queue_state = note
            return
        self.notes.append(note)
        if note.topic.startswith("response/"):
            reply = note.document
            if reply.get("transaction") is not None:
                self.replies.setdefault(reply["transaction"], []).append(reply)
        self._wake()

    def _wake(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)


def _without_delay(_client: object, _userdata: object, sock: Any) -> None:
    """Have each packet leave at once: what is measured is the bridge."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
