"""What the node's brain promises: no ceiling above the safe one without a lease."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.node_events import EventLog
from controllers.node_gpu import RAISE_INTERVAL_S, GpuLock
from controllers.node_lease import (
    FRAMES_REMEMBERED,
    ContingencyBook,
    NodeMemory,
)
from controllers.node_limits import BRAKE_QUIET_S
from facility.ports import DriverLost, GpuDenied, GpuError, GpuInvalid, GpuLost
from facility.wire import Codec, Emergency, GpuApplied, Lease, NodeTelemetry, Quality, encode
from tests.node_fakes import (
    BRAKE_MHZ,
    SAFE_MHZ,
    Bench,
    agent_config,
    emergency,
    lease,
)


def started(**changes: object) -> Bench:
    """A node that has taken its first frame at 0 s and is at the safe ceiling."""
    bench = Bench(config=agent_config(**changes))
    bench.step(0.0)
    return bench


def leased(ceiling_mhz: int = 1800, **changes: object) -> Bench:
    """A node that runs at a lease of 4 s from frame 1, taken at 0 s."""
    bench = started(**changes)
    bench.step(1.0, leases=[lease(ceiling_mhz, basis_seq=1)])
    return bench


# --- the safe ceiling, and what a lease does to it ----------------------------------------------


def test_the_first_thing_that_is_written_is_the_safe_ceiling() -> None:
    bench = Bench()
    bench.step(0.0)
    assert [gpu.locks_mhz for gpu in bench.host.gpus] == [[SAFE_MHZ], [SAFE_MHZ]]


def test_a_lease_raises_the_ceiling_and_says_so() -> None:
    bench = leased(1800)
    assert bench.ceilings() == [1800, 1800]
    last = bench.applied[-1]
    assert (last.reason, last.decision_id, last.epoch, last.sequence) == ("lease", "d1", 1, 1)
    assert last.gpus["GPU-0"].accepted_mhz == 1800


def test_a_lease_counts_from_the_frame_it_answers_not_from_its_arrival() -> None:
    bench = started()
    bench.step(3.0, leases=[lease(1800, basis_seq=1, lease_s=4.0)])
    assert bench.brain.next_deadline_s() <= 4.0
    bench.step(3.999)
    assert bench.ceilings() == [1800, 1800]
    bench.step(4.0)
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]
    assert bench.applied[-1].reason == "lease-expired"
    assert "lease-expired" in bench.names()


def test_an_expired_lease_never_means_unlocked() -> None:
    bench = leased()
    bench.run(1.1, 60.0)
    assert all(0 not in gpu.locks_mhz for gpu in bench.host.gpus)
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]


def test_the_next_deadline_is_the_end_of_the_lease() -> None:
    bench = started(telemetry_s=60.0)
    bench.step(1.0, leases=[lease(basis_seq=1, lease_s=2.5)])
    assert bench.brain.next_deadline_s() == 2.5


def test_a_renewed_lease_goes_on_without_a_write() -> None:
    bench = leased()
    for second in range(2, 20):
        bench.step(second, leases=[lease(basis_seq=second, sequence=second)])
    assert [gpu.locks_mhz for gpu in bench.host.gpus] == [[SAFE_MHZ, 1800]] * 2
    assert bench.applied[-1].decision_id == "d19"
    assert "lease-expired" not in bench.names()


def test_a_newer_lease_may_end_sooner_than_the_older_one() -> None:
    bench = leased()
    bench.step(2.0, leases=[lease(basis_seq=1, sequence=2, lease_s=2.5)])
    bench.step(2.5)
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]


def test_a_lease_may_ask_for_less_than_the_safe_ceiling() -> None:
    assert leased(900).ceilings() == [900, 900]


def test_a_lease_of_zero_means_the_lowest_clock_and_not_no_lock() -> None:
    assert leased(0).ceilings() == [345, 345]


# --- leases that are refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        (lease(node="n2"), "wrong-node"),
        (lease(session="s0"), "other-session"),
        (lease(basis_seq=2), "unknown-frame"),
        (lease(basis_seq=0), "unknown-frame"),
        (lease(lease_s=1.0), "expired"),
        (lease(gpus=("GPU-0", "GPU-9")), "unknown-gpu"),
    ],
)
def test_a_lease_that_is_not_ours_is_refused_by_name(offered: Lease, reason: str) -> None:
    bench = started(telemetry_s=10.0)
    bench.step(1.0, leases=[offered])
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]
    assert bench.brain.refused == {reason: 1}
    assert [event.subject for event in bench.events if event.event == "lease-refused"] == [reason]


def test_a_lease_with_a_little_time_left_is_accepted() -> None:
    bench = started()
    bench.step(1.0, leases=[lease(lease_s=1.001)])
    assert bench.ceilings() == [1800, 1800]


def test_a_frame_too_old_to_remember_is_unknown_and_the_oldest_one_is_not() -> None:
    bench = started()
    bench.run(0.1, FRAMES_REMEMBERED)
    assert bench.frames[-1].seq == FRAMES_REMEMBERED + 1
    bench.step(FRAMES_REMEMBERED + 0.1, leases=[lease(basis_seq=1, lease_s=3600.0)])
    assert bench.brain.refused == {"unknown-frame": 1}
    bench.step(FRAMES_REMEMBERED + 0.2, leases=[lease(basis_seq=2, lease_s=3600.0)])
    assert bench.brain.lease is not None


@pytest.mark.parametrize(
    ("epoch", "sequence", "reason"),
    [(4, 9, "old-epoch"), (5, 7, "replayed"), (5, 6, "replayed"), (5, 8, ""), (6, 1, "")],
)
def test_order_of_leases(epoch: int, sequence: int, reason: str) -> None:
    bench = started()
    bench.step(1.0, leases=[lease(1500, epoch=5, sequence=7)])
    bench.step(2.5, leases=[lease(1800, epoch=epoch, sequence=sequence)])
    assert bench.ceilings() == ([1500] * 2 if reason else [1800] * 2)
    assert bench.brain.refused == ({reason: 1} if reason else {})


def test_a_refused_lease_does_not_end_the_one_in_force() -> None:
    bench = leased()
    bench.step(2.0, leases=[lease(900, sequence=2, session="s0")])
    assert bench.ceilings() == [1800, 1800]


def test_an_old_epoch_is_refused_after_a_restart() -> None:
    first = Bench()
    first.step(0.0)
    first.step(1.0, leases=[lease(epoch=7)])
    memory = first.memories[-1]
    second = Bench(memory=memory, session="s2")
    second.step(0.0)
    second.step(1.0, leases=[lease(epoch=6, sequence=99, session="s2")])
    assert second.brain.refused == {"old-epoch": 1}
    second.step(1.1, leases=[lease(epoch=7, sequence=1, session="s2")])
    assert second.ceilings() == [1800, 1800]


def test_a_gpu_that_a_lease_leaves_out_stays_at_the_safe_ceiling() -> None:
    bench = started()
    bench.step(1.0, leases=[lease(gpus=("GPU-0",))])
    assert bench.ceilings() == [1800, SAFE_MHZ]
    assert "lease-incomplete" in bench.names()


def test_refusals_are_counted_each_and_told_at_a_bounded_rate() -> None:
    bench = started()
    for count in range(100):
        bench.step(1.0 + count * 0.05, leases=[lease(session="s0")])
    assert bench.brain.refused == {"other-session": 100}
    assert bench.names().count("lease-refused") == 1
    bench.step(11.0, leases=[lease(session="s0")])
    told = [event.sentence for event in bench.events if event.event == "lease-refused"]
    assert "99 more" in told[1]


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


def test_a_contingency_that_ends_returns_to_lease_or_safe_ceiling() -> None:
    bench = leased()
    bench.step(2.0, emergencies=[emergency()])
    bench.step(3.1, emergencies=[emergency(False, sequence=2)])
    assert bench.ceilings() == [1800, 1800]
    bench.step(3.2, emergencies=[emergency(sequence=3)])
    bench.step(4.0)
    bench.step(5.0, emergencies=[emergency(False, sequence=4)])
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]


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
    bench = started()
    bench.step(1.0, leases=[lease(contingency_ceilings_mhz={"a": 900, "b": 750})])
    bench.step(2.0, emergencies=[emergency(contingency="a", also=("b",))])
    assert bench.ceilings() == [750, 750]
    bench.step(3.5, emergencies=[emergency(contingency="a", sequence=2)])
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
    bench = leased()
    bench.step(2.0, emergencies=[emergency(epoch=2, sequence=5)])
    bench.step(3.5, emergencies=[emergency(False, epoch=epoch, sequence=sequence)])
    assert bench.ceilings() == ([900] * 2 if refusal else [1800] * 2)


def test_a_deposed_leader_may_begin_an_emergency_but_not_end_one() -> None:
    bench = started()
    bench.step(1.0, leases=[lease(epoch=5)])
    bench.step(2.0, emergencies=[emergency(epoch=4, sequence=1)])
    assert bench.ceilings() == [900, 900]
    bench.step(3.2, emergencies=[emergency(False, epoch=4, sequence=2)])
    assert bench.ceilings() == [900, 900]
    assert bench.brain.refused == {"old-epoch": 1}
    bench.step(3.3, emergencies=[emergency(False, epoch=5, sequence=1)])
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
    second = Bench(memory=first.memories[-1], session="s2")
    second.step(0.0)
    assert second.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]  # no lease has brought a table yet
    second.step(1.0, emergencies=[emergency()], leases=[lease(session="s2", sequence=2)])
    assert second.ceilings() == [900, 900]


def test_a_message_says_everything_that_is_on_in_its_domain() -> None:
    """Whoever missed some messages finds the whole truth in the last one."""
    bench = started()
    bench.step(1.0, leases=[lease(contingency_ceilings_mhz={"a": 900, "b": 750})])
    bench.step(2.0, emergencies=[emergency(contingency="b")])
    bench.step(3.5, emergencies=[emergency(contingency="a", sequence=3)])
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


def test_a_rising_brake_counter_brakes_the_node_until_it_is_quiet() -> None:
    bench = started(telemetry_s=1.0)
    bench.host.gpus[1].brake_s = 0.05
    bench.step(0.1)
    assert bench.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]
    assert bench.applied[-1].reason == "brake"
    bench.run(0.2, BRAKE_QUIET_S)
    assert bench.ceilings() == [BRAKE_MHZ, BRAKE_MHZ]
    bench.run(BRAKE_QUIET_S + 0.1, BRAKE_QUIET_S + 0.3)
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]


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


# --- when a ceiling is written -------------------------------------------------------------------


def test_a_raise_waits_for_a_second_since_the_last_write_and_a_cut_does_not() -> None:
    bench = started()
    bench.step(0.5, leases=[lease(1800)])
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]
    bench.step(RAISE_INTERVAL_S)
    assert bench.ceilings() == [1800, 1800]
    bench.step(1.1, leases=[lease(1500, sequence=2)])
    assert bench.ceilings() == [1500, 1500]


def test_a_cut_passes_a_raise_that_is_still_under_way() -> None:
    lock = GpuLock()
    lock.asked(1800, 0.0)
    assert lock.due(1200, 0.01)
    assert not lock.due(1900, 5.0)


def test_a_result_of_an_older_request_is_ignored() -> None:
    lock = GpuLock()
    lock.asked(1800, 0.0)
    lock.asked(1200, 0.1)
    assert not lock.finished(GpuApplied(requested_mhz=1800, accepted_mhz=1800), 0.2)
    assert lock.under_way_s == 0.1


def test_a_failed_write_is_tried_again_at_a_falling_rate() -> None:
    bench = leased()
    bench.host.gpus[0].write_error = GpuError("no")
    bench.step(2.0, leases=[lease(1500, sequence=2, lease_s=3600.0)])
    bench.run(2.1, 100.0)
    tries = [at_s for at_s, write in bench.requests if write == bench.requests[-1][1]]
    gaps = [round(after - before, 3) for before, after in itertools.pairwise(tries)]
    assert gaps[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(gaps) <= 30.2
    assert bench.applied[-1].gpus["GPU-0"].cause == "driver"
    bench.host.gpus[0].write_error = None
    bench.run(100.1, 140.0)
    assert bench.ceilings() == [1500, 1500]


def test_an_invalid_ceiling_is_never_tried_again_but_another_one_is() -> None:
    bench = leased()
    bench.host.gpus[0].write_error = GpuInvalid("off the grid")
    bench.step(2.0, leases=[lease(1500, sequence=2, lease_s=3600.0)])
    bench.run(2.1, 60.0)
    assert sum(write.ceiling_mhz == 1500 for _, write in bench.requests) == 2
    bench.host.gpus[0].write_error = None
    bench.step(61.0, leases=[lease(1400, sequence=3, basis_seq=60)])
    assert bench.host.gpus[0].ceiling_mhz == 1395


def test_a_lock_that_somebody_lifted_is_put_back_after_more_than_a_second() -> None:
    bench = started()
    bench.run(0.1, 3.0)
    bench.host.gpus[0].ceiling_mhz = None
    bench.run(3.1, 4.0)
    assert bench.host.gpus[0].locks_mhz == [SAFE_MHZ]
    bench.run(4.1, 4.5)
    assert bench.host.gpus[0].locks_mhz == [SAFE_MHZ, SAFE_MHZ]
    assert "lock-drifted" in bench.names()


def test_a_gpu_that_ignores_its_lock_makes_the_node_uncontrollable() -> None:
    bench = started()
    bench.host.gpus[0].demand_mhz = 1500
    bench.host.gpus[0].obeys = False
    bench.run(0.1, 30.0)
    assert not bench.infos[-1].can_actuate
    assert "silent-clamp" in bench.infos[-1].cannot_actuate_because
    assert len(bench.host.gpus[0].locks_mhz) < 10
    bench.host.gpus[0].obeys = True
    bench.run(30.1, 60.0)
    assert bench.infos[-1].can_actuate


def test_after_a_driver_reload_the_ceiling_is_written_before_the_node_calls_itself_healthy() -> (
    None
):
    bench = leased()
    bench.host.go_away()
    bench.run(1.1, 1.5)
    assert not bench.infos[-1].can_actuate
    infos_count = len(bench.infos)
    bench.host.come_back()
    bench.run(1.6, 2.8)
    assert bench.ceilings() == [1800, 1800]
    assert [info.can_actuate for info in bench.infos[infos_count:]] == [True]
    assert "driver-open" in bench.names()


def test_a_driver_that_was_away_longer_than_the_lease_comes_back_at_the_safe_ceiling() -> None:
    bench = leased()
    bench.host.go_away()
    bench.run(1.1, 6.0)
    bench.host.come_back()
    bench.run(6.1, 8.0)
    assert [gpu.locks_mhz for gpu in bench.host.gpus] == [[SAFE_MHZ, 1800, SAFE_MHZ]] * 2


# --- what the node tells -------------------------------------------------------------------------


def test_a_frame_a_period_with_mean_maximum_and_samples() -> None:
    bench = Bench()
    for count in range(21):
        bench.host.gpus[0].power_w = 100.0 + count
        bench.step(count / 10)
    assert [frame.seq for frame in bench.frames] == [1, 2, 3]
    reading = bench.frames[1].gpus[0]
    assert reading.power_samples_w == tuple(100.0 + count for count in range(1, 11))
    assert (reading.power_w, reading.power_w_max) == (105.5, 110.0)
    assert (reading.quality, reading.ceiling_mhz) == (Quality.GOOD, SAFE_MHZ)
    assert (bench.frames[1].node_power_w, bench.frames[1].inlet_temperature_c) == (6500.0, 24.0)


def test_a_gpu_that_cannot_be_read_grows_stale_and_then_missing_never_zero() -> None:
    bench = started()
    bench.host.gpus[0].power_w = 400.0
    bench.run(0.1, 1.0)
    bench.host.gpus[0].read_error = GpuError("timeout")
    bench.run(1.1, 6.0)
    seen = {frame.seq: frame.gpus[0] for frame in bench.frames}
    assert seen[2].quality is Quality.GOOD
    assert [seen[n].quality for n in (3, 4, 5)] == [Quality.GOOD, Quality.STALE, Quality.STALE]
    assert seen[4].power_w == pytest.approx(440.0)
    assert (seen[6].quality, seen[6].power_w) == (Quality.MISSING, 700.0)
    assert bench.frames[-1].gpus[1].quality is Quality.GOOD
    assert bench.names().count("gpu-blind") == 1


def test_stale_power_is_capped_at_the_limit_of_the_gpu() -> None:
    bench = started()
    bench.host.gpus[0].power_w = 690.0
    bench.run(0.1, 1.0)
    bench.host.gpus[0].read_error = GpuError("timeout")
    bench.run(1.1, 3.0)
    assert bench.frames[-1].gpus[0].power_w == 700.0


def test_a_lost_gpu_is_missing_at_once_and_counted_at_its_limit() -> None:
    bench = started()
    bench.host.gpus[0].read_error = GpuLost("fell off the bus")
    bench.run(0.1, 1.0)
    assert (bench.frames[-1].gpus[0].quality, bench.frames[-1].gpus[0].power_w) == (
        Quality.MISSING,
        700.0,
    )
    assert "gpu-lost" in bench.names()
    assert bench.infos[-1].can_actuate


def test_a_gpu_that_comes_back_is_locked_again() -> None:
    bench = started()
    bench.host.gpus[0].read_error = GpuLost("fell off the bus")
    bench.run(0.1, 1.0)
    bench.host.gpus[0].read_error, bench.host.gpus[0].ceiling_mhz = None, None
    bench.run(1.1, 1.3)
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]
    assert "gpu-back" in bench.names()


@pytest.mark.parametrize("power_w", [math.nan, math.inf, -1.0, 20_001.0])
def test_a_power_that_cannot_be_true_is_thrown_away(power_w: float) -> None:
    bench = started()
    bench.host.gpus[0].power_w = power_w
    bench.run(0.1, 1.0)
    reading = bench.frames[-1].gpus[0]
    assert reading.power_samples_w == ()
    assert bench.brain.refused["reading"] == 10
    Codec().decode(encode(bench.frames[-1]), NodeTelemetry)


def test_frames_go_on_when_the_driver_never_opens() -> None:
    bench = Bench()
    bench.host.open_error = DriverLost("no driver")
    bench.run(0.0, 5.0)
    assert [frame.gpus for frame in bench.frames] == [()] * 5
    assert not bench.infos[-1].can_actuate
    assert "no driver" in bench.infos[-1].cannot_actuate_because
    assert bench.brain.is_ready


def test_a_node_without_permission_is_uncontrollable_until_it_gets_it() -> None:
    bench = Bench()
    for gpu in bench.host.gpus:
        gpu.write_error = GpuDenied("root only")
    bench.run(0.0, 2.0)
    assert not bench.infos[-1].can_actuate
    assert "no-permission" in bench.infos[-1].cannot_actuate_because
    assert bench.names().count("no-permission") == 2
    for gpu in bench.host.gpus:
        gpu.write_error = None
    bench.run(2.1, 10.0)
    assert bench.infos[-1].can_actuate


def test_a_read_only_node_writes_nothing_and_says_why() -> None:
    bench = leased(actuate=False)
    bench.step(2.0, emergencies=[emergency()])
    bench.run(2.1, 6.0)
    assert bench.requests == []
    assert bench.infos[-1].cannot_actuate_because == "actuate: false in the configuration"
    assert bench.frames[-1].gpus[0].quality is Quality.GOOD
    assert bench.applied == []


def test_what_holds_is_told_once_for_each_change() -> None:
    bench = leased()
    count = len(bench.applied)
    bench.run(1.1, 3.9)
    assert len(bench.applied) == count
    bench.step(4.0)
    assert len(bench.applied) == count + 1


def test_events_of_one_step_are_bounded_and_the_rest_counted() -> None:
    log = EventLog("n1")
    for count in range(300):
        log.say("gpu-lost", "gone", 0.0, subject=str(count))
    assert len(log.drain()) == 256
    assert log.dropped_count == 44
    assert log.drain() == ()


# --- a new configuration -------------------------------------------------------------------------


def test_a_new_safe_ceiling_holds_from_the_next_step() -> None:
    bench = started()
    bench.brain.reconfigure(agent_config(safe_ceiling_mhz=900))
    bench.step(0.1)
    assert bench.ceilings() == [900, 900]
    assert bench.infos[-1].safe_ceiling_mhz == 900


@pytest.mark.parametrize("change", [{"node": "n2"}, {"site": "other"}, {"actuate": False}])
def test_a_change_that_needs_a_restart_changes_nothing(change: dict[str, object]) -> None:
    bench = started()
    with pytest.raises(ValueError, match="restart"):
        bench.brain.reconfigure(agent_config(safe_ceiling_mhz=900, **change))
    bench.step(0.1)
    assert bench.ceilings() == [SAFE_MHZ, SAFE_MHZ]


def test_an_emergency_of_a_domain_that_is_no_longer_above_us_is_forgotten() -> None:
    bench = leased()
    bench.step(2.0, emergencies=[emergency()])
    bench.brain.reconfigure(agent_config(domains=("r1",)))
    bench.step(3.1)
    assert bench.ceilings() == [1800, 1800]


# --- the promise, against anything ---------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """A lease relative to where the story is: mostly sound, sometimes wrong in one way."""

    ceiling_mhz: int
    frames_ago: int
    sequence_step: int
    epoch: int
    session: str
    lease_s: float
    gpus: tuple[str, ...]
    table_mhz: dict[str, int]

    def to_lease(self, seq: int, sequence: int) -> Lease:
        return lease(
            self.ceiling_mhz,
            basis_seq=max(seq - self.frames_ago, 0),
            sequence=max(sequence + self.sequence_step, 0),
            epoch=self.epoch,
            session=self.session,
            lease_s=self.lease_s,
            gpus=self.gpus,
            contingency_ceilings_mhz=self.table_mhz,
        )


both = ("GPU-0", "GPU-1")
offers = st.builds(
    Offer,
    st.sampled_from([1800, 1800, 1980, 1500, 900, 0]),
    st.sampled_from([0, 0, 0, 1, 2, 5, -1]),
    st.sampled_from([1, 1, 1, 2, 0, -1]),
    st.sampled_from([1, 1, 1, 2, 0]),
    st.sampled_from(["s1"] * 5 + ["s0"]),
    st.sampled_from([4.0, 4.0, 2.0, 0.5]),
    st.sampled_from([both, both, both, ("GPU-0",), ("GPU-0", "GPU-9")]),
    st.dictionaries(st.sampled_from(["a", "b", "brake"]), st.sampled_from([600, 900, 1900])),
)
emergencies = st.builds(
    emergency,
    st.booleans(),
    contingency=st.sampled_from(["a", "b", "brake", "c"]),
    domain=st.sampled_from(["ups-a", "r1", "ups-b"]),
    epoch=st.integers(0, 3),
    sequence=st.integers(0, 6),
)
faults = st.sampled_from(["away", "back", "deny", "allow", "lose", "find", "hot", "cool", "brake"])
moments = st.lists(
    st.tuples(
        st.sampled_from([0.1, 0.3, 1.0, 1.2, 2.5]),
        st.lists(offers, max_size=1),
        st.sampled_from([0, 0, 0, 0, 1]).flatmap(
            lambda count: st.lists(emergencies, min_size=count, max_size=count)
        ),
        st.sampled_from([None, None, None, None, True]).flatmap(
            lambda any_fault: faults if any_fault else st.none()
        ),
    ),
    min_size=5,
    max_size=25,
)


def befall(bench: Bench, fault: str | None) -> None:
    """Let something happen to the hardware."""
    gpu = bench.host.gpus[0]
    if fault == "away":
        bench.host.go_away()
    elif fault == "back":
        bench.host.come_back()
    elif fault in ("deny", "allow"):
        gpu.write_error = GpuDenied("no") if fault == "deny" else None
    elif fault in ("lose", "find"):
        gpu.read_error = GpuLost("gone") if fault == "lose" else None
    elif fault in ("hot", "cool"):
        gpu.margin_c = 1.0 if fault == "hot" else 40.0
    elif fault == "brake":
        gpu.brake_s += 0.1


class Story:
    """A brain, what happens to it, and an account of what could be in force, kept apart from it.

    A lease of this session that answers a frame sent may hold for `lease_s` from that frame;
    everything else may not. Whether an older lease was replaced is left open, so that the account
    shares no logic with the brain: it may allow too much, never too little.
    """

    def __init__(self) -> None:
        self.bench = Bench()
        self.now_s = 0.0
        self.granted: list[tuple[Lease, float]] = []
        self.sequence = 0
        self.bench.step(0.0)

    def goes_on(
        self, wait_s: float, offered: list[Offer], alarms: list[Emergency], fault: str | None
    ) -> None:
        self.now_s += wait_s
        befall(self.bench, fault)
        sampled_s = {frame.seq: frame.sampled_at_s for frame in self.bench.frames}
        messages = [offer.to_lease(len(sampled_s), self.sequence) for offer in offered]
        for message in messages:
            self.sequence = max(self.sequence, message.sequence)
            if message.session == "s1" and message.basis_seq in sampled_s:
                self.granted.append((message, sampled_s[message.basis_seq]))
        self.bench.step(self.now_s, leases=messages, emergencies=alarms)

    def allowed_mhz(self, uuid: str) -> int:
        held = [
            granted.ceilings_mhz.get(uuid, SAFE_MHZ)
            for granted, sampled_s in self.granted
            if self.now_s < sampled_s + granted.lease_s
        ]
        return max(SAFE_MHZ, *held, SAFE_MHZ)


@given(moments)
def test_no_ceiling_above_the_safe_one_is_asked_for_or_held_without_a_lease(
    moments: list[tuple[float, list[Offer], list[Emergency], str | None]],
) -> None:
    story = Story()
    bench = story.bench
    for moment in moments:
        count = len(bench.requests)
        story.goes_on(*moment)
        for _, write in bench.requests[count:]:
            assert 0 < write.ceiling_mhz <= story.allowed_mhz(write.uuid)
        for gpu in bench.host.gpus:
            if bench.brain.view.writable and gpu.read_error is None:
                held_mhz = bench.brain.ceilings_mhz[gpu.uuid]
                assert held_mhz <= story.allowed_mhz(gpu.uuid)
                if "brake" in bench.brain.contingencies.active:
                    assert held_mhz <= BRAKE_MHZ
    assert all(0 not in gpu.locks_mhz for gpu in bench.host.gpus)


@given(moments)
def test_whatever_happened_silence_ends_at_or_below_the_safe_ceiling(
    moments: list[tuple[float, list[Offer], list[Emergency], str | None]],
) -> None:
    story = Story()
    for moment in moments:
        story.goes_on(*moment)
    story.bench.host.come_back()
    story.bench.run(story.now_s + 0.1, story.now_s + 40.0, 0.25)
    assert all(0 < ceiling_mhz <= SAFE_MHZ for ceiling_mhz in story.bench.ceilings())


def test_memory_is_told_when_the_epoch_changes_and_not_for_each_lease() -> None:
    bench = leased()
    for second in range(2, 10):
        bench.step(second, leases=[lease(basis_seq=second, sequence=second)])
    assert bench.memories == [NodeMemory(epoch=1, sequence=1)]
