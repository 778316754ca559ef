"""The clock actuator: what it asks for, and the word it has for what the hardware made of it.

Shown on readings alone; `test_clocks_nvml` shows each deviation once more on the fake driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from actuators.clocks import ClockActuator, ShadowClocks
from facility.ports import (
    DriverLost,
    FastReading,
    GpuDenied,
    GpuError,
    GpuInvalid,
    GpuLost,
    GpuUnsupported,
    MediumReading,
    SlowReading,
)
from facility.wire import GpuApplied, GpuIdentity
from simulator.gpu import H100_SXM

CLOCKS_MHZ = H100_SXM.clocks_mhz
IDENTITY = GpuIdentity(uuid="GPU-0", index=0, model="H100", clocks_mhz=CLOCKS_MHZ)


@dataclass
class ScriptedGpu:
    """A GPU that takes every write, unless `error` says otherwise, and waits at `gate` if told."""

    error: GpuError | None = None
    gate: threading.Event | None = None
    entered: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[int, int]] = field(default_factory=list)
    resets_count: int = 0

    def identity(self) -> GpuIdentity:
        return IDENTITY

    def read_fast(self) -> FastReading:
        return FastReading(300.0, 1200)

    def read_medium(self) -> MediumReading:
        return MediumReading()

    def read_slow(self) -> SlowReading:
        return SlowReading()

    def lock_clocks(self, *, clock_mhz_min: int, ceiling_mhz: int) -> None:
        error = self.error
        if self.gate is not None:
            gate, self.gate = self.gate, None  # the next write is free
            self.entered.set()
            gate.wait(10.0)
        if error is not None:
            raise error
        self.asked.append((clock_mhz_min, ceiling_mhz))

    def reset_clocks(self) -> None:
        if self.error is not None:
            raise self.error
        self.resets_count += 1


@pytest.fixture
def gpu() -> ScriptedGpu:
    return ScriptedGpu()


@pytest.fixture
def clocks(gpu: ScriptedGpu) -> ClockActuator:
    return ClockActuator(gpu, IDENTITY)


def fast(clock_mhz: int, *, limit_w: float | None = 700.0, brake_s: float = 0.0) -> FastReading:
    return FastReading(300.0, clock_mhz, power_limit_w=limit_w, brake_s=brake_s)


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ceiling_mhz", "accepted_mhz"),
    [(1200, 1200), (1214, 1200), (1215, 1215), (1980, 1980), (9999, 1980), (210, 210), (1, 210)],
)
def test_a_ceiling_is_snapped_down_and_the_minimum_is_the_lowest_clock(
    gpu: ScriptedGpu, clocks: ClockActuator, ceiling_mhz: int, accepted_mhz: int
) -> None:
    applied = clocks.write(ceiling_mhz)
    assert applied == GpuApplied(requested_mhz=ceiling_mhz, accepted_mhz=accepted_mhz)
    assert gpu.asked == [(210, accepted_mhz)]


@pytest.mark.parametrize(
    ("ceiling_mhz", "accepted_mhz"), [(1214, 1200), (1215, 1215), (224, 210), (100, 210)]
)
def test_without_a_clock_list_the_usual_grid_is_used(
    gpu: ScriptedGpu, ceiling_mhz: int, accepted_mhz: int
) -> None:
    silent = ClockActuator(gpu, GpuIdentity(uuid="GPU-0", index=0, model="?"))
    assert silent.write(ceiling_mhz).accepted_mhz == accepted_mhz
    assert gpu.asked == [(210, accepted_mhz)]


def test_zero_lifts_the_lock(gpu: ScriptedGpu, clocks: ClockActuator) -> None:
    assert clocks.write(0) == GpuApplied(requested_mhz=0, accepted_mhz=0)
    assert (gpu.asked, gpu.resets_count) == ([], 1)
    for at_s in (0.0, 1.0, 5.0):
        assert clocks.verify(at_s, fast(1980)).cause == ""


def test_a_negative_ceiling_is_refused_before_anything_is_written(
    gpu: ScriptedGpu, clocks: ClockActuator
) -> None:
    clocks.write(1200)
    with pytest.raises(ValueError, match="-15 MHz"):
        clocks.write(-15)
    assert (len(gpu.asked), clocks.last.accepted_mhz) == (1, 1200)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (GpuDenied("no"), "no-permission"),
        (GpuLost("gone"), "gpu-lost"),
        (GpuUnsupported("what"), "unsupported"),
        (GpuInvalid("grid"), "invalid"),
        (GpuError("later"), "driver"),
    ],
)
def test_a_refused_write_names_its_cause_until_the_next_one(
    gpu: ScriptedGpu, clocks: ClockActuator, error: GpuError, cause: str
) -> None:
    gpu.error = error
    assert clocks.write(1200) == GpuApplied(requested_mhz=1200, cause=cause)
    assert clocks.verify(9.0, fast(1980)) == GpuApplied(
        requested_mhz=1200, observed_mhz=1980, cause=cause
    )
    gpu.error = None
    assert clocks.write(1200).cause == ""
    assert clocks.verify(10.0, fast(1200)).cause == ""


def test_a_lost_driver_is_raised_because_every_lock_went_with_it(
    gpu: ScriptedGpu, clocks: ClockActuator
) -> None:
    gpu.error = DriverLost("reloaded")
    with pytest.raises(DriverLost):
        clocks.write(1200)
    assert clocks.last == GpuApplied(requested_mhz=1200, cause="driver")


# --- a clock above its ceiling ------------------------------------------------------------------


@pytest.mark.parametrize(("clock_mhz", "cause"), [(1215, ""), (1216, "silent-clamp")])
def test_a_clock_more_than_a_step_above_its_ceiling_is_a_deviation(
    clocks: ClockActuator, clock_mhz: int, cause: str
) -> None:
    clocks.write(1200)
    for at_s in (0.0, 0.3, 0.8):
        assert clocks.verify(at_s, fast(clock_mhz)).cause == ""
    applied = clocks.verify(1.4, fast(clock_mhz))
    assert applied == GpuApplied(
        requested_mhz=1200, accepted_mhz=1200, observed_mhz=clock_mhz, cause=cause
    )


@pytest.mark.parametrize(("at_s", "cause"), [(1.3, ""), (1.31, "silent-clamp")])
def test_a_clock_may_be_above_for_a_second_once_settled(
    clocks: ClockActuator, at_s: float, cause: str
) -> None:
    clocks.write(1200)
    for before_s in (0.0, 0.3):
        clocks.verify(before_s, fast(1980))
    assert clocks.verify(at_s, fast(1980)).cause == cause


def test_a_clock_that_dips_below_in_between_begins_anew(clocks: ClockActuator) -> None:
    clocks.write(1200)
    for at_s, clock_mhz in ((0.0, 1980), (0.3, 1980), (1.2, 1200), (1.3, 1980), (2.3, 1980)):
        assert clocks.verify(at_s, fast(clock_mhz)).cause == ""
    assert clocks.verify(2.4, fast(1980)).cause == "silent-clamp"


def test_every_write_gets_its_own_time_to_settle(clocks: ClockActuator) -> None:
    clocks.write(1980)
    clocks.verify(0.0, fast(1980))
    clocks.write(1200)
    for at_s in (10.0, 10.2, 11.3):
        assert clocks.verify(at_s, fast(1980)).cause == ""
    assert clocks.verify(12.4, fast(1980)).cause == "silent-clamp"


def test_an_idle_or_capped_gpu_below_its_ceiling_is_no_deviation(clocks: ClockActuator) -> None:
    clocks.write(1200)
    for at_s in range(10):
        medium = MediumReading(event_reasons=0x1 | 0x4, thermal_throttle_s=3.0)
        assert clocks.verify(float(at_s), fast(345), medium, SlowReading(700.0)).cause == ""


def test_before_any_write_there_is_nothing_to_deviate_from(clocks: ClockActuator) -> None:
    for at_s in (0.0, 5.0, 10.0):
        assert clocks.verify(at_s, fast(1980)) == GpuApplied(requested_mhz=0, observed_mhz=1980)


# --- who holds the clock ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "cause"),
    [(0x20, "thermal"), (0x40, "thermal"), (0x80, "power-brake"), (0xE8, "power-brake"), (0x5, "")],
)
def test_event_bits_name_the_limiter_until_they_clear(
    clocks: ClockActuator, bits: int, cause: str
) -> None:
    clocks.write(1200)
    assert clocks.verify(0.0, fast(900), MediumReading(event_reasons=bits)).cause == cause
    assert clocks.verify(0.1, fast(900)).cause == cause
    assert clocks.verify(0.5, fast(1200), MediumReading()).cause == ""


@pytest.mark.parametrize(
    ("margin_c", "cause"), [(None, "power-brake"), (5.0, "power-brake"), (0.0, "thermal")]
)
def test_a_bare_slowdown_bit_counts_from_its_second_sample(
    clocks: ClockActuator, margin_c: float | None, cause: str
) -> None:
    clocks.write(1200)
    slowed = MediumReading(event_reasons=0x8, margin_c=margin_c)
    assert clocks.verify(0.0, fast(600), slowed).cause == ""
    assert clocks.verify(0.5, fast(600), slowed).cause == cause
    assert clocks.verify(1.0, fast(1200), MediumReading()).cause == ""
    assert clocks.verify(1.5, fast(600), slowed).cause == ""


def test_counters_catch_what_happened_between_two_looks(clocks: ClockActuator) -> None:
    clocks.write(1200)
    quiet, warm = MediumReading(thermal_throttle_s=2.0), MediumReading(thermal_throttle_s=2.1)
    assert clocks.verify(0.0, fast(1200, brake_s=7.0), quiet).cause == ""
    assert clocks.verify(0.1, fast(1200, brake_s=7.02)).cause == "power-brake"
    assert clocks.verify(0.2, fast(1200, brake_s=7.02)).cause == ""
    assert clocks.verify(0.5, fast(1200, brake_s=7.02), warm).cause == "thermal"
    assert clocks.verify(1.0, fast(1200, brake_s=7.02), warm).cause == ""


def test_a_counter_that_starts_anew_or_is_missing_for_once_is_no_event(
    clocks: ClockActuator,
) -> None:
    clocks.write(1200)
    clocks.verify(0.0, fast(1200, brake_s=7.0))
    assert clocks.verify(0.1, fast(1200, brake_s=0.0)).cause == ""
    assert clocks.verify(0.2, FastReading(300.0, 1200)).cause == ""
    assert clocks.verify(0.3, fast(1200, brake_s=0.5)).cause == "power-brake"


@pytest.mark.parametrize(("enforced_w", "cause"), [(699.0, ""), (698.9, "foreign-limit")])
def test_an_enforced_limit_below_the_requested_one_is_foreign(
    clocks: ClockActuator, enforced_w: float, cause: str
) -> None:
    clocks.write(1200)
    assert clocks.verify(0.0, fast(1200, limit_w=enforced_w)).cause == ""
    assert (
        clocks.verify(0.1, fast(1200, limit_w=enforced_w), None, SlowReading(700.0)).cause == cause
    )
    assert clocks.verify(0.2, fast(1200, limit_w=enforced_w)).cause == cause
    assert clocks.verify(0.3, fast(1200, limit_w=700.0)).cause == ""
    assert clocks.verify(0.4, fast(1200, limit_w=None)).cause == ""


# --- hangs --------------------------------------------------------------------------------------


def hang_a_write(gpu: ScriptedGpu, clocks: ClockActuator) -> Callable[[], None]:
    """Begin a write of 1200 that hangs, give it up, and return what lets it land."""
    gate = gpu.gate = threading.Event()
    writer = threading.Thread(target=clocks.write, args=(1200,), daemon=True)
    writer.start()
    assert gpu.entered.wait(5.0)
    assert clocks.hung() == GpuApplied(requested_mhz=1200, cause="hung")

    def land() -> None:
        gate.set()
        writer.join(5.0)
        assert not writer.is_alive()

    return land


def test_a_write_given_up_is_hung_until_the_next_one_lands(
    gpu: ScriptedGpu, clocks: ClockActuator
) -> None:
    land = hang_a_write(gpu, clocks)
    assert clocks.verify(1.0, fast(900)).cause == "hung"
    assert clocks.write(900) == GpuApplied(requested_mhz=900, accepted_mhz=900)
    land()
    # The old write landed last: what holds is 1200 or 900, so nothing counts as accepted.
    assert gpu.asked == [(210, 900), (210, 1200)]
    assert clocks.last == GpuApplied(requested_mhz=900, cause="hung")
    assert clocks.write(900).cause == ""


def test_a_write_given_up_that_lands_after_all_counts_and_gets_time_to_settle(
    gpu: ScriptedGpu, clocks: ClockActuator
) -> None:
    land = hang_a_write(gpu, clocks)
    assert clocks.verify(1.0, fast(1980)).cause == "hung"
    land()
    assert clocks.last == GpuApplied(requested_mhz=1200, accepted_mhz=1200)
    for at_s in (9.0, 9.3, 10.3):
        assert clocks.verify(at_s, fast(1980)).cause == ""
    assert clocks.verify(10.4, fast(1980)).cause == "silent-clamp"


def test_a_write_given_up_that_fails_late_changes_nothing(
    gpu: ScriptedGpu, clocks: ClockActuator
) -> None:
    gpu.error = GpuError("timeout")
    land = hang_a_write(gpu, clocks)
    gpu.error = None
    clocks.write(900)
    land()
    assert clocks.last == GpuApplied(requested_mhz=900, accepted_mhz=900)


def test_a_gpu_that_cannot_be_read_keeps_what_was_accepted_and_names_why(
    clocks: ClockActuator,
) -> None:
    clocks.write(1200)
    assert clocks.unreadable(GpuLost("gone")) == GpuApplied(
        requested_mhz=1200, accepted_mhz=1200, cause="gpu-lost"
    )


# --- shadow -------------------------------------------------------------------------------------


def test_shadow_writes_nothing_and_says_so(gpu: ScriptedGpu) -> None:
    shadow = ShadowClocks(gpu, IDENTITY)
    assert shadow.write(1214) == GpuApplied(requested_mhz=1214, cause="shadow")
    assert shadow.write(0).cause == "shadow"
    shadow.write(1214)
    assert shadow.verify(5.0, fast(1980)) == GpuApplied(
        requested_mhz=1214, observed_mhz=1980, cause="shadow"
    )
    assert shadow.hung() == shadow.unreadable(GpuLost("gone")) == shadow.last
    assert shadow.snap_mhz(1214) == 1200
    assert (gpu.asked, gpu.resets_count) == ([], 0)
