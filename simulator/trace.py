"""The load: a recorded request trace, read strictly and scaled to a row.

A trace says when requests came and how long they were. Scaling lays several copies over each other,
each shifted by its own time, and drops requests at random until the mean rate is met.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
TOKENS_MAX: Final = 1_000_000
ROWS_MAX: Final = 5_000_000
BYTES_MAX: Final = 256 * 1024 * 1024
"""Largest trace, unpacked; five million rows of the Azure traces have 220 MB."""
PROBLEMS_MAX: Final = 20
BLOCK_S: Final = 20.0
COPIES_MAX: Final = 100_000
BUILT_IN: Final = "AzureLLMInferenceTrace_conv.csv.gz"


class TraceError(ValueError):
    """A trace that cannot be used; the text names the file and every bad row, up to a limit."""


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
    """Requests in order of arrival; arrays of shape (requests,)."""

    at_s: FloatArray
    context_tokens: IntArray
    generated_tokens: IntArray


def built_in_trace() -> Trace:
    """The conversation trace that comes with the package (`simulator/data/azure/README.md`)."""
    data = resources.files("simulator").joinpath("data", "azure", BUILT_IN).read_bytes()
    return parse_trace(BUILT_IN, data)


def load_trace(path: Path) -> Trace:
    """Read a CSV file in the format of the Azure traces of 2023, plain or gzip.

    Raises:
        TraceError: unreadable, or with bad rows: all of them are named, at most 20 in the text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    return parse_trace(str(path), data)


def parse_trace(name: str, data: bytes, *, bytes_max: int = BYTES_MAX) -> Trace:
    """Turn the bytes of a file into a trace; `name` is for messages.

    Raises:
        TraceError: as `load_trace`.
    """
    try:
        plain = data
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as packed:
                plain = packed.read(bytes_max + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{name}: broken gzip data: {error}") from error
    if len(plain) > bytes_max:
        raise TraceError(f"{name}: more than {bytes_max:,} bytes, unpacked")
    reader = _Reader(name)
    # Bytes that are not UTF-8 become a mark that no valid value contains, so their row is named.
    text = plain.decode("utf-8-sig", errors="replace").replace("\0", "\ufffd")
    try:
        reader.read(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise TraceError(f"{name}: not CSV: {error}") from error
    return reader.trace()


class _Reader:
    """One pass over the rows; collects problems instead of stopping at the first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []
        self.problems_count = 0
        self.bad_rows = 0
        self.at_s: list[float] = []
        self.tokens: list[tuple[int, int]] = []

    def read(self, rows: Iterable[list[str]]) -> None:
        header = False
        for number, row in enumerate(rows, start=1):
            if not header:
                header = True
                if tuple(cell.strip() for cell in row) != COLUMNS:
                    raise TraceError(
                        f"{self.name}: row 1 is {_shown(','.join(row))};"
                        f" expected the header {','.join(COLUMNS)}"
                    )
            elif row:
                self._row(number, row)
            if len(self.at_s) > ROWS_MAX:
                raise TraceError(f"{self.name}: more than {ROWS_MAX:,} rows")

    def _row(self, number: int, row: list[str]) -> None:
        before = self.problems_count
        if len(row) != len(COLUMNS):
            self._problem(number, f"{len(row)} columns, expected {len(COLUMNS)}")
        else:
            at_s = self._time(number, row[0])
            context = self._tokens(number, COLUMNS[1], row[1])
            generated = self._tokens(number, COLUMNS[2], row[2])
            if self.problems_count == before:
                self.at_s.append(at_s)
                self.tokens.append((context, generated))
        self.bad_rows += self.problems_count > before

    def _problem(self, number: int, text: str) -> None:
        """Note a problem; of too many only how many there are."""
        self.problems_count += 1
        if self.problems_count <= PROBLEMS_MAX:
            self.problems.append(f"row {number}: {text}")

    def _time(self, number: int, text: str) -> float:
        try:
            at = datetime.fromisoformat(text.strip())
        except ValueError:
            self._problem(
                number,
                f"{COLUMNS[0]} is {_shown(text)}; expected a time like 2023-11-16 18:15:46.68",
            )
            return math.nan
        at_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        if self.at_s and at_s < self.at_s[-1]:
            self._problem(
                number, f"{COLUMNS[0]} is {_shown(text)}; expected no earlier than the row before"
            )
        return at_s

    def _tokens(self, number: int, column: str, text: str) -> int:
        word = text.strip()
        tokens = int(word) if word.isascii() and word.isdigit() and len(word) <= 9 else 0
        if not 1 <= tokens <= TOKENS_MAX:
            self._problem(
                number,
                f"{column} is {_shown(text)}; expected a whole number from 1 to {TOKENS_MAX:,}",
            )
        return tokens

    def trace(self) -> Trace:
        if self.problems:
            more = self.problems_count - PROBLEMS_MAX
            lines = self.problems + ([f"and {more} more"] if more > 0 else [])
            count = "1 bad row" if self.bad_rows == 1 else f"{self.bad_rows} bad rows"
            raise TraceError(f"{self.name}: {count}\n  " + "\n  ".join(lines))
        if len(self.at_s) < 2 or self.at_s[-1] == self.at_s[0]:
            raise TraceError(
                f"{self.name}: {len(self.at_s)} usable rows; expected at least two at two times"
            )
        at_s = np.array(self.at_s) - self.at_s[0]
        tokens = np.array(self.tokens, dtype=np.int64)
        # The gap from the last request to the first of the next round is an average one.
        span_s = float(at_s[-1]) * len(at_s) / (len(at_s) - 1)
        return Trace(self.name, at_s, tokens[:, 0].copy(), tokens[:, 1].copy(), span_s)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


class Load:
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
        self._block_end_s = start_s
        self._block = Arrivals(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
        self._next = 0

    def until(self, at_s: float) -> Arrivals:
        """All arrivals before `at_s` that have not been handed out yet."""
        parts = []
        while self._block_end_s < at_s:
            parts.append(self._take(len(self._block.at_s)))
            self._fill()
        parts.append(self._take(int(self._block.at_s.searchsorted(at_s))))
        if len(parts) == 1:
            return parts[0]
        return Arrivals(
            np.concatenate([part.at_s for part in parts]),
            np.concatenate([part.context_tokens for part in parts]),
            np.concatenate([part.generated_tokens for part in parts]),
        )

    def _take(self, end: int) -> Arrivals:
        part = slice(self._next, end)
        self._next = end
        block = self._block
        return Arrivals(block.at_s[part], block.context_tokens[part], block.generated_tokens[part])

    def _rows_before(self, at_s: FloatArray) -> IntArray:
        """How many rows of the endlessly repeated trace lie before each time."""
        rounds = np.floor(at_s / self._trace.span_s)
        inside = self._trace.at_s.searchsorted(at_s - rounds * self._trace.span_s)
        rows: IntArray = rounds.astype(np.int64) * len(self._trace.at_s) + inside
        return rows

    def _fill(self) -> None:
        """Lay all copies of the next block over each other, thin them and sort."""
        trace, begin_s = self._trace, self._block_end_s
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
        self._block = Arrivals(at_s, trace.context_tokens[inside], trace.generated_tokens[inside])
        self._block_end_s = begin_s + BLOCK_S
        self._next = 0
