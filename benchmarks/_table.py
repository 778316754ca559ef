"""What benchmarks print: the machine, and one line per figure with its budget and a verdict."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure; `within` says whether it keeps its budget, None where there is none."""

    what: str
    found: str
    budget: str = ""
    within: bool | None = None

    @property
    def verdict(self) -> str:
        """In words."""
        return "" if self.within is None else "ok" if self.within else "MISSED"


def at_most(what: str, value: float, most: float, unit: str, *, digits: int = 1) -> Figure:
    """A figure whose budget is an upper bound."""
    return Figure(what, f"{value:.{digits}f} {unit}", f"<= {most:g} {unit}", within=value <= most)


def at_least(what: str, value: float, least: float, unit: str) -> Figure:
    """A figure whose budget is a lower bound."""
    return Figure(what, f"{value:,.0f} {unit}", f">= {least:,g} {unit}", within=value >= least)


def machine() -> str:
    """One line about what this ran on."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    busy = os.getloadavg()[0]
    return (
        f"{cores} cores of {model}, shared by everything below; Python"
        f" {platform.python_version()}; load {busy:.1f} at the start"
    )


def show(figures: Sequence[Figure]) -> None:
    """Print a table."""
    rows = [("figure", "found", "budget", "verdict")]
    rows += [(one.what, one.found, one.budget, one.verdict) for one in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = max(1, -(-int(share * 1_000_000) * len(ordered) // 1_000_000))
    return ordered[rank - 1]
