"""Contingencies: armed before they come, announced at once, decided about afterwards."""

from __future__ import annotations

import pytest

from facility.wire import Emergency, Mode
from tests.row import Row, ceilings, domain, site_of


def test_the_armed_ceilings_fit_every_capacity_that_is_left_at_worst_case() -> None:
    row = Row(site_of(nodes=40), load_ratio=0.9)
    decision = row.run(20)
    active = frozenset({"ups-a-lost"})
    shares = row.site.shares(active)
    for name in ("ups-b", "row-1"):
        worst_w = sum(
            shares[name][lease.node]
            * row.site.nodes[lease.node].model.worst_case_w(
                lease.contingency_ceilings_mhz["ups-a-lost"]
            )
            for lease in decision.leases
        )
        assert worst_w <= row.site.capacity_w(name, active)


def test_armed_ceilings_waste_less_than_one_step_of_the_clock() -> None:
    row = Row(site_of(nodes=40, ignored_locks_max=0), load_ratio=0.9)
    decision = row.run(20)
    armed = {lease.node: lease.contingency_ceilings_mhz["ups-a-lost"] for lease in decision.leases}
    models = {name: node.model for name, node in row.site.nodes.items()}
    raised_w = sum(models[name].worst_case_w(mhz + 15) for name, mhz in armed.items())
    assert raised_w > row.site.capacity_w("ups-b", frozenset({"ups-a-lost"}))


def test_a_node_carries_every_contingency_that_it_may_be_told_of() -> None:
    """It brakes on one that its lease does not know."""
    row = Row(site_of(nodes=40))
    decision = row.run(5)
    for lease in decision.leases:
        names = set(lease.contingency_ceilings_mhz)
        in_aisle_1 = row.site.nodes[lease.node].zone == "aisle-1"
        assert ("air-handler-1-lost" in names) is in_aisle_1
        assert {"ups-a-lost", "ups-b-lost"} <= names


def test_an_announcement_leaves_with_the_request_not_with_the_next_cycle() -> None:
    row = Row(site_of())
    row.run(5)
    response, emergencies = row.order("contingency", contingency="ups-a-lost", on=True)
    assert response.status == "ok"
    assert [(item.domain, item.active, item.epoch) for item in emergencies] == [
        ("row-1", ("ups-a-lost",), 7)
    ]
    assert row.step().emergencies == ()


def test_an_emergency_names_everything_that_is_on_in_its_domain() -> None:
    """One retained message per domain: whoever missed one must find all of it in the last."""
    row = Row(site_of())
    row.run(5)
    row.order("contingency", contingency="ups-a-lost", on=True)
    _, both = row.order("brake", domain="row-1")
    assert both[0].active == ("brake", "ups-a-lost")
    _, one = row.order("contingency", contingency="ups-a-lost", on=False)
    assert one[0].active == ("brake",)
    _, none = row.order("release", domain="row-1")
    assert none[0].active == ()
    assert both[0].sequence < one[0].sequence < none[0].sequence


def test_a_lost_feed_moves_its_load_and_lowers_what_may_be_drawn() -> None:
    row = Row(site_of(nodes=40), load_ratio=0.9)
    before = row.run(60)
    assert domain(before, "ups-b").power_w == pytest.approx(domain(before, "row-1").power_w / 2)
    row.order("contingency", contingency="ups-a-lost", on=True)
    for node, mhz in row.ceiling_mhz.items():
        lease = next(item for item in before.leases if item.node == node)
        row.ceiling_mhz[node] = min(mhz, lease.contingency_ceilings_mhz["ups-a-lost"])
    decision = row.run(2)
    survivor = domain(decision, "ups-b")
    assert survivor.mode is Mode.EMERGENCY
    assert survivor.power_w == pytest.approx(domain(decision, "row-1").power_w)
    assert survivor.power_w <= survivor.capacity_w
    assert domain(decision, "ups-a").capacity_w == 0.0
    assert "ups-a-lost" in survivor.sentence


def test_while_it_lasts_leases_may_rise_and_what_holds_without_one_still_fits() -> None:
    row = Row(site_of(nodes=40), load_ratio=0.5)
    row.run(60)
    before = row.step().leases
    assert {lease.active for lease in before} == {()}
    row.order("contingency", contingency="ups-a-lost", on=True)
    leases = row.run(60).leases
    armed = {lease.node: lease.contingency_ceilings_mhz["ups-a-lost"] for lease in leases}
    assert {lease.active for lease in leases} == {("ups-a-lost",)}
    assert any(max(lease.ceilings_mhz.values()) > armed[lease.node] for lease in leases)
    worst_w = sum(row.site.nodes[name].model.worst_case_w(mhz) for name, mhz in armed.items())
    assert worst_w <= row.site.capacity_w("ups-b", frozenset({"ups-a-lost"}))


def test_clocks_come_back_by_a_ramp_when_it_ends() -> None:
    row = Row(site_of(nodes=40), load_ratio=0.5)
    free = row.run(100)
    row.order("contingency", contingency="ups-a-lost", on=True)
    low = row.run(10)
    assert sum(ceilings(low, row.site.nodes)) < sum(ceilings(free, row.site.nodes))
    _, emergencies = row.order("contingency", contingency="ups-a-lost", on=False)
    assert emergencies[0].active == ()
    after = row.step()
    assert max(ceilings(after, row.site.nodes)) < max(ceilings(free, row.site.nodes))
    assert domain(row.run(100), "row-1").mode is Mode.NORMAL


def test_an_emergency_found_on_the_bus_is_taken_over_and_announced_anew() -> None:
    """A controller that starts in the middle of a failure must not end it."""
    row = Row(site_of())
    row.cycle.orders.adopt(
        Emergency(domain="row-1", active=("ups-a-lost",), epoch=3, sequence=9, issued_at_s=0.0)
    )
    assert row.cycle.orders.active == {"ups-a-lost"}
    decision = row.step()
    assert [(item.active, item.epoch) for item in decision.emergencies] == [(("ups-a-lost",), 7)]


def test_a_node_that_loses_its_last_feed_is_armed_with_the_brake() -> None:
    row = Row(site_of(nodes=40))
    row.order("contingency", contingency="ups-a-lost", on=True)
    decision = row.run(5)
    brake = row.site.nodes["n01"].model.gpu.brake_ceiling_mhz
    armed = {lease.contingency_ceilings_mhz["ups-b-lost"] for lease in decision.leases}
    assert armed == {brake}


def test_a_new_leadership_says_every_standing_order_again_under_its_epoch() -> None:
    row = Row(site_of())
    row.run(3)
    row.order("brake", domain="row-1")
    row.cycle.lead_as(99, now_s=row.now_s)
    decision = row.step()
    assert [(item.active, item.epoch) for item in decision.emergencies] == [(("brake",), 99)]
    assert {lease.epoch for lease in decision.leases} == {99}


def test_whoever_led_in_between_may_have_granted_anything_until_now() -> None:
    row = Row(site_of(), load_ratio=0.3)
    row.run(10)
    highest_w = sum(node.model.power_w_max for node in row.site.nodes.values())
    assert domain(row.step(), "row-1").exposure_w < highest_w
    row.cycle.lead_as(99, now_s=row.now_s)
    assert domain(row.step(), "row-1").exposure_w == pytest.approx(highest_w)
    assert domain(row.run(5), "row-1").exposure_w < highest_w


@pytest.mark.parametrize(
    ("reason", "age_s", "leads"),
    [
        ("lease", 3.9, True),
        ("lease", 4.1, False),
        ("contingency:x", 3.9, True),
        ("contingency:x", 4.1, False),
        ("lease-expired", 0.0, False),
        ("no-lease", 0.0, False),
    ],
)
def test_a_higher_epoch_leads_while_nodes_acknowledge_its_leases(
    reason: str, age_s: float, leads: bool
) -> None:
    row = Row(site_of())
    row.run(3)
    row.reports("n01", "", epoch=9, reason=reason)
    snapshot = row.inbox.snapshot(row.now_s + age_s, row.wall_s, frozenset())
    assert snapshot.epoch_above(7, fresh_s=4.0) == (9, leads)
    assert snapshot.epoch_above(9, fresh_s=4.0) == (0, False)


def test_a_node_that_holds_what_nobody_declared_is_told_of_once() -> None:
    row = Row(site_of())
    row.run(12)
    row.reports("n01", "", reason="contingency:forgotten")
    told = [event for _ in range(5) for event in row.step().events]
    held = [event for event in told if event.event == "node-holds-contingency"]
    assert [(event.subject, event.severity) for event in held] == [("n01", "critical")]
    assert "forgotten" in held[0].sentence
