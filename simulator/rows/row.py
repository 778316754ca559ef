"""What a row of servers is to whoever drives it, and what became of its requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulator.latency import BIN_RATIO, SMALLEST_S, quantile_s

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Times:
    """A distribution of times: how many values lie in each bin of `simulator.latency`."""

    counts: FloatArray

    @property
    def count(self) -> float:
        """How many values there are."""
        return float(self.counts.sum())

    @property
    def middles_s(self) -> FloatArray:
        """The middle of each bin, s; they are 0.2 % apart."""
        place = np.arange(len(self.counts), dtype=np.float64) + 0.5
        middles: FloatArray = SMALLEST_S * np.power(BIN_RATIO, place)
        return middles

    @property
    def mean_s(self) -> float | None:
        """The mean; None without values."""
        return float(self.counts @ self.middles_s) / self.count if self.count else None

    def quantile_s(self, share: float) -> float | None:
        """The time in which `share` of all values are reached; None without values."""
        return quantile_s(self.counts, share)


@dataclass(frozen=True, slots=True)
class Served:
    """What became of the requests of one priority.

    `ttft` is to the first token, `tpot` per output token (the mean of a request), `itl` between two
    tokens (each by itself) and `e2e` to the last token.
    """

    arrived: int
    served: int
    lost: int
    ttft: Times
    tpot: Times
    itl: Times
    e2e: Times


class Row(Protocol):
    """A row that is driven tick by tick; arrays of shape (nodes,) in the site's order."""

    def step(self, ceiling_mhz: FloatArray, tick_s: float) -> FloatArray:
        """Run `tick_s` under these ceilings; returns the mean power of each node, W."""

    def served(self) -> Mapping[str, Served]:
        """What became of the requests since time 0, by priority."""
