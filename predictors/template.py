"""What an hour of the week usually looks like: the part of a forecast that repeats.

Means per hour of the week, and where a week has not been seen yet, of the same hour on other days.
Between the middles of two hours it is a straight line. Unknown is no expectation, never a guess.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from predictors.rises import BoolArray, FloatArray

HOUR_S: Final = 3_600.0
DAY_HOURS: Final = 24
WEEK_HOURS: Final = 168
NEW_WEEK_SHARE: Final = 0.4
"""What one more week weighs against all before it."""
CHANGE_RATIO_MAX: Final = 0.5
"""No expectation is further from now than this, whatever a strange week has taught."""


class WeekTemplate:
    """Learns levels by the hour and says by how much they usually change from now on."""

    def __init__(self, domain_count: int) -> None:
        self._mean = np.full((WEEK_HOURS, domain_count), np.nan)
        self._sum = np.zeros(domain_count)
        self._count = np.zeros(domain_count)
        self._hour: int | None = None
        self._usual = self._mean

    def forget(self, domains: BoolArray) -> None:
        """Start anew for `domains`."""
        self._mean[:, domains] = np.nan
        self._sum[domains] = self._count[domains] = 0.0
        self._usual = self._by_day()

    def learn(self, wall_s: float, level: FloatArray) -> None:
        """Take one level; NaN where it is not known.

        Args:
            wall_s: time of day, s since the epoch.
            level: of each domain.
        """
        hour = int(wall_s // HOUR_S) % WEEK_HOURS
        if hour != self._hour:
            if self._hour is not None:
                self._close(self._hour)
            self._hour = hour
        known = np.isfinite(level)
        self._sum += np.where(known, level, 0.0)
        self._count += known

    def _close(self, hour: int) -> None:
        seen = self._count > 0.0
        mean = self._sum / np.maximum(self._count, 1.0)
        before = self._mean[hour]
        blended = before + NEW_WEEK_SHARE * (mean - before)
        learnt = np.where(np.isfinite(before), blended, mean)
        self._mean[hour] = np.where(seen, learnt, before)
        self._sum = np.zeros_like(self._sum)
        self._count = np.zeros_like(self._count)
        self._usual = self._by_day()

    def _by_day(self) -> FloatArray:
        """The means, with the same hour of other days where an hour has not been seen."""
        days = self._mean.reshape(-1, DAY_HOURS, self._mean.shape[1])
        seen = np.isfinite(days)
        count = seen.sum(axis=0)
        total = np.where(seen, days, 0.0).sum(axis=0)
        of_day = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        filled: FloatArray = np.where(seen, days, of_day).reshape(self._mean.shape)
        return filled

    def change(self, wall_s: float, after_s: float) -> FloatArray:
        """By which share levels usually change from `wall_s` to `after_s` later; 0 if unknown."""
        now, then = self._at(wall_s), self._at(wall_s + after_s)
        ratio = then / now - 1.0
        change: FloatArray = np.clip(ratio, -CHANGE_RATIO_MAX, CHANGE_RATIO_MAX)
        return np.where(np.isfinite(change), change, 0.0)

    def _at(self, wall_s: float) -> FloatArray:
        hours = wall_s / HOUR_S - 0.5
        before = int(hours // 1.0)
        share = hours - before
        first, second = self._usual[before % WEEK_HOURS], self._usual[(before + 1) % WEEK_HOURS]
        level: FloatArray = (1.0 - share) * first + share * second
        return level
