"""What is to be published, in order: a queue that survives a broker's absence and a slow network.

Pure: it neither sends nor knows the time. A connection puts messages in, takes out what may be sent now,
and says what was acknowledged and when the broker came and went.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from bridge.mqtt.message import Message

_DEATHS = 3
"""Ended connections that condemn a message: one that made it suspect, and two with nothing else on its way."""


class Policy(StrEnum):
    """What happens to a message that cannot be sent at once."""

    KEEP = "keep"
    """Held until the broker acknowledged it; sent again, in order, after a lost connection."""

    DROP = "drop"
    """Dropped while the broker is away; while it is there, the oldest of too many waiting ones is dropped."""

    LATEST = "latest"
    """Dropped while the broker is away; replaced by a newer one of the same key while it waits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the outbox. Bytes are those of topic and payload.

    `window` messages of QoS 1 or 2 are unacknowledged at any time. `keep_bytes` bounds all KEEP messages:
    beyond it the oldest *bulky* ones that wait are dropped (outputs; not the newest, so that one message
    of any size gets through), and others never. `keep_count` bounds their number: beyond it bulky
    ones are dropped first, then the oldest. `drop_count` bounds the waiting DROP messages. `bulky` is
    the size from which a message is an output when nothing else is said. `buffer` is what may wait
    to be written to the socket: beyond it, messages wait here, where they can be replaced.
    """

    window: int = 20
    keep_bytes: int = 64 * 1024 * 1024
    keep_count: int = 100_000
    drop_count: int = 1_000
    bulky: int = 64 * 1024
    buffer: int = 256 * 1024


class _Kind(IntEnum):
    """Which of the waiting messages are dropped together, oldest first."""

    BULKY = 1
    KEEP = 2
    DROP = 3
    LATEST = 4


@dataclass(slots=True, eq=False)
class Entry:
    """A message on its way, identified by itself."""

    message: Message
    policy: Policy
    key: str | None
    on_acknowledged: Callable[[], None] | None
    number: int
    size: int
    kind: _Kind
    deaths: int = 0
    """How many connections ended while this was the oldest unacknowledged message."""


@dataclass(slots=True)
class Counts:
    """What became of the messages, since the start."""

    published: int = 0
    """Acknowledged, or for QoS 0 handed to the network."""
    dropped: int = 0
    """Lost: over a bound, dropped while the broker was away, or refused."""
    replaced: int = 0
    """Superseded by a newer one of the same key before they were sent."""


@dataclass(slots=True)
class Outbox:
    """The queue: first in, first out over all policies.

    A newer message of the same key takes its place at the end, not that of the one it replaces, so that what
    arrives has the order in which it was published. Neither a dropped nor a replaced message calls
    its `on_acknowledged`.
    """

    limits: Limits = field(default_factory=Limits)
    counts: Counts = field(default_factory=Counts)
    online: bool = False
    _window: int = 0
    _number: int = 0
    _queue: OrderedDict[int, Entry] = field(default_factory=OrderedDict)
    _kinds: dict[_Kind, OrderedDict[int, Entry]] = field(
        default_factory=lambda: {kind: OrderedDict() for kind in _Kind}
    )
    _keys: dict[tuple[Policy, str], Entry] = field(default_factory=dict)
    _in_flight: OrderedDict[int, Entry] = field(default_factory=OrderedDict)
    _kept: int = 0
    _kept_bytes: int = 0

    def __len__(self) -> int:
        """How many messages wait or are unacknowledged."""
        return len(self._queue) + len(self._in_flight)

    @property
    def kept(self) -> int:
        """How many KEEP messages are not acknowledged yet."""
        return self._kept

    @property
    def kept_bytes(self) -> int:
        """The bytes of the KEEP messages that are not acknowledged yet."""
        return self._kept_bytes

    @property
    def suspicious(self) -> bool:
        """Whether the next message may have ended the last connection: see first that the new one holds without it."""
        return any(entry.deaths for entry in itertools.islice(self._queue.values(), 1))

    def put(
        self,
        message: Message,
        policy: Policy,
        *,
        key: str | None = None,
        on_acknowledged: Callable[[], None] | None = None,
        bulky: bool | None = None,
    ) -> list[Entry]:
        """Add a message and return the KEEP messages that were dropped to make room for it.

        A key makes the message replace the unsent one of the same policy and key; LATEST has its topic as
        key unless another is given.
        """
        if policy is not Policy.KEEP and not self.online:
            self.counts.dropped += 1
            return []
        size = len(message.topic) + len(message.payload)
        if policy is Policy.KEEP:
            kind = _Kind.BULKY if (size >= self.limits.bulky if bulky is None else bulky) else _Kind.KEEP
        elif policy is Policy.DROP:
            kind = _Kind.DROP
        else:
            kind = _Kind.LATEST
            key = message.topic if key is None else key
        if key is not None and (older := self._keys.get((policy, key))):
            self._forget(older)
            self.counts.replaced += 1
        self._number += 1
        entry = Entry(message, policy, key, on_acknowledged, self._number, size, kind)
        self._enqueue(entry)
        if policy is Policy.KEEP:
            self._kept += 1
            self._kept_bytes += size
            return self._bound(entry)
        if policy is Policy.DROP and len(self._kinds[_Kind.DROP]) > self.limits.drop_count:
            self._lose(next(iter(self._kinds[_Kind.DROP].values())))
        return []

    def take(self) -> Entry | None:
        """The next message to send now, or None: nothing waits, the window is full, the broker is away.

        One of QoS 1 or 2 is unacknowledged from here on; one of QoS 0 is done with `acknowledge` as well. A message
        that may have ended the last connection is sent with no other beside it, so that the blame
        for the next end is sure.
        """
        if not self.online or not self._queue:
            return None
        entry = next(iter(self._queue.values()))
        if self._in_flight:
            if entry.deaths or next(iter(self._in_flight.values())).deaths:
                return None
            if entry.message.qos and len(self._in_flight) >= self._window:
                return None
        self._unqueue(entry)
        self._in_flight[entry.number] = entry
        return entry

    def acknowledge(self, entry: Entry) -> bool:
        """The broker has it (QoS 0: the network has it). False if it was not on its way (any more)."""
        if not self._land(entry):
            return False
        self.counts.published += 1
        return True

    def refuse(self, entry: Entry) -> bool:
        """It can never be sent: give it up. False if it was not on its way (any more)."""
        if not self._land(entry):
            return False
        self.counts.dropped += 1
        return True

    def come(self, window: int | None = None) -> None:
        """The broker is there; it takes `window` unacknowledged messages, and at most the limit's."""
        self.online = True
        self._window = max(1, min(self.limits.window, window or self.limits.window))

    def go(self, *, blame: bool = False) -> Entry | None:
        """The broker went away; `blame`: it closed the connection itself, perhaps because of a message.

        Unacknowledged KEEP messages go back to the front of the queue, the others are dropped. Returns the message
        that is given up: a third connection ended while it was the oldest unacknowledged one.
        """
        self.online = False
        culprit = next((entry for entry in self._in_flight.values() if entry.message.qos), None) if blame else None
        if culprit is not None:
            culprit.deaths += 1
        guilty = culprit if culprit is not None and culprit.deaths >= _DEATHS else None
        for entry in reversed(self._in_flight.values()):
            if entry is guilty or entry.policy is not Policy.KEEP:
                self.counts.dropped += 1
                self._unkeep(entry)
            elif entry.key is not None and (entry.policy, entry.key) in self._keys:
                self.counts.replaced += 1
                self._unkeep(entry)
            else:
                self._enqueue(entry, front=True)
        self._in_flight.clear()
        for kind in (_Kind.DROP, _Kind.LATEST):
            for entry in list(self._kinds[kind].values()):
                self._lose(entry)
        return guilty

    def _bound(self, newest: Entry) -> list[Entry]:
        lost = []
        while self._kept_bytes > self.limits.keep_bytes or self._kept > self.limits.keep_count:
            oldest = next(iter(self._kinds[_Kind.BULKY].values()), None)
            if oldest in {None, newest} and self._kept > self.limits.keep_count:
                oldest = next(iter(self._kinds[_Kind.KEEP].values()), None)
            if oldest is None or oldest is newest:
                break
            self._lose(oldest)
            lost.append(oldest)
        return lost

    def _enqueue(self, entry: Entry, *, front: bool = False) -> None:
        self._queue[entry.number] = self._kinds[entry.kind][entry.number] = entry
        if entry.key is not None:
            self._keys[entry.policy, entry.key] = entry
        if front:
            self._queue.move_to_end(entry.number, last=False)
            self._kinds[entry.kind].move_to_end(entry.number, last=False)

    def _unqueue(self, entry: Entry) -> None:
        del self._queue[entry.number]
        del self._kinds[entry.kind][entry.number]
        if entry.key is not None:
            del self._keys[entry.policy, entry.key]

    def _forget(self, entry: Entry) -> None:
        self._unqueue(entry)
        self._unkeep(entry)

    def _lose(self, entry: Entry) -> None:
        self._forget(entry)
        self.counts.dropped += 1

    def _land(self, entry: Entry) -> bool:
        if self._in_flight.pop(entry.number, None) is None:
            return False
        self._unkeep(entry)
        return True

    def _unkeep(self, entry: Entry) -> None:
        if entry.policy is Policy.KEEP:
            self._kept -= 1
            self._kept_bytes -= entry.size
