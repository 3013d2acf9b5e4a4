from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge.mqtt.message import Message
from bridge.mqtt.outbox import Entry, Limits, Outbox, Policy


def message(topic: str = "t", size: int = 1, qos: int = 1) -> Message:
    return Message(topic, bytes(size), qos=qos)


def taken(outbox: Outbox) -> list[str]:
    """Topics of all that can be sent now; nothing is acknowledged."""
    topics = []
    while (entry := outbox.take()) is not None:
        topics.append(entry.message.topic)
    return topics


def flow(outbox: Outbox) -> list[str]:
    """The same, with everything acknowledged at once."""
    topics = []
    while (entry := outbox.take()) is not None:
        assert outbox.acknowledge(entry)
        topics.append(entry.message.topic)
    return topics


def online(limits: Limits | None = None, window: int | None = None) -> Outbox:
    outbox = Outbox(limits or Limits())
    outbox.come(window)
    return outbox


def test_order_holds_over_all_policies() -> None:
    outbox = online()
    outbox.put(message("a"), Policy.KEEP)
    outbox.put(message("b", qos=0), Policy.DROP)
    outbox.put(message("c", qos=0), Policy.LATEST)
    outbox.put(message("d"), Policy.KEEP)
    assert flow(outbox) == ["a", "b", "c", "d"]
    assert outbox.counts.published == 4
    assert len(outbox) == 0


def test_while_the_broker_is_away_only_keep_is_held() -> None:
    outbox = Outbox()
    outbox.put(message("keep"), Policy.KEEP)
    outbox.put(message("drop", qos=0), Policy.DROP)
    outbox.put(message("latest", qos=0), Policy.LATEST)
    assert outbox.take() is None
    assert outbox.counts.dropped == 2
    outbox.come()
    assert flow(outbox) == ["keep"]


def test_what_waits_when_the_broker_goes_is_dropped_unless_kept() -> None:
    outbox = online()
    for policy in Policy:
        outbox.put(message(policy.value), policy)
    outbox.go()
    assert len(outbox) == 1
    assert outbox.counts.dropped == 2


def test_the_window_holds_back_everything_behind_it() -> None:
    outbox = online(Limits(window=2))
    for topic in "abc":
        outbox.put(message(topic), Policy.KEEP)
    outbox.put(message("q0", qos=0), Policy.DROP)
    first, second = outbox.take(), outbox.take()
    assert first is not None
    assert second is not None
    assert outbox.take() is None
    outbox.acknowledge(second)
    assert taken(outbox) == ["c", "q0"]


@pytest.mark.parametrize(("told", "window"), [(None, 20), (5, 5), (65535, 20), (0, 20)])
def test_the_broker_may_lower_the_window(told: int | None, window: int) -> None:
    outbox = online(window=told)
    for number in range(30):
        outbox.put(message(str(number)), Policy.KEEP)
    assert len(taken(outbox)) == window


def test_unacknowledged_messages_are_sent_again_in_order_before_newer_ones() -> None:
    outbox = online()
    for topic in "abcd":
        outbox.put(message(topic), Policy.KEEP)
    sent = [outbox.take() for _ in range(3)]
    assert sent[1] is not None
    outbox.acknowledge(sent[1])
    outbox.go()
    outbox.put(message("e"), Policy.KEEP)
    outbox.come()
    assert flow(outbox) == ["a", "c", "d", "e"]


def test_an_acknowledgement_of_a_former_connection_is_ignored() -> None:
    outbox = online()
    outbox.put(message(), Policy.KEEP)
    entry = outbox.take()
    assert entry is not None
    outbox.go()
    assert not outbox.acknowledge(entry)
    assert not outbox.refuse(entry)
    assert outbox.kept == 1


def test_the_latest_takes_the_place_at_the_end() -> None:
    outbox = online()
    outbox.put(message("preview", 1, qos=0), Policy.LATEST)
    outbox.put(message("status"), Policy.KEEP)
    outbox.put(message("preview", 2, qos=0), Policy.LATEST)
    outbox.put(message("other", 3, qos=0), Policy.LATEST, key="preview")
    assert flow(outbox) == ["status", "other"]
    assert outbox.counts.replaced == 2


def test_keep_is_replaced_only_where_a_key_says_so() -> None:
    outbox = Outbox()
    outbox.put(message("state", 1), Policy.KEEP)
    outbox.put(message("state", 2), Policy.KEEP)
    outbox.put(message("values", 1), Policy.KEEP, key="values")
    outbox.put(message("values", 2), Policy.KEEP, key="values")
    assert (outbox.kept, outbox.kept_bytes) == (3, 5 + 1 + 5 + 2 + 6 + 2)
    outbox.come()
    assert flow(outbox) == ["state", "state", "values"]


def test_a_sent_message_is_not_sent_again_when_a_newer_of_its_key_waits() -> None:
    outbox = online()
    for size in (1, 2):
        outbox.put(message("values", size), Policy.KEEP, key="values")
        outbox.take()
    outbox.put(message("values", 3), Policy.KEEP, key="values")
    outbox.go()
    outbox.come()
    entry = outbox.take()
    assert entry is not None
    assert len(entry.message.payload) == 3
    assert outbox.take() is None
    assert outbox.kept == 1
    assert outbox.counts.replaced == 2


def test_too_many_events_drop_the_oldest() -> None:
    outbox = online(Limits(drop_count=2))
    outbox.put(message("status"), Policy.KEEP)
    for topic in "abcd":
        outbox.put(message(topic, qos=0), Policy.DROP)
    assert flow(outbox) == ["status", "c", "d"]
    assert outbox.counts.dropped == 2


def test_too_many_bytes_drop_the_oldest_outputs_and_never_a_status() -> None:
    outbox = Outbox(Limits(keep_bytes=1000, bulky=300))
    assert outbox.put(message("out0", 400), Policy.KEEP) == []
    assert outbox.put(message("status0", 200), Policy.KEEP) == []
    lost = outbox.put(message("out1", 500), Policy.KEEP)
    assert [entry.message.topic for entry in lost] == ["out0"]
    for number in range(1, 9):
        outbox.put(message(f"status{number}", 200), Policy.KEEP)
    assert outbox.counts.dropped == 2
    outbox.come()
    assert flow(outbox) == [f"status{number}" for number in range(9)]


def test_one_output_of_any_size_gets_through() -> None:
    outbox = Outbox(Limits(keep_bytes=1000, bulky=300))
    outbox.put(message("small", 400), Policy.KEEP)
    outbox.put(message("huge", 5000), Policy.KEEP)
    outbox.come()
    assert flow(outbox) == ["huge"]


def test_what_is_an_output_can_be_said() -> None:
    outbox = Outbox(Limits(keep_bytes=100, bulky=50))
    outbox.put(message("result", 90), Policy.KEEP, bulky=False)
    outbox.put(message("output", 9), Policy.KEEP, bulky=True)
    outbox.put(message("output", 8), Policy.KEEP, bulky=True)
    outbox.come()
    assert flow(outbox) == ["result", "output"]
    assert outbox.counts.dropped == 1


def test_too_many_messages_drop_outputs_first_and_then_the_oldest() -> None:
    outbox = Outbox(Limits(keep_count=3, bulky=50))
    for topic, size in (("a", 1), ("b", 60), ("c", 1), ("d", 1), ("e", 1)):
        outbox.put(message(topic, size), Policy.KEEP)
    outbox.come()
    assert flow(outbox) == ["c", "d", "e"]
    assert outbox.counts.dropped == 2


def test_what_is_on_its_way_is_never_dropped_for_room() -> None:
    outbox = online(Limits(keep_bytes=100, bulky=10))
    outbox.put(message("sent", 90), Policy.KEEP)
    outbox.take()
    outbox.put(message("a", 50), Policy.KEEP)
    assert [entry.message.topic for entry in outbox.put(message("b", 50), Policy.KEEP)] == ["a"]
    outbox.go()
    outbox.come()
    assert flow(outbox) == ["sent", "b"]


def test_a_message_that_ends_connections_is_given_up_and_no_other() -> None:
    outbox = online()
    for topic in ("innocent", "deadly", "after"):
        outbox.put(message(topic), Policy.KEEP)
    first = outbox.take()
    assert first is not None
    outbox.take()
    assert not outbox.suspicious
    assert outbox.go(blame=True) is None  # the oldest is suspected: wrongly
    assert outbox.suspicious
    outbox.come()
    assert taken(outbox) == ["innocent"]  # alone
    outbox.acknowledge(first)
    assert taken(outbox) == ["deadly", "after"]
    assert outbox.go(blame=True) is None
    outbox.come()
    assert taken(outbox) == ["deadly"]
    assert outbox.go(blame=True) is None  # once may be chance
    outbox.come()
    assert taken(outbox) == ["deadly"]
    guilty = outbox.go(blame=True)
    assert guilty is not None
    assert guilty.message.topic == "deadly"
    outbox.come()
    assert flow(outbox) == ["after"]
    assert outbox.counts.dropped == 1


def test_a_network_that_fails_blames_nobody() -> None:
    outbox = online()
    outbox.put(message(), Policy.KEEP)
    for _ in range(5):
        assert taken(outbox) == ["t"]
        assert outbox.go() is None
        outbox.come()
    assert flow(outbox) == ["t"]


def test_a_refused_message_is_counted_and_gone() -> None:
    outbox = online()
    outbox.put(message(), Policy.KEEP)
    entry = outbox.take()
    assert entry is not None
    assert outbox.refuse(entry)
    assert (outbox.kept, outbox.counts.dropped, len(outbox)) == (0, 1, 0)


LIMITS = Limits(window=3, keep_bytes=500, keep_count=15, drop_count=4, bulky=50)


class OutboxMachine(RuleBasedStateMachine):
    """Whatever happens: order, bounds, and every message is published, waiting or counted."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(LIMITS)
        self.put_count = 0
        self.in_flight: list[Entry] = []
        self.sent: list[int] = []
        """Numbers as they were sent on this connection."""
        self.first_sent: list[int] = []
        """Numbers of KEEP messages at their first sending, over all connections."""
        self.acknowledged: set[int] = set()

    @rule(
        policy=st.sampled_from(Policy),
        key=st.sampled_from([None, "a", "b"]),
        size=st.integers(0, 120),
        qos=st.integers(0, 1),
    )
    def put(self, policy: Policy, key: str | None, size: int, qos: int) -> None:
        self.put_count += 1
        self.outbox.put(message("t", size, 1 if policy is Policy.KEEP else qos), policy, key=key)

    @rule()
    def take(self) -> None:
        entry = self.outbox.take()
        if entry is None:
            return
        assert self.sent == [] or entry.number > self.sent[-1]
        assert entry.number not in self.acknowledged
        self.sent.append(entry.number)
        if entry.policy is Policy.KEEP and entry.number not in self.first_sent:
            self.first_sent.append(entry.number)
        if entry.message.qos:
            self.in_flight.append(entry)
            assert len(self.in_flight) <= LIMITS.window
        else:
            assert self.outbox.acknowledge(entry)
            self.acknowledged.add(entry.number)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), refused=st.booleans())
    def settle(self, data: st.DataObject, refused: bool) -> None:
        entry = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(entry)
        assert (self.outbox.refuse if refused else self.outbox.acknowledge)(entry)
        assert not self.outbox.acknowledge(entry)
        self.acknowledged.add(entry.number)

    @rule(window=st.sampled_from([None, 1, 2, 100]))
    def come(self, window: int | None) -> None:
        if not self.outbox.online:
            self.outbox.come(window)

    @rule(blame=st.booleans())
    def go(self, blame: bool) -> None:
        if self.outbox.online:
            guilty = self.outbox.go(blame=blame)
            assert guilty is None or guilty.deaths == 3
            self.in_flight.clear()
            self.sent.clear()

    @invariant()
    def first_sendings_are_in_order(self) -> None:
        assert self.first_sent == sorted(self.first_sent)

    @invariant()
    def bounds_hold(self) -> None:
        assert self.outbox.kept <= LIMITS.keep_count + LIMITS.window
        assert len(self.outbox) <= LIMITS.keep_count + 2 * LIMITS.window + LIMITS.drop_count + 3
        assert self.outbox.kept_bytes >= 0

    @invariant()
    def nothing_is_lost_uncounted(self) -> None:
        counts = self.outbox.counts
        assert self.put_count == counts.published + counts.dropped + counts.replaced + len(self.outbox)

    def teardown(self) -> None:
        if not self.outbox.online:
            self.outbox.come()
        for entry in self.in_flight:
            self.outbox.acknowledge(entry)
        flow(self.outbox)
        assert len(self.outbox) == 0
        assert (self.outbox.kept, self.outbox.kept_bytes) == (0, 0)
        self.nothing_is_lost_uncounted()


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
