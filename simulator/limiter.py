"""The power limiter of the twin's GPUs: the part's own loop that keeps it below its power limit.

It lowers clocks while power is over the limit and lets them rise while there is room. The law that
makes power out of clocks is given to it; other reasons to slow down are the bank's.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

POWER_ROOM_RATIO: Final = 0.98  # the limiter lets the clock rise below this: assumption
POWER_RISE_STEPS_PER_S: Final = 20.0  # one grid step every 50 ms: assumption


def _grids(values: FloatArray, low: IntArray, high: IntArray) -> FloatArray:
    """The grids that stand end to end in `values` as rows, infinite beyond the end of each."""
    rows = np.full((len(low), int((high - low).max()) + 1), np.inf)
    for row, first, last in zip(rows, low.tolist(), high.tolist(), strict=True):
        row[: last - first + 1] = values[first : last + 1]
    return rows


class PowerLimiter:
    """Caps of any number of clocks, as places in tables of grids that stand end to end.

    Power is fixed + by_clock * phi + by_voltage * v2, of which `phi` and `v2` are tables; `low` and
    `high` are each clock's ends of its grid. `cap` is what the limiter allows from here on;
    `is_capping` says whether any cap was below the top in the last step.
    """

    def __init__(self, phi: FloatArray, v2: FloatArray, low: IntArray, high: IntArray) -> None:
        """Nothing is capped."""
        self._phi, self._v2 = phi, v2
        firsts, ones, self._grid_of = np.unique(low, return_index=True, return_inverse=True)
        self._phi_grids = _grids(phi, firsts, high[ones])
        self._v2_grids = _grids(v2, firsts, high[ones])
        self._low, self._high = low, high
        self.cap = high.copy()
        self.is_capping = False
        self._is_low = False

    def step(
        self,
        dt_s: float,
        *,
        allowed: IntArray,
        limit_w: FloatArray,
        fixed_w: FloatArray,
        by_clock_w: FloatArray,
        by_voltage_w: FloatArray,
    ) -> tuple[IntArray, FloatArray]:
        """Clocks and power of a step at clocks that are otherwise `allowed`."""
        index = np.minimum(allowed, self.cap)
        power_w = by_clock_w * self._phi.take(index)
        power_w += by_voltage_w * self._v2.take(index)
        power_w += fixed_w
        over = power_w > limit_w
        self.is_capping = self._is_low
        if np.count_nonzero(over):
            self.is_capping = True
            self._pull_down(over, limit_w, index, power_w, fixed_w, by_clock_w, by_voltage_w)
        if self.is_capping:
            self._raise(dt_s, power_w, limit_w)
        return index, power_w

    def _pull_down(
        self,
        over: BoolArray,
        limit_w: FloatArray,
        index: IntArray,
        power_w: FloatArray,
        fixed_w: FloatArray,
        by_clock_w: FloatArray,
        by_voltage_w: FloatArray,
    ) -> None:
        """The loop, settled: it moves in 10-20 ms, well inside a step.

        Power at every clock of the grid at once, for the few that are over: power rises with the
        clock, so the clock before the first that is over is the highest that fits.
        """
        places = over.nonzero()[0]
        grid = self._grid_of.take(places)
        clock_w, voltage_w, rest_w = (
            part.take(places) for part in (by_clock_w, by_voltage_w, fixed_w)
        )
        power = self._phi_grids.take(grid, axis=0) * clock_w[:, None]
        power += self._v2_grids.take(grid, axis=0) * voltage_w[:, None]
        free_w = limit_w.take(places) - rest_w
        steps = np.maximum((power > free_w[:, None]).argmax(axis=1) - 1, 0)
        at = self._low.take(places) + steps
        index[places] = self.cap[places] = at
        power_w[places] = rest_w + clock_w * self._phi.take(at) + voltage_w * self._v2.take(at)

    def _raise(self, dt_s: float, power_w: FloatArray, limit_w: FloatArray) -> None:
        """Clocks rise where power leaves room."""
        rise = max(1, round(POWER_RISE_STEPS_PER_S * dt_s))
        self.cap += rise * (power_w < POWER_ROOM_RATIO * limit_w)
        np.minimum(self.cap, self._high, out=self.cap)
        self._is_low = bool(np.count_nonzero(self.cap < self._high))

    def forget(self, which: BoolArray) -> None:
        """No cap on these any more."""
        self.cap[which] = self._high[which]
