"""What a node does in an emergency: contingencies, heat and the power brake pin."""

from __future__ import annotations

import math

import pytest

from controllers.node_lease import ContingencyBook
from controllers.node_limits import BRAKE_QUIET_S
from controllers.node_local import LocalTrigger
from facility.config import UpsConfig
from tests.node_fakes import (
    BRAKE_MHZ,
    SAFE_MHZ,
    Bench,
    agent_config,
    emergency,
    lease,
    leased,
    started,
)

# --- contingencies -------------------------------------------------------------------------------


def test_a_contingency_takes_its_ceiling_from_the_lease_in_the_same_step() -> None:
    bench = leased()
    bench.step(2.0, emergencies=[emergency()])
    assert bench.ceilings() == [900, 900]
    assert bench.applied[-1].reason == "contingency:ups-a-lost"
    assert "contingency-on" in bench.names()


def test_a_contingency_holds_after_the_lease_has_expired() -> None:
    bench = leased()
    bench.step(2.0, emergencies=[emergency()])
    bench.run(2.1, 8.0)
    assert bench.brain.lease is None
    assert bench.ceilings() == [900, 900]


def test_a_contingency_never_raises_a_ceiling() -> None:
    bench = leased(600)
    bench.step(2.0, emergencies=[emergency()])
    assert bench.ceilings() == [600, 600]


def test_a_contingency_that_ends_lets_go_by_a_ramp_up_to_the_lease() -> None:
    bench = started(ramp_ratio_per_s=0.1)  # 198 MHz a second
    bench.step(1.0, leases=[lease(1800, lease_s=30.0)])
    bench.step(2.0, emergencies=[emergency()])
    bench.run(2.1, 9.9)
    bench.step(10.0, emergencies=[emergency(False, sequence=2)])
    assert bench.ceilings() == [900, 900]
    for second in range(1, 5):
        bench.run(9.1 + second, 10.0 + second)
        highest = 900 + 198 * second
        assert all(highest - 200 <= mhz <= highest for mhz in bench.ceilings())
        assert bench.applied[-1].reason == "ramp"
    bench.run(14.1, 16.0)
    assert bench.ceilings() == [1800, 1800]
    assert bench.applied[-1].reason == "lease"


def test_a_lease_that_ends_on_the_way_up_ends_at_the_safe_ceiling() -> None:
    bench = leased()
    bench.step(2.0, emergencies=[emergency()])
    bench.step(3.1, emergencies=[emergency(False, sequence=2)])
    bench.run(3.2, 60.0)
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]
    assert max(write.ceiling_mhz for _, write in bench.requests[2:]) <= 1800
    assert bench.applied[-1].reason == "lease-expired"


def test_a_contingency_that_ends_does_not_raise_a_lower_lease() -> None:
    bench = leased(600)
    bench.step(2.0, emergencies=[emergency()])
    bench.step(3.1, emergencies=[emergency(False, sequence=2)])
    bench.run(3.2, 3.9)
    assert bench.ceilings() == [600, 600]
    assert bench.applied[-1].reason == "lease"


def test_a_contingency_that_comes_back_on_the_way_up_lowers_at_once() -> None:
    bench = leased()
    bench.step(2.0, emergencies=[emergency()])
    bench.step(2.1, emergencies=[emergency(False, sequence=2)])
    bench.run(2.2, 3.5)
    assert bench.ceilings()[0] > 900
    bench.step(3.6, emergencies=[emergency(sequence=3)])
    assert bench.ceilings() == [900, 900]


def test_a_contingency_that_nobody_computed_means_the_brake_ceiling() -> None:
    bench = leased()
    bench.step(2.0, emergencies=[emergency(contingency="flood")])
    assert bench.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]


def test_the_brake_always_means_the_brake_ceiling() -> None:
    bench = started()
    bench.step(1.0, leases=[lease(contingency_ceilings_mhz={"brake": 1900})])
    bench.step(2.0, emergencies=[emergency(contingency="brake")])
    assert bench.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]


def test_of_two_contingencies_the_lower_ceiling_holds() -> None:
    bench = started(ramp_ratio_per_s=1.0)
    bench.step(1.0, leases=[lease(contingency_ceilings_mhz={"a": 900, "b": 750})])
    bench.step(2.0, emergencies=[emergency(contingency="a", also=("b",))])
    assert bench.ceilings() == [750, 750]
    bench.step(3.5, emergencies=[emergency(contingency="a", sequence=2)])
    bench.step(3.9)
    assert bench.ceilings() == [900, 900]


def test_an_emergency_of_a_foreign_domain_is_refused() -> None:
    bench = leased()
    bench.step(2.0, emergencies=[emergency(domain="ups-b")])
    assert bench.ceilings() == [1800, 1800]
    assert bench.brain.refused == {"foreign-domain": 1}


@pytest.mark.parametrize(
    ("epoch", "sequence", "refusal"),
    [(1, 9, "replayed"), (2, 4, "replayed"), (2, 5, "replayed"), (2, 6, ""), (3, 1, "")],
)
def test_an_old_message_does_not_end_an_emergency(epoch: int, sequence: int, refusal: str) -> None:
    bench = leased(ramp_ratio_per_s=1.0)
    bench.step(2.0, emergencies=[emergency(epoch=2, sequence=5)])
    bench.step(3.0, emergencies=[emergency(False, epoch=epoch, sequence=sequence)])
    bench.step(3.9)
    assert bench.ceilings() == ([900] * 2 if refusal else [1800] * 2)


def test_a_deposed_leader_may_begin_an_emergency_but_not_end_one() -> None:
    bench = started(ramp_ratio_per_s=1.0)
    bench.step(1.0, leases=[lease(epoch=5)])
    bench.step(2.0, emergencies=[emergency(epoch=4, sequence=1)])
    assert bench.ceilings() == [900, 900]
    bench.step(2.5, emergencies=[emergency(False, epoch=4, sequence=2)])
    bench.step(3.0)
    assert bench.ceilings() == [900, 900]
    assert bench.brain.refused == {"old-epoch": 1}
    bench.step(3.1, emergencies=[emergency(False, epoch=5, sequence=1)])
    bench.step(3.9)
    assert bench.ceilings() == [1800, 1800]


def test_a_retained_emergency_that_comes_again_changes_nothing() -> None:
    bench = leased()
    for count in range(5):
        bench.step(2.0 + count / 10, emergencies=[emergency()])
    assert bench.names().count("contingency-on") == 1
    assert bench.brain.refused == {}


def test_an_emergency_survives_a_restart() -> None:
    first = leased()
    first.step(2.0, emergencies=[emergency()])
    second = Bench(
        memory=first.memories[-1], session="s2", config=agent_config(ramp_ratio_per_s=1.0)
    )
    second.step(0.0)
    assert second.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]  # no lease has brought a table yet
    second.step(1.0, emergencies=[emergency()], leases=[lease(session="s2", sequence=2)])
    second.step(2.0)
    assert second.ceilings() == [900, 900]


def test_a_message_says_everything_that_is_on_in_its_domain() -> None:
    """Whoever missed some messages finds the whole truth in the last one."""
    bench = started(ramp_ratio_per_s=1.0)
    bench.step(1.0, leases=[lease(contingency_ceilings_mhz={"a": 900, "b": 750})])
    bench.step(2.0, emergencies=[emergency(contingency="b")])
    bench.step(3.5, emergencies=[emergency(contingency="a", sequence=3)])
    bench.step(3.9)
    assert bench.brain.contingencies.active == ("a",)
    assert bench.ceilings() == [900, 900]


def test_a_deposed_leader_can_add_to_an_emergency_and_take_nothing_away() -> None:
    book = ContingencyBook(())
    assert book.offer(emergency(contingency="a", epoch=4), ("ups-a",), 5) == ""
    assert book.offer(emergency(contingency="b", epoch=4, sequence=2), ("ups-a",), 5) == ""
    assert list(book.active) == ["a", "b"]
    old = emergency(contingency="a", epoch=4, sequence=3)
    assert book.offer(old, ("ups-a",), 5) == "old-epoch"
    assert list(book.active) == ["a", "b"]
    assert book.offer(emergency(False, epoch=5), ("ups-a",), 5) == ""
    assert not book.active


def test_what_is_remembered_is_bounded_by_the_domains_of_the_node() -> None:
    book = ContingencyBook(())
    for count in range(1_000):
        book.offer(emergency(domain=f"d{count}"), ("d1", "d2"), 0)
    assert sorted(record.domain for record in book.records) == ["d1", "d2"]


# --- what the node limits by itself --------------------------------------------------------------


def test_a_gpu_near_its_threshold_is_slowed_at_once_and_only_that_gpu() -> None:
    bench = leased()
    bench.host.gpus[0].margin_c = 2.9
    bench.run(1.1, 2.0)
    assert bench.host.gpus[0].ceiling_mhz is not None
    assert bench.host.gpus[0].ceiling_mhz < 1800
    assert bench.host.gpus[1].ceiling_mhz == 1800
    assert bench.applied[-1].reason == "thermal"
    assert "local-heat" in bench.names()


def test_a_gpu_with_just_enough_margin_is_left_alone() -> None:
    bench = leased()
    bench.host.gpus[0].margin_c = 3.0
    bench.run(1.1, 2.0)
    assert bench.ceilings() == [1800, 1800]


def test_heat_steps_down_to_the_brake_ceiling_and_no_further() -> None:
    bench = started(margin_c_min=3.0)
    bench.host.gpus[0].margin_c = 1.0
    bench.run(0.1, 20.0)
    assert bench.ceilings()[0] == BRAKE_MHZ


def test_a_gpu_without_margin_goes_to_the_brake_ceiling_in_one_step() -> None:
    bench = leased()
    bench.host.gpus[0].margin_c = 0.0
    bench.run(1.1, 1.7)
    assert bench.ceilings() == [BRAKE_MHZ, 1800]


def test_heat_is_released_slowly_and_with_hysteresis() -> None:
    bench = started()
    bench.host.gpus[0].margin_c = 1.0
    bench.run(0.1, 2.0)
    held_mhz = bench.ceilings()[0]
    bench.host.gpus[0].margin_c = 4.9  # above the minimum of 3, within the hysteresis of 2
    bench.run(2.1, 30.0)
    assert bench.ceilings()[0] == held_mhz
    bench.host.gpus[0].margin_c = 5.0
    bench.run(30.1, 34.0)
    assert held_mhz < bench.ceilings()[0] < SAFE_MHZ
    bench.run(34.1, 120.0)
    assert bench.ceilings()[0] == SAFE_MHZ


def test_a_margin_that_is_no_number_changes_nothing() -> None:
    bench = leased()
    bench.host.gpus[0].margin_c = math.nan
    bench.run(1.1, 3.0)
    assert bench.ceilings() == [1800, 1800]


def test_a_rising_brake_counter_brakes_the_node_until_it_is_quiet_then_it_rises_slowly() -> None:
    bench = started(telemetry_s=1.0)
    bench.host.gpus[1].brake_s = 0.05
    bench.step(0.1)
    assert bench.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]
    assert bench.applied[-1].reason == "brake"
    bench.run(0.2, BRAKE_QUIET_S)
    assert bench.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]
    bench.run(BRAKE_QUIET_S + 0.1, BRAKE_QUIET_S + 2.0)
    rise_mhz = 2 * 0.02 * 1980
    assert BRAKE_MHZ < max(bench.ceilings()) <= BRAKE_MHZ + rise_mhz
    bench.run(BRAKE_QUIET_S + 2.1, BRAKE_QUIET_S + 25.0)
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]


def test_a_slowdown_between_two_looks_is_seen_by_its_counter() -> None:
    bench = leased()
    bench.host.gpus[0].thermal_throttle_s = 0.02
    bench.run(1.1, 1.7)
    assert BRAKE_MHZ < bench.ceilings()[0] < 1800
    assert bench.ceilings()[1] == 1800
    assert bench.applied[-1].reason == "thermal"


def test_a_throttle_counter_that_stands_still_or_restarts_is_no_slowdown() -> None:
    bench = Bench()
    bench.host.gpus[0].thermal_throttle_s = 7.0
    bench.step(0.0)
    bench.step(1.0, leases=[lease()])
    bench.host.gpus[0].thermal_throttle_s = 0.0
    bench.run(1.1, 2.5)
    assert bench.ceilings() == [1800, 1800]


def test_a_part_without_margins_is_released_by_its_bits_alone() -> None:
    bench = Bench()
    bench.host.gpus[0].margin_c = None
    bench.host.gpus[0].event_reasons = 0x40
    bench.run(0.0, 1.0)
    assert bench.ceilings()[0] < SAFE_MHZ
    bench.host.gpus[0].event_reasons = 0
    bench.run(1.1, 180.0, 0.5)
    assert bench.ceilings()[0] == SAFE_MHZ


def test_a_brake_counter_that_restarts_with_the_driver_is_no_brake() -> None:
    bench = Bench()
    bench.host.gpus[0].brake_s = 5.0
    bench.step(0.0)
    bench.host.gpus[0].brake_s = 0.0
    bench.step(0.1)
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]


def test_the_brake_bit_brakes_a_part_without_a_counter() -> None:
    bench = leased()
    bench.host.gpus[0].event_reasons = 0x80
    bench.run(1.1, 1.7)
    assert bench.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]


# --- a UPS of the node's own ---------------------------------------------------------------------

UPS = UpsConfig(name="ups-a", source="ups-a@127.0.0.1", contingency="ups-a-lost")


def hears(bench: Bench, now_s: float, on: bool, ups: str = "ups-a") -> None:
    bench.step(now_s, local=[LocalTrigger(ups=ups, on=on, cause="OB" if on else "")])


def test_a_ups_of_its_own_locks_a_node_without_any_message() -> None:
    bench = leased(ups=(UPS,))
    hears(bench, 2.0, True)
    assert bench.ceilings() == [900, 900]
    assert bench.applied[-1].reason == "contingency:ups-a-lost"
    assert "local-contingency-on" in bench.names()


def test_a_node_without_a_lease_goes_to_the_brake_ceiling_on_its_ups() -> None:
    bench = started(ups=(UPS,))
    hears(bench, 1.0, True)
    assert bench.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]


def test_a_ups_that_nobody_speaks_for_any_more_stays_as_it_was() -> None:
    bench = leased(ups=(UPS,))
    hears(bench, 2.0, True)
    bench.run(2.1, 30.0)
    assert bench.ceilings() == [900, 900]


def test_a_ups_that_is_well_again_lets_go_by_a_ramp() -> None:
    bench = started(ups=(UPS,))
    bench.step(1.0, leases=[lease(lease_s=60.0)])
    hears(bench, 2.0, True)
    hears(bench, 5.0, False)
    bench.run(5.1, 7.0)
    assert 900 < max(bench.ceilings()) <= 900 + 2 * 0.02 * 1980
    assert "local-contingency-off" in bench.names()


def test_announced_and_own_contingencies_hold_together_and_the_lower_one_binds() -> None:
    bench = started(ups=(UPS,), ramp_ratio_per_s=1.0)
    table = {"ups-a-lost": 900, "b": 750}
    bench.step(1.0, leases=[lease(lease_s=60.0, contingency_ceilings_mhz=table)])
    hears(bench, 2.0, True)
    bench.step(3.1, emergencies=[emergency(contingency="b")])
    assert bench.ceilings() == [750, 750]
    bench.step(4.2, emergencies=[emergency(False, sequence=2)])
    bench.run(4.3, 6.0)
    assert bench.ceilings() == [900, 900]


def test_an_announcement_of_all_clear_does_not_end_what_the_own_ups_says() -> None:
    bench = leased(ups=(UPS,))
    hears(bench, 2.0, True)
    bench.step(2.5, emergencies=[emergency(False, sequence=9)])
    bench.run(2.6, 3.9)
    assert bench.ceilings() == [900, 900]


def test_the_own_ups_is_remembered_across_a_restart() -> None:
    first = leased(ups=(UPS,))
    hears(first, 2.0, True)
    second = Bench(memory=first.memories[-1], session="s2", config=agent_config(ups=(UPS,)))
    second.step(0.0)
    assert second.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]


def test_a_ups_that_is_not_in_the_file_can_do_nothing() -> None:
    bench = leased(ups=(UPS,))
    hears(bench, 2.0, True, ups="ups-z")
    assert bench.ceilings() == [1800, 1800]
