"""What a lease does to a node, which leases it refuses, and what a new configuration changes."""

from __future__ import annotations

import pytest

from controllers.node_lease import FRAMES_REMEMBERED, NodeMemory
from facility.wire import Lease
from tests.node_fakes import (
    SAFE_MHZ,
    Bench,
    agent_config,
    emergency,
    lease,
    leased,
    started,
)

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
    bench.brain.reconfigure(agent_config(domains=("r1",), ramp_ratio_per_s=1.0))
    bench.step(3.1)
    bench.step(3.9)
    assert bench.ceilings() == [1800, 1800]


def test_memory_is_told_when_the_epoch_changes_and_not_for_each_lease() -> None:
    bench = leased()
    for second in range(2, 10):
        bench.step(second, leases=[lease(basis_seq=second, sequence=second)])
    assert bench.memories == [NodeMemory(epoch=1, sequence=1)]
