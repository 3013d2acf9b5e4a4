"""Prompts by whoever listens to `prompting/request` and answers on `prompting/response/<id>`: a Node-RED flow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bridge.errors import BadPayload, UnknownIdea, WriterOffline
from bridge.mqtt import payloads
from bridge.mqtt.message import Message
from bridge.mqtt.outbox import Policy
from bridge.mqtt.topics import Topics
from bridge.prompting.address import answered, asked
from bridge.prompting.model import ModelInfo, OnText, Question, Written

_WHO = "the flow that writes prompts"


class MqttWriter:
    """Asks a topic.

    publish: as the outbox takes it. connected: whether the broker is there. time_limit: seconds that an answer may
    take, told in the question.
    """

    name = "mqtt"

    def __init__(
        self,
        topics: Topics,
        publish: Callable[[Message, Policy], None],
        *,
        connected: Callable[[], bool],
        time_limit: float,
    ) -> None:
        self._topics = topics
        self._publish = publish
        self._connected = connected
        self._time_limit = time_limit
        self._questions: dict[str, asyncio.Future[Any]] = {}

    @property
    def where(self) -> str:
        """Who is asked."""
        return _WHO

    async def open(self) -> None:
        """Do nothing: the connection is the bridge's."""

    async def close(self) -> None:
        """Do nothing."""

    async def write(self, question: Question, on_text: OnText) -> Written:
        """Ask, and wait for the answer; its prompt comes as one piece of text.

        Raises WriterOffline while the broker is away, and WriterFailed for an answer without a prompt.
        """
        if not self._connected():
            raise WriterOffline("the prompt writer is asked over MQTT, and the broker does not answer")
        response = self._topics.prompting_response(question.id)
        document = {**asked(question), "response": response, "timeout": self._time_limit}
        future = self._questions[question.id] = asyncio.get_running_loop().create_future()
        try:
            topic = self._topics.prompting_request()
            message = Message(
                topic,
                payloads.dump(document),
                qos=1,
                content_type=payloads.JSON,
                response_topic=response,
                correlation=question.id.encode(),
                text=True,
            )
            self._publish(message, Policy.KEEP)
            written = answered(await future, _WHO)
        finally:
            del self._questions[question.id]
        on_text(written.prompt)
        return written

    async def models(self) -> tuple[ModelInfo, ...] | None:
        """Return None: nobody can tell what a flow uses."""
        return None

    async def settle(self, model: str | None) -> None:
        """Return at once: nothing is known of its memory."""

    async def answer(self, question: str | None, document: object) -> dict[str, Any]:
        """Take an answer: JSON or plain text, to the question of that id, or of the `id` in it.

        Raises BadPayload without an id, and UnknownIdea for a question that does not wait (any more).
        """
        if isinstance(document, bytes):
            document = payloads.read(document, None)
        if isinstance(document, bytes):
            document = payloads.text(document)
        if question is None and isinstance(document, dict) and isinstance(document.get("id"), str):
            question = document["id"]
        if question is None:
            raise BadPayload("which question is this the answer to? Send it to prompting/response/<id>, or with its id")
        future = self._questions.get(question)
        if future is None or future.done():
            raise UnknownIdea(f"no question with the id {question!r} waits for an answer; it may have come too late")
        future.set_result(document)
        return {"id": question}
