"""The table of errors as text, and its place in the documentation.

It decides no bound and computes no error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from simulator.calibration.errors import Row

BEGIN: Final = "<!-- errors: begin, written by python -m simulator.calibration -->"
END: Final = "<!-- errors: end -->"
HEAD: Final = ("quantity", "measured by", "checked on", "points", "median", "P95", "bound")


def table(rows: Sequence[Row]) -> str:
    """All rows as a Markdown table."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(HEAD))]
    lines = [
        "| " + " | ".join(text.ljust(wide) for text, wide in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (wide + 2) for wide in widths) + "|")
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    bound = f"{row.bound:g} {row.unit}"
    return (
        row.quantity,
        row.source,
        row.split,
        f"{row.points:,}",
        f"{row.median:.1f} {row.unit}",
        f"{row.p95:.1f} {row.unit}",
        bound if row.holds else f"{bound}: MISSED",
    )


def placed(document: str, rows: Sequence[Row]) -> str:
    """The document with the table between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no place for the table: expected {BEGIN!r} and, after it, {END!r}")
    return f"{before}{BEGIN}\n\n{table(rows)}\n{END}{after}"
