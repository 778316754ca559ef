"""Lengths of requests that no recording has as pairs: put together from published distributions.

Where only the distributions of prompts and of answers are known, either their dependence is taken
from a like service, or they are independent; each function says which.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from simulator.loads.envelope import FloatArray
from simulator.loads.rows import Rows
from simulator.loads.trace import IntArray
from simulator.loads.workload import TABLE, Lengths

GOLDEN: Final = (5.0**0.5 - 1.0) / 2.0
CDF: Final = ("tokens", "cdf_percent")

SERVEGEN_PROMPT: Final = np.array([
    (0.0, 1), (0.10, 74), (0.25, 245), (0.254, 256), (0.50, 595), (0.746, 1024), (0.75, 1045),
    (0.90, 2377), (0.95, 2407), (0.99, 5623), (1.0, 11_246),
])  # fmt: skip
SERVEGEN_GENERATED: Final = np.array([
    (0.0, 1), (0.10, 1), (0.25, 8), (0.50, 61), (0.582, 100), (0.75, 302), (0.765, 350),
    (0.90, 470), (0.95, 573), (0.99, 917), (1.0, 1_834),
])  # fmt: skip
"""Share of requests and their tokens at most: ServeGen m-large, its clients weighted by rate.
The ends are assumptions: 1 token, and twice the 99th percentile."""


def lattice() -> tuple[FloatArray, FloatArray]:
    """`TABLE` points spread evenly over the unit square: exact means, no correlation, no draws."""
    place = np.arange(TABLE, dtype=np.float64) + 0.5
    return place / TABLE, np.mod(place * GOLDEN, 1.0)


def uniform(prompt_tokens: tuple[int, int], generated_tokens: tuple[int, int]) -> Lengths:
    """Lengths that are even between both ends of two ranges, and independent."""
    one, other = lattice()
    return Lengths(_spread(one, prompt_tokens), _spread(other, generated_tokens))


def _spread(quantile: FloatArray, ends: tuple[int, int]) -> IntArray:
    return np.floor(ends[0] + quantile * (ends[1] - ends[0] + 1)).astype(np.int64)


def servegen_lengths(
    prompt_mean: float | None = None, generated_mean: float | None = None
) -> Lengths:
    """Lengths as ServeGen's m-large has them, independent; scaled where other means are known."""
    one, other = lattice()
    return Lengths(
        _scaled(np.interp(one, *SERVEGEN_PROMPT.T), prompt_mean),
        _scaled(np.interp(other, *SERVEGEN_GENERATED.T), generated_mean),
    )


def _scaled(tokens: FloatArray, mean: float | None) -> IntArray:
    ratio = 1.0 if mean is None else mean / float(tokens.mean())
    return np.maximum(np.rint(tokens * ratio), 1.0).astype(np.int64)


def read_cdf(name: str, text: str) -> tuple[FloatArray, FloatArray]:
    """Tokens and share of requests with at most so many, both ascending; the shares end at 1.

    Raises:
        TraceError: bad rows, or a distribution that falls or does not end at 100 %.
    """
    rows = Rows(name)
    points: list[tuple[float, float]] = [(-1.0, 0.0)]
    for number, row in rows.cells(text, CDF):
        tokens = rows.number(number, CDF[0], row[0], 0.0, 1e6)
        percent = rows.number(number, CDF[1], row[1], 0.0, 100.0)
        if tokens <= points[-1][0] or percent < points[-1][1]:
            rows.problem(number, "expected more tokens and no lower share than the row before")
        if rows.good(number):
            points.append((tokens, percent))
    ends = points[-1][1] == 100.0 and len(points) > 2
    rows.finish(len(points) - 1, "at least two, the last at 100 %", enough=ends)
    tokens_at, percent_at = np.array(points[1:]).T
    return tokens_at, percent_at / 100.0


def with_margins(
    like: Lengths,
    prompt: tuple[FloatArray, FloatArray],
    generated: tuple[FloatArray, FloatArray],
) -> Lengths:
    """Lengths with these distributions, of which long go with long as in `like`.

    Each pair keeps its ranks: the longest prompt of `like` becomes the longest of the distribution.
    """
    return Lengths(
        _quantiles(_ranks(like.prompt_tokens), prompt),
        _quantiles(_ranks(like.generated_tokens), generated),
    )


def _ranks(tokens: IntArray) -> FloatArray:
    """Each length's place among all, in (0, 1); ties are put in an order that means nothing."""
    count = len(tokens)
    tie = np.mod(np.arange(count) * GOLDEN, 1.0)
    ranks = np.empty(count)
    ranks[np.lexsort((tie, tokens))] = (np.arange(count) + 0.5) / count
    return ranks


def _quantiles(rank: FloatArray, cdf: tuple[FloatArray, FloatArray]) -> IntArray:
    tokens, share = cdf
    return np.maximum(np.rint(np.interp(rank, share, tokens)), 1.0).astype(np.int64)
