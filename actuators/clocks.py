"""Locks the clocks of one GPU under a ceiling, and says what the hardware made of it.

It owns the snap to the supported grid, the comparison of the observed clock with the ceiling, and
the word for a deviation. NVML has no call that reads a lock back: a write that succeeds is only a
request, so the clock and the limiters are the read-back. It never decides a ceiling, never retries
and knows no clock: time is an argument.
"""

from __future__ import annotations

import bisect
import math
from typing import Final

from facility.ports import (
    DriverLost,
    FastReading,
    GpuError,
    GpuPort,
    MediumReading,
    SlowReading,
)
from facility.wire import GpuApplied, GpuIdentity

SETTLE_S: Final = 0.3  # 20 ms is usual, 300 ms the tail: physics C.1, the tail an assumption
ABOVE_MHZ: Final = 15  # one step of the grid                                        from memory
ABOVE_S: Final = 1.0  # a clock above for longer is no transient                     from memory
LIMIT_TOLERANCE_W: Final = 1.0

FALLBACK_CLOCK_MHZ_MIN: Final = 210  # of Ampere and Hopper data-centre parts        from memory
FALLBACK_STEP_MHZ: Final = 15  # likewise
"""The grid where the driver does not tell its clocks."""

HW_SLOWDOWN: Final = 0x8
SW_THERMAL: Final = 0x20
HW_THERMAL: Final = 0x40
POWER_BRAKE: Final = 0x80
"""Event reasons of NVML that name a limiter; the power cap (0x4) is normal work."""

HW_SLOWDOWN_SAMPLES: Final = 2
"""The bit may flicker when the performance state changes: one sample says nothing."""


class ClockActuator:
    """One GPU's lock. `write` may block and may run in a worker; `verify` only compares.

    Every method returns a `GpuApplied`: asked for, accepted by the driver, seen on the hardware,
    and the cause of a deviation, empty when there is none. A clock below the ceiling is none, since
    idle GPUs and power-capped ones run there, unless a limiter says that it holds the clock.
    """

    def __init__(self, port: GpuPort, identity: GpuIdentity) -> None:
        """Lock through `port` on the clocks of `identity`; nothing is written yet."""
        self._port = port
        self._clocks_mhz = identity.clocks_mhz
        self._limiters = Limiters()
        self._writes_count = 0
        self._last = GpuApplied(requested_mhz=0)
        self._judged = self._last
        self._judge_from_s = math.inf
        self._above_since_s = math.inf

    @property
    def last(self) -> GpuApplied:
        """What became of the last write, as far as is known."""
        return self._last

    def snap_mhz(self, ceiling_mhz: int) -> int:
        """The highest supported clock within `ceiling_mhz`; the lowest one when none is."""
        if self._clocks_mhz:
            return self._clocks_mhz[max(bisect.bisect_right(self._clocks_mhz, ceiling_mhz) - 1, 0)]
        snapped = ceiling_mhz // FALLBACK_STEP_MHZ * FALLBACK_STEP_MHZ
        return max(snapped, FALLBACK_CLOCK_MHZ_MIN)

    def write(self, ceiling_mhz: int) -> GpuApplied:
        """Lock from the lowest supported clock to `ceiling_mhz`, snapped down; 0 lifts the lock.

        The lowest clock, because a high minimum keeps an idle GPU hot.

        Raises:
            DriverLost: the driver is gone, and every lock with it.
            ValueError: a negative ceiling.
        """
        if ceiling_mhz < 0:
            raise ValueError(f"a ceiling of {ceiling_mhz} MHz: 0 lifts the lock, above 0 sets it")
        self._writes_count += 1
        number = self._writes_count
        self._last = GpuApplied(requested_mhz=ceiling_mhz)
        try:
            accepted_mhz = self._ask(ceiling_mhz)
        except DriverLost:
            self._end(number, GpuApplied(requested_mhz=ceiling_mhz, cause=DriverLost.cause))
            raise
        except GpuError as error:
            return self._end(number, GpuApplied(requested_mhz=ceiling_mhz, cause=error.cause))
        return self._end(number, GpuApplied(requested_mhz=ceiling_mhz, accepted_mhz=accepted_mhz))

    def _ask(self, ceiling_mhz: int) -> int:
        if ceiling_mhz == 0:
            self._port.reset_clocks()
            return 0
        accepted_mhz = self.snap_mhz(ceiling_mhz)
        lowest_mhz = self._clocks_mhz[0] if self._clocks_mhz else FALLBACK_CLOCK_MHZ_MIN
        self._port.lock_clocks(clock_mhz_min=lowest_mhz, ceiling_mhz=accepted_mhz)
        return accepted_mhz

    def _end(self, number: int, applied: GpuApplied) -> GpuApplied:
        """Keep the result of a write, unless a later one began while it hung."""
        if number == self._writes_count:
            self._last = applied
        elif applied.accepted_mhz is not None:
            # Which of the two locks the hardware holds is unknown until the next write.
            requested_mhz = self._last.requested_mhz
            self._last = GpuApplied(requested_mhz=requested_mhz, cause="hung")
        return applied

    def hung(self) -> GpuApplied:
        """The write under way is waited for no longer; it may still land, and then counts."""
        self._last = GpuApplied(requested_mhz=self._last.requested_mhz, cause="hung")
        return self._last

    def unreadable(self, error: GpuError) -> GpuApplied:
        """The GPU cannot be read, so what it makes of the lock is not known."""
        last = self._last
        return GpuApplied(
            requested_mhz=last.requested_mhz,
            accepted_mhz=last.accepted_mhz,
            cause=last.cause or error.cause,
        )

    def verify(
        self,
        now_s: float,
        fast: FastReading,
        medium: MediumReading | None = None,
        slow: SlowReading | None = None,
    ) -> GpuApplied:
        """Compare what was read at `now_s` with what was asked.

        A clock above the ceiling is a deviation, `silent-clamp`, when it lasts longer than
        `ABOVE_S` once the lock has had `SETTLE_S`, counted from the first look after the write.
        """
        limiter = self._limiters.see(fast, medium, slow)
        last = self._last
        cause = last.cause or ("silent-clamp" if self._above(now_s, fast, last) else limiter)
        return GpuApplied(
            requested_mhz=last.requested_mhz,
            accepted_mhz=last.accepted_mhz,
            observed_mhz=fast.sm_clock_mhz,
            cause=cause,
        )

    def _above(self, now_s: float, fast: FastReading, last: GpuApplied) -> bool:
        """Whether the clock has been above the accepted ceiling for too long."""
        if self._judged is not last:
            self._judged = last
            self._judge_from_s = now_s + SETTLE_S
            self._above_since_s = math.inf
        accepted_mhz = last.accepted_mhz
        if not accepted_mhz or now_s < self._judge_from_s:
            return False
        if fast.sm_clock_mhz <= accepted_mhz + ABOVE_MHZ:
            self._above_since_s = math.inf
            return False
        self._above_since_s = min(self._above_since_s, now_s)
        return now_s - self._above_since_s > ABOVE_S


class ShadowClocks:
    """In place of a `ClockActuator`: writes nothing, and says so with the cause `shadow`."""

    def __init__(self, port: GpuPort, identity: GpuIdentity) -> None:
        """Take what a `ClockActuator` takes; the port is never written."""
        self._snap = ClockActuator(port, identity)
        self._requested_mhz = 0

    @property
    def last(self) -> GpuApplied:
        """What would have been asked for."""
        return GpuApplied(requested_mhz=self._requested_mhz, cause="shadow")

    def snap_mhz(self, ceiling_mhz: int) -> int:
        """The clock that a write would ask for."""
        return self._snap.snap_mhz(ceiling_mhz)

    def write(self, ceiling_mhz: int) -> GpuApplied:
        """Remember the ceiling."""
        self._requested_mhz = ceiling_mhz
        return self.last

    def hung(self) -> GpuApplied:
        """Nothing can hang here."""
        return self.last

    def unreadable(self, error: GpuError) -> GpuApplied:  # noqa: ARG002
        """Nothing was asked of the GPU."""
        return self.last

    def verify(
        self,
        now_s: float,  # noqa: ARG002
        fast: FastReading,
        medium: MediumReading | None = None,  # noqa: ARG002
        slow: SlowReading | None = None,  # noqa: ARG002
    ) -> GpuApplied:
        """The clock as it runs without us."""
        return GpuApplied(
            requested_mhz=self._requested_mhz, observed_mhz=fast.sm_clock_mhz, cause="shadow"
        )


class Limiters:
    """Which limiter holds the clock now, from event bits and from counters that have risen.

    Counters catch what happens between two looks, bits what lasts. A counter that restarts with
    the driver begins anew.
    """

    def __init__(self) -> None:
        """Know nothing: the first look only sets the counters."""
        self._brake_s: float | None = None
        self._thermal_s: float | None = None
        self._requested_w: float | None = None
        self._slow_samples_count = 0
        self._medium_cause = ""

    def see(self, fast: FastReading, medium: MediumReading | None, slow: SlowReading | None) -> str:
        """The word for the limiter at work, the gravest first, empty when there is none.

        `medium` and `slow` are None when they were not due; what they last said still holds.
        """
        braked = _has_risen(self._brake_s, fast.brake_s)
        self._brake_s = self._brake_s if fast.brake_s is None else fast.brake_s
        if medium is not None:
            self._medium_cause = self._cause_of(medium)
        if slow is not None:
            self._requested_w = slow.power_limit_requested_w
        if braked or self._medium_cause == "power-brake":
            return "power-brake"
        return self._medium_cause or self._foreign(fast)

    def _cause_of(self, medium: MediumReading) -> str:
        hot = _has_risen(self._thermal_s, medium.thermal_throttle_s)
        if medium.thermal_throttle_s is not None:
            self._thermal_s = medium.thermal_throttle_s
        bits = medium.event_reasons
        self._slow_samples_count = self._slow_samples_count + 1 if bits & HW_SLOWDOWN else 0
        if bits & POWER_BRAKE:
            return "power-brake"
        if hot or bits & (SW_THERMAL | HW_THERMAL):
            return "thermal"
        if self._slow_samples_count >= HW_SLOWDOWN_SAMPLES:
            # Cut to half and more without saying why: heat if there is no margin, else the brake.
            no_margin = medium.margin_c is not None and medium.margin_c <= 0
            return "thermal" if no_margin else "power-brake"
        return ""

    def _foreign(self, fast: FastReading) -> str:
        """An enforced limit below the requested one is somebody else's: BMC, VBIOS."""
        if fast.power_limit_w is None or self._requested_w is None:
            return ""
        lower = fast.power_limit_w < self._requested_w - LIMIT_TOLERANCE_W
        return "foreign-limit" if lower else ""


def _has_risen(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and now > before
