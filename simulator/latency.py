"""Latency in the twin: quantiles by priority, over the last minute and in total.

Values go into logarithmic bins 1 % apart, so memory is bounded and quantiles are within 1 %.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SMALLEST_S: Final = 1e-4
BIN_RATIO: Final = 1.01
BINS: Final = 1_900  # up to about 16,000 s
MINUTE_S: Final = 60
TTFT, TPOT = 0, 1


@dataclass(frozen=True, slots=True)
class Latency:
    """Time to first token and time per output token; None where no request was measured."""

    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None


class LatencyBook:
    """Counts latencies by kind and priority; `priorities` are indices into the last axis."""

    def __init__(self, priorities: int) -> None:
        """Empty."""
        self._shape = (2, priorities, BINS)
        self._total = np.zeros(self._shape, dtype=np.int64)
        self._seconds: deque[IntArray] = deque(maxlen=MINUTE_S)
        self._waiting: list[tuple[IntArray, FloatArray]] = []
        self._priorities = priorities

    def add(self, kind: int, priority: IntArray, seconds: FloatArray) -> None:
        """Note latencies of one kind, arrays of shape (requests,)."""
        self._waiting.append((priority + kind * self._priorities, seconds))

    def close_second(self) -> None:
        """A second is over: its latencies join the minute and the total."""
        second = self._drain()
        self._total += second
        self._seconds.append(second)

    def _drain(self) -> IntArray:
        if not self._waiting:
            return np.zeros(self._shape, dtype=np.int64)
        rows = np.concatenate([row for row, _ in self._waiting])
        seconds = np.concatenate([value for _, value in self._waiting])
        self._waiting.clear()
        bins = np.log(np.maximum(seconds, SMALLEST_S) / SMALLEST_S) / math.log(BIN_RATIO)
        flat = rows * BINS + np.minimum(bins.astype(np.int64), BINS - 1)
        counts: IntArray = np.bincount(flat, minlength=2 * self._priorities * BINS)
        return counts.reshape(self._shape)

    def clear(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        self._seconds.clear()
        self._total[:] = 0

    def total(self, priority: int) -> Latency:
        """Over everything since the start."""
        self._total += self._drain()
        return _summary(self._total[:, priority])

    def last_minute(self, priority: int) -> Latency:
        """Over the last 60 whole seconds."""
        if not self._seconds:
            return Latency(None, None, None, None)
        return _summary(np.sum([second[:, priority] for second in self._seconds], axis=0))


def _summary(counts: IntArray) -> Latency:
    return Latency(
        _quantile(counts[TTFT], 0.50),
        _quantile(counts[TTFT], 0.99),
        _quantile(counts[TPOT], 0.50),
        _quantile(counts[TPOT], 0.99),
    )


def _quantile(counts: IntArray, share: float) -> float | None:
    """The middle of the bin in which `share` of all values are reached; None for no values."""
    total = int(counts.sum())
    if total == 0:
        return None
    place = int(np.searchsorted(np.cumsum(counts), share * total))
    return float(SMALLEST_S * BIN_RATIO ** (place + 0.5))
