"""What the NVML adapter makes of each fault a driver can show: what the agent will see of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

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
from tests.libnvml import FakeNvml

pytest_plugins = ["tests.libnvml.fixtures"]

MARGIN = "nvmlDeviceGetMarginTemperature"
POWER_USAGE = "nvmlDeviceGetPowerUsage"
BLANKS = (2**63 - 1, 2**63 - 16, -1, 0x7FFFFFF0)


def refusals(gpu: GpuPort) -> dict[str, str]:
    return gpu.identity().refusals


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
        (25, GpuUnsupported),
        (26, GpuUnsupported),
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


def braked(fake: FakeNvml, host: NvmlHost, version: str) -> GpuPort:
    """A GPU under some driver whose brake pin has been pulled for half a second."""
    fake.reload_driver(version=version)
    gpu = host.open()[0]
    fake.brake(0, on=True)
    fake.elapse(0.5)
    return gpu


@pytest.mark.parametrize("version", ["", "535.183.01", "570.172.08", "575.57.08", "580.65.06"])
def test_field_numbers_that_meant_something_else_are_not_read_as_slowdown_counters(
    fake: FakeNvml, host: NvmlHost, version: str
) -> None:
    gpu = braked(fake, host, version)
    medium = gpu.read_medium()
    assert gpu.read_fast().brake_s is None
    assert medium.thermal_throttle_s == 0.0  # the older counter of both kinds together
    assert medium.event_reasons & 0x80  # so the brake is still seen
    assert "580.82" in refusals(gpu)["field 271 POWER_BRAKE"]


@pytest.mark.parametrize("version", ["580.82.07", "580.159.04", "590.44.01"])
def test_slowdown_counters_are_read_where_their_numbers_are_todays(
    fake: FakeNvml, host: NvmlHost, version: str
) -> None:
    gpu = braked(fake, host, version)
    assert gpu.read_fast().brake_s == pytest.approx(0.5, abs=0.02)
    assert refusals(gpu) == {}


@pytest.mark.parametrize("code", [25, 26])
def test_a_call_that_this_driver_has_in_another_version_gives_way_to_the_older_one(
    fake: FakeNvml, gpus: Sequence[GpuPort], code: int
) -> None:
    fake.refuse(0, "nvmlDeviceGetTemperatureV", code)
    assert gpus[0].read_medium().temperature_c == int(fake.truth(0).temperature_c)


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
