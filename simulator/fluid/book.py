"""What became of the requests of every row: latency by priority, and what was served.

Token times and waits are counted in logarithmic bins, weighted by the requests that met them; the
latency of whole requests follows from them and from the lengths that the requests have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

WAIT_POINTS: Final = 8
BLOCK: Final = 64


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of times, each `ratio` times the one before, from `smallest_s` on."""

    smallest_s: float
    ratio: float
    count: int

    def of(self, seconds: FloatArray) -> IntArray:
        """The bin of each time; what is too short or too long is in the first or the last."""
        scaled = np.log(np.maximum(seconds, self.smallest_s) * (1.0 / self.smallest_s))
        scaled *= 1.0 / math.log(self.ratio)
        return np.minimum(scaled.astype(np.int64), self.count - 1)

    @property
    def middles_s(self) -> FloatArray:
        """The middle of each bin, s."""
        steps = np.arange(self.count, dtype=np.float64) + 0.5
        return np.asarray(self.smallest_s * np.power(self.ratio, steps), dtype=np.float64)


TOKEN_BINS: Final = Bins(0.005, 1.002, 4_000)
"""A fifth of a percent apart, up to about 15 s a token: limits of 1 % are judged by them."""
WAIT_BINS: Final = Bins(0.01, 1.01, 1_000)
"""Up to about 200 s."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Requests of one priority, drawn: prefill work at full clock, s, and generated tokens."""

    work_s: FloatArray
    generated: FloatArray


class Book:
    """Counts per group, a row's servers of one priority; `group` is of shape (n,)."""

    def __init__(self, group: IntArray, groups: int, generated_tokens: FloatArray) -> None:
        """Empty. `generated_tokens` is the mean length of each place's requests, shape (n,)."""
        self._group = group
        self._groups = groups
        self._generated = generated_tokens
        self._token = np.zeros(groups * TOKEN_BINS.count)
        self._wait = np.zeros(groups * WAIT_BINS.count)
        self._token_offset = group * TOKEN_BINS.count
        self._wait_offset = group * WAIT_BINS.count
        self._pace_per_s = np.zeros(0)
        self._waits: list[IntArray] = []
        self._tokens: list[IntArray] = []
        self._arrived: list[FloatArray] = []
        self._finished: list[FloatArray] = []

    def smooth(self, pace_per_s: FloatArray, dt_s: float) -> FloatArray:
        """The time per token that requests which end now have had over their lives, s.

        That is one over their mean pace: a second in which prompts took most of the time counts
        little, because few tokens fell into it.
        """
        if len(self._pace_per_s) == 0:
            self._pace_per_s = pace_per_s.copy()
        life_s = np.maximum(self._generated / self._pace_per_s, dt_s)
        self._pace_per_s += (dt_s / life_s) * (pace_per_s - self._pace_per_s)
        token_s: FloatArray = 1.0 / self._pace_per_s
        return token_s

    def add(
        self,
        *,
        token_s: FloatArray,
        finished: FloatArray,
        wait_s: FloatArray,
        arrived: FloatArray,
    ) -> None:
        """Count one step; arrays of shape (n,)."""
        self._tokens.append(TOKEN_BINS.of(token_s) + self._token_offset)
        self._waits.append(WAIT_BINS.of(wait_s) + self._wait_offset)
        self._finished.append(finished)
        self._arrived.append(arrived)
        if len(self._tokens) >= BLOCK:
            self._flush()

    def _flush(self) -> None:
        if not self._tokens:
            return
        self._token += np.bincount(
            np.concatenate(self._tokens), np.concatenate(self._finished), len(self._token)
        )
        self._wait += np.bincount(
            np.concatenate(self._waits), np.concatenate(self._arrived), len(self._wait)
        )
        for kept in (self._tokens, self._waits, self._finished, self._arrived):
            kept.clear()

    def token_counts(self, group: int) -> tuple[FloatArray, FloatArray]:
        """Token times and how many requests met them; both of shape (bins,)."""
        self._flush()
        counts = self._token[group * TOKEN_BINS.count : (group + 1) * TOKEN_BINS.count]
        return TOKEN_BINS.middles_s, counts

    def wait_counts(self, group: int) -> tuple[FloatArray, FloatArray]:
        """Waits before the own prefill begins, and how many requests met them."""
        self._flush()
        counts = self._wait[group * WAIT_BINS.count : (group + 1) * WAIT_BINS.count]
        return WAIT_BINS.middles_s, counts

    def request_quantiles_s(
        self, group: int, lengths: Lengths, shares: tuple[float, ...]
    ) -> list[float]:
        """Quantiles of whole requests' latency, s: wait, own prefill, and every token.

        A request's length, wait and token time are taken to be independent.
        """
        values, weights = self.request_latency(group, lengths)
        order = np.argsort(values)
        reached = np.cumsum(weights[order])
        return [
            float(values[order][min(np.searchsorted(reached, q * reached[-1]), len(order) - 1)])
            for q in shares
        ]

    def request_latency(self, group: int, lengths: Lengths) -> tuple[FloatArray, FloatArray]:
        """Latencies of whole requests and their weights, both flat."""
        token_s, token_count = self.token_counts(group)
        wait_s, wait_count = self.wait_counts(group)
        met = token_count > 0.0
        waits = _points(wait_s, wait_count)
        own = (lengths.work_s[:, None] + waits[None, :]).ravel()
        generated = np.repeat(lengths.generated, len(waits))
        values = own[:, None] + generated[:, None] * token_s[met][None, :]
        weights = np.broadcast_to(token_count[met][None, :], values.shape)
        return values.ravel(), weights.ravel()


def _points(values: FloatArray, counts: FloatArray) -> FloatArray:
    """The middles of 8 equal parts of a distribution, the last of them the worst."""
    reached = np.cumsum(counts)
    if reached[-1] <= 0.0:
        return np.zeros(1)
    wanted = (np.arange(WAIT_POINTS) + 0.5) / WAIT_POINTS * reached[-1]
    points: FloatArray = values[np.minimum(np.searchsorted(reached, wanted), len(values) - 1)]
    return points
