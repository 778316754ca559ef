"""Who may speak, on both sides of every threshold, with two clocks and a store of ten lines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.leadership import (
    MARGIN_RATIO,
    Candidate,
    Claim,
    LeaderRecord,
    takeover,
    takeover_sentence,
)
from controllers.operator import OrdersState
from facility.config import ControlConfig

TTL_S = 1.0
SURE_S = (1.0 - MARGIN_RATIO) * TTL_S
JUST_S = 1e-6


class Store:
    """One record under compare-and-set."""

    def __init__(self) -> None:
        self.record: LeaderRecord | None = None
        self.revision = 0

    def write(self, claim: Claim) -> bool:
        if claim.revision != self.revision:
            return False
        self.record, self.revision = claim.record, self.revision + 1
        return True


class Side:
    """One candidate, which asks the store when told to."""

    def __init__(
        self, store: Store, name: str, *, lease_s: float = 4.0, ttl_s: float = TTL_S
    ) -> None:
        self.store = store
        self.candidate = Candidate(holder=name, session=name, ttl_s=ttl_s, lease_s=lease_s)
        self.epoch_file = 0

    def fresh_epoch(self, above: int) -> int:
        self.epoch_file = max(self.epoch_file, above) + 1
        return self.epoch_file

    def claim(self, now_s: float) -> Claim:
        return self.candidate.claim(now_s, self.fresh_epoch)

    def ask(self, now_s: float) -> str:
        """One question and its answer, in no time; returns what was asked."""
        action = self.candidate.action(now_s)
        if action == "read":
            self.candidate.saw(self.store.record, self.store.revision, now_s)
            return action
        claim = self.claim(now_s)
        if self.store.write(claim):
            self.candidate.written(claim, self.store.revision)
        else:
            self.candidate.refused()
        return action

    def lead(self, now_s: float) -> None:
        """Look, wait and take; leads at `now_s` plus `TTL_S`."""
        self.ask(now_s)
        assert self.ask(now_s + TTL_S) == "take"
        assert self.candidate.may_speak(now_s + TTL_S)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def a(store: Store) -> Side:
    return Side(store, "a")


@pytest.fixture
def b(store: Store) -> Side:
    return Side(store, "b")


def test_nobody_speaks_before_a_lock_is_confirmed(a: Side) -> None:
    assert not a.candidate.may_speak(0.0)
    a.ask(0.0)
    assert a.candidate.action(TTL_S - JUST_S) == "read"
    assert a.candidate.action(TTL_S) == "take"
    claim = a.claim(TTL_S)
    assert not a.candidate.may_speak(TTL_S)
    a.candidate.written(claim, 1)
    assert a.candidate.may_speak(TTL_S)


def test_a_leader_is_silent_a_margin_before_its_time_since_the_renewal_was_sent(a: Side) -> None:
    a.lead(0.0)
    claim = a.claim(2.0)
    a.store.write(claim)
    a.candidate.written(claim, 2)  # the answer may come much later: only the sending counts
    assert a.candidate.may_speak(2.0 + SURE_S - JUST_S)
    assert not a.candidate.may_speak(2.0 + SURE_S)


def test_a_renewal_keeps_the_epoch_and_moves_the_end(a: Side) -> None:
    a.lead(0.0)
    epoch = a.candidate.epoch
    assert a.ask(1.5) == "renew"
    assert a.candidate.epoch == epoch
    assert a.candidate.may_speak(1.5 + SURE_S - JUST_S)


def test_a_standby_takes_what_it_has_seen_unchanged_for_the_whole_time(a: Side, b: Side) -> None:
    a.lead(0.0)  # sent at 1.0
    b.ask(1.2)
    assert b.candidate.action(1.2 + TTL_S - JUST_S) == "read"
    assert b.candidate.action(1.2 + TTL_S) == "take"
    b.ask(1.2 + TTL_S)
    assert b.candidate.may_speak(2.2)
    assert not a.candidate.may_speak(2.2)
    assert b.candidate.epoch > a.epoch_file


def test_a_renewal_in_between_makes_the_standby_wait_anew(a: Side, b: Side) -> None:
    a.lead(0.0)
    b.ask(1.2)
    a.ask(1.5)
    assert b.ask(1.9) == "read"
    assert b.candidate.action(2.2) == "read"
    assert b.candidate.action(1.9 + TTL_S) == "take"


def test_a_renewal_that_the_standby_has_not_seen_refuses_its_claim(a: Side, b: Side) -> None:
    a.lead(0.0)
    b.ask(1.2)
    a.ask(2.1)
    assert b.ask(2.2) == "take"
    assert not b.candidate.may_speak(2.2)
    assert b.candidate.action(2.2) == "read"
    assert a.ask(2.3) == "renew"
    assert a.candidate.may_speak(2.3)


def test_the_longer_of_two_times_counts(store: Store) -> None:
    slow, quick = Side(store, "slow", ttl_s=3.0), Side(store, "quick")
    slow.ask(0.0)
    slow.ask(3.0)
    quick.ask(3.0)
    assert quick.candidate.action(6.0 - JUST_S) == "read"
    assert quick.candidate.action(6.0) == "take"


def test_a_deposed_leader_is_refused_and_silent_at_once(a: Side, b: Side) -> None:
    a.lead(0.0)
    b.ask(1.0)
    b.ask(2.0)
    assert a.ask(2.0) == "renew"
    assert a.ask(2.0) == "read"
    assert not a.candidate.may_speak(1.0)
    assert a.candidate.epoch == 0
    assert b.candidate.may_speak(2.0)


def test_a_leader_whose_place_nobody_took_goes_on_under_its_epoch_after_an_outage(a: Side) -> None:
    a.lead(0.0)
    epoch = a.candidate.epoch
    a.candidate.unanswered()
    assert not a.candidate.may_speak(9.0)
    assert a.ask(9.0) == "renew"
    assert a.candidate.may_speak(9.0)
    assert a.candidate.epoch == epoch


def test_after_an_outage_the_leader_has_the_first_chance(a: Side, b: Side) -> None:
    a.lead(0.0)
    b.ask(1.0)
    b.candidate.unanswered()
    assert b.candidate.action(9.0) == "read"
    b.ask(9.0)
    wait_s = 2.0 * b.candidate.period_s
    assert b.candidate.action(9.0 + wait_s - JUST_S) == "read"
    assert b.candidate.action(9.0 + wait_s) == "take"


def test_an_own_renewal_whose_answer_was_lost_is_recognised(a: Side) -> None:
    a.lead(0.0)
    epoch = a.candidate.epoch
    a.store.write(a.claim(1.5))  # happened, and nobody told
    a.candidate.unanswered()
    assert a.ask(1.6) == "renew"  # refused
    assert a.ask(1.6) == "read"
    assert not a.candidate.may_speak(TTL_S + SURE_S)  # what was not confirmed does not count
    assert a.ask(1.7) == "renew"
    assert a.candidate.epoch == epoch
    assert a.candidate.may_speak(1.7 + SURE_S - JUST_S)


def test_a_claim_whose_answer_was_lost_gives_no_voice_before_it_is_confirmed(a: Side) -> None:
    a.ask(0.0)
    a.store.write(a.claim(1.0))
    a.candidate.unanswered()
    a.ask(1.1)
    assert not a.candidate.may_speak(1.1)
    assert a.ask(1.2) == "renew"
    assert a.candidate.may_speak(1.2)


def test_who_resigns_is_silent_and_replaced_without_waiting(a: Side, b: Side) -> None:
    a.lead(0.0)
    claim = a.candidate.resignation()
    assert not a.candidate.may_speak(1.0)
    assert claim is not None
    a.store.write(claim)
    b.ask(1.1)
    assert b.candidate.action(1.1) == "take"
    b.ask(1.1)
    assert b.candidate.may_speak(1.1)


def test_a_standby_has_nothing_to_resign_from(a: Side, b: Side) -> None:
    a.lead(0.0)
    b.ask(1.0)
    assert b.candidate.resignation() is None


def test_the_epoch_is_above_the_record_the_own_file_and_what_was_heard_of(a: Side, b: Side) -> None:
    a.epoch_file = 500
    a.lead(0.0)
    assert a.candidate.epoch == 501
    b.epoch_file = 40
    b.candidate.raise_above(900)
    b.ask(1.0)
    b.ask(2.0)
    assert b.candidate.epoch == 901


def test_a_leader_that_hears_of_a_higher_epoch_goes_above_it_by_the_record(a: Side) -> None:
    a.lead(0.0)
    a.candidate.raise_above(77)
    assert a.candidate.epoch == 1
    a.ask(1.5)
    assert a.candidate.epoch == 78
    assert a.store.record is not None
    assert a.store.record.epoch == 78
    a.ask(1.8)
    assert a.candidate.epoch == 78


def test_a_store_that_lost_everything_silences_the_leader_and_is_waited_for(a: Side) -> None:
    a.lead(0.0)
    a.store.record, a.store.revision = None, 0
    a.ask(1.5)
    a.ask(1.5)
    assert not a.candidate.may_speak(1.5)
    assert a.candidate.action(1.5 + TTL_S - JUST_S) == "read"
    a.ask(1.5 + TTL_S)
    assert a.candidate.epoch == 2  # the own file remembers


def test_orders_and_the_longest_lease_go_with_the_place(store: Store) -> None:
    a, b = Side(store, "a", lease_s=10.0), Side(store, "b", lease_s=4.0)
    a.lead(0.0)
    a.candidate.orders = OrdersState(caps_w={"row-1": 5_000.0})
    a.ask(1.5)
    b.ask(1.5)
    b.ask(2.5)
    assert b.candidate.orders.caps_w == {"row-1": 5_000.0}
    assert b.candidate.predecessor is not None
    assert b.candidate.predecessor.lease_s == 10.0
    b.ask(2.5 + 10.0 - JUST_S)  # a lease of the first leader may still be in force
    assert store.record is not None
    assert store.record.lease_s == 10.0
    b.ask(2.5 + 10.0)
    assert store.record.lease_s == 4.0


def test_the_first_leader_of_all_keeps_its_own_orders(a: Side) -> None:
    a.candidate.orders = OrdersState(drained=("n01",))
    a.lead(0.0)
    assert a.store.record is not None
    assert a.store.record.orders.drained == ("n01",)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 400)), max_size=80))
def test_whatever_is_lost_or_late_two_never_speak_at_once(
    steps: list[tuple[int, int, int]],
) -> None:
    """Three candidates; requests are answered, lost before or after the store, or arrive late."""
    store = Store()
    sides = [Side(store, name) for name in "abc"]
    late: list[Claim] = []
    now_s = 0.0
    for who, fate, wait_ms in steps:
        now_s += wait_ms / 1_000
        side = sides[who]
        if fate <= 2:
            side.ask(now_s)
        elif fate == 3:
            side.candidate.unanswered()  # lost on the way there
        else:
            if side.candidate.action(now_s) != "read":
                late.append(side.claim(now_s))
            side.candidate.unanswered()
            if fate == 5 and late:
                store.write(late.pop(0))  # arrives after all, and the answer is lost
        speaking = [one for one in sides if one.candidate.may_speak(now_s)]
        assert len(speaking) <= 1
        assert len({one.candidate.epoch for one in speaking}) == len(speaking)


def test_a_standby_is_in_time_when_leases_last_as_long_as_it_takes_and_not_when_shorter() -> None:
    control = ControlConfig(lease_s=4.65)
    found = takeover(control, 1.0)
    # 1 s and a look of 0.25 s, two answers of 0.1 s, 0.3 s to decide and 0.2 s to send
    assert found.takes_s == pytest.approx(1.95)
    # of 4.65 s: a frame of up to 1.4 s, a cycle of 1 s and its 0.3 s
    assert found.lasts_s == pytest.approx(1.95)
    assert takeover(ControlConfig(lease_s=4.65 + JUST_S), 1.0).in_time
    assert not takeover(ControlConfig(lease_s=4.65 - JUST_S), 1.0).in_time


def test_the_check_says_whether_a_standby_is_in_time_and_what_would_be() -> None:
    assert "no node falls" in takeover_sentence(ControlConfig(lease_s=5.0), 1.0)
    late = takeover_sentence(ControlConfig(), 1.0)
    assert "would be in time with lease_s of at least 4.65, or ttl_s of at most 0.48" in late
    assert "no node falls" in takeover_sentence(ControlConfig(), 0.48)
    short = takeover_sentence(ControlConfig(lease_s=3.0), 1.0)
    assert "would be in time with lease_s of at least 4.65;" in short


def test_the_price_of_a_broker_that_is_away_is_said_either_way() -> None:
    for lease_s in (4.0, 5.0):
        said = takeover_sentence(ControlConfig(lease_s=lease_s), 1.0)
        assert f"({lease_s:g} s at most) is waited for at the safe ceilings" in said
