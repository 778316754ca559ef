"""The control cycle: what it grants, what it holds, what it says, and what it never does."""

from __future__ import annotations

import msgspec
import pytest

from facility.config import PolicyName
from facility.wire import Mode, Quality
from tests.row import Row, by_priority, ceilings, domain, site_of


def test_a_quiet_row_is_raised_to_its_highest_clocks_by_a_ramp() -> None:
    row = Row(site_of(ledger=False), load_ratio=0.3)
    first = row.run(6)
    model = row.site.nodes["n01"].model.gpu
    high = by_priority(row.site, "high")
    assert model.safe_ceiling_mhz < max(ceilings(first, high)) < model.clock_mhz_max
    last = row.run(90)
    assert set(ceilings(last, row.site.nodes)) == {model.clock_mhz_max}
    assert domain(last, "row-1").mode is Mode.NORMAL


def test_no_ceiling_rises_faster_than_the_ramp_allows() -> None:
    row = Row(site_of(), load_ratio=0.3)
    step_mhz = 0.02 * row.site.nodes["n01"].model.gpu.clock_mhz_max
    before = dict(row.ceiling_mhz)
    for _ in range(60):
        row.step()
        for node, mhz in row.ceiling_mhz.items():
            assert mhz - before[node] <= step_mhz + 15
        before = dict(row.ceiling_mhz)


@pytest.mark.parametrize(
    ("elapsed_s", "rise_mhz"), [(0.02, 0), (0.5, 15), (0.95, 30), (1.0, 30), (5.0, 30)]
)
def test_a_ramp_goes_by_time_and_not_by_how_often_somebody_decides(
    elapsed_s: float, rise_mhz: int
) -> None:
    row = Row(site_of(policy="ampacity"), load_ratio=0.3)
    row.run(12)  # past the leases of whoever may have led before
    before_mhz = row.ceiling_mhz["n01"]
    row.step(elapsed_s)
    assert row.ceiling_mhz["n01"] - before_mhz == rise_mhz


@pytest.mark.parametrize("policy", ["uniform", "ampacity"])
def test_a_row_that_would_pass_its_capacity_is_held_under_it(policy: PolicyName) -> None:
    row = Row(site_of(policy=policy), load_ratio=0.5)
    row.run(60)
    row.load_ratio = 0.95
    row.step()
    for _ in range(60):
        state = domain(row.step(), "row-1")
        assert state.power_w <= state.capacity_w
    assert state.mode is Mode.SHAVING
    assert "slowed" in state.sentence


def test_low_priority_gives_first() -> None:
    row = Row(site_of(policy="ampacity"), load_ratio=0.4)
    row.run(120)
    row.load_ratio = 0.6
    before = row.run(20)
    low, high = by_priority(row.site, "low"), by_priority(row.site, "high")
    highest = row.site.nodes["n01"].model.gpu.clock_mhz_max
    assert max(ceilings(before, low)) < min(ceilings(before, high)) <= highest


def test_high_priority_gives_only_when_low_is_at_its_safe_ceiling() -> None:
    row = Row(site_of(policy="ampacity"), load_ratio=0.4)
    row.run(120)
    row.load_ratio = 0.9
    decision = row.run(20)
    low, high = by_priority(row.site, "low"), by_priority(row.site, "high")
    safe = row.site.nodes["n01"].model.gpu.safe_ceiling_mhz
    assert set(ceilings(decision, low)) == {safe}
    assert min(ceilings(decision, high)) > safe


def test_high_priority_gets_back_first() -> None:
    row = Row(site_of(policy="ampacity"), load_ratio=0.4)
    row.run(120)
    row.load_ratio = 0.9
    before = row.run(20)
    row.load_ratio = 0.62
    decision = row.run(340)  # until the forecast has forgotten the step
    low, high = by_priority(row.site, "low"), by_priority(row.site, "high")
    risen_high = min(ceilings(decision, high)) - min(ceilings(before, high))
    risen_low = min(ceilings(decision, low)) - min(ceilings(before, low))
    assert risen_high > 0
    assert risen_low <= risen_high


def test_uniform_slows_everybody_alike() -> None:
    row = Row(site_of(policy="uniform"), load_ratio=0.95)
    levels = ceilings(row.run(60), row.site.nodes)
    assert max(levels) - min(levels) <= 60


def test_policy_none_grants_everything_and_prepares_nothing() -> None:
    row = Row(site_of(policy="none", ledger=False), load_ratio=1.0)
    decision = row.run(5)
    highest = row.site.nodes["n01"].model.gpu.clock_mhz_max
    assert set(ceilings(decision, row.site.nodes)) == {highest}
    assert {
        mhz for lease in decision.leases for mhz in lease.contingency_ceilings_mhz.values()
    } == {highest}
    state = domain(decision, "row-1")
    assert state.power_w > state.capacity_w


def test_brake_only_waits_for_the_limit_and_then_brakes() -> None:
    row = Row(site_of(policy="brake-only"), load_ratio=0.55)
    decision = row.run(60)
    assert domain(decision, "row-1").mode is Mode.NORMAL
    row.load_ratio = 1.0
    decision = row.run(2)
    brake = row.site.nodes["n01"].model.gpu.brake_ceiling_mhz
    assert domain(decision, "row-1").mode is Mode.BRAKE
    assert set(ceilings(decision, row.site.nodes)) == {brake}


def test_a_brake_is_released_by_a_ramp_after_a_quiet_while() -> None:
    row = Row(site_of(policy="brake-only"), load_ratio=1.0)
    while domain(row.step(), "row-1").mode is not Mode.BRAKE:
        pass
    row.load_ratio = 0.3
    assert domain(row.run(5), "row-1").mode is Mode.BRAKE
    decision = row.run(5)
    assert domain(decision, "row-1").mode is Mode.NORMAL
    highest = row.site.nodes["n01"].model.gpu.clock_mhz_max
    assert max(ceilings(decision, row.site.nodes)) < highest / 2


def test_a_lease_answers_the_frame_it_was_decided_from() -> None:
    row = Row(site_of())
    decision = row.run(3)
    assert {(lease.session, lease.basis_seq, lease.epoch) for lease in decision.leases} == {
        ("s1", row.seq, 7)
    }
    sequences = [lease.sequence for lease in decision.leases]
    assert len(set(sequences)) == len(sequences)
    assert min(lease.sequence for lease in row.step().leases) > max(sequences)


def test_a_silent_node_gets_no_lease_and_counts_at_its_worst_case() -> None:
    row = Row(site_of(), load_ratio=0.3)
    before = domain(row.run(20), "row-1")
    row.silent.add("n03")
    decision = row.run(5)
    node = next(item for item in decision.nodes if item.node == "n03")
    worst_w = row.site.nodes["n03"].model.power_w_max
    assert node.missing
    assert node.power_w == node.exposure_w == worst_w
    assert "n03" not in {lease.node for lease in decision.leases}
    state = domain(decision, "row-1")
    assert state.nodes_missing_count == 1
    assert state.power_w > before.power_w
    assert "1 missing at worst case" in state.sentence


def test_a_node_is_missing_only_after_the_stale_limit() -> None:
    row = Row(site_of(), load_ratio=0.3)
    row.run(10)
    row.silent.add("n03")
    assert domain(row.run(3), "row-1").nodes_missing_count == 0
    assert domain(row.step(), "row-1").nodes_missing_count == 1


def test_a_node_that_comes_back_starts_from_where_it_is() -> None:
    row = Row(site_of(), load_ratio=0.3)
    row.run(90)
    row.silent.add("n03")
    row.run(10)
    safe = row.site.nodes["n03"].model.gpu.safe_ceiling_mhz
    row.ceiling_mhz["n03"] = safe
    row.silent.clear()
    (ceiling_mhz,) = ceilings(row.step(), ["n03"])
    assert safe <= ceiling_mhz <= safe + 60


@pytest.mark.parametrize("nodes", [2, 10])
def test_a_node_that_was_silent_for_a_while_leaves_no_forecast_behind(nodes: int) -> None:
    """Its worst case took the place of what it drew, and went again: no load has risen."""
    row = Row(site_of(nodes=nodes, ledger=False), load_ratio=0.3)
    row.run(40)
    row.silent.add("n01")
    row.run(10)
    row.silent.clear()
    decision = row.run(140)
    state = domain(decision, "row-1")
    assert state.forecast_w == pytest.approx(state.power_w)
    highest = row.site.nodes["n01"].model.gpu.clock_mhz_max
    assert set(ceilings(decision, row.site.nodes)) == {highest}


def without_a_reading(row: Row, node: str) -> None:
    """A frame of `node` in which one GPU gives no power."""
    row.seq += 1
    frame = row.frame(node)
    blind = msgspec.structs.replace(frame.gpus[0], power_w=0.0, quality=Quality.MISSING)
    row.send(
        row.topics.node(node, "telemetry"),
        msgspec.structs.replace(frame, gpus=(blind, *frame.gpus[1:])),
    )


def test_a_gpu_that_was_not_read_for_a_while_leaves_no_forecast_behind() -> None:
    row = Row(site_of(nodes=2, ledger=False), load_ratio=0.3)
    row.run(40)
    row.silent.add("n01")
    for _ in range(10):
        without_a_reading(row, "n01")
        during = domain(row.step(), "row-1")
    row.silent.clear()
    assert during.nodes_missing_count == 0
    after = domain(row.run(140), "row-1")
    assert during.power_w > 1.03 * after.power_w
    assert after.forecast_w == pytest.approx(after.power_w)


def test_when_much_of_the_site_is_silent_nothing_is_raised() -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    before = row.run(10)
    row.silent.update(list(row.site.nodes)[:3])
    decision = row.run(6)
    events = {event.event for event in decision.events}
    speaking = [name for name in row.site.nodes if name not in row.silent]
    held = ceilings(decision, speaking)
    decision = row.run(10)
    assert ceilings(decision, speaking) == held
    assert min(held) >= min(ceilings(before, speaking))
    assert "nothing is raised" in domain(decision, "row-1").sentence
    assert "site-silent" in events or domain(decision, "row-1").nodes_missing_count == 3


def test_two_of_ten_silent_nodes_do_not_stop_the_rest() -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    row.run(10)
    row.silent.update(list(row.site.nodes)[:2])
    before = row.run(6)
    speaking = [name for name in row.site.nodes if name not in row.silent]
    assert max(ceilings(row.run(10), speaking)) > max(ceilings(before, speaking))


def test_a_node_that_cannot_be_written_counts_unlocked_and_gets_no_lease() -> None:
    row = Row(site_of(), load_ratio=0.3)
    row.is_born("n02", can_actuate=False)
    decision = row.run(10)
    node = next(item for item in decision.nodes if item.node == "n02")
    assert not node.controllable
    assert node.exposure_w == row.site.nodes["n02"].model.power_w_max
    assert "no permission" in node.sentence
    assert "n02" not in {lease.node for lease in decision.leases}


@pytest.mark.parametrize(
    ("cause", "controllable"),
    [("silent-clamp", False), ("hung", False), ("", True), ("thermal", True), ("gpu-lost", True)],
)
def test_a_gpu_that_may_run_above_its_ceiling_makes_its_node_uncontrollable(
    cause: str, controllable: bool
) -> None:
    row = Row(site_of(), load_ratio=0.3)
    row.run(5)
    row.reports("n02", cause)
    node = next(item for item in row.step().nodes if item.node == "n02")
    assert node.controllable is controllable


def test_until_one_lease_has_passed_an_earlier_controller_may_have_unlocked_everything() -> None:
    row = Row(site_of(), load_ratio=0.3)
    highest_w = sum(node.model.power_w_max for node in row.site.nodes.values())
    assert domain(row.step(), "row-1").exposure_w == pytest.approx(highest_w)
    assert domain(row.run(5), "row-1").exposure_w < highest_w


def test_exposure_is_never_below_what_unexpired_leases_allow() -> None:
    row = Row(site_of(ledger=False), load_ratio=0.3)
    row.run(100)
    row.order("brake", domain="row-1")
    decision = row.step()
    granted_w = sum(node.model.power_w_max for node in row.site.nodes.values())
    assert domain(decision, "row-1").exposure_w == pytest.approx(granted_w)
    after = domain(row.run(6), "row-1").exposure_w
    assert after < granted_w


def test_shadow_decides_everything_and_sends_nothing() -> None:
    row = Row(site_of(shadow=True), load_ratio=0.95)
    decision = row.run(20)
    assert (decision.leases, decision.routing, decision.emergencies) == ((), (), ())
    assert decision.domains
    response, emergencies = row.order("contingency", contingency="ups-a-lost", on=True)
    assert response.status == "ok"
    assert emergencies == ()
