"""The NVML adapter against a real shared library that the real binding loads.

Every fault that a driver can show is shown here once: what the adapter makes of it is what the
agent will see. Physics passes by `elapse`, so nothing sleeps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from collectors.nvml import NvmlHost
from facility.ports import (
    DriverLost,
    GpuDenied,
    GpuError,
    GpuInvalid,
    GpuLost,
    GpuPort,
    GpuUnsupported,
)
from simulator.gpu import H100_SXM
from tests.libnvml import FakeNvml, build

ROOT = Path(__file__).parent.parent
MARGIN = "nvmlDeviceGetMarginTemperature"
POWER_USAGE = "nvmlDeviceGetPowerUsage"
BLANKS = (2**63 - 1, 2**63 - 16, -1, 0x7FFFFFF0)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("libnvml"))


@pytest.fixture
def fake(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Eight H100s at half load; the handle has loaded the library under NVML's name."""
    made = FakeNvml.create(tmp_path / "state", library, write_s=0.0)
    made.load(None, a=0.4, m=0.3, c=1.0)
    made.elapse(1.0)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def host(fake: FakeNvml) -> Iterator[NvmlHost]:
    del fake  # opened only where it exists
    made = NvmlHost()
    yield made
    made.close()


@pytest.fixture
def gpus(host: NvmlHost) -> Sequence[GpuPort]:
    return host.open()


def refusals(gpu: GpuPort) -> dict[str, str]:
    return gpu.identity().refusals


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


def test_the_sensor_shows_a_burst_one_period_late(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    before_w = gpus[0].read_fast().power_w
    fake.load(0, a=0.9)
    fake.elapse(0.01)
    assert gpus[0].read_fast().power_w == before_w
    fake.elapse(0.2)
    assert gpus[0].read_fast().power_w > before_w + 100.0


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


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, DriverLost),
        (2, GpuInvalid),
        (3, GpuUnsupported),
        (4, GpuDenied),
        (9, DriverLost),
        (10, GpuError),
        (12, DriverLost),
        (13, GpuUnsupported),
        (15, GpuLost),
        (16, GpuLost),
        (17, GpuDenied),
        (18, DriverLost),
        (19, GpuError),
        (28, GpuLost),
        (999, GpuError),
        (4711, GpuError),
    ],
)
def test_each_return_code_becomes_the_error_that_names_what_to_do(
    fake: FakeNvml, gpus: Sequence[GpuPort], code: int, kind: type[GpuError]
) -> None:
    fake.refuse(0, "nvmlDeviceGetClockInfo", code)
    with pytest.raises(GpuError) as raised:
        gpus[0].read_fast()
    assert type(raised.value) is kind
    assert "nvmlDeviceGetClockInfo" in str(raised.value)


@pytest.mark.parametrize(("code", "kind"), [(15, GpuLost), (16, GpuLost), (1, DriverLost)])
def test_a_field_may_bring_the_bad_news_too(
    fake: FakeNvml, gpus: Sequence[GpuPort], code: int, kind: type[GpuError]
) -> None:
    fake.refuse_field(0, 186, code)
    with pytest.raises(kind, match="field 186"):
        gpus[0].read_fast()


def test_a_lost_gpu_leaves_its_neighbours_alone_and_may_come_back(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.lose(3)
    for call in (gpus[3].read_fast, gpus[3].read_medium, gpus[3].read_slow, gpus[3].reset_clocks):
        with pytest.raises(GpuLost):
            call()
    assert gpus[2].read_fast().power_w > 0
    fake.heal(3)
    assert gpus[3].read_fast().power_w > 0


def test_a_transient_error_is_not_remembered(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    fake.refuse(0, "nvmlDeviceGetClockInfo", 10)
    with pytest.raises(GpuError):
        gpus[0].read_fast()
    fake.heal(0)
    assert gpus[0].read_fast().sm_clock_mhz == 1980
    assert refusals(gpus[0]) == {}


# --- what a part does not know ------------------------------------------------------------------


@pytest.mark.parametrize("code", [2, 3, 13])
def test_without_instantaneous_power_the_mean_is_read_and_the_refusal_says_so(
    fake: FakeNvml, gpus: Sequence[GpuPort], code: int
) -> None:
    fake.elapse(10.0)
    fake.refuse_field(0, 186, code)
    assert gpus[0].read_fast().power_w == pytest.approx(fake.truth(0).power_w, rel=0.01)
    assert "nvmlDeviceGetPowerUsage" in refusals(gpus[0])["field 186 POWER_INSTANT"]
    assert "field 186 POWER_INSTANT" not in refusals(gpus[1])


def test_without_field_values_each_reading_falls_back_to_its_own_call(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.elapse(10.0)
    fake.refuse(0, "nvmlDeviceGetFieldValues", 13)
    fast, medium = gpus[0].read_fast(), gpus[0].read_medium()
    assert fast.power_w == pytest.approx(fake.truth(0).power_w, rel=0.01)
    assert (fast.power_limit_w, fast.brake_s, fast.power_throttle_s) == (700.0, None, None)
    assert medium.energy_j == pytest.approx(fake.truth(0).energy_j, rel=0.01)
    assert (medium.memory_temperature_c, medium.memory_margin_c) == (None, None)
    assert gpus[0].read_slow().power_limit_requested_w is None


def test_what_is_unsupported_is_asked_once_per_session(
    fake: FakeNvml, host: NvmlHost, gpus: Sequence[GpuPort]
) -> None:
    fake.refuse(0, MARGIN, 3)
    for _ in range(3):
        gpus[0].read_medium()
    assert fake.calls_count(MARGIN) == 1
    fake.heal(0)
    assert gpus[0].read_medium().margin_c is not None
    assert fake.calls_count(MARGIN) == 1
    assert MARGIN in refusals(gpus[0])
    again = host.open()
    again[0].read_medium()
    assert fake.calls_count(MARGIN) == 2
    assert refusals(again[0]) == {}


def test_without_a_margin_call_the_absolute_threshold_gives_the_margin(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.refuse(0, MARGIN, 3)
    fake.heat(0, temperature_c=60.5)
    medium = gpus[0].read_medium()
    assert (medium.temperature_c, medium.margin_c) == (60.0, 27.0)


def test_with_neither_margin_nor_threshold_there_is_no_margin(
    fake: FakeNvml, host: NvmlHost
) -> None:
    fake.refuse(0, MARGIN, 3)
    fake.refuse(0, "nvmlDeviceGetTemperatureThreshold", 3)
    gpu = host.open()[0]
    medium = gpu.read_medium()
    assert (medium.margin_c, medium.memory_margin_c) == (None, None)
    assert medium.temperature_c is not None
    assert {MARGIN, "nvmlDeviceGetTemperatureThreshold 3"} <= set(refusals(gpu))


def test_old_drivers_are_asked_by_the_old_names(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    fake.refuse(0, "nvmlDeviceGetTemperatureV", 13)
    fake.refuse(0, "nvmlDeviceGetCurrentClocksEventReasons", 13)
    fake.brake(0, on=True)
    fake.elapse(0.1)
    medium = gpus[0].read_medium()
    assert medium.temperature_c == int(fake.truth(0).temperature_c)
    assert medium.event_reasons & 0x80


def test_a_gpu_that_tells_no_power_at_all_is_unsupported(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.refuse_field(0, 186, 3)
    fake.refuse(0, POWER_USAGE, 3)
    with pytest.raises(GpuUnsupported, match="power"):
        gpus[0].read_fast()


def test_a_gpu_without_a_clock_list_has_an_empty_one(fake: FakeNvml, host: NvmlHost) -> None:
    fake.refuse(0, "nvmlDeviceGetSupportedGraphicsClocks", 3)
    first, second = host.open()[:2]
    assert first.identity().clocks_mhz == ()
    assert "nvmlDeviceGetSupportedGraphicsClocks" in refusals(first)
    assert second.identity().clocks_mhz == H100_SXM.clocks_mhz


def test_mig_is_told_with_its_reason_and_the_gpu_is_still_read_and_locked(
    fake: FakeNvml, host: NvmlHost
) -> None:
    fake.mig(1, on=True)
    first, second = host.open()[:2]
    assert (first.identity().mig, second.identity().mig) == (False, True)
    assert "shared by all its instances" in refusals(second)["mig"]
    assert second.read_fast().power_w > 0
    second.lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    assert fake.truth(1).ceiling_mhz == 1200


# --- blank values -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [*BLANKS, 0])
def test_a_blank_power_is_never_a_number(
    fake: FakeNvml, gpus: Sequence[GpuPort], value: int
) -> None:
    fake.blank(0, 186, value)
    assert 0 < gpus[0].read_fast().power_w < 1_000
    assert "blank" in refusals(gpus[0])["field 186 POWER_INSTANT"]
    fake.blank(0, 0, 0)
    gpus[0].read_fast()
    assert refusals(gpus[0]) == {}


def test_power_that_is_blank_everywhere_is_an_error_not_zero(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.blank(0, 186, -1)
    fake.refuse(0, POWER_USAGE, 3)
    with pytest.raises(GpuError, match="power"):
        gpus[0].read_fast()


@pytest.mark.parametrize("value", [*BLANKS, 0])
def test_a_blank_memory_temperature_is_missing(
    fake: FakeNvml, gpus: Sequence[GpuPort], value: int
) -> None:
    fake.blank(0, 82, value)
    medium = gpus[0].read_medium()
    assert (medium.memory_temperature_c, medium.memory_margin_c) == (None, None)


@pytest.mark.parametrize("value", [2**63 - 1, 2**63 - 16, -1])
@pytest.mark.parametrize(
    ("field", "read"),
    [
        (271, lambda gpu: gpu.read_fast().brake_s),
        (74, lambda gpu: gpu.read_fast().power_throttle_s),
        (192, lambda gpu: gpu.read_slow().power_limit_requested_w),
        (230, lambda gpu: gpu.read_slow().recovery_action),
    ],
)
def test_a_blank_counter_or_limit_is_missing(
    fake: FakeNvml,
    gpus: Sequence[GpuPort],
    value: int,
    field: int,
    read: Callable[[GpuPort], float | None],
) -> None:
    assert read(gpus[0]) is not None
    fake.blank(0, field, value)
    assert read(gpus[0]) is None


def test_a_blank_energy_counter_falls_back_to_the_call(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.blank(0, 83, 2**63 - 16)
    assert gpus[0].read_medium().energy_j == pytest.approx(fake.truth(0).energy_j, rel=0.01)


def test_one_blank_thermal_counter_leaves_the_older_one(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.heat(0, temperature_c=88.5)
    fake.elapse(0.5)
    fake.blank(0, 269, 2**63 - 1)
    throttled_s = gpus[0].read_medium().thermal_throttle_s
    assert throttled_s is not None
    assert throttled_s > 0.1


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
    assert gpus[0].read_fast().sm_clock_mhz == H100_SXM.clock_mhz_brake
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


# --- hangs --------------------------------------------------------------------------------------


def hangs_until_healed(fake: FakeNvml, call: Callable[[], object]) -> bool:
    """Whether a call blocks, lets others work meanwhile, and returns once the hang is over."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(0.05)
    blocked = thread.is_alive()
    fake.hang(0)
    thread.join(5.0)
    return blocked and not thread.is_alive()


def test_hanging_reads_stop_neither_other_gpus_nor_writes(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    fake.hang(0, reads_s=60.0)
    assert gpus[1].read_fast().power_w > 0
    gpus[0].lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    assert fake.truth(0).ceiling_mhz == 1200
    assert hangs_until_healed(fake, gpus[0].read_fast)


def test_hanging_writes_do_not_stop_reads(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    fake.hang(0, writes_s=60.0)
    assert gpus[0].read_fast().power_w > 0
    assert hangs_until_healed(
        fake, lambda: gpus[0].lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    )
    assert fake.truth(0).ceiling_mhz == 1200


# --- the session --------------------------------------------------------------------------------


def test_after_a_driver_reload_handles_are_void_and_counters_and_locks_are_gone(
    fake: FakeNvml, host: NvmlHost, gpus: Sequence[GpuPort]
) -> None:
    gpus[0].lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    fake.elapse(10.0)
    before_j = gpus[0].read_medium().energy_j
    fake.reload_driver()
    for call in (gpus[0].read_fast, gpus[0].read_medium, gpus[0].reset_clocks):
        with pytest.raises(DriverLost):
            call()
    again = host.open()
    assert [gpu.identity().uuid for gpu in again] == [gpu.identity().uuid for gpu in gpus]
    after_j = again[0].read_medium().energy_j
    assert after_j is not None
    assert before_j is not None
    assert after_j < before_j
    assert fake.truth(0).ceiling_mhz == 1980


def test_a_driver_that_is_not_loaded_yet_cannot_be_opened(fake: FakeNvml, host: NvmlHost) -> None:
    host.open()
    fake.reload_driver(down_s=60.0)
    with pytest.raises(DriverLost):
        host.open()
    fake.reload_driver()
    assert len(host.open()) == 8


@pytest.mark.parametrize(
    ("code", "kind"), [(4, GpuDenied), (17, GpuDenied), (9, DriverLost), (999, DriverLost)]
)
def test_init_failures_say_whether_waiting_may_help(
    fake: FakeNvml, host: NvmlHost, code: int, kind: type[GpuError]
) -> None:
    fake.refuse_init(code)
    with pytest.raises(GpuError, match="nvmlInit") as raised:
        host.open()
    assert type(raised.value) is kind
    fake.refuse_init(0)
    assert len(host.open()) == 8


def test_a_gpu_lost_before_opening_keeps_its_place_and_its_name(
    fake: FakeNvml, host: NvmlHost
) -> None:
    fake.lose(3)
    gpus = host.open()
    assert len(gpus) == 8
    assert gpus[3].identity().uuid == "unknown-3"
    assert "lost" in refusals(gpus[3])["open"]
    for call in (gpus[3].read_fast, gpus[3].read_medium, gpus[3].read_slow, gpus[3].reset_clocks):
        with pytest.raises(GpuLost):
            call()
    with pytest.raises(GpuLost):
        gpus[3].lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    fake.heal(3)
    assert host.open()[3].identity().uuid == fake.gpu_uuid(3)
    fake.lose(3)
    assert host.open()[3].identity().uuid == fake.gpu_uuid(3)


def test_one_denied_gpu_does_not_blind_us_to_the_others(fake: FakeNvml, host: NvmlHost) -> None:
    fake.refuse(0, "nvmlDeviceGetHandleByIndex_v2", 17)
    gpus = host.open()
    with pytest.raises(GpuDenied):
        gpus[0].read_fast()
    assert gpus[1].read_fast().power_w > 0


def test_a_host_where_no_gpu_answers_cannot_be_opened(fake: FakeNvml, host: NvmlHost) -> None:
    fake.lose(None)
    with pytest.raises(GpuLost):
        host.open()


def test_a_closed_host_gives_nothing_and_may_be_closed_again(
    host: NvmlHost, gpus: Sequence[GpuPort]
) -> None:
    host.close()
    host.close()
    with pytest.raises(DriverLost):
        gpus[0].read_fast()
    assert host.open()[0].read_fast().power_w > 0


def test_the_unofficial_binding_is_refused_by_name(
    host: NvmlHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site" / "pynvml-11.5.3.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(GpuError, match=r"pynvml-11\.5\.3.*uninstall pynvml"):
        host.open()


# --- other processes ----------------------------------------------------------------------------

CHILD = """
import json, sys
from collectors.nvml import NvmlHost
assert "pynvml" not in sys.modules, "the binding is loaded by open alone"
host = NvmlHost()
gpu = host.open()[0]
fast, medium = gpu.read_fast(), gpu.read_medium()
gpu.lock_clocks(clock_mhz_min=210, ceiling_mhz=1110)
heavy = sorted({"numpy", "scipy", "asyncio"} & set(sys.modules))
json.dump([fast.power_w, medium.margin_c, sorted(gpu.identity().refusals), heavy], sys.stdout)
"""


def child(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_another_process_finds_the_same_gpus_by_library_path(fake: FakeNvml) -> None:
    before = fake.truth(0)
    done = child(CHILD, fake.environment())
    assert done.returncode == 0, done.stderr
    power_w, margin_c, refused, heavy = json.loads(done.stdout)
    assert power_w == pytest.approx(before.power_w, rel=0.02)
    assert margin_c is not None
    assert refused == []
    assert heavy == []
    assert fake.truth(0).ceiling_mhz == 1110


def test_a_driver_without_the_margin_symbol_gives_the_same_margin_otherwise(
    tmp_path: Path, fake: FakeNvml
) -> None:
    (tmp_path / "old").mkdir()
    old = build(tmp_path / "old", omit=(MARGIN, "nvmlDeviceGetTemperatureV"))
    done = child(CHILD, fake.environment() | {"LD_LIBRARY_PATH": str(old.parent)})
    assert done.returncode == 0, done.stderr
    _, margin_c, refused, _ = json.loads(done.stdout)
    assert margin_c == 87 - int(fake.truth(0).temperature_c)
    assert refused == [MARGIN, "nvmlDeviceGetTemperatureV"]


def test_a_process_without_a_driver_says_so(fake: FakeNvml) -> None:
    code = "from collectors.nvml import NvmlHost\nNvmlHost().open()"
    done = child(code, fake.environment() | {"AMPACITY_NVML_STATE": "/nowhere"})
    assert done.returncode == 1
    assert "DriverLost: nvmlInit" in done.stderr


def test_a_client_that_dies_inside_a_call_does_not_lock_out_the_others(fake: FakeNvml) -> None:
    code = (
        "import os, sys, pathlib; from tests.libnvml import FakeNvml\n"
        "fake = FakeNvml(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
        "with fake.held(0): os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(fake.path), str(fake.library)]
    assert subprocess.run(command, cwd=ROOT, timeout=30, check=False).returncode == 9
    assert fake.truth(0).power_w > 0


def test_nvitop_exporter_reads_the_same_gpus(fake: FakeNvml, free_port: Callable[[], int]) -> None:
    exporter = Path(sys.executable).with_name("nvitop-exporter")
    port = free_port()
    command = [str(exporter), "-B", "127.0.0.1", "-p", str(port), "--interval", "1"]
    process = subprocess.Popen(
        command,
        env=os.environ | fake.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        text = scrape(f"http://127.0.0.1:{port}/metrics", "gpu_power_usage_W{", 15.0)
    finally:
        process.terminate()
        process.wait(10)
    watts = {
        line.split('uuid="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("gpu_power_usage_W{")
    }
    assert set(watts) == {fake.gpu_uuid(index) for index in range(8)}
    assert watts[fake.gpu_uuid(0)] == pytest.approx(fake.truth(0).power_w, rel=0.4)


def scrape(url: str, wanted: str, deadline_s: float) -> str:
    """The page once it holds a wanted word."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        try:
            with urllib.request.urlopen(url, timeout=1) as page:
                text: str = page.read().decode()
            if wanted in text:
                return text
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"no {wanted!r} at {url} within {deadline_s:g} s")
