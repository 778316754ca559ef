"""What each domain will draw within one reaction, as a quantile.

Short-term trend, or the rises that the domain itself has shown, whichever is more; while its
history is short, the fastest rise known for an inference row instead, which is larger. The forecast
says which. Longer horizons add what the hour of the week usually brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from facility.config import ControlConfig
from predictors.rises import BoolArray, FloatArray, RiseTracker
from predictors.steady import Steady
from predictors.template import WeekTemplate

LATER_S: Final = (10.0, 40.0, 300.0, 1_800.0)
"""Horizons beyond the reaction: a redirected request, a command through a server's own controller,
a changed pool, a started instance (papers: section 8.1)."""
LATER_QUANTILE: Final = 0.99
LOOKS_PER_HORIZON: Final = 10
"""A later horizon is looked at so often while it passes."""
OPEN_MAX: Final = 2_000
"""Missing cycles beyond this many leave nothing that is still remembered."""
TREND_S: Final = 5.0
"""The slope is taken over this long; shorter follows noise, longer misses a ramp."""
OWN_CHANGE_RATIO: Final = 0.01
"""Where clocks alone have moved a domain by more than this in a cycle, its rise is our own work."""
ASSUMED_CHANGE_RATIO: Final = 0.01
"""Where what is assumed and not read has moved a domain by more than this, it has not risen."""


@dataclass(frozen=True, slots=True)
class PowerForecast:
    """Per domain: power now, power at the horizon as a quantile, and whether history backs it.

    All arrays have one entry per domain, in site order; W.
    """

    power_w: FloatArray
    forecast_w: FloatArray
    from_history: BoolArray

    @property
    def rise_w(self) -> FloatArray:
        """How much more than now is to be expected; never negative."""
        return np.maximum(self.forecast_w - self.power_w, 0.0)


def steady_s(control: ControlConfig) -> float:
    """Age of the mean that a slow path answers: half of what a command takes; 0 in band, s."""
    return control.actuation_s / 2.0 if control.actuation_s > control.cycle_s else 0.0


class PowerForecaster:
    """Learns one sample per cycle and forecasts all domains at once.

    Args:
        domain_count: number of domains.
        cycle_s: seconds between samples.
        horizon_s: how far ahead: one reaction, from sample to effect.
        quantile: share of futures that the forecast covers, their highest moment included.
        spike_ratio: rise within the horizon to assume without history, as a share of power.
        steady_s: age of the mean that rises are told from; 0 for the power of the moment. For who
            answers so slowly that the moment is gone by then.
        later_s: further horizons, for `later`.
    """

    def __init__(
        self,
        domain_count: int,
        *,
        cycle_s: float,
        horizon_s: float,
        quantile: float,
        spike_ratio: float,
        steady_s: float = 0.0,
        later_s: tuple[float, ...] = (),
    ) -> None:
        self._cycle_s = cycle_s
        self._spike_ratio = spike_ratio
        steps = max(int(np.ceil(horizon_s / cycle_s - 1e-9)), 1)
        self._rises = RiseTracker(
            domain_count, steps=steps, stride=1, cycle_s=cycle_s, quantile=quantile
        )
        self.later_s = later_s
        self._later = []
        for later in later_s:
            steps = max(int(np.ceil(later / cycle_s - 1e-9)), 1)
            stride = max(steps // LOOKS_PER_HORIZON, 1)
            self._later.append(
                RiseTracker(
                    domain_count,
                    steps=steps,
                    stride=stride,
                    cycle_s=cycle_s,
                    quantile=LATER_QUANTILE,
                )
            )
        self._template = WeekTemplate(domain_count)
        self._trend_steps = max(int(TREND_S / cycle_s), 1)
        # A slope says something about as long as it was taken over, and no more.
        self._trend_reach = min(horizon_s / (self._trend_steps * cycle_s), 1.0)
        self._recent = np.full((self._trend_steps + 1, domain_count), np.nan)
        self._place = 0
        self._steady = Steady(age_s=steady_s, cycle_s=cycle_s)
        self._held_ratio: FloatArray | None = None
        self._assumed_w: FloatArray | None = None
        self._last_s: float | None = None

    @classmethod
    def of(cls, control: ControlConfig, domain_count: int) -> Self:
        """The forecaster that a site's control section asks for."""
        return cls(
            domain_count,
            cycle_s=control.cycle_s,
            horizon_s=control.horizon_s,
            quantile=control.forecast_quantile,
            spike_ratio=control.spike_ratio,
            steady_s=steady_s(control),
        )

    def forget(self, domains: BoolArray) -> None:
        """Drop the history of `domains`: what they carry has changed, so their rises say nothing.

        Args:
            domains: one flag per domain.
        """
        self._recent[:, domains] = np.nan
        for tracker in (self._rises, *self._later):
            tracker.forget(domains)
        self._steady.cut(domains)
        self._template.forget(domains)

    def forecast(
        self,
        power_w: FloatArray,
        *,
        free_w: FloatArray | None = None,
        assumed_w: FloatArray | None = None,
        now_s: float | None = None,
        wall_s: float | None = None,
    ) -> PowerForecast:
        """Learn this cycle's power and forecast the horizon.

        Args:
            power_w: power of each domain now, W; missing nodes already at their worst case.
            free_w: what each would draw with nobody slowed, W: rises are learnt on this, so that
                what clocks do to power is not taken for load. `power_w` if not given.
            assumed_w: how much of `power_w` is assumed because nobody read it: when a node falls
                silent its worst case takes the place of a reading, which is no load that has come.
            now_s: monotonic time; cycles that are missing since the last call are left open. A
                cycle after the last one if not given.
            wall_s: time of day for the hour of the week, which is not learnt if not given.
        """
        self._leave_open(now_s)
        self._cut_where_assumed(power_w, assumed_w)
        level = self._level(power_w, free_w)
        trend = self._trend(level)
        steady = self._steady.of(level)
        if steady is not level:
            # What is above its mean now stays there, for all that is known.
            trend = np.fmax((1.0 + trend) * level / steady - 1.0, trend)
        self._rises.learn(level, trend, origin=steady)
        for later_s, tracker in zip(self.later_s, self._later, strict=True):
            tracker.learn(level, self._usual(tracker, wall_s, later_s))
        if wall_s is not None:
            self._template.learn(wall_s, level)
        backed = self._rises.backed
        rise = np.maximum(self._rises.rise, trend)
        if not backed.all():
            rise = np.where(backed, rise, np.maximum(rise, self._spike_ratio))
        return PowerForecast(power_w.copy(), power_w * (1.0 + rise), backed)

    def later(self, power_w: FloatArray, wall_s: float | None = None) -> tuple[PowerForecast, ...]:
        """What is to be expected within each of `later_s`, by what has been learnt so far.

        Args:
            power_w: power of each domain now, W.
            wall_s: time of day for the hour of the week.
        """
        found = []
        for later_s, tracker in zip(self.later_s, self._later, strict=True):
            expected = self._template.change(wall_s, later_s) if wall_s is not None else 0.0
            rise = np.maximum(tracker.rise, expected)
            rise = np.where(tracker.backed, rise, np.maximum(rise, self._spike_ratio))
            found.append(PowerForecast(power_w, power_w * (1.0 + rise), tracker.backed))
        return tuple(found)

    def _usual(self, tracker: RiseTracker, wall_s: float | None, later_s: float) -> FloatArray:
        if wall_s is None or not tracker.looks_now:
            return np.zeros(self._recent.shape[1])
        return self._template.change(wall_s, later_s)

    def _leave_open(self, now_s: float | None) -> None:
        """Cycles that did not happen: unknown, and not as if power had jumped."""
        last_s, self._last_s = self._last_s, now_s
        if now_s is None or last_s is None:
            return
        unknown = np.full(self._recent.shape[1], np.nan)
        missing = round((now_s - last_s) / self._cycle_s) - 1
        if missing > 0:
            self._steady.of(unknown)
        for _ in range(min(missing, OPEN_MAX)):
            self._trend(unknown)
            for tracker in (self._rises, *self._later):
                tracker.learn(unknown, 0.0)

    def _cut_where_assumed(self, power_w: FloatArray, assumed_w: FloatArray | None) -> None:
        """Begin the series anew, and not the history, where other watts are assumed than before."""
        before, self._assumed_w = self._assumed_w, assumed_w
        if before is None or assumed_w is None:
            return
        jumped = np.abs(assumed_w - before) > ASSUMED_CHANGE_RATIO * power_w
        if not jumped.any():
            return
        self._recent[:, jumped] = np.nan
        for tracker in (self._rises, *self._later):
            tracker.cut(jumped)
        self._steady.cut(jumped)

    def _level(self, power_w: FloatArray, free_w: FloatArray | None) -> FloatArray:
        """What rises are learnt on; unknown where power moved because clocks did."""
        if free_w is None:
            return np.where(power_w > 0.0, power_w, np.nan)
        held_ratio = free_w / np.maximum(power_w, 1.0)
        before, self._held_ratio = self._held_ratio, held_ratio
        known = power_w > 0.0
        if before is not None:
            known &= np.abs(held_ratio - before) <= OWN_CHANGE_RATIO * before
        return np.where(known, free_w, np.nan)

    def _trend(self, level: FloatArray) -> FloatArray:
        """What the slope of the last seconds adds within the horizon, as a share."""
        self._place = (self._place + 1) % len(self._recent)
        before = self._recent[(self._place + 1) % len(self._recent)]
        rise = (level / before - 1.0) * self._trend_reach
        self._recent[self._place] = level
        trend: FloatArray = np.fmax(rise, 0.0)
        return trend
