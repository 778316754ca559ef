"""When a node writes a ceiling, and what it does when the ceiling does not take."""

from __future__ import annotations

import itertools

from controllers.node_gpu import RAISE_INTERVAL_S, GpuLock
from facility.ports import GpuError, GpuInvalid
from facility.wire import GpuApplied
from tests.node_fakes import (
    SAFE_MHZ,
    lease,
    leased,
    started,
)


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
