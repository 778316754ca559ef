"""Recorded rates: requests per second in windows, from the formats of ServeGen and Azure's week.

They say when how many came, but of lengths at most the mean. A recording is read whole or refused.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import numpy as np

from simulator.loads.envelope import Envelope, FloatArray
from simulator.loads.rows import Rows, TraceError, shown

CLIENTS: Final = ("client", "t_s", "rate_rps", "cv", "pattern", "param1", "param2")
AGGREGATE: Final = (
    "t_s", "active_clients", "rate_rps", "rate_weighted_cv", "mean_input_tokens",
    "mean_output_tokens", "token_pdf_rate_coverage",
)  # fmt: skip
WEEK: Final = (
    "time_utc", "req_per_min_mid", "req_per_min_lo", "req_per_min_hi", "req_per_min_mid_normalised",
)  # fmt: skip
DAY_S: Final = 86_400.0
WINDOW_MAX_S: Final = 86_400
TIME_MAX_S: Final = 10**9
WINDOWS_MAX: Final = 1_000_000
RATE_MAX_PER_S: Final = 1e6
CV_MAX: Final = 1_000.0
TOKENS_MAX: Final = 1e6
BURST_S: Final = 2.0
"""Bursts of many clients together are taken as they show in counts over this time: a tick."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of one recording. `cv` is that of the whole stream; token means where it has any."""

    name: str
    whose: Literal["azure", "servegen"]
    envelope: Envelope
    cv: float = 1.0
    prompt_mean: float | None = None
    generated_mean: float | None = None


def together(rate_per_s: FloatArray, cv: FloatArray, clients: FloatArray | float = 1.0) -> float:
    """The coefficient of variation of one stream whose counts spread like those of many.

    `rate_per_s` and `cv` are each client's, `clients` how many such there are. The count of one
    with gamma gaps has, in a window with mean m, the variance cv^2 m + (1 - cv^4) / 6 where that is
    above m, and about m before: who comes less than once in a window adds no burst within it.
    """
    mean = rate_per_s * BURST_S
    spread = np.maximum(cv**2 * mean + (1.0 - cv**4) / 6.0, mean) * (mean > 0.0)
    return max(1.0, math.sqrt(float((clients * spread).sum() / (clients * mean).sum())))


def read_clients(name: str, text: str) -> Rates:
    """Read ServeGen's windows of every client.

    Raises:
        TraceError: bad rows, a window twice for one client, or windows off their grid.
    """
    rows = Rows(name)
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for number, row in rows.cells(text, CLIENTS):
        client = rows.whole(number, CLIENTS[0], row[0], 0, 10**6)
        at_s = rows.whole(number, CLIENTS[1], row[1], 0, TIME_MAX_S)
        law = (
            rows.number(number, CLIENTS[2], row[2], 0.0, RATE_MAX_PER_S),
            rows.number(number, CLIENTS[3], row[3], 0.0, CV_MAX),
        )
        if rows.good(number) and (client, at_s) in found:
            rows.problem(number, f"client {client} has the window at {at_s} s twice")
        if rows.good(number):
            found[client, at_s] = law
    times = sorted({at_s for _, at_s in found})
    rows.finish(len(found), "windows at two times at least", enough=len(times) >= 2)
    window_s = min(after - before for before, after in itertools.pairwise(times))
    _check_grid(name, times, window_s)
    values = np.array(list(found.values()))
    places = np.array([(at_s - times[0]) // window_s for _, at_s in found])
    rate: FloatArray = np.bincount(places, values[:, 0]).astype(np.float64)
    _check_rates(name, rate)
    return Rates(
        name, "servegen", Envelope.even(rate, float(window_s)), together(values[:, 0], values[:, 1])
    )


def _check_grid(name: str, times: list[int], window_s: int) -> None:
    """Windows are on one grid, of a length that is a window's. Raises TraceError."""
    if window_s > WINDOW_MAX_S:
        raise TraceError(
            f"{name}: windows of {window_s:,} s; expected at most {WINDOW_MAX_S:,}:"
            " is t_s in seconds?"
        )
    off = [at_s for at_s in times if (at_s - times[0]) % window_s]
    if off:
        raise TraceError(f"{name}: t_s {off[0]} is off the grid of {window_s} s windows")
    if (times[-1] - times[0]) // window_s >= WINDOWS_MAX:
        raise TraceError(f"{name}: more than {WINDOWS_MAX:,} windows of {window_s} s")


def _check_rates(name: str, rate: FloatArray) -> None:
    if not rate.any():
        raise TraceError(f"{name}: no window with a rate above 0")


def read_aggregate(name: str, text: str) -> Rates:
    """Read windows of all clients together.

    The CV of such a file is the mean of the clients' own. Laid over each other they are far
    smoother; how much, is reckoned with as many equal clients as were active. A few large ones make
    it burstier than that: of ServeGen m-large 3.0 instead of 2.1.

    Raises:
        TraceError: bad rows, or windows that do not follow each other.
    """
    rows = Rows(name)
    times: list[int] = []
    last_s = -1
    values: list[tuple[float, float, float]] = []
    tokens: list[tuple[float, float, float]] = []
    for number, row in rows.cells(text, AGGREGATE):
        at_s = rows.whole(number, AGGREGATE[0], row[0], 0, TIME_MAX_S)
        clients = rows.whole(number, AGGREGATE[1], row[1], 0, 10**6)
        rate = rows.number(number, AGGREGATE[2], row[2], 0.0, RATE_MAX_PER_S)
        cv = rows.number(number, AGGREGATE[3], row[3], 0.0, CV_MAX)
        means = _means(rows, number, row[4:])
        if len(times) > 1 and at_s != (due_s := last_s + times[1] - times[0]):
            rows.problem(number, f"t_s is {shown(row[0])}; expected {due_s}, the next window")
        elif at_s <= last_s:
            rows.problem(number, f"t_s is {shown(row[0])}; expected later than the row before")
        last_s = at_s
        if rows.good(number):
            times.append(at_s)
            values.append((rate, cv, max(clients, 1)))
            if means is not None:
                tokens.append((means[0], means[1], rate * means[2]))
    rows.finish(len(times), "at least two windows", enough=len(times) >= 2)
    _check_grid(name, times, times[1] - times[0])
    rate, cv, clients = np.array(values).T
    _check_rates(name, rate)
    burst = together(rate / clients, cv, clients)
    prompt, generated = _weighted(tokens)
    envelope = Envelope.even(rate, float(times[1] - times[0]))
    return Rates(name, "servegen", envelope, burst, prompt, generated)


def _means(rows: Rows, number: int, cells: list[str]) -> tuple[float, float, float] | None:
    """Mean tokens and the share of requests they were taken from; None for a window without."""
    if not cells[0].strip() and not cells[1].strip():
        return None
    return (
        rows.number(number, AGGREGATE[4], cells[0], 1.0, TOKENS_MAX),
        rows.number(number, AGGREGATE[5], cells[1], 1.0, TOKENS_MAX),
        rows.number(number, AGGREGATE[6], cells[2], 0.0, 1.0),
    )


def _weighted(tokens: list[tuple[float, float, float]]) -> tuple[float | None, float | None]:
    prompt, generated, weight = np.array(tokens).reshape(-1, 3).T
    if not weight.any():
        return None, None
    return float(np.average(prompt, weights=weight)), float(np.average(generated, weights=weight))


def read_week(name: str, text: str) -> Rates:
    """Read arrivals per minute as digitised from a plot, scaled to the true number of requests.

    The recording is repeated after the whole days that hold it.

    Raises:
        TraceError: bad rows, or fewer than two.
    """
    rows = Rows(name)
    times_s: list[float] = []
    rates: list[float] = []
    for number, row in rows.cells(text, WEEK):
        at_s = _utc(rows, number, row[0])
        per_minute = rows.number(number, WEEK[4], row[4], 0.0, RATE_MAX_PER_S * 60.0)
        if times_s and at_s <= times_s[-1]:
            expected = "expected later than the row before"
            rows.problem(number, f"{WEEK[0]} is {shown(row[0])}; {expected}")
        if rows.good(number):
            times_s.append(at_s)
            rates.append(per_minute / 60.0)
    rows.finish(len(times_s), "at least two", enough=len(times_s) >= 2)
    at = np.array(times_s)
    at -= math.floor(at[0] / DAY_S) * DAY_S
    _check_rates(name, np.array(rates))
    return Rates(
        name, "azure", Envelope(at, np.array(rates), (math.floor(at[-1] / DAY_S) + 1) * DAY_S)
    )


def _utc(rows: Rows, number: int, text: str) -> float:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        expected = "expected a time with its zone, like 2024-05-12T00:07:12Z"
        rows.problem(number, f"{WEEK[0]} is {shown(text)}; {expected}")
        return math.nan
    return at.timestamp()
