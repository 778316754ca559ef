"""The lease proof: which sites may be actuated, and what would make the others pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec.structs import replace

from controllers.fleet import Fleet
from controllers.proof import Proof, ProofRow, prove, undeclared
from controllers.reaction import reaction_bounds
from facility.compiler import compile_site
from facility.config import ContingencyConfig, ControlConfig, SiteConfig, TripCurveConfig
from facility.example import row_site as example


def row_site(**more: Any) -> SiteConfig:
    """The example row on UPSs that tolerate 130 % for a minute and 150 % for 3 s."""
    return example(feed_curve="ups-strict", **more)


def proof_of(config: SiteConfig) -> Proof:
    return prove(compile_site(config))


def row(config: SiteConfig, domain: str, state: str = "normal") -> ProofRow:
    (found,) = [row for row in proof_of(config).rows if (row.domain, row.state) == (domain, state)]
    return found


def controlled(**more: Any) -> SiteConfig:
    base = row_site(nodes=40)
    return replace(base, control=replace(base.control, **more))


def with_contingency(**more: Any) -> SiteConfig:
    """The row with other facts about the loss of its first UPS."""
    base = row_site(nodes=40)
    first, *others = base.contingencies
    return replace(base, contingencies=(replace(first, **more), *others))


def with_curve(domain: str, *points: tuple[float, float]) -> SiteConfig:
    """The row with one domain's protection replaced."""
    base = row_site(nodes=40)
    curve = TripCurveConfig(name="own", points=points, source="a test")
    return replace(
        base,
        trip_curves=(curve,),
        domains=tuple(
            replace(item, trip_curve="own") if item.name == domain else item
            for item in base.domains
        ),
    )


def with_safe_ceiling(ceiling_mhz: int) -> SiteConfig:
    base = row_site(nodes=40)
    (name, gpu) = next(iter(base.gpu_models.items()))
    return replace(base, gpu_models={name: replace(gpu, safe_ceiling_mhz=ceiling_mhz)})


def test_the_example_row_passes() -> None:
    assert proof_of(row_site()).passed


def test_there_is_a_row_for_each_domain_and_one_for_each_that_a_contingency_changes() -> None:
    rows = [(row.domain, row.state) for row in proof_of(row_site(nodes=4)).rows]
    assert rows[:5] == [
        (name, "normal") for name in ("ups-a", "ups-b", "row-1", "rack-01", "aisle-1")
    ]
    assert rows[5:] == [
        ("ups-a", "ups-a-lost"),
        ("ups-b", "ups-a-lost"),
        ("ups-a", "ups-b-lost"),
        ("ups-b", "ups-b-lost"),
        ("aisle-1", "air-handler-1-lost"),
    ]


def test_the_highest_safe_ceiling_that_passes_is_named_and_the_next_clock_fails() -> None:
    highest_mhz = row_site(nodes=40).gpu_models["h100-sxm"].safe_ceiling_mhz
    while proof_of(with_safe_ceiling(highest_mhz + 15)).passed:
        highest_mhz += 15
    failing = proof_of(with_safe_ceiling(highest_mhz + 15))
    assert not failing.passed
    assert proof_of(with_safe_ceiling(highest_mhz)).passed
    for failure in failing.failures:
        assert failure.advice is not None
        assert failure.advice.safe_ceiling_mhz is not None
    assert proof_of(
        with_safe_ceiling(min(f.advice.safe_ceiling_mhz or 0 for f in failing.failures if f.advice))
    ).passed


def test_of_too_many_servers_as_many_as_advised_pass() -> None:
    failing = proof_of(row_site(nodes=4, oversubscription_ratio=1.6))
    (count,) = {row.advice.nodes_count for row in failing.failures if row.advice}
    assert count == 3
    floor_w = failing.failures[0].floor_w
    capacity_w = failing.failures[0].capacity_w
    assert floor_w * 3 / 4 <= capacity_w < floor_w


@pytest.mark.parametrize(("count", "passes"), [(0, True), (1, True), (2, False)])
def test_the_floor_has_room_for_so_many_nodes_that_ignore_their_locks(
    count: int, passes: bool
) -> None:
    assert proof_of(controlled(ignored_locks_max=count)).passed is passes


@pytest.mark.parametrize(
    ("facts", "load_ratio"),
    [
        # 1.5 x (1.0 + 0.3 + 0.2 + 0.1 + 0.1) s are within the 3 s at 150 %.
        ({"broker_survives": True}, 1.5),
        # 1.5 x (1.5 + 0.7) s are not: 130 % is tolerated for a minute.
        ({"broker_survives": True, "detect_s": 1.5}, 1.3),
        # The failure may take the broker along: leases must run out, 1.5 x 4.2 s.
        ({"broker_survives": False}, 1.3),
        # A trigger on the node needs no message: 1.5 x (1.5 + 0.2) s.
        ({"local_trigger": True, "broker_survives": False, "detect_s": 1.5}, 1.5),
    ],
)
def test_how_nodes_learn_of_a_failure_decides_what_may_be_leased(
    facts: dict[str, Any], load_ratio: float
) -> None:
    found = row(with_contingency(**facts), "ups-b", "ups-a-lost")
    assert found.load_ratio == pytest.approx(load_ratio)
    assert found.passed


def test_a_failure_that_leaves_the_broker_is_not_noticed_sooner_than_one_that_takes_it() -> None:
    slow = with_contingency(broker_survives=False, detect_s=60.0)
    found = row(slow, "ups-b", "ups-a-lost")
    assert found.needed_s == pytest.approx(1.5 * (60.0 + 0.3 + 0.2 + 0.1 + 0.1))
    assert found.load_ratio == pytest.approx(1.1)


def test_a_policy_that_controls_nothing_passes_only_where_nothing_can_be_exceeded() -> None:
    assert not proof_of(controlled(policy="none")).passed
    roomy = row_site(nodes=4, oversubscription_ratio=0.6)
    control = replace(roomy.control, policy="none")
    zones = tuple(
        replace(item, rating_w=2.0 * item.rating_w) if item.kind in ("zone", "rack") else item
        for item in roomy.domains
    )
    assert proof_of(replace(roomy, control=control, domains=zones)).passed


def test_a_policy_that_decides_less_often_reacts_later() -> None:
    polca = proof_of(controlled(policy="polca")).reaction
    assert polca.with_control_s == proof_of(controlled()).reaction.with_control_s + 1.0


def test_with_a_trigger_of_its_own_a_node_may_have_a_safe_ceiling_for_the_present_only() -> None:
    high = with_safe_ceiling(1305)
    assert {f.state for f in proof_of(high).failures} == {"ups-a-lost", "ups-b-lost"}
    triggered = replace(
        high,
        contingencies=tuple(
            replace(item, local_trigger=bool(item.lost)) for item in high.contingencies
        ),
    )
    assert proof_of(triggered).passed


@pytest.mark.parametrize(("seconds", "load_ratio"), [(7.3, 1.3), (7.29, 1.0)])
def test_patience_must_last_for_the_reaction_times_the_margin(
    seconds: float, load_ratio: float
) -> None:
    """Control lost in the middle of a reaction: 3.1 s with it and 4.2 s without it."""
    found = row(with_curve("row-1", (1.5, seconds)), "row-1")
    assert found.needed_s == pytest.approx(7.3)
    # Leases may fill what the curve tolerates, or the capacity and no more.
    assert found.load_ratio == pytest.approx(load_ratio, abs=0.001)
    assert found.passed


def test_a_longer_lease_leaves_less_to_lease() -> None:
    short = row(with_contingency(broker_survives=False), "ups-b", "ups-a-lost")
    base = with_contingency(broker_survives=False)
    long = row(replace(base, control=replace(base.control, lease_s=50.0)), "ups-b", "ups-a-lost")
    assert short.lease_ceiling_mhz > long.lease_ceiling_mhz
    assert long.load_ratio == pytest.approx(1.10)
    assert long.passed


def test_without_the_ledger_full_clocks_must_be_tolerated() -> None:
    failing = proof_of(controlled(ledger=False))
    assert [(f.domain, f.state) for f in failing.failures] == [
        ("ups-b", "ups-a-lost"),
        ("ups-a", "ups-b-lost"),
    ]
    assert "not tolerated" in failing.failures[0].problem


def test_the_lease_that_would_pass_without_a_ledger_is_named() -> None:
    base = with_curve("row-1", (1.5, 9.0))
    failing = row(replace(base, control=replace(base.control, ledger=False, lease_s=10.0)), "row-1")
    assert not failing.passed
    assert failing.advice is not None
    assert failing.advice.lease_s == pytest.approx(9.0 / 1.5 - 0.2)


def test_a_zone_that_loses_all_of_its_cooling_fails() -> None:
    base = row_site(nodes=4)
    gone = ContingencyConfig(name="all-air-lost", domain="aisle-1", capacity_ratio={"aisle-1": 0.0})
    failed = proof_of(replace(base, contingencies=(*base.contingencies, gone))).failures
    assert [(f.domain, f.state) for f in failed] == [("aisle-1", "all-air-lost")]


def test_a_feed_whose_loss_nobody_declared_is_named() -> None:
    base = row_site(nodes=4)
    assert undeclared(compile_site(base)) == ()
    first, *others = base.contingencies
    assert undeclared(compile_site(replace(base, contingencies=tuple(others)))) == ("ups-a",)
    assert first.lost == ("ups-a",)


def test_a_domain_that_is_lost_carries_nothing_and_passes() -> None:
    found = row(row_site(), "ups-a", "ups-a-lost")
    assert (found.capacity_w, found.full_w, found.load_ratio) == (0.0, 0.0, None)
    assert found.passed
    assert math.isinf(found.patience_s)


def test_the_reaction_is_the_sum_of_its_hops() -> None:
    reaction = reaction_bounds(ControlConfig())
    assert reaction.with_control_s == pytest.approx((1 + 0.2 + 0.2) + (1 + 0.3) + (0.2 + 0.1) + 0.1)
    assert reaction.without_control_s == pytest.approx(4.0 + 0.1 + 0.1)


def test_what_the_proof_allows_the_lease_rows_of_the_ledger_allow() -> None:
    """One arithmetic: the proof's limit is the limit that the ledger clamps to."""
    from controllers.patience import LeaseLimits, unnoticed_w

    site = compile_site(row_site())
    fleet, reaction = Fleet(site), reaction_bounds(site.control)
    rows = LeaseLimits(fleet).rows(frozenset(), reaction)
    limits = {
        (domain, state or "normal"): limit + unnoticed_w(fleet, load)
        for domain, state, limit, load in zip(
            rows.domains, rows.states, rows.limit_w.tolist(), rows.load, strict=True
        )
    }
    for found in prove(site).rows:
        if found.full_w:
            limit_w = limits[found.domain, found.state]
            assert found.leased_w == pytest.approx(min(found.full_w, limit_w))
