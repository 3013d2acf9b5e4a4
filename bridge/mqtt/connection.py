"""The bridge's connection to its broker, over all outages."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from bridge.mqtt.link import Link
from bridge.mqtt.message import Message
from bridge.mqtt.options import ConnectionOptions, Protocol
from bridge.mqtt.outbox import Entry, Outbox, Policy
from bridge.mqtt.reasons import INNOCENT, TAKEN_OVER, Ending, LinkError, NotAccepted, ProtocolRefused

logger = logging.getLogger(__name__)

_FIRST_PAUSE = 0.25
_STABLE = 60.0
"""Seconds after which a connection counts as one that works, and the pauses start anew."""
_SHORT_LIVES = 3
"""Connections in a row that the broker closed soon after they began, until that is told."""
_TRUST = 0.5
"""Seconds that a connection must hold before a message is sent that may have ended the last one."""
_TOLD = 100
"""Different warnings until a connection has worked for a while."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the start; `queued` and `queued_bytes` are what waits or is unacknowledged now."""

    connections: int
    published: int
    received: int
    dropped: int
    replaced: int
    queued: int
    queued_bytes: int

    @property
    def reconnects(self) -> int:
        """How often a connection was made again."""
        return max(0, self.connections - 1)


class Connection:
    """Publishes and receives through a broker that comes and goes.

    `run` holds the connection: it waits for a broker that is away, connects again with growing pauses, and speaks
    MQTT 3.1.1 to a broker that refuses 5. `publish` may be called at any time. All callbacks run in the
    event loop: `on_message` for each message received; `on_connected`, awaited after each connect when
    all subscriptions are acknowledged (cancelled if the connection ends before it is done); and
    `on_disconnected` with the reason in words. Without a `will` the broker says nothing when we are
    gone. The loop must be able to watch sockets, which on Windows is the selector loop only.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        *,
        will: Message | None,
        subscriptions: Sequence[str] = (),
        on_message: Callable[[Message], None],
        on_connected: Callable[[], Awaitable[None]],
        on_disconnected: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._options = options
        self._will = will
        self._subscriptions = tuple(subscriptions)
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._outbox = Outbox(options.limits)
        self._link: Link | None = None
        self._sent: dict[int, Entry] = {}
        self._pumping = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._protocol: Protocol = options.protocol
        self._connections = 0
        self._received = 0
        self._closing = False
        self._told: set[str] = set()
        self._overflowing = False

    @property
    def connected(self) -> bool:
        """Whether the broker is there and the subscriptions stand."""
        return self._outbox.online

    @property
    def protocol(self) -> Protocol:
        """The version of MQTT that is spoken now, or was last, or will be tried first."""
        return self._protocol if self._link is None else self._link.protocol

    @property
    def packet_maximum(self) -> int | None:
        """Bytes of the largest packet that the broker takes, where it says so (MQTT 5)."""
        return None if self._link is None else self._link.packet_maximum

    @property
    def stats(self) -> Stats:
        """What happened so far."""
        counts = self._outbox.counts
        return Stats(
            connections=self._connections,
            published=counts.published,
            received=self._received,
            dropped=counts.dropped,
            replaced=counts.replaced,
            queued=len(self._outbox),
            queued_bytes=self._outbox.kept_bytes,
        )

    def publish(
        self,
        message: Message,
        *,
        policy: Policy,
        key: str | None = None,
        on_acknowledged: Callable[[], None] | None = None,
        bulky: bool | None = None,
    ) -> None:
        """Queue a message; never blocks. What happens when it cannot be sent at once says the policy.

        `on_acknowledged` is called once when the broker has the message (QoS 0: when it is handed to the network),
        never for one that was dropped, replaced or refused. A `key` lets a newer message of the same
        policy and key replace an unsent one. `bulky` marks output bytes, which are dropped first when
        too much waits for a broker that is away (none: by size).
        """
        lost = self._outbox.put(message, policy, key=key, on_acknowledged=on_acknowledged, bulky=bulky)
        if lost and not self._overflowing:
            self._overflowing = True
            logger.error(
                "too much waits for the MQTT broker: the oldest outputs are dropped, beginning with %s",
                lost[0].message.topic,
            )
        if self._outbox.kept:
            self._drained.clear()
        self._pump()

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - answers instead of raising
        """Wait until every KEEP message is acknowledged, at most `timeout` seconds; whether they are."""
        try:
            async with asyncio.timeout(timeout):
                await self._drained.wait()
        except TimeoutError:
            return False
        return True

    async def disconnect(self) -> None:
        """End cleanly: the broker does not publish the will. `run` stays without a connection until it is cancelled."""
        self._closing = True
        if self._link is not None:
            await self._link.close()

    async def run(self) -> NoReturn:
        """Connect, serve and connect again until cancelled, which closes at once: the broker publishes the will."""
        loop = asyncio.get_running_loop()
        previous: Link | None = None
        attempts = short_lives = 0
        away_since: float | None = None
        while not self._closing:
            pause = 0.0
            try:
                link = await self._connect(previous)
            except LinkError as error:
                self._tell(f"the MQTT broker {self._options.address} cannot be used: {error}; trying again")
                pause = self._pause(attempts, long=isinstance(error, NotAccepted))
                attempts += 1
            else:
                away = f" after {loop.time() - away_since:.1f} s" if away_since is not None else ""
                logger.info("connected to %s with MQTT %s%s", self._options.address, link.protocol, away)
                began, previous = loop.time(), link
                ending = await self._serve(link)
                away_since = loop.time()
                if away_since - began >= _STABLE:
                    attempts = short_lives = 0
                    self._told.clear()
                short_lives += ending.by_broker
                if not self._closing:
                    self._tell(f"lost the MQTT broker {self._options.address}: {ending.reason}")
                    self._tell_flapping(ending, short_lives)
                pause = self._pause(attempts, long=ending.code == TAKEN_OVER)
                attempts += 1
            if not self._closing:
                await asyncio.sleep(pause)
        await asyncio.Event().wait()
        raise AssertionError

    async def _connect(self, previous: Link | None) -> Link:
        try:
            return await self._open(self._protocol, previous)
        except ProtocolRefused as refusal:
            # A connection that just closes may be a broker that restarts: then 5 is tried again next time.
            if refusal.certain:
                self._protocol = "3.1.1"
                logger.info("%s: using MQTT 3.1.1", refusal)
        return await self._open("3.1.1", previous)

    async def _open(self, protocol: Protocol, previous: Link | None) -> Link:
        link = Link(
            self._options,
            protocol,
            on_message=self._receive,
            on_acknowledged=self._acknowledged,
            on_room=self._pump,
        )
        await link.open(self._will, previous=previous)
        try:
            for name, reason in await link.subscribe(self._subscriptions):
                logger.error("the MQTT broker refuses the subscription to %s: %s", name, reason)
        except BaseException:
            link.abort()
            raise
        return link

    async def _serve(self, link: Link) -> Ending:
        """Until the connection ends."""
        if self._outbox.suspicious:
            # A broker that closes every connection at once must not make us give up messages that are innocent.
            await asyncio.wait({link.ended}, timeout=_TRUST)
        if self._closing:
            await link.close()
        if link.ended.done():
            return link.ended.result()
        self._link = link
        self._connections += 1
        self._outbox.come(link.receive_maximum)
        self._pump()
        greeting = asyncio.create_task(self._greet())
        try:
            await asyncio.wait({link.ended})
        finally:
            link.abort()
            ending = link.ended.result()
            self._link = None
            self._leave(ending)
            greeting.cancel()
            await asyncio.wait({greeting})
        return ending

    async def _greet(self) -> None:
        try:
            await self._on_connected()
        except Exception:
            logger.exception("publishing what the broker should hold failed")

    def _leave(self, ending: Ending) -> None:
        self._sent.clear()
        blame = ending.by_broker and ending.code not in INNOCENT
        if (guilty := self._outbox.go(blame=blame)) is not None:
            logger.error(
                "gave up a message of %d bytes on %s: the broker closes the connection whenever it comes; "
                "it may be larger than the broker takes",
                len(guilty.message.payload),
                guilty.message.topic,
            )
        self._check_drained()
        try:
            self._on_disconnected(ending.reason)
        except Exception:
            logger.exception("the end of the connection could not be handled")

    def _receive(self, message: Message) -> None:
        self._received += 1
        self._on_message(message)

    def _pump(self) -> None:
        """Hand over what may be sent now."""
        link = self._link
        if link is None or self._pumping:
            return
        self._pumping = True
        try:
            while not link.ended.done() and link.make_room() and (entry := self._outbox.take()) is not None:
                try:
                    number = link.send(entry.message)
                except ValueError as error:
                    self._refuse(entry, str(error))
                    continue
                if number is None:
                    self._settle(entry)
                else:
                    self._sent[number] = entry
        finally:
            self._pumping = False

    def _acknowledged(self, number: int, refusal: str | None) -> None:
        entry = self._sent.pop(number, None)
        if entry is None:
            return
        if refusal is None:
            self._settle(entry)
        else:
            self._refuse(entry, refusal)

    def _settle(self, entry: Entry) -> None:
        self._outbox.acknowledge(entry)
        self._check_drained()
        if entry.on_acknowledged is not None:
            try:
                entry.on_acknowledged()
            except Exception:
                logger.exception("the acknowledgement of a message on %s could not be handled", entry.message.topic)

    def _refuse(self, entry: Entry, reason: str) -> None:
        self._outbox.refuse(entry)
        self._check_drained()
        self._tell(f"the message on {entry.message.topic} cannot be published: {reason}")

    def _check_drained(self) -> None:
        if not self._outbox.kept:
            self._drained.set()
            self._overflowing = False

    def _pause(self, attempts: int, *, long: bool) -> float:
        longest = self._options.pause
        pause = longest if long else min(longest, _FIRST_PAUSE * 2 ** min(attempts, 16))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - so that not all clients come back at the same time

    def _tell(self, words: str) -> None:
        """Log it once until a connection has worked for a while."""
        words = words.encode(errors="replace").decode()  # a topic that is no valid Unicode, which no log could hold
        if words in self._told or len(self._told) >= _TOLD:
            logger.debug(words)
            return
        self._told.add(words)
        logger.warning(words)

    def _tell_flapping(self, ending: Ending, short_lives: int) -> None:
        if ending.code == TAKEN_OVER or (ending.code is None and short_lives == _SHORT_LIVES):
            perhaps = "another" if ending.code == TAKEN_OVER else "perhaps another"
            self._tell(
                f"{perhaps} client uses the client id {self._options.client_id}: "
                f"each bridge needs its own mqtt.client_id"
            )
