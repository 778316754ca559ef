"""Missing is worst case: taking information away never makes a domain look better."""

from __future__ import annotations

import msgspec
import pytest

from controllers.fleet import Fleet
from controllers.ledger import Ledger
from controllers.reaction import reaction_bounds
from facility.config import ContingencyConfig
from facility.example import row_site
from facility.wire import GpuReading, Mode, NodeTelemetry, Quality
from tests.row import Row, ceilings, domain, site_of


def power_w(row: Row, name: str = "row-1") -> float:
    """What the controller believes a domain draws."""
    return domain(row.step(), name).power_w


def with_gpus(row: Row, node: str, gpus: tuple[GpuReading, ...]) -> None:
    """From now on a node reports these GPUs."""
    frame = row.frame

    def changed(name: str) -> NodeTelemetry:
        telemetry = frame(name)
        return msgspec.structs.replace(telemetry, gpus=gpus) if name == node else telemetry

    row.frame = changed  # type: ignore[method-assign,assignment]


def test_a_node_whose_driver_shows_no_gpus_counts_them_at_their_worst() -> None:
    row = Row(site_of(), load_ratio=0.3)
    row.run(10)
    info = row.inbox.snapshot(row.now_s, row.wall_s, frozenset()).nodes["n01"].info
    assert info is not None
    before_w = power_w(row)
    row.send(row.topics.node("n01", "info"), msgspec.structs.replace(info, gpus=()))
    with_gpus(row, "n01", ())
    node = next(item for item in row.step().nodes if item.node == "n01")
    assert node.power_w == pytest.approx(row.site.nodes["n01"].model.power_w_max)
    assert power_w(row) > before_w


def test_a_gpu_without_a_reading_counts_at_what_its_ceiling_allows() -> None:
    row = Row(site_of(), load_ratio=0.3)
    row.run(90)
    quiet = msgspec.structs.replace(
        row.frame("n01").gpus[0], quality=Quality.MISSING, power_w=100.0
    )
    with_gpus(row, "n01", (quiet, *row.frame("n01").gpus[1:]))
    before = next(item for item in row.step().nodes if item.node == "n02").power_w
    node = next(item for item in row.step().nodes if item.node == "n01")
    assert node.power_w > before


def test_a_third_silence_does_not_make_two_others_look_safer() -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    loose = list(row.site.nodes)[:3]
    for name in loose:
        row.is_born(name, can_actuate=False)
    row.run(10)
    row.silent.update(loose[:2])
    row.run(5)
    two_w = power_w(row)
    row.silent.add(loose[2])
    row.run(5)
    assert power_w(row) >= two_w


def test_one_silent_node_of_a_small_site_is_a_node_and_not_the_network() -> None:
    row = Row(site_of(nodes=4), load_ratio=0.3)
    row.run(10)
    row.silent.add("n01")
    node = next(item for item in row.run(6).nodes if item.node == "n01")
    assert node.exposure_w == row.site.nodes["n01"].model.power_w_max


def test_nodes_that_nobody_ever_heard_count_unlocked_after_a_while() -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    fresh = Row(row.site, silent=set(row.site.nodes))
    fresh.inbox = type(fresh.inbox)(row.site, codec=fresh.inbox._codec)
    model = row.site.nodes["n01"].model
    early, late = fresh.run(10), fresh.run(30)
    assert early.nodes[0].power_w == model.worst_case_w(model.gpu.safe_ceiling_mhz)
    assert late.nodes[0].power_w == model.power_w_max


@pytest.mark.parametrize(("extra_mhz", "controllable"), [(0, True), (15, False)])
def test_an_agent_whose_safe_ceiling_is_above_the_sites_is_not_counted_on(
    extra_mhz: int, controllable: bool
) -> None:
    row = Row(site_of(), load_ratio=0.3)
    info = row.inbox.snapshot(row.now_s, row.wall_s, frozenset()).nodes["n01"].info
    assert info is not None
    safe_mhz = info.safe_ceiling_mhz + extra_mhz
    row.send(
        row.topics.node("n01", "info"), msgspec.structs.replace(info, safe_ceiling_mhz=safe_mhz)
    )
    node = next(item for item in row.step().nodes if item.node == "n01")
    assert node.controllable is controllable
    if not controllable:
        assert f"safe ceiling is {safe_mhz} MHz" in node.sentence


@pytest.mark.parametrize("ratio", [0.0, 0.01])
def test_a_zone_with_nothing_left_is_a_limit_and_not_an_absence(ratio: float) -> None:
    base = row_site(nodes=8)
    lost = ContingencyConfig(
        name="all-air-lost", domain="aisle-1", capacity_ratio={"aisle-1": ratio}
    )
    config = msgspec.structs.replace(base, contingencies=(*base.contingencies, lost))
    row = Row(site_of(config=config), load_ratio=0.5)
    row.run(60)
    row.order("contingency", contingency="all-air-lost", on=True)
    decision = row.run(40)
    brake = row.site.nodes["n01"].model.gpu.brake_ceiling_mhz
    assert set(ceilings(decision, row.site.domains["aisle-1"].nodes)) == {brake}
    assert domain(decision, "aisle-1").mode in (Mode.EMERGENCY, Mode.BRAKE)
    assert "carries nothing" not in domain(decision, "aisle-1").sentence


def test_nodes_that_follow_their_ceilings_again_come_up_by_a_ramp() -> None:
    row = Row(site_of(), load_ratio=0.3)
    row.run(120)
    safe = row.site.nodes["n01"].model.gpu.safe_ceiling_mhz
    for name in row.site.nodes:
        row.reports(name, "driver")
        row.ceiling_mhz[name] = safe  # their leases ran out meanwhile
    row.run(10)
    for name in row.site.nodes:
        row.reports(name, "")
    assert max(ceilings(row.step(), row.site.nodes)) <= safe + 60


def test_a_table_that_is_too_low_is_learnt_and_does_not_end_in_brakes() -> None:
    row = Row(site_of(nodes=40), load_ratio=1.25)
    brakes = 0
    for _ in range(400):
        decision = row.step()
        brakes += any(
            event.event == "mode" and ": brake:" in event.sentence for event in decision.events
        )
    assert brakes <= 1
    state = domain(decision, "row-1")
    assert state.power_w <= state.capacity_w


def ledger(started_at_s: float = -1_000.0) -> tuple[Ledger, Fleet]:
    """A ledger that has been running for long, over one node."""
    fleet = Fleet(site_of(nodes=1))
    reaction = reaction_bounds(fleet.site.control)
    return Ledger(fleet, started_at_s=started_at_s, reaction=reaction), fleet


def test_a_grant_counts_until_its_node_must_have_ended_it_and_applied_that() -> None:
    book, fleet = ledger()
    book.grant(0, ceiling_mhz=1980, expires_at_s=4.0)
    reaction = fleet.site.control.reaction
    over_s = 4.0 + reaction.apply_s + reaction.settle_s
    assert book.ceiling_mhz(over_s - 0.01)[0] == 1980
    assert book.ceiling_mhz(over_s + 0.01)[0] == fleet.safe_ceiling_mhz[0]


def test_a_lower_grant_does_not_hide_a_higher_one_that_may_still_hold() -> None:
    book, fleet = ledger()
    book.grant(0, ceiling_mhz=1980, expires_at_s=4.0)
    book.grant(0, ceiling_mhz=1200, expires_at_s=5.0)
    assert book.ceiling_mhz(3.0)[0] == 1980
    assert book.ceiling_mhz(4.5)[0] == 1200
    assert book.ceiling_mhz(9.0)[0] == fleet.safe_ceiling_mhz[0]


def test_no_number_of_renewals_forgets_a_long_lease() -> None:
    book, _ = ledger()
    book.grant(0, ceiling_mhz=1980, expires_at_s=10_000.0)
    for second in range(5_000):
        book.grant(0, ceiling_mhz=1005, expires_at_s=10_000.0 + second)
    assert book.ceiling_mhz(9_000.0)[0] == 1980


def test_a_mass_silence_is_not_learnt_as_load() -> None:
    """What is counted jumps to the worst case and back; no request has made that rise."""
    row = Row(site_of(nodes=10), load_ratio=0.3)
    calm = domain(row.run(200), "row-1")
    row.silent.update(row.site.nodes)
    row.run(20)
    row.silent.clear()
    back = domain(row.run(20), "row-1")
    spike_ratio = row.site.control.spike_ratio
    assert calm.forecast_w <= calm.power_w * (1.0 + spike_ratio)
    assert back.forecast_w <= back.power_w * (1.001 + spike_ratio)
