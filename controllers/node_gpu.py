"""One GPU as its node's brain knows it: what was read, and what became of its ceiling.

`GpuReadings` turns samples into one reading per frame and says how far to believe it. `GpuLock`
decides when a ceiling is written: lower at once, higher at a bounded rate, again when it did not
take. Neither decides which ceiling.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from controllers.node_hands import GpuSample
from facility.ports import FastReading, MediumReading, SlowReading
from facility.wire import (
    SAMPLES_PER_FRAME_MAX,
    GpuApplied,
    GpuIdentity,
    GpuReading,
    Quality,
)

STALE_POWER_RATIO: Final = 1.1
STALE_PERIODS: Final = 3
UNKNOWN_POWER_W: Final = 1_400.0  # from memory: the largest limit of a card sold in 2026
"""Worst case of a GPU that has never told its limit."""

RAISE_INTERVAL_S: Final = 1.0
"""A ceiling rises at most this often per GPU: writes are traffic to the GPU's own controller."""
RETRY_S_MIN: Final = 1.0
RETRY_S_MAX: Final = 30.0
DRIFT_CAUSE: Final = "silent-clamp"
"""The driver has accepted a ceiling and the clock stays above it (`actuators.clocks`)."""
DRIFTS_IGNORED: Final = 3
"""Times in a row that a lock may drift before nobody may count on it."""
OBEYED_S: Final = 5.0
"""A lock that has held for so long since the last write is obeyed again."""
NEVER_RETRIED: Final = frozenset({"invalid", "unsupported"})
"""The same call would fail the same way; a new ceiling or a new driver is asked again."""
UNCONTROLLABLE: Final = frozenset({"no-permission", "unsupported", "shadow"})

_POWER_W_MAX: Final = 20_000.0
_CLOCK_MHZ_MAX: Final = 10_000
_NO_MEDIUM: Final = MediumReading()
_NO_SLOW: Final = SlowReading()


def bounded(value: float | None, low: float, high: float) -> float | None:
    """`value` if it is a number within the bounds of the wire, else None: no reading."""
    return value if value is not None and low <= value <= high else None


def _rounded(value: float | None) -> float | None:
    """Three decimals: below a millisecond or a millijoule there is nothing to know."""
    return None if value is None else round(value, 3)


class GpuReadings:
    """The samples of one GPU since the last frame, and the last value of everything else."""

    def __init__(self, identity: GpuIdentity) -> None:
        """Start without a reading."""
        self.identity = identity
        self.fast: FastReading | None = None
        self.medium = _NO_MEDIUM
        self.slow = _NO_SLOW
        self.sampled_s = -math.inf
        self._samples_w: deque[float] = deque(maxlen=SAMPLES_PER_FRAME_MAX)

    def take(self, sample: GpuSample) -> bool:
        """Keep a sample; False when its power or clock cannot be true and it was thrown away."""
        if sample.medium is not None:
            self.medium = sample.medium
        if sample.slow is not None:
            self.slow = sample.slow
        fast = sample.fast
        if fast is None:
            return True
        # Comparisons with NaN are false, so that it falls through to the refusal.
        if not (0.0 <= fast.power_w <= _POWER_W_MAX and 0 <= fast.sm_clock_mhz <= _CLOCK_MHZ_MAX):
            return False
        self.fast = fast
        self.sampled_s = sample.at_s
        self._samples_w.append(fast.power_w)
        return True

    @property
    def clock_mhz(self) -> int:
        """The clock last seen, 0 when never."""
        return self.fast.sm_clock_mhz if self.fast is not None else 0

    @property
    def power_limit_w(self) -> float:
        """The most that this GPU draws, as far as anybody has told."""
        limits = (
            self.fast.power_limit_w if self.fast is not None else None,
            self.identity.power_limit_w_max,
            self.identity.power_limit_w_default,
        )
        told_w = [limit for limit in limits if limit is not None and 0.0 < limit <= _POWER_W_MAX]
        # The largest: a lower limit that somebody set may be lifted while nobody can look.
        return max(told_w, default=UNKNOWN_POWER_W)

    def frame(
        self,
        now_s: float,
        *,
        ceiling_mhz: int,
        fresh_s: float,
        stale_s: float,
        lost: bool,
        confirmed: bool,
    ) -> GpuReading:
        """One reading for a frame, and begin the next frame.

        Fresh up to `fresh_s` after the last sample, then stale with a tenth more than the last
        power, then from `stale_s` on, or when `lost`, missing at the worst case. A fresh reading
        is suspect until a write is `confirmed` in this life of the driver.
        """
        samples_w = tuple(self._samples_w)
        self._samples_w.clear()
        age_s = now_s - self.sampled_s
        if lost or self.fast is None or age_s > stale_s:
            return self._missing(ceiling_mhz)
        if age_s > fresh_s:
            power_w = min(self.fast.power_w * STALE_POWER_RATIO, self.power_limit_w)
            return self._reading(Quality.STALE, (), power_w, ceiling_mhz)
        quality = Quality.GOOD if confirmed else Quality.SUSPECT
        power_w = sum(samples_w) / len(samples_w) if samples_w else self.fast.power_w
        return self._reading(quality, samples_w, power_w, ceiling_mhz)

    def _missing(self, ceiling_mhz: int) -> GpuReading:
        worst_w = self.power_limit_w
        return GpuReading(
            uuid=self.identity.uuid,
            quality=Quality.MISSING,
            power_w=worst_w,
            power_w_max=worst_w,
            ceiling_mhz=ceiling_mhz,
        )

    def _reading(
        self, quality: Quality, samples_w: tuple[float, ...], power_w: float, ceiling_mhz: int
    ) -> GpuReading:
        fast, medium = self.fast, self.medium
        assert fast is not None
        return GpuReading(
            uuid=self.identity.uuid,
            quality=quality,
            power_w=round(power_w, 1),
            power_w_max=round(max(samples_w, default=power_w), 1),
            power_samples_w=tuple(round(sample_w, 1) for sample_w in samples_w),
            power_limit_w=bounded(fast.power_limit_w, 0.0, _POWER_W_MAX),
            power_limit_requested_w=bounded(self.slow.power_limit_requested_w, 0.0, _POWER_W_MAX),
            energy_j=_rounded(bounded(medium.energy_j, 0.0, 1e12)),
            sm_clock_mhz=fast.sm_clock_mhz,
            ceiling_mhz=ceiling_mhz,
            temperature_c=bounded(medium.temperature_c, -60.0, 200.0),
            margin_c=bounded(medium.margin_c, -60.0, 200.0),
            memory_temperature_c=bounded(medium.memory_temperature_c, -60.0, 200.0),
            memory_margin_c=bounded(medium.memory_margin_c, -60.0, 200.0),
            power_throttle_s=_rounded(bounded(fast.power_throttle_s, 0.0, 1e12)),
            thermal_throttle_s=_rounded(bounded(medium.thermal_throttle_s, 0.0, 1e12)),
            brake_s=_rounded(bounded(fast.brake_s, 0.0, 1e12)),
            event_reasons=medium.event_reasons if 0 <= medium.event_reasons <= 2**62 else 0,
        )


class GpuLock:
    """The ceiling of one GPU: what was asked, what the driver made of it, and when to ask again."""

    def __init__(self) -> None:
        """Start with nothing asked for: the first ceiling is written at once."""
        self.requested_mhz = 0
        """The ceiling last asked for, 0 for none."""
        self.result: GpuApplied | None = None
        """What became of the last request; None while it is under way, or none was made."""
        self.answered = False
        """Whether the driver has answered any request, well or not, since it was opened."""
        self.told_cause = ""
        """The cause of the last result, kept while the next request is under way."""
        self.asked_s = -math.inf
        self._again_s = math.inf
        self._failures_count = 0
        self._drifts_count = 0

    @property
    def under_way_s(self) -> float | None:
        """When the request under way was made; None when none is."""
        return self.asked_s if self.requested_mhz and self.result is None else None

    def due(self, target_mhz: int, now_s: float) -> bool:
        """Whether `target_mhz` must be written now. Lowering is never delayed."""
        if target_mhz < self.requested_mhz or not self.requested_mhz:
            return True
        if self.result is None:
            return False
        if target_mhz > self.requested_mhz:
            return now_s - self.asked_s >= RAISE_INTERVAL_S
        return now_s >= self._again_s

    def asked(self, target_mhz: int, now_s: float) -> None:
        """A write of `target_mhz` is on its way."""
        if target_mhz != self.requested_mhz:
            self._failures_count = 0
        self.requested_mhz = target_mhz
        self.result = None
        self.asked_s = now_s
        self._again_s = math.inf

    def finished(self, applied: GpuApplied, now_s: float) -> bool:
        """Take a result; False when it belongs to an older request."""
        if applied.requested_mhz != self.requested_mhz:
            return False
        self.result, self.told_cause, self.answered = applied, applied.cause, True
        if applied.accepted_mhz is None and applied.cause not in NEVER_RETRIED:
            self._again_s = now_s + self._backoff_s()
        return True

    def _backoff_s(self) -> float:
        wait_s = min(RETRY_S_MIN * 2.0**self._failures_count, RETRY_S_MAX)
        self._failures_count = min(self._failures_count + 1, 16)
        return wait_s

    def watch(self, seen: GpuApplied, at_s: float) -> bool:
        """Take what the readings say of the ceiling; True when the lock has drifted.

        A lock cannot be read back, so a clock that stays above the ceiling means that somebody
        moved it, or that it never took: it is asked for again, the first time at once.
        """
        if (
            self.result is None
            or self.result.accepted_mhz is None
            or at_s <= self.asked_s
            or seen.requested_mhz != self.requested_mhz
        ):
            return False
        self.result, self.told_cause = seen, seen.cause
        if seen.cause != DRIFT_CAUSE:
            if at_s - self.asked_s > OBEYED_S:
                self._drifts_count = 0
            return False
        if self._again_s < math.inf:
            return False
        wait_s = RETRY_S_MIN * 2.0**self._drifts_count
        self._again_s = at_s + (min(wait_s, RETRY_S_MAX) if self._drifts_count else 0.0)
        self._drifts_count = min(self._drifts_count + 1, 16)
        return True

    @property
    def is_ignored(self) -> bool:
        """Whether the hardware goes on to disregard ceilings that the driver accepts."""
        return self._drifts_count >= DRIFTS_IGNORED
