"""The NVML adapter against a real shared library that the real binding loads: a healthy GPU.

Physics passes by `elapse`, so nothing sleeps. Faults are in `test_nvml_faults`, sessions and other
processes in `test_nvml_session`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from facility.ports import (
    GpuDenied,
    GpuInvalid,
    GpuLost,
    GpuPort,
)
from simulator.gpu import H100_SXM
from tests.libnvml import FakeNvml

pytest_plugins = ["tests.libnvml.fixtures"]


# --- what is there ------------------------------------------------------------------------------


def test_every_gpu_says_who_it_is_and_what_it_may_be_asked(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    identities = [gpu.identity() for gpu in gpus]
    assert [one.uuid for one in identities] == [fake.gpu_uuid(index) for index in range(8)]
    assert [one.index for one in identities] == list(range(8))
    first = identities[0]
    assert first.model == "NVIDIA H100 80GB HBM3"
    assert first.pci_bus_id == "00000000:10:00.0"
    assert first.clocks_mhz == H100_SXM.clocks_mhz
    assert (first.power_limit_w_min, first.power_limit_w_max) == (200.0, 700.0)
    assert first.power_limit_w_default == 700.0
    assert not first.mig
    assert first.refusals == {}


def test_fast_reading_is_what_the_gpu_does(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    fake.load(2, a=0.1)
    fake.elapse(0.3)
    for index in (0, 2):
        fast = gpus[index].read_fast()
        truth = fake.truth(index)
        assert fast.power_w == pytest.approx(truth.power_w, rel=0.01)
        assert fast.sm_clock_mhz == truth.clock_mhz == 1980
        assert fast.power_limit_w == 700.0
        assert (fast.brake_s, fast.power_throttle_s) == (0.0, 0.0)
    assert gpus[2].read_fast().power_w < gpus[0].read_fast().power_w - 100.0


@pytest.mark.parametrize("ceiling_mhz", [345, 1110, 1590, 1980])
def test_power_under_a_lock_follows_the_twins_law(
    fake: FakeNvml, gpus: Sequence[GpuPort], ceiling_mhz: int
) -> None:
    gpus[0].lock_clocks(clock_mhz_min=210, ceiling_mhz=ceiling_mhz)
    fake.elapse(0.3)
    law_w = H100_SXM.power_w_at(
        ceiling_mhz, intensity=0.4, bandwidth=0.3, temperature_c=fake.truth(0).temperature_c
    )
    assert gpus[0].read_fast().power_w == pytest.approx(law_w, rel=0.005)


def test_an_idle_gpu_sleeps_and_a_live_context_keeps_it_awake(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.load(0, a=0.0, m=0.0, c=0.0)
    fake.load(1, a=0.0, m=0.0, c=1.0)
    fake.elapse(1.0)
    asleep, awake = gpus[0].read_fast(), gpus[1].read_fast()
    assert (asleep.sm_clock_mhz, awake.sm_clock_mhz) == (345, 1980)
    assert asleep.power_w == pytest.approx(71.8, abs=1.0)  # published for an H100
    assert awake.power_w == pytest.approx(121.7, abs=1.0)
    assert gpus[0].read_medium().event_reasons & 0x1


def test_full_load_is_held_at_the_power_limit_and_counted(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.load(0, a=1.0, m=0.2)
    fake.elapse(2.0)
    before = gpus[0].read_fast()
    fake.elapse(1.0)
    after = gpus[0].read_fast()
    assert after.power_w == pytest.approx(700.0, rel=0.03)
    assert 1600 < after.sm_clock_mhz < 1900
    assert after.power_throttle_s is not None
    assert before.power_throttle_s is not None
    assert after.power_throttle_s - before.power_throttle_s == pytest.approx(1.0, abs=0.1)
    assert gpus[0].read_medium().event_reasons & 0x4


def test_the_sensor_sees_a_quarter_of_the_time_and_tells_it_late(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    before_w = gpus[0].read_fast().power_w
    fake.load(0, a=0.0)
    after_w = before_w - 0.4 * H100_SXM.compute_power_w
    seen_w = []
    for _ in range(30):
        fake.elapse(0.01)
        seen_w.append(gpus[0].read_fast().power_w)
    assert seen_w[0] > after_w + 100.0  # no window can be full of the new power yet
    assert seen_w[20:] == pytest.approx([after_w] * 10, rel=0.01)
    assert len({round(watts) for watts in seen_w}) <= 3  # old, at most one mixture, new


def test_heat_settles_where_the_twins_heat_path_puts_it(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.elapse(600.0)
    truth, medium = fake.truth(0), gpus[0].read_medium()
    steady_c = 25.0 + truth.power_w * (H100_SXM.die_sink_k_per_w + H100_SXM.sink_air_k_per_w)
    assert truth.temperature_c == pytest.approx(steady_c, abs=0.5)
    assert medium.temperature_c == int(truth.temperature_c)
    assert medium.margin_c == 87 - int(truth.temperature_c)
    assert medium.memory_temperature_c == int(truth.memory_temperature_c)
    assert medium.memory_margin_c == 95 - int(truth.memory_temperature_c)
    assert medium.thermal_throttle_s == 0.0


def test_energy_is_power_times_time(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    before_j = gpus[0].read_medium().energy_j
    fake.elapse(10.0)
    after_j = gpus[0].read_medium().energy_j
    assert before_j is not None
    assert after_j is not None
    assert after_j - before_j == pytest.approx(10.0 * fake.truth(0).power_w, rel=0.02)


def test_slow_reading_tells_the_requested_limit_and_the_drivers_advice(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.limit(0, foreign_w=500.0)
    fake.recovery(0, action=2)
    slow = gpus[0].read_slow()
    assert (slow.power_limit_requested_w, slow.recovery_action) == (700.0, 2)
    assert gpus[0].read_fast().power_limit_w == 500.0
    assert gpus[1].read_fast().power_limit_w == 700.0


# --- locks --------------------------------------------------------------------------------------


def test_a_lock_takes_effect_once_it_has_settled(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    before_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    gpus[5].lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    after_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    truth = fake.truth(5)
    assert (truth.lock_mhz_min, truth.ceiling_mhz, truth.writes_count) == (210, 1200, 1)
    assert before_ns <= truth.last_write_ns <= after_ns
    fake.elapse(0.05)
    assert gpus[5].read_fast().sm_clock_mhz == 1200
    assert gpus[4].read_fast().sm_clock_mhz == 1980


def test_a_reset_lifts_the_lock(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    gpus[0].lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    gpus[0].reset_clocks()
    fake.elapse(0.05)
    assert gpus[0].read_fast().sm_clock_mhz == 1980
    writes = [(write.clock_mhz_min, write.ceiling_mhz) for write in fake.writes(0)]
    assert writes == [(210, 1200), (0, 0)]


@pytest.mark.parametrize(("low_mhz", "high_mhz"), [(210, 1201), (210, 1995), (1215, 1200)])
def test_a_clock_off_the_grid_is_invalid_and_locks_nothing(
    fake: FakeNvml, gpus: Sequence[GpuPort], low_mhz: int, high_mhz: int
) -> None:
    with pytest.raises(GpuInvalid):
        gpus[0].lock_clocks(clock_mhz_min=low_mhz, ceiling_mhz=high_mhz)
    assert fake.truth(0).writes_count == 0
    assert fake.truth(0).ceiling_mhz == 1980


def test_without_permission_writes_are_denied_and_reads_go_on(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.deny_writes()
    with pytest.raises(GpuDenied, match="SetGpuLockedClocks"):
        gpus[0].lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    with pytest.raises(GpuDenied):
        gpus[0].reset_clocks()
    assert gpus[0].read_fast().power_w > 0
    assert fake.truth(0).writes_refused_count == 2


# --- brake and heat -----------------------------------------------------------------------------


def test_the_power_brake_is_seen_in_clock_bits_and_counter(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.brake(0, on=True)
    fake.elapse(2.0)
    fake.brake(0, on=False)
    fake.elapse(1.0)
    fast = gpus[0].read_fast()
    assert fast.brake_s == pytest.approx(2.0, abs=0.05)
    assert fast.sm_clock_mhz == 1980
    fake.brake(0, on=True)
    fake.elapse(0.1)
    assert gpus[0].read_fast().sm_clock_mhz == H100_SXM.brake_clock_mhz
    assert gpus[0].read_medium().event_reasons & 0x88 == 0x88


def test_above_the_operating_limit_the_gpu_slows_itself_down(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.load(0, a=0.0, m=0.0)  # so that it does not climb to the next threshold meanwhile
    fake.heat(0, temperature_c=88.2)
    fake.elapse(0.3)
    medium = gpus[0].read_medium()
    assert medium.margin_c == -1.0
    assert medium.event_reasons & 0x68 == 0x20
    assert gpus[0].read_fast().sm_clock_mhz < 1980


def test_at_the_slowdown_limit_the_clock_is_halved(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    fake.heat(0, temperature_c=90.5)
    fake.elapse(0.05)
    assert gpus[0].read_fast().sm_clock_mhz <= 990
    assert gpus[0].read_medium().event_reasons & 0x48 == 0x48


def test_without_air_a_gpu_shuts_down_and_is_lost(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    fake.air(0, temperature_c=85.0, airflow_ratio=0.0)
    fake.elapse(600.0)
    with pytest.raises(GpuLost):
        gpus[0].read_fast()
    assert fake.truth(0).lost
    assert gpus[1].read_fast().power_w > 0
