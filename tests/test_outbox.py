"""The outgoing queue: what goes first, what is dropped, and that it is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.bus.inbound import matches
from daemon.bus.limits import BusLimits, backoff_s, check_message
from daemon.bus.outbox import BusCounters, Outbox, Outgoing
from facility.topics import COMMAND, SAMPLE, STATE, Delivery
from facility.wire import MESSAGE_BYTES_MAX


def box(*, queue_max: int = 4, states_max: int = 4) -> tuple[Outbox, BusCounters]:
    counters = BusCounters()
    return Outbox(counters, queue_max=queue_max, states_max=states_max), counters


def drain(outbox: Outbox, now_s: float = 0.0) -> list[bytes]:
    taken = []
    while (message := outbox.take(now_s)) is not None:
        taken.append(message.payload)
    return taken


def test_states_go_before_commands_and_commands_before_samples() -> None:
    outbox, _ = box()
    outbox.put(Outgoing("t", b"sample", SAMPLE))
    outbox.put(Outgoing("c", b"command", COMMAND))
    outbox.put(Outgoing("s", b"state", STATE))
    assert drain(outbox) == [b"state", b"command", b"sample"]


def test_of_a_state_only_the_latest_is_sent() -> None:
    outbox, counters = box()
    for payload in (b"1", b"2", b"3"):
        outbox.put(Outgoing("s", payload, STATE))
    assert drain(outbox) == [b"3"]
    assert counters.coalesced == 2
    assert counters.dropped == 0


def test_an_urgent_state_overtakes_the_others() -> None:
    outbox, _ = box()
    outbox.put(Outgoing("lease/1", b"lease", STATE))
    outbox.put(Outgoing("emergency", b"emergency", STATE), urgent=True)
    assert drain(outbox) == [b"emergency", b"lease"]


def test_a_full_queue_drops_the_oldest_sample_before_any_command() -> None:
    outbox, counters = box(queue_max=3)
    outbox.put(Outgoing("c", b"command", COMMAND))
    for payload in (b"1", b"2"):
        outbox.put(Outgoing("t", payload, SAMPLE))
    assert counters.dropped == 0
    outbox.put(Outgoing("t", b"3", SAMPLE))
    assert drain(outbox) == [b"command", b"2", b"3"]
    assert (counters.dropped_samples, counters.dropped_commands) == (1, 0)


def test_a_queue_full_of_commands_drops_the_oldest_and_counts_it() -> None:
    outbox, counters = box(queue_max=2)
    for payload in (b"1", b"2", b"3"):
        outbox.put(Outgoing("c", payload, COMMAND))
    assert drain(outbox) == [b"2", b"3"]
    assert counters.dropped_commands == 1


def test_a_full_state_table_refuses_a_new_topic_but_not_a_known_one() -> None:
    outbox, counters = box(states_max=1)
    assert outbox.put(Outgoing("a", b"1", STATE))
    assert not outbox.put(Outgoing("b", b"1", STATE))
    assert outbox.put(Outgoing("a", b"2", STATE))
    assert drain(outbox) == [b"2"]
    assert counters.dropped_states == 1


def test_states_are_repeated_after_a_reconnect_and_samples_are_not() -> None:
    outbox, _ = box()
    outbox.put(Outgoing("a", b"a", STATE))
    outbox.put(Outgoing("t", b"sample", SAMPLE))
    drain(outbox)
    outbox.repeat_states()
    assert drain(outbox) == [b"a"]


def test_what_expired_is_not_sent_and_not_repeated() -> None:
    outbox, counters = box()
    outbox.put(Outgoing("a", b"state", STATE, expires_at_s=10.0))
    outbox.put(Outgoing("t", b"sample", SAMPLE, expires_at_s=10.0))
    assert drain(outbox, now_s=9.9) == [b"state", b"sample"]
    outbox.put(Outgoing("t", b"sample", SAMPLE, expires_at_s=10.0))
    outbox.repeat_states()
    assert drain(outbox, now_s=10.0) == []
    assert counters.expired == 2
    assert not outbox.has_states


def test_an_empty_state_deletes_once_and_is_not_repeated() -> None:
    outbox, _ = box()
    outbox.put(Outgoing("a", b"1", STATE))
    outbox.put(Outgoing("a", b"", STATE))
    assert drain(outbox) == [b""]
    outbox.repeat_states()
    assert drain(outbox) == []


def test_a_command_given_back_goes_first_again() -> None:
    outbox, _ = box()
    outbox.put(Outgoing("c", b"1", COMMAND))
    outbox.put(Outgoing("c", b"2", COMMAND))
    first = outbox.take(0.0)
    assert first is not None
    outbox.give_back(first)
    assert drain(outbox) == [b"1", b"2"]


def test_a_state_given_back_never_replaces_a_newer_one() -> None:
    outbox, _ = box()
    outbox.put(Outgoing("a", b"old", STATE))
    old = outbox.take(0.0)
    assert old is not None
    outbox.put(Outgoing("a", b"new", STATE))
    outbox.give_back(old)
    outbox.repeat_states()
    assert drain(outbox) == [b"new"]


def test_an_unconfirmed_deletion_is_sent_again() -> None:
    outbox, _ = box()
    outbox.put(Outgoing("a", b"", STATE))
    deletion = outbox.take(0.0)
    assert deletion is not None
    outbox.give_back(deletion)
    outbox.repeat_states()
    assert drain(outbox) == [b""]


@given(st.lists(st.tuples(st.sampled_from([SAMPLE, COMMAND, STATE]), st.integers(0, 9))))
def test_it_never_holds_more_than_its_bounds_and_loses_nothing_uncounted(
    puts: list[tuple[Delivery, int]],
) -> None:
    outbox, counters = box(queue_max=5, states_max=3)
    for delivery, topic in puts:
        outbox.put(Outgoing(f"t{topic}", b"x", delivery))
        assert len(outbox) <= 5 + 3
    sent = len(drain(outbox))
    assert sent + counters.dropped + counters.coalesced == len(puts)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "covered"),
    [
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/+/c", "a/b/c/d", False),
        ("a/+", "a", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("#", "a/b", True),
        ("a/b", "a/b", True),
        ("a/b", "a/bc", False),
    ],
)
def test_filters_cover_what_mqtt_says(topic_filter: str, topic: str, covered: bool) -> None:
    assert matches(topic_filter.split("/"), topic) is covered


@pytest.mark.parametrize("topic", ["", "a/+/b", "a/#", "a\0b", "a" * 1_025])
def test_a_topic_that_cannot_be_published_to_is_an_error(topic: str) -> None:
    with pytest.raises(ValueError, match=r"topic|published"):
        check_message(topic, b"")


def test_a_payload_may_have_the_largest_size_and_no_more() -> None:
    check_message("a", bytes(MESSAGE_BYTES_MAX))
    with pytest.raises(ValueError, match=str(MESSAGE_BYTES_MAX)):
        check_message("a", bytes(MESSAGE_BYTES_MAX + 1))


def test_pauses_double_up_to_a_bound_and_are_spread_over_half_of_it() -> None:
    limits = BusLimits(backoff_s_min=0.1, backoff_s_max=3.0)
    assert [backoff_s(n, 1.0, limits) for n in range(3)] == pytest.approx([0.1, 0.2, 0.4])
    assert backoff_s(0, 0.0, limits) == pytest.approx(0.05)
    assert backoff_s(10_000, 1.0, limits) == pytest.approx(3.0)
