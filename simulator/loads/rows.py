"""Reading recordings row by row: what every format shares.

Unpacks within a limit, collects what is wrong instead of stopping at the first, and names every bad
row. It knows no format.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

ROWS_MAX: Final = 5_000_000
BYTES_MAX: Final = 256 * 1024 * 1024
"""Largest recording, unpacked; five million rows of the Azure traces have 220 MB."""
PROBLEMS_MAX: Final = 20


class TraceError(ValueError):
    """A recording that cannot be used; the text names the file and every bad row, up to a limit."""


def unpacked(name: str, data: bytes, bytes_max: int) -> str:
    """The text of a file, plain or gzip.

    Bytes that are not UTF-8 become a mark that no valid value contains, so their row is named.

    Raises:
        TraceError: broken gzip data, or more than `bytes_max` bytes.
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
    return plain.decode("utf-8-sig", errors="replace").replace("\0", "\ufffd")


def shown(text: str) -> str:
    """A cell for a message, not longer than a message may be."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


class Rows:
    """One pass over the rows of a file, with the problems found on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._problems: list[str] = []
        self._count = 0
        self._bad_rows = 0
        self._last = 0

    def cells(self, text: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """Number and cells of each row below the header; rows of another width are problems.

        Raises:
            TraceError: not CSV at all, or too many rows.
        """
        rows = csv.reader(io.StringIO(text, newline=""))
        try:
            for number, row in enumerate(rows, start=1):
                self._limit(number)
                if number == 1 or not row:
                    continue
                if len(row) != len(columns):
                    self.problem(number, f"{len(row)} columns, expected {len(columns)}")
                else:
                    yield number, row
        except csv.Error as error:
            raise TraceError(f"{self.name}: not CSV: {error}") from error

    def lines(self, text: str) -> Iterator[tuple[int, str]]:
        """Number and text of each line that is not blank. Raises TraceError for too many."""
        for number, line in enumerate(text.split("\n"), start=1):
            self._limit(number)
            if line.strip():
                yield number, line

    def _limit(self, number: int) -> None:
        if number > ROWS_MAX + 1:
            raise TraceError(f"{self.name}: more than {ROWS_MAX:,} rows")

    def problem(self, row: int, text: str) -> None:
        """Note a problem; of too many only how many there are."""
        self._count += 1
        self._bad_rows += row != self._last
        self._last = row
        if self._count <= PROBLEMS_MAX:
            self._problems.append(f"row {row}: {text}")

    def good(self, row: int) -> bool:
        """Whether nothing was wrong with this row so far."""
        return row != self._last

    def whole(self, row: int, column: str, text: str, low: int, high: int) -> int:
        """A whole number within [low, high]; else a problem and `low`."""
        word = text.strip()
        fits = word.isascii() and word.isdigit() and len(word) <= len(str(high))
        if not fits or not low <= int(word) <= high:
            expected = f"expected a whole number from {low} to {high:,}"
            self.problem(row, f"{column} is {shown(text)}; {expected}")
            return low
        return int(word)

    def number(self, row: int, column: str, text: str, low: float, high: float) -> float:
        """A number within [low, high]; else a problem and `low`."""
        try:
            value = float(text) if text.isascii() else math.nan
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            expected = f"expected a number from {low:g} to {high:g}"
            self.problem(row, f"{column} is {shown(text)}; {expected}")
            return low
        return value

    def finish(self, usable: int, need: str, *, enough: bool) -> None:
        """Refuse a file with bad rows, or with too few good ones.

        Raises:
            TraceError: with every problem, at most 20.
        """
        if self._problems:
            more = self._count - PROBLEMS_MAX
            lines = self._problems + ([f"and {more} more"] if more > 0 else [])
            count = "1 bad row" if self._bad_rows == 1 else f"{self._bad_rows} bad rows"
            raise TraceError(f"{self.name}: {count}\n  " + "\n  ".join(lines))
        if not enough:
            raise TraceError(f"{self.name}: {usable} usable rows; expected {need}")
