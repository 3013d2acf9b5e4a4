"""The bridge and its workflows as devices of Home Assistant: announced, kept up to date, and removed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from bridge import __version__, events
from bridge.core import Core
from bridge.jobs.store import Store
from bridge.mqtt import payloads
from bridge.mqtt.discovery import Components, Discovery, with_removals
from bridge.mqtt.message import Message
from bridge.mqtt.publisher import Publisher
from bridge.mqtt.topics import Topics
from bridge.settings import HomeAssistantSettings
from bridge.tasks import log_failure

logger = logging.getLogger(__name__)

_FACT = "homeassistant"
_GONE = "homeassistant_gone"
_SETTLE = 1.0
"""Seconds from a change to its announcement: Home Assistant may lose part of one that follows another at once."""
_PATIENCE = 10.0
"""Seconds that workflows wait after the start for a ComfyUI, which tells the choices of their parameters."""
_AFTER_BIRTH = (0.5, 2.5)
"""Seconds, drawn at random: not every device of the house answers Home Assistant's start at the same moment."""
_TAKEN_UP = 5.0
"""Seconds after which Home Assistant has taken up a device that it is told of, and can be told to remove it."""
_BORN = b"online"


class HomeAssistant:
    """Keeps the discovery documents right, while `homeassistant.discovery` is on.

    `start` first, then `listen` to the hub and `receive` what comes on `subscriptions`. The publisher holds the
    documents as it holds all that is retained: it publishes them after each connect, and clears those that are not
    to stay (`keeps`).
    """

    def __init__(
        self, core: Core, store: Store, topics: Topics, settings: HomeAssistantSettings, publisher: Publisher
    ) -> None:
        self._core = core
        self._store = store
        self._settings = settings
        self._publisher = publisher
        self._discovery = Discovery(topics, prefix=settings.prefix, version=__version__)
        self._announced: dict[str, Components] = {}
        """The components of each device by its topic, with those that were removed: kept over restarts."""
        self._gone: dict[str, Components] = {}
        """The same of devices that went: Home Assistant may have been away then, and keeps what it is not told of."""
        self._patient = True
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topics to listen to."""
        return (self._discovery.birth,) if self._settings.discovery else ()

    def keeps(self, topic: str) -> bool:
        """Tell whether something is to be, or to stay, announced on a topic.

        A workflow whose file cannot be used stays: some files are only understood once ComfyUI is there.
        """
        if not self._settings.discovery:
            return False
        workflow = self._discovery.owner(topic)
        return workflow == "" or (workflow is not None and self._core.has_file(workflow))

    async def start(self) -> None:
        """Announce what there is."""
        announced = await self._store.fact(_FACT, {})
        if self._settings.discovery:
            self._announced = announced
            self._gone = await self._store.fact(_GONE, {})
            self._later("patience", _PATIENCE, self._lose_patience)
            self._announce()
        elif announced:
            await self._store.set_fact(_FACT, {})

    def close(self) -> None:
        """Forget what was to be done later."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def listen(self, event: events.Event) -> None:
        """Take an event of the hub."""
        if isinstance(event, events.WorkflowsChanged) and self._settings.discovery:
            self._later("announce", _SETTLE, self._announce)

    def receive(self, message: Message) -> bool:
        """Take a message; whether it was one of Home Assistant's. It may well be retained."""
        if message.topic not in self.subscriptions:
            return False
        if message.payload.strip() == _BORN:
            self._later("birth", random.uniform(*_AFTER_BIRTH), self._repeat)  # noqa: S311  no secret
        return True

    def _announce(self) -> None:
        announced: dict[str, Components] = {}
        for topic, document in self._documents().items():
            components = with_removals(document["components"], self._announced.get(topic, {}))
            self._publisher.retain(topic, {**document, "components": components})
            announced[topic] = components
        self._mourn({topic: one for topic, one in (self._gone | self._announced).items() if not self.keeps(topic)})
        announced = {topic: one for topic, one in self._announced.items() if self.keeps(topic)} | announced
        if announced != self._announced:
            self._announced = announced
            self._store.set_fact(_FACT, announced).add_done_callback(log_failure)

    def _documents(self) -> dict[str, Mapping[str, Any]]:
        """Return the documents by their topics; the bridge's first, since the others refer to it."""
        core, discovery = self._core, self._discovery
        bridge = discovery.bridge(core.backend_names(), core.workflow_names(), painters=core.painters())
        documents: dict[str, Mapping[str, Any]] = {discovery.topic(): bridge}
        knows_nodes = core.knows_nodes()
        if not knows_nodes and self._patient:
            return documents
        for described in core.workflows()["workflows"]:
            topic = discovery.topic(described["name"])
            before = None if knows_nodes else self._announced.get(topic)
            documents[topic] = discovery.workflow(described, before)
        return documents

    def _lose_patience(self) -> None:
        self._patient = False
        self._announce()

    def _repeat(self) -> None:
        logger.debug("Home Assistant has started: everything is announced again")
        self._publisher.repeat(self._announced)
        for topic, components in self._gone.items():
            self._publisher.say(topic, payloads.dump(self._discovery.gone(topic, components)))
        if self._gone:
            self._later("gone", _TAKEN_UP, self._remove)

    def _remove(self) -> None:
        for topic in self._gone:
            self._publisher.say(topic, b"")
        self._mourn({})

    def _mourn(self, gone: dict[str, Components]) -> None:
        if gone != self._gone:
            self._gone = gone
            self._store.set_fact(_GONE, gone).add_done_callback(log_failure)

    def _later(self, name: str, seconds: float, do: Callable[[], None]) -> None:
        """Do something in so many seconds, once for all calls until then."""
        if name in self._timers:
            return

        def due() -> None:
            del self._timers[name]
            do()

        self._timers[name] = asyncio.get_running_loop().call_later(seconds, due)
