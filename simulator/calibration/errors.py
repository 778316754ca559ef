"""How far a fit lies from measurements: one row of the table of errors per quantity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """Errors of one quantity on one part of the data.

    `median` and `p95` are of absolute errors in `unit`: per cent of the measured value, or kelvin.
    `bound` is what `p95` must not pass.
    """

    quantity: str
    source: str
    split: str
    points: int
    median: float
    p95: float
    unit: str
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the error is within its bound."""
        return self.p95 <= self.bound


def relative(
    quantity: str,
    source: str,
    split: str,
    *,
    model: FloatArray,
    measured: FloatArray,
    bound: float,
) -> Row:
    """Errors as per cent of what was measured, which is above zero."""
    off = 100.0 * np.abs(model / measured - 1.0)
    return _row(quantity, source, split, off, "%", bound)


def kelvins(
    quantity: str,
    source: str,
    split: str,
    *,
    model: FloatArray,
    measured: FloatArray,
    bound: float,
) -> Row:
    """Errors of temperatures, in kelvin."""
    return _row(quantity, source, split, np.abs(model - measured), "K", bound)


def _row(quantity: str, source: str, split: str, off: FloatArray, unit: str, bound: float) -> Row:
    if len(off) == 0:
        raise ValueError(f"{quantity}: nothing to check against in {source}")
    return Row(
        quantity,
        source,
        split,
        len(off),
        float(np.median(off)),
        float(np.quantile(off, 0.95)),
        unit,
        bound,
    )
