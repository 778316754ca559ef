"""Latency in the twin: quantiles by priority, over the last minute and in total.

Values go into logarithmic bins 0.2 % apart, so memory is bounded and quantiles are as exact. They
are counted when a minute of them has gathered or somebody asks, not as they come.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SMALLEST_S: Final = 1e-4
BIN_RATIO: Final = 1.002
BINS: Final = 9_500  # up to about 17,000 s
MINUTE_S: Final = 60
TTFT, TPOT, E2E, ITL = 0, 1, 2, 3
KINDS: Final = ("ttft", "tpot", "e2e", "itl")
"""To the first token; per output token, the mean of a request; to the last token; between two
tokens, each by itself."""
QUANTILES: Final = {"p50": 0.50, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of one priority by kind; None where no request was measured."""

    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    e2e_p50_s: float | None
    e2e_p99_s: float | None
    itl_p50_s: float | None
    itl_p99_s: float | None


@dataclass(frozen=True, slots=True)
class _Pile:
    """What came in one second, as it came: rows and seconds, seconds and tokens."""

    requests: list[tuple[IntArray, FloatArray]] = field(default_factory=list)
    gaps: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)


class LatencyBook:
    """Counts latencies by kind and priority, an array of shape (kinds, priorities, bins)."""

    def __init__(self, priorities: int) -> None:
        """Empty."""
        self._priorities = priorities
        self._shape = (len(KINDS), priorities, BINS)
        self._total = np.zeros(self._shape)
        self._now = _Pile()
        self._minute: deque[_Pile] = deque(maxlen=MINUTE_S)
        self._uncounted: list[_Pile] = []

    def add(self, kind: int, priority: IntArray, seconds: FloatArray) -> None:
        """Note latencies of one kind, arrays of shape (requests,)."""
        self._now.requests.append((priority + kind * self._priorities, seconds))

    def add_gaps(self, seconds: FloatArray, tokens: FloatArray) -> None:
        """Note how long tokens came apart: shapes (places,) and (priorities, places)."""
        self._now.gaps.append((seconds, tokens))

    def close_second(self) -> None:
        """A second is over: its latencies join the minute and the total."""
        self._minute.append(self._now)
        self._uncounted.append(self._now)
        self._now = _Pile()
        if len(self._uncounted) >= MINUTE_S:
            self._count_all()

    def _count_all(self) -> None:
        self._total += self._counted(self._uncounted)
        self._uncounted.clear()

    def _counted(self, piles: Collection[_Pile]) -> FloatArray:
        """How many values of these piles lie in each bin."""
        counts = np.zeros(self._shape)
        requests = [item for pile in piles for item in pile.requests]
        if requests:
            bins = _bins(np.concatenate([seconds for _, seconds in requests]))
            flat = np.concatenate([row for row, _ in requests]) * BINS + bins
            counts += np.bincount(flat, minlength=counts.size).reshape(self._shape)
        gaps = [item for pile in piles for item in pile.gaps]
        if gaps:
            bins = _bins(np.concatenate([seconds for seconds, _ in gaps]))
            tokens = np.concatenate([tokens for _, tokens in gaps], axis=1)
            for priority in range(self._priorities):
                counts[ITL, priority] += np.bincount(bins, tokens[priority], minlength=BINS)
        return counts

    def clear(self) -> None:
        """Forget everything."""
        self._now = _Pile()
        self._minute.clear()
        self._uncounted.clear()
        self._total[:] = 0.0

    def total(self, priority: int) -> Latency:
        """Over everything since the start."""
        return _summary(self.counts()[:, priority])

    def last_minute(self, priority: int) -> Latency:
        """Over the last 60 whole seconds."""
        return _summary(self._counted(self._minute)[:, priority])

    def counts(self) -> FloatArray:
        """How many values lie in each bin since the start, shape (kinds, priorities, bins)."""
        self._count_all()
        return self._total + self._counted([self._now])


def _bins(seconds: FloatArray) -> IntArray:
    place = np.log(np.maximum(seconds, SMALLEST_S) * (1.0 / SMALLEST_S))
    place *= 1.0 / math.log(BIN_RATIO)
    bins: IntArray = np.minimum(place, BINS - 1.0).astype(np.int64)
    return bins


def _summary(counts: FloatArray) -> Latency:
    return Latency(
        **{
            f"{kind}_{name}_s": quantile_s(counts[place], share)
            for place, kind in enumerate(KINDS)
            for name, share in QUANTILES.items()
        }
    )


def quantile_s(counts: FloatArray, share: float) -> float | None:
    """The middle of the bin in which `share` of all values are reached; None for no values."""
    total = float(counts.sum())
    if total <= 0.0:
        return None
    place = int(np.searchsorted(np.cumsum(counts), share * total))
    return float(SMALLEST_S * BIN_RATIO ** (min(place, BINS - 1) + 0.5))
