"""Figures of every row over a run: peaks, rises, brakes, seconds over capacity, tokens, caps.

All from true power. Nothing here decides.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

LONG_RISE_S: Final = 40.0
BLOCK_STEPS: Final = 1_000
RATIO_BINS: Final = 1_500
RATIO_STEP: Final = 0.001


class RowTally:
    """Sums and extremes per row (r,) and per group, a row's servers of one priority (r x mixes).

    Steps are noted one by one and added up a block at a time.
    """

    def __init__(self, capacity_w: FloatArray, groups: int, *, dt_s: float) -> None:
        """Nothing counted."""
        rows = len(capacity_w)
        self.capacity_w = capacity_w
        self._groups = groups
        self._dt_s = dt_s
        self._long = max(1, round(LONG_RISE_S / dt_s))
        self._per_minute = max(1, round(60.0 / dt_s))
        self._noted: list[FloatArray] = []
        self._brakes: list[BoolArray] = []
        self._before = np.zeros((0, rows))
        self.seconds = 0.0
        self.energy_j = np.zeros(rows)
        self.peak_ratio = np.zeros(rows)
        self.over_s = np.zeros(rows)
        self.rise_ratio = np.zeros(rows)
        self.long_rise_ratio = np.zeros(rows)
        self.brakes = np.zeros(rows, dtype=np.int64)
        self.brake_s = np.zeros(rows)
        self._braked = np.zeros((1, rows), dtype=np.bool_)
        self.histogram = np.zeros((rows, RATIO_BINS), dtype=np.int64)
        self.minute_ratio: list[FloatArray] = []
        self._loose = np.zeros((0, rows))
        self.requests = np.zeros(groups)
        self.capped_s = np.zeros(groups)

    def add(self, row_w: FloatArray, brake: BoolArray) -> None:
        """One step: power of each row, and which rows brake after it."""
        self._noted.append(row_w)
        self._brakes.append(brake)
        if len(self._noted) >= BLOCK_STEPS:
            self.close()

    def close(self) -> None:
        """Add up what has been noted."""
        if not self._noted:
            return
        ratio = np.stack(self._noted) / self.capacity_w
        brakes = np.stack(self._brakes)
        self._noted.clear()
        self._brakes.clear()
        self.seconds += len(ratio) * self._dt_s
        self.energy_j += ratio.sum(axis=0) * self.capacity_w * self._dt_s
        self.peak_ratio = np.maximum(self.peak_ratio, ratio.max(axis=0))
        self.over_s += (ratio > 1.0).sum(axis=0) * self._dt_s
        begun = brakes & ~np.concatenate([self._braked, brakes[:-1]])
        self._braked = brakes[-1:]
        self.brakes += begun.sum(axis=0)
        self.brake_s += brakes.sum(axis=0) * self._dt_s
        self._rises(ratio)
        places = np.minimum((ratio * (1.0 / RATIO_STEP)).astype(np.int64), RATIO_BINS - 1)
        places += np.arange(ratio.shape[1]) * RATIO_BINS
        counts = np.bincount(places.ravel(), minlength=self.histogram.size)
        self.histogram += counts.reshape(self.histogram.shape)
        loose = np.concatenate([self._loose, ratio])
        whole = len(loose) // self._per_minute * self._per_minute
        minutes = loose[:whole].reshape(-1, self._per_minute, ratio.shape[1])
        self.minute_ratio.extend(minutes.max(axis=1))
        self._loose = loose[whole:]

    def quantile_ratio(self, row: int, share: float) -> float:
        """Power over capacity that a row was within for `share` of the time."""
        self.close()
        reached = np.cumsum(self.histogram[row])
        return float(np.searchsorted(reached, share * reached[-1])) * RATIO_STEP

    def _rises(self, ratio: FloatArray) -> None:
        seen = np.concatenate([self._before, ratio])
        for steps, name in ((1, "rise_ratio"), (self._long, "long_rise_ratio")):
            if len(seen) > steps:
                most = (seen[steps:] - seen[:-steps]).max(axis=0)
                setattr(self, name, np.maximum(getattr(self, name), most))
        self._before = seen[-self._long :]

    def serve(
        self, group: IntArray, finished: FloatArray, capped: BoolArray, seconds: float
    ) -> None:
        """What was finished and capped within `seconds`; arrays of shape (n,)."""
        self.requests += np.bincount(group, finished, self._groups)
        self.cap(group, capped, seconds)

    def cap(self, group: IntArray, capped: BoolArray, seconds: float) -> None:
        """Nodes that ran below their highest clock for `seconds`."""
        self.capped_s += np.bincount(group, capped, self._groups) * seconds
