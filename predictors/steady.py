"""The mean of the last while: what a series is about, without the noise of its last moment.

Who acts slowly answers this and not each reading: by the time that an answer is in force, the
moment that it answered is gone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Steady:
    """An exponential mean per series, of mean age `age_s`; each value itself where `age_s` is 0."""

    def __init__(self, *, age_s: float, cycle_s: float) -> None:
        self._weight = 1.0 if age_s <= 0.0 else 1.0 - math.exp(-cycle_s / age_s)
        self._mean: FloatArray | None = None

    def of(self, values: FloatArray) -> FloatArray:
        """Take one cycle's values; returns the means, NaN where a value is.

        Where a value is not known the mean ends: the next one that is known begins it anew.
        """
        if self._weight >= 1.0:
            return values
        before = values if self._mean is None else self._mean
        moved = before + self._weight * (values - before)
        self._mean = np.where(np.isfinite(moved), moved, values)
        return self._mean

    def cut(self, series: NDArray[np.bool_]) -> None:
        """Begin the mean of some series anew with their next value."""
        if self._mean is not None:
            self._mean = np.where(series, np.nan, self._mean)
