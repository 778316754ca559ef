"""How much a series rises within one horizon, as a quantile that is calibrated while it runs.

Adaptive conformal: after each horizon it is known whether what was said has been passed, and what
is said next moves up by a little if so and down by much less if not, so that in the long run it is
passed exactly as often as the quantile allows, whatever the series is. What no rise has reached for
long is not said any more, so that one spike is not held for hours. One horizon, many domains, no
copy of any window.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

HISTORY_S_MIN: Final = 60.0
"""Below this much history rises say nothing; a high quantile needs more: 1 / (1 - q) rises."""
GAIN: Final = 0.2
"""Step of the quantile as a share of the usual rise: it is found again after some 100 rises."""
USUAL_COUNT: Final = 100
"""The usual rise is a mean over about so many."""
BLOCK_LENGTH: Final = 3.0
"""Length of a block, in mean times between two horizons that pass the quantile. Nothing is said
that no rise has reached for a whole block and the present one. Steps alone go down a hundred times
slower than up: one spike would be held for a day."""
HELD_QUANTILE_MIN: Final = 0.999
"""From here on the largest rises are held: a quantile this high is learnt from too few."""
PEAK_HALF_LIFE_RISES: Final = 4.0
"""Of a held rise, in mean times between two that pass the quantile."""
PEAK_RATIO: Final = 1.1
"""What a held rise is worth: the next one may be larger."""


class RiseTracker:
    """The quantile of the largest rise within `steps` cycles, as a share of what it rises from.

    Looks every `stride` cycles; in between only maxima are kept.
    """

    def __init__(
        self, domain_count: int, *, steps: int, stride: int, cycle_s: float, quantile: float
    ) -> None:
        self._looks = max(steps // stride, 1)  # per horizon
        self._stride = stride
        self._miss_ratio = 1.0 - quantile
        # Horizons that overlap are passed together: each counts for less.
        self._gain = GAIN / math.sqrt(self._looks)
        needed = max(1.0 / self._miss_ratio - 1.0 - 1e-6, HISTORY_S_MIN / (stride * cycle_s))
        self._count_min = math.ceil(needed)
        half_life = PEAK_HALF_LIFE_RISES / self._miss_ratio
        self._peak_keeps = 0.5 ** (1.0 / half_life) if quantile >= HELD_QUANTILE_MIN else 0.0
        # Each row is written twice, one length apart, so that a window is never in two pieces.
        self._length = self._looks + 1
        self._highest = np.full((2 * self._length, domain_count), np.nan)
        self._origin = np.full((self._length, domain_count), np.nan)
        self._said = np.full((self._length, domain_count), np.nan)
        self._place = 0
        self._cycles = 0
        self._since = np.full(domain_count, -np.inf)  # the highest since the last look
        self._quantile = np.zeros(domain_count)
        self._usual = np.zeros(domain_count)
        self._peak = np.zeros(domain_count)
        self._count = np.zeros(domain_count)
        self._block_count = math.ceil(BLOCK_LENGTH * self._looks / self._miss_ratio - 1e-6)
        self._largest = np.zeros((2, domain_count))
        """The largest rise of the block before this one, and of this one so far."""
        self._largest[0] = np.inf
        self._block_ends = np.full(domain_count, float(self._block_count))

    def cut(self, domains: BoolArray) -> None:
        """Take no rise from before to after this moment for `domains`; keep what is learnt."""
        for ring in (self._highest, self._origin, self._said):
            ring[:, domains] = np.nan
        self._since[domains] = np.nan

    def forget(self, domains: BoolArray) -> None:
        """Start anew for `domains`."""
        self.cut(domains)
        for state in (self._quantile, self._usual, self._peak, self._count):
            state[domains] = 0.0
        self._largest[0, domains], self._largest[1, domains] = np.inf, 0.0
        self._block_ends[domains] = self._block_count

    @property
    def backed(self) -> BoolArray:
        """Domains whose history is long enough for the quantile."""
        return self._count >= self._count_min

    @property
    def looks_now(self) -> bool:
        """Whether the next `learn` ends a stride."""
        return self._cycles + 1 == self._stride

    def learn(
        self, level: FloatArray, expected: FloatArray | float, *, origin: FloatArray | None = None
    ) -> None:
        """Take one cycle's level; NaN where it is not known.

        Args:
            level: of each domain, above 0.
            expected: the rise that is to be expected anyway, as a share; the quantile is said to
                be at least that.
            origin: what the next rise is told from, if not from the level itself.
        """
        if self._stride > 1:
            self._since = np.maximum(self._since, level)
            self._cycles += 1
            if self._cycles < self._stride:
                return
            highest, self._since, self._cycles = self._since, np.full_like(level, -np.inf), 0
        else:
            highest = level
        here = self._place = (self._place + 1) % self._length
        self._highest[here] = self._highest[here + self._length] = highest
        then = (here + 1) % self._length  # one horizon ago
        end = here + self._length + 1
        rise = self._highest[end - self._looks : end].max(axis=0) / self._origin[then] - 1.0
        self._correct(rise, self._said[then])
        self._origin[here] = level if origin is None else origin
        self._said[here] = np.maximum(self.rise, expected)

    def _correct(self, rise: FloatArray, said: FloatArray) -> None:
        known = np.isfinite(rise)
        if not known.any():
            return
        self._count += known
        share = np.maximum(1.0 / np.maximum(self._count, 1.0), 1.0 / USUAL_COUNT)
        rise = np.where(known, rise, 0.0)
        self._usual += known * share * (np.abs(rise) - self._usual)
        step = self._gain * self._usual * known
        moved = self._quantile + step * ((rise > said) - self._miss_ratio)
        # Of too few rises the largest is the best that is known. Below 0 nothing is to be learnt.
        young = self._count <= self._count_min
        if young.any():
            moved = np.where(young, np.maximum(self._quantile, rise), moved)
        self._quantile = np.minimum(np.maximum(moved, 0.0), self._reached(rise))
        if self._peak_keeps:
            self._peak = np.maximum(self._peak_keeps * self._peak, PEAK_RATIO * rise)

    def _reached(self, rise: FloatArray) -> FloatArray:
        """The largest rise in living memory: at most two blocks old and at least one."""
        before, here = self._largest
        np.maximum(here, rise, out=here)
        largest: FloatArray = np.maximum(before, here)
        ends = self._count >= self._block_ends
        if ends.any():
            before[ends], here[ends] = here[ends], 0.0
            self._block_ends[ends] += self._block_count
        return largest

    @property
    def rise(self) -> FloatArray:
        """The quantile as a share of the present level."""
        return np.maximum(self._quantile, self._peak) if self._peak_keeps else self._quantile
