"""Commands by MQTT: a message in, a call of the core, an answer out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bridge import requests
from bridge.core import Core
from bridge.errors import BadPayload, BridgeError, Internal, RetainedCommand, TooLarge, UnknownCommand, Unsupported
from bridge.incoming import is_msgpack
from bridge.mqtt import payloads
from bridge.mqtt.message import Message
from bridge.mqtt.outbox import Policy
from bridge.mqtt.topics import VERBS, Command, Topics
from bridge.mqtt.writer import MqttWriter
from bridge.tasks import Tasks

logger = logging.getLogger(__name__)

Publish = Callable[[Message, Policy], None]
Data = dict[str, Any]

_PRESS = b"PRESS"
_INSTEAD = {
    "load": "the name of the workflow is the payload of load",
    "interrupt": "the id is the payload of interrupt",
    "update": "there are update/text, update/image and update/values",
    "workflow": "the name of the workflow stands before it, as in workflow/txt2img/queue",
    "bridge": f"the requests are {', '.join(VERBS)}",
}
"""What is right instead of an unknown command, by the first level of its topic."""


_HEAD = 1_000
"""Bytes of a packet that are left to topic and properties."""


class Commands:
    """Answers command messages; call `handle` for each, in the order of their coming.

    Each is answered on `response/<command>`, and on the MQTT 5 response topic with its correlation data. largest: tells
    how many bytes a packet may have, None without a limit.
    """

    def __init__(
        self,
        core: Core,
        topics: Topics,
        publish: Publish,
        *,
        largest: Callable[[], int | None] = lambda: None,
        prompt_writer: MqttWriter | None = None,
    ) -> None:
        self._core = core
        self._topics = topics
        self._publish = publish
        self._largest = largest
        self._prompt_writer = prompt_writer
        self._tasks = Tasks()
        self._cleared: set[str] = set()

    def handle(self, message: Message, *, sees_own: bool) -> None:
        """Take a message.

        sees_own: the broker sends our own messages back (MQTT 3.1.1), so that after our clearing of a retained
        command its empty message comes too: it is none.
        """
        command = self._topics.parse(message.topic)
        if command is None:
            return
        if not message.payload and message.topic in self._cleared:
            self._cleared.discard(message.topic)
            return
        if message.retain:
            if not message.payload:  # somebody cleared a retained command
                return
            self._clear(message.topic, sees_own=sees_own)
        self._tasks.spawn(self._answer(command, message), f"command {command.name}")

    async def close(self) -> None:
        """End the commands that are still at work."""
        await self._tasks.close()

    def _clear(self, topic: str, *, sees_own: bool) -> None:
        logger.warning("the command on %s was retained: refused and cleared", topic)
        if sees_own:
            self._cleared.add(topic)
        self._publish(Message(topic, b"", qos=1, retain=True), Policy.KEEP)

    async def _answer(self, command: Command, message: Message) -> None:
        transaction = next((value for key, value in message.user if key == "transaction"), None)
        try:
            if message.retain:
                raise RetainedCommand("a command must not be retained: publish it without the retain flag")
            document, transaction = self._read(command, message, transaction)
        except BridgeError as error:
            self._reply(command, message, _failure(error), transaction)
            return

        async def run() -> Data:
            try:
                return {"status": "ok", "data": await self._run(command, document, transaction)}
            except BridgeError as error:
                return _failure(error)
            except Exception:
                logger.exception("the command %s failed inside the bridge", command.name)
                return _failure(Internal("the bridge failed on this command; its log holds more"))

        if transaction is None:
            reply = await run()
        else:
            reply = await self._core.transactions.once(command.name, transaction, run)
        self._reply(command, message, reply, transaction)

    def _read(self, command: Command, message: Message, transaction: str | None) -> tuple[Any, str | None]:
        """Return what the payload says, and the transaction of a JSON payload taken out of it."""
        if command.kind == "unknown":
            raise UnknownCommand(f"there is no command {command.name}; {_INSTEAD[command.name.partition('/')[0]]}")
        is_as_it_is = command.argument is not None and command.kind != "request"
        document = message.payload if is_as_it_is else payloads.read(message.payload, message.content_type)
        if isinstance(document, dict) and "transaction" in document:
            document = dict(document)
            key = document.pop("transaction")
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise BadPayload("transaction must be a text or a whole number")
            transaction = str(key)
        if transaction == "":  # one that was never filled in would be the same for every command
            raise BadPayload("transaction must not be empty")
        return document, transaction

    def _run(self, command: Command, document: Any, transaction: str | None) -> Awaitable[Data]:
        core, workflow, argument = self._core, command.workflow, command.argument
        match command.kind:
            case "load":
                return core.load(_request(requests.Load, document, plain="workflow"))
            case "update/text" if argument is not None:
                return core.update_text(requests.UpdateText(text=payloads.text(document), node_id=argument))
            case "update/text":
                return core.update_text(_request(requests.UpdateText, document, plain="text"))
            case "update/image" if argument is not None:
                return core.update_image_bytes(argument, document)
            case "update/image" if isinstance(document, bytes):
                return core.update_image_bytes(None, document)
            case "update/image":
                return core.update_image(requests.parse(requests.UpdateImage, document))
            case "set" if argument is not None:
                return core.set_parameter(argument, document, workflow=workflow or "")
            case "update/values" | "set":
                if not isinstance(document, dict):
                    raise BadPayload('the payload must be a JSON object of values such as {"seed": 42, "6.text": "…"}')
                return core.update_values(document, workflow=workflow)
            case "queue":
                key = None if transaction is None else (command.name, transaction)
                return core.queue(_request(requests.Queue, document), workflow=workflow, transaction=key)
            case "interrupt":
                return core.interrupt(_request(requests.Interrupt, document, plain="prompt_id"), workflow=workflow)
            case "request":
                return self._request(argument or "", document)
            case _:
                return self._prompting(command, document, transaction)

    def _prompting(self, command: Command, document: Any, transaction: str | None) -> Awaitable[Data]:
        prompts, argument = self._core.prompts, command.argument
        key = None if transaction is None else (command.name, transaction)
        match command.kind:
            case "ollama/generate":
                return prompts.accept(_request(requests.WritePrompt, document, plain="idea"), transaction=key)
            case "ollama/generate/image" if isinstance(document, bytes):
                request, image = _image(document)
                return prompts.accept(request, image=image, transaction=key)
            case "ollama/generate/image":
                return prompts.accept(requests.parse(requests.WritePromptForImage, document).whole(), transaction=key)
            case "ollama/cancel":
                return prompts.cancel(_request(requests.CancelPrompt, document, plain="id"))
            case "ollama/pull":
                return prompts.pull(_request(requests.PullModel, document, plain="model"))
            case "ollama/set":
                values = document if argument is None else {argument: payloads.text(document).strip()}
                return prompts.set(requests.parse(requests.PromptValues, values))
        if self._prompt_writer is None:
            raise Unsupported("prompting.writer is not mqtt: nobody asked")
        return self._prompt_writer.answer(argument, document)

    async def _request(self, verb: str, document: Any) -> Data:
        core = self._core
        match verb:
            case "job":
                return await core.job(_request(requests.JobRequest, document, plain="prompt_id"))
            case "jobs":
                return await core.jobs(_request(requests.JobsRequest, document))
            case "free":
                return await core.free(_request(requests.Free, document))
            case "log_level":
                return await core.log_level(_request(requests.LogLevel, document, plain="level"))
        _request(requests.Nothing, document)
        match verb:
            case "health":
                return await core.health()
            case "workflows":
                return core.workflows()
            case _:
                return await core.reload()

    def _reply(self, command: Command, message: Message, reply: Mapping[str, Any], transaction: str | None) -> None:
        named = {} if transaction is None else {"transaction": transaction}
        as_msgpack = is_msgpack(message.content_type)
        payload = payloads.dump({**reply, **named}, as_msgpack=as_msgpack)
        largest = self._largest()
        if largest is not None and len(payload) > largest - _HEAD:
            words = f"the answer has {len(payload)} bytes, and the broker takes packets of at most {largest}"
            payload = payloads.dump({**_failure(TooLarge(words)), **named}, as_msgpack=as_msgpack)
        content_type = payloads.MSGPACK if as_msgpack else payloads.JSON
        topics = [self._topics.response(command.name)]
        asked = message.response_topic
        # On a topic of ours an answer would be taken for what the bridge says there, or be run as a command.
        if asked and asked != topics[0] and not self._topics.is_ours(asked) and _is_topic(asked):
            topics.append(asked)
        for topic in topics:
            answer = Message(
                topic,
                payload,
                qos=1,
                content_type=content_type,
                correlation=message.correlation,
                text=not as_msgpack,
            )
            self._publish(answer, Policy.KEEP)


def _request(model: type[requests.M], document: Any, *, plain: str | None = None) -> requests.M:
    """Check a document; a plain payload stands for the field `plain`, an empty one or `PRESS` for no fields."""
    if isinstance(document, bytes):
        word = payloads.text(document).strip()
        if plain == "text":
            document = {plain: payloads.text(document)}
        elif not word or document.strip() == _PRESS:
            document = {}
        elif plain is None:
            raise BadPayload(f"the payload must be empty or a JSON object, not the text {word[:40]!r}")
        else:
            document = {plain: word}
    return requests.parse(model, document)


def _is_topic(text: str) -> bool:
    """Tell whether a broker would take a message for it, instead of closing the connection."""
    return text.isprintable() and not set(text) & set("+#")


def _image(payload: bytes) -> tuple[requests.WritePrompt, bytes | None]:
    """Read a payload that is a picture: its bytes, an address, or base64."""
    if payload.isascii() and payload.strip():
        return requests.parse(requests.WritePrompt, {"images": payload.decode().strip()}), None
    return requests.WritePrompt(), payload


def _failure(error: BridgeError) -> Data:
    return {"status": "error", **error.to_answer(), "data": {}}
