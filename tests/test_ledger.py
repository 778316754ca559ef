"""The ledger between policies and the wire: what it lets pass, and what it takes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from controllers.fleet import BoolArray, Fleet, IntArray
from controllers.ledger import Clamped, Ledger
from controllers.reaction import reaction_bounds
from facility.compiler import compile_site
from facility.config import SiteConfig
from facility.example import row_site as example

NONE: frozenset[str] = frozenset()
LONG_AGO_S = -1_000.0


class Bench:
    """A ledger over a row, with everybody movable unless said otherwise."""

    def __init__(self, config: SiteConfig, *, started_at_s: float = LONG_AGO_S) -> None:
        self.site = compile_site(config)
        self.fleet = Fleet(self.site)
        self.ledger = Ledger(
            self.fleet, started_at_s=started_at_s, reaction=reaction_bounds(self.site.control)
        )
        self.movable = np.ones(len(self.fleet.nodes), dtype=np.bool_)
        self.unlocked = ~self.movable

    @property
    def highest(self) -> IntArray:
        return self.fleet.clock_mhz_max.astype(np.int64)

    def clamp(self, mhz: IntArray, *, now_s: float = 0.0, active: frozenset[str] = NONE) -> Clamped:
        return self.ledger.clamp(
            now_s, mhz, movable=self.movable, unlocked=self.unlocked, active=active
        )

    def ratio(self, mhz: IntArray, domain: str, *failed: str) -> float:
        """The worst case under ceilings, as a share of what is left of a domain."""
        state = frozenset(failed)
        place = self.fleet.domain_index[domain]
        load_w = self.fleet.shares(state)[place] @ self.fleet.worst_case_w(mhz)
        return float(load_w / self.fleet.capacity_w(state)[place])

    def grant(self, mhz: IntArray, *, until_s: float) -> None:
        for place, ceiling in enumerate(mhz.tolist()):
            self.ledger.grant(place, ceiling_mhz=ceiling, expires_at_s=until_s)


def row_site(**more: Any) -> SiteConfig:
    """The example row on UPSs that tolerate 130 % for a minute and 150 % for 3 s."""
    return example(feed_curve="ups-strict", **more)


def row(nodes: int = 10, **control: Any) -> Bench:
    base = row_site(nodes=nodes)
    return Bench(replace(base, control=replace(base.control, **control)))


def uncontrolled(bench: Bench, count: int) -> BoolArray:
    bench.unlocked = np.arange(len(bench.fleet.nodes)) < count
    bench.movable = ~bench.unlocked
    return bench.unlocked


def test_what_is_tolerated_passes_untouched() -> None:
    bench = row()
    wanted = bench.fleet.safe_ceiling_mhz.astype(np.int64) + 15
    clamped = bench.clamp(wanted)
    assert (clamped.ceiling_mhz == wanted).all()
    assert set(clamped.bound_by) == {""}
    assert clamped.exceeded == ()


def test_a_proposal_that_a_lost_feed_would_not_survive_is_lowered_to_its_limit() -> None:
    bench = row()
    assert bench.ratio(bench.highest, "ups-b", "ups-a-lost") > 1.5
    clamped = bench.clamp(bench.highest)
    ratio = bench.ratio(clamped.ceiling_mhz, "ups-b", "ups-a-lost")
    assert 1.47 < ratio <= 1.5


def test_both_feeds_of_a_row_are_held_against_the_loss_of_the_other() -> None:
    bench = row()
    clamped = bench.clamp(bench.highest)
    for left, lost in (("ups-a", "ups-b-lost"), ("ups-b", "ups-a-lost")):
        assert bench.ratio(clamped.ceiling_mhz, left, lost) <= 1.5


def test_it_says_which_domain_and_which_failure_bound_a_node() -> None:
    bench = row()
    clamped = bench.clamp(bench.highest)
    bound = {text for text in clamped.bound_by if text}
    assert bound <= {"ups-a if ups-b-lost", "ups-b if ups-a-lost"}
    lowered = clamped.ceiling_mhz < bench.highest
    assert [bool(text) for text in clamped.bound_by] == lowered.tolist()


def test_low_priority_gives_before_high() -> None:
    bench = row()
    clamped = bench.clamp(bench.highest)
    high = ~bench.fleet.low_priority
    assert (clamped.ceiling_mhz[high] == 1980).all()
    assert (clamped.ceiling_mhz[~high] < 1980).all()


def test_nobody_is_lowered_below_the_safe_ceiling() -> None:
    """What is above the safe ceiling is leased; what is below it is not the ledger's business."""
    bench = row()
    uncontrolled(bench, 9)
    clamped = bench.clamp(bench.highest)
    held = clamped.ceiling_mhz[bench.movable]
    assert (held == bench.fleet.safe_ceiling_mhz[bench.movable]).all()
    braked = np.where(bench.movable, 345, bench.highest)
    assert (bench.clamp(braked).ceiling_mhz == braked).all()


def test_what_cannot_be_taken_back_is_named() -> None:
    bench = row()
    uncontrolled(bench, 10)
    assert "ups-b if ups-a-lost" in bench.clamp(bench.highest).exceeded


def test_an_unlocked_node_takes_its_room_from_the_others() -> None:
    bench = row()
    free = bench.clamp(bench.highest).ceiling_mhz
    uncontrolled(bench, 4)
    cramped = bench.clamp(bench.highest).ceiling_mhz
    assert bench.ratio(np.where(bench.unlocked, 1980, cramped), "ups-b", "ups-a-lost") <= 1.5
    assert cramped[bench.movable].sum() < free[bench.movable].sum()


@pytest.mark.parametrize(("now_s", "may_rise"), [(4.19, False), (4.21, True)])
def test_room_is_free_only_when_the_lease_that_held_it_has_surely_ended(
    now_s: float, may_rise: bool
) -> None:
    """One half gives its clocks up; the other half may have them when the leases are over."""
    bench = row()
    half = np.arange(10) < 5
    first = np.where(half, 1980, bench.fleet.safe_ceiling_mhz).astype(np.int64)
    full = bench.clamp(np.where(half, 1980, 1980).astype(np.int64)).ceiling_mhz
    bench.grant(full, until_s=4.0)
    swapped = np.where(half, bench.fleet.safe_ceiling_mhz, 1980).astype(np.int64)
    clamped = bench.clamp(swapped, now_s=now_s).ceiling_mhz
    in_force = bench.ledger.granted_mhz(now_s)
    together = np.maximum(clamped, in_force)
    assert bench.ratio(together, "ups-b", "ups-a-lost") <= 1.5
    assert bool((clamped == swapped).all()) is may_rise
    assert first.shape == swapped.shape


def test_what_is_in_force_already_may_be_granted_again() -> None:
    """A renewal adds nothing: it must not be lowered step by step."""
    bench = row()
    level = bench.clamp(bench.highest).ceiling_mhz
    for second in range(20):
        bench.grant(level, until_s=second + 4.0)
        again = bench.clamp(bench.highest, now_s=float(second)).ceiling_mhz
        assert (again == level).all()


def test_under_a_contingency_the_present_capacity_counts() -> None:
    bench = row()
    clamped = bench.clamp(bench.highest, active=frozenset({"ups-a-lost"}))
    # 7.3 s are needed now that nothing but control protects the survivor: 130 % for a minute.
    assert 1.27 < bench.ratio(clamped.ceiling_mhz, "ups-b", "ups-a-lost") <= 1.3


def test_until_an_earlier_controllers_leases_are_over_it_counts_on_nobodys_ceiling() -> None:
    bench = row()
    fresh = Ledger(bench.fleet, started_at_s=0.0, reaction=reaction_bounds(bench.site.control))
    assert (fresh.ceiling_mhz(4.19) == bench.highest).all()
    assert (fresh.ceiling_mhz(4.21) == bench.fleet.safe_ceiling_mhz).all()


def test_a_slower_reaction_leaves_less_to_lease() -> None:
    bench = row()
    before = bench.clamp(bench.highest).ceiling_mhz
    slow = reaction_bounds(
        replace(bench.site.control, reaction=replace(bench.site.control.reaction, transport_s=2.0))
    )
    bench.ledger.react_within(slow)
    after = bench.clamp(bench.highest).ceiling_mhz
    assert bench.ratio(after, "ups-b", "ups-a-lost") <= 1.3
    assert after.sum() < before.sum()


def test_room_is_left_for_nodes_that_may_ignore_their_locks_unnoticed() -> None:
    without, with_two = row(ignored_locks_max=0), row(ignored_locks_max=2)
    free, kept = (b.clamp(b.highest).ceiling_mhz for b in (without, with_two))
    stray = with_two.fleet.power_w_max - with_two.fleet.worst_case_w(
        with_two.fleet.safe_ceiling_mhz.astype(np.int64)
    )
    place = with_two.fleet.domain_index["ups-b"]
    state = frozenset({"ups-a-lost"})
    room_w = 2.0 * float(stray[0]) / float(with_two.fleet.capacity_w(state)[place])
    assert with_two.ratio(kept, "ups-b", "ups-a-lost") <= 1.5 - room_w
    assert kept.sum() < free.sum()
