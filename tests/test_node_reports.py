"""What a node tells: frames, their quality, its birth certificate, and what holds."""

from __future__ import annotations

import math

import pytest

from controllers.node_events import EventLog
from facility.ports import DriverLost, GpuDenied, GpuError, GpuLost
from facility.wire import Codec, NodeTelemetry, Quality, encode
from tests.node_fakes import (
    SAFE_MHZ,
    Bench,
    emergency,
    leased,
    started,
)


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


def test_a_birth_certificate_is_said_again_because_what_a_broker_keeps_may_be_lost() -> None:
    bench = started()
    bench.run(0.1, 59.9)
    assert len(bench.infos) == 3
    assert len({info.session for info in bench.infos}) == 1
