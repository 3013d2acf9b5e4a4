"""What the broker is to hold: told when it changes, told again after each connect, cleared when it is of nobody."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge.core import Core
from bridge.jobs.store import Store
from bridge.mqtt import payloads
from bridge.mqtt.message import Message
from bridge.mqtt.outbox import Policy
from bridge.mqtt.topics import Topics
from bridge.tasks import log_failure

Send = Callable[..., None]
"""`Connection.publish`."""


class Retained:
    """The retained messages of this start, and the topics of this and of the earlier ones.

    The store remembers the topics, so that those of workflows and backends that are gone are cleared, even by a later
    start. elsewhere: tells whether a topic outside of the base topic is to stay.
    """

    def __init__(self, core: Core, store: Store, topics: Topics, send: Send, elsewhere: Callable[[str], bool]) -> None:
        self._core = core
        self._store = store
        self._topics = topics
        self._send = send
        self._elsewhere = elsewhere
        self._messages: dict[str, Message] = {}
        self._known: set[str] = set()

    async def start(self) -> None:
        """Take up which topics are retained at the broker."""
        self._known = await self._store.retained()

    def holds(self, topic: str) -> bool:
        """Tell whether something was put on a topic since the start."""
        return topic in self._messages

    def knows(self, topic: str) -> bool:
        """Tell whether something was put on a topic in this start or an earlier one."""
        return topic in self._known

    def greet(self) -> None:
        """Clear what is stale, and send all the rest again: a broker may have forgotten it."""
        self.clear_stale()
        self.repeat(self._messages)

    def repeat(self, topics: Iterable[str]) -> None:
        """Send again what was put on these topics."""
        for topic in topics:
            if topic in self._messages:
                self._send(self._messages[topic], policy=Policy.KEEP, key=topic)

    def put_document(self, topic: str, document: Mapping[str, Any]) -> None:
        """Have the broker hold a JSON document from now on."""
        self.put(topic, payloads.dump(document), content_type=payloads.JSON)

    def put(
        self,
        topic: str,
        payload: bytes,
        *,
        content_type: str | None = None,
        user: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Have the broker hold a message from now on, unless its topic is of nobody; one that it has is not sent.

        content_type: None for a plain text.
        """
        text = content_type in {None, payloads.JSON}
        message = Message(topic, payload, qos=1, retain=True, content_type=content_type, user=user, text=text)
        if self._is_stale(topic):  # a job may outlive the file of its workflow
            return
        if self._messages.get(topic) == message:
            return
        self._messages[topic] = message
        if topic not in self._known:
            self._known.add(topic)
            self._store.change_retained(added=[topic]).add_done_callback(log_failure)
        self._send(message, policy=Policy.KEEP, key=topic)

    def clear_stale(self) -> None:
        """Clear the topics of workflows and backends that are gone."""
        stale = [topic for topic in self._known if self._is_stale(topic)]
        # Home Assistant loses a device before the states of it.
        for topic in sorted(stale, key=lambda topic: self._topics.owner(topic) is not None):
            self._messages.pop(topic, None)
            self._known.discard(topic)
            cleared = functools.partial(self._cleared, topic)
            self._send(Message(topic, b"", qos=1, retain=True), policy=Policy.KEEP, key=topic, on_acknowledged=cleared)

    def _is_stale(self, topic: str) -> bool:
        match self._topics.owner(topic):
            case None:  # of another base topic, or a device of Home Assistant
                return not self._elsewhere(topic)
            case ("workflow", name):
                return name not in self._core.workflow_names()
            case ("backend", name):
                return name not in self._core.backend_names()
        return False

    def _cleared(self, topic: str) -> None:
        """Forget a topic that the broker has cleared: until then the next start has to know of it."""
        if topic not in self._known:
            self._store.change_retained(removed=[topic]).add_done_callback(log_failure)
