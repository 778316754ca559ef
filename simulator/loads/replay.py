"""A recorded trace replayed: scaled to a row by laying copies of it over each other.

Each copy is shifted by its own time, and requests are dropped at random until the mean rate is met.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from simulator.loads.blocks import BLOCK_S, Source
from simulator.loads.trace import Arrivals, FloatArray, IntArray, Trace

COPIES_MAX: Final = 100_000


class Load(Source):
    """A trace scaled to a mean rate, as an endless stream of arrivals from time `start_s`.

    Copies are shifted by times drawn evenly from 0 to `spread_s`. A small spread keeps the bursts
    of the recording at the scale of the row; the default, the whole recording, gives a row whose
    many users are independent.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        rate_per_s: float,
        rng: np.random.Generator,
        start_s: float = 0.0,
        spread_s: float | None = None,
    ) -> None:
        """Draw the shifts.

        Raises:
            ValueError: a rate that is not positive, or that needs more than 100,000 copies.
        """
        super().__init__(start_s)
        copies = rate_per_s / trace.rate_per_s
        if not 0.0 < copies <= COPIES_MAX:
            raise ValueError(
                f"{rate_per_s:g} requests/s; expected above 0 and at most"
                f" {COPIES_MAX * trace.rate_per_s:.0f}"
            )
        count = math.ceil(copies)
        self._trace = trace
        self._rng = rng
        self._keep_ratio = copies / count
        self._shift_s = rng.uniform(0.0, trace.span_s if spread_s is None else spread_s, count)
        self._origin_s = start_s

    def _rows_before(self, at_s: FloatArray) -> IntArray:
        """How many rows of the endlessly repeated trace lie before each time."""
        rounds = np.floor(at_s / self._trace.span_s)
        inside = self._trace.at_s.searchsorted(at_s - rounds * self._trace.span_s)
        rows: IntArray = rounds.astype(np.int64) * len(self._trace.at_s) + inside
        return rows

    def _fill(self, begin_s: float) -> Arrivals:
        """Lay all copies of the block over each other, thin them and sort."""
        trace = self._trace
        local_s = begin_s - self._origin_s + self._shift_s
        low = self._rows_before(local_s)
        counts = self._rows_before(local_s + BLOCK_S) - low
        copy = np.repeat(np.arange(len(counts)), counts)
        rows = np.arange(len(copy)) + np.repeat(low - np.cumsum(counts) + counts, counts)
        rounds, inside = np.divmod(rows, len(trace.at_s))
        at_s = rounds * trace.span_s + trace.at_s[inside] - self._shift_s[copy] + self._origin_s
        kept = np.flatnonzero(self._rng.random(len(rows)) < self._keep_ratio)
        kept = kept[np.argsort(at_s[kept], kind="stable")]
        inside = inside[kept]
        at_s = np.clip(at_s[kept], begin_s, np.nextafter(begin_s + BLOCK_S, begin_s))
        return Arrivals(at_s, trace.context_tokens[inside], trace.generated_tokens[inside])
