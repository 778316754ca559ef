"""Recorded requests: when they came and how long they were, from the formats of Azure and Mooncake.

A trace is read whole or refused; scaling it to a row is `simulator.loads.replay`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from simulator.loads.rows import Rows, TraceError, shown

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

AZURE: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE: Final = ("timestamp", "input_length", "output_length")
TOKENS_MAX: Final = 1_000_000
RATE_MAX_PER_S: Final = 10_000.0
"""A recording with more requests/s on average has its times in another unit."""
MILLISECONDS_MAX: Final = 10**13
"""Enough for milliseconds since 1970."""

Tokens = Annotated[int, Meta(ge=1, le=TOKENS_MAX)]


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests of one recording, ascending in time from 0; arrays of shape (requests,)."""

    name: str
    at_s: FloatArray
    context_tokens: IntArray
    generated_tokens: IntArray
    span_s: float

    @property
    def rate_per_s(self) -> float:
        """The mean request rate."""
        return len(self.at_s) / self.span_s


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests in order of arrival; arrays of shape (requests,).

    `priority` is the place of each request's priority in the list that its source was given; None
    where the source says nothing about priorities.
    """

    at_s: FloatArray
    context_tokens: IntArray
    generated_tokens: IntArray
    priority: IntArray | None = None


class MooncakeRow(Struct):
    """One line of a Mooncake trace: milliseconds, and tokens. Prefix blocks are not used."""

    timestamp: Annotated[int, Meta(ge=0, le=MILLISECONDS_MAX)]
    input_length: Tokens
    output_length: Tokens
    hash_ids: list[int] = []


def read_azure(name: str, text: str) -> Trace:
    """Read CSV rows in the format of the Azure traces of 2023.

    Raises:
        TraceError: bad rows, or fewer than two requests at two times.
    """
    rows = Rows(name)
    times_s: list[float] = []
    tokens: list[tuple[int, int]] = []
    for number, row in rows.cells(text, AZURE):
        at_s = _time(rows, number, row[0], times_s[-1] if times_s else -math.inf)
        context = rows.whole(number, AZURE[1], row[1], 1, TOKENS_MAX)
        generated = rows.whole(number, AZURE[2], row[2], 1, TOKENS_MAX)
        if rows.good(number):
            times_s.append(at_s)
            tokens.append((context, generated))
    return _trace(rows, times_s, tokens)


def _time(rows: Rows, number: int, text: str, before_s: float) -> float:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        expected = "expected a time like 2023-11-16 18:15:46.68"
        rows.problem(number, f"{AZURE[0]} is {shown(text)}; {expected}")
        return math.nan
    at_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if at_s < before_s:
        expected = "expected no earlier than the row before"
        rows.problem(number, f"{AZURE[0]} is {shown(text)}; {expected}")
    return at_s


def read_mooncake(name: str, text: str) -> Trace:
    """Read JSON lines in the format of the Mooncake traces; times are milliseconds.

    Raises:
        TraceError: bad rows, or fewer than two requests at two times.
    """
    rows = Rows(name)
    decoder = msgspec.json.Decoder(MooncakeRow)
    times_s: list[float] = []
    tokens: list[tuple[int, int]] = []
    for number, line in rows.lines(text):
        try:
            row = decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            expected = f"expected an object with {', '.join(MOONCAKE)}, whole milliseconds"
            rows.problem(number, f"{error}; {expected} and tokens from 1 to {TOKENS_MAX:,}")
            continue
        at_s = row.timestamp / 1_000.0
        if times_s and at_s < times_s[-1]:
            expected = "expected no earlier than the row before"
            rows.problem(number, f"timestamp is {row.timestamp}; {expected}")
        else:
            times_s.append(at_s)
            tokens.append((row.input_length, row.output_length))
    return _trace(rows, times_s, tokens)


def _trace(rows: Rows, times_s: list[float], tokens: list[tuple[int, int]]) -> Trace:
    enough = len(times_s) >= 2 and times_s[-1] > times_s[0]
    rows.finish(len(times_s), "at least two at two times", enough=enough)
    at_s = np.array(times_s) - times_s[0]
    lengths = np.array(tokens, dtype=np.int64)
    # The gap from the last request to the first of the next round is an average one.
    span_s = float(at_s[-1]) * len(at_s) / (len(at_s) - 1)
    trace = Trace(rows.name, at_s, lengths[:, 0].copy(), lengths[:, 1].copy(), span_s)
    if trace.rate_per_s > RATE_MAX_PER_S:
        raise TraceError(
            f"{rows.name}: {trace.rate_per_s:,.0f} requests/s on average; expected at most"
            f" {RATE_MAX_PER_S:,.0f}: are the times in another unit?"
        )
    return trace
