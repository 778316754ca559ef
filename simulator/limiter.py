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
PULL_DOWN_ROUNDS: Final = 12


def _steepest(values: FloatArray, mhz: IntArray) -> FloatArray:
    """The largest rise per grid step at or below each clock, over grids that stand end to end."""
    rise = np.diff(values, prepend=values[0])
    rise[np.flatnonzero(np.diff(mhz, prepend=mhz[0] + 1) < 0)] = 0.0
    edges = np.flatnonzero(np.diff(mhz, prepend=mhz[0] + 1) < 0)
    found = [np.maximum.accumulate(part) for part in np.split(rise, edges[1:])]
    return np.concatenate(found)


class PowerLimiter:
    """Caps of any number of clocks, as places in tables of grids that stand end to end.

    Power is fixed + by_clock * phi + by_voltage * v2, of which `phi` and `v2` are tables; `low` and
    `high` are each clock's ends of its grid. `cap` is what the limiter allows from here on;
    `is_capping` says whether any cap was below the top in the last step.
    """

    def __init__(
        self, mhz: IntArray, phi: FloatArray, v2: FloatArray, low: IntArray, high: IntArray
    ) -> None:
        """Nothing is capped."""
        self._phi, self._v2 = phi, v2
        self._phi_step, self._v2_step = _steepest(phi, mhz), _steepest(v2, mhz)
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

        It steps by the steepest slope at or below the present clock, so it never overshoots; the
        lowest clock ends the search.
        """
        places = over.nonzero()[0]
        low, most_w = self._low.take(places), limit_w.take(places)
        clock_w, voltage_w = by_clock_w.take(places), by_voltage_w.take(places)
        rest_w, at, now_w = fixed_w.take(places), index.take(places), power_w.take(places)
        for _ in range(PULL_DOWN_ROUNDS):
            slope = clock_w * self._phi_step.take(at) + voltage_w * self._v2_step.take(at)
            steps = np.ceil((now_w - most_w) / np.maximum(slope, 0.1))
            # What is within its limit by now stays where it is.
            at = np.maximum(at - np.maximum(steps, 0.0).astype(np.int64), low)
            now_w = rest_w + clock_w * self._phi.take(at) + voltage_w * self._v2.take(at)
            if not np.count_nonzero((now_w > most_w) & (at > low)):
                break
        index[places] = self.cap[places] = at
        power_w[places] = now_w

    def _raise(self, dt_s: float, power_w: FloatArray, limit_w: FloatArray) -> None:
        """Clocks rise where power leaves room."""
        rise = max(1, round(POWER_RISE_STEPS_PER_S * dt_s))
        self.cap += rise * (power_w < POWER_ROOM_RATIO * limit_w)
        np.minimum(self.cap, self._high, out=self.cap)
        self._is_low = bool(np.count_nonzero(self.cap < self._high))

    def forget(self, which: BoolArray) -> None:
        """No cap on these any more."""
        self.cap[which] = self._high[which]
