"""What a reader must know of the twin's constants: how far they lie from measurements, and bands.

The errors are computed anew from the data that is shipped, so that a report never shows old ones.
"""

from __future__ import annotations

from pathlib import Path

import simulator
from simulator.calibrated import load_calibrated
from simulator.calibration.fit import fit
from simulator.experiments.results import Table

ERRORS, BANDS = "Calibration: errors on data that was not fitted", "What no data settles"


def calibration_tables() -> tuple[Table, Table]:
    """The errors of every calibrated quantity, and the band of every figure without data."""
    rows = fit(Path(simulator.__file__).parent / "calibration" / "data").rows
    errors = Table(
        title=ERRORS,
        columns=("quantity", "checked on", "points", "median", "P95", "bound", "unit"),
        rows=tuple(
            (row.quantity, f"{row.source}; {row.split}", row.points,
             row.median, row.p95, row.bound, row.unit)
            for row in rows
        ),
    )  # fmt: skip
    bands = Table(
        title=BANDS,
        columns=("figure", "low", "used", "high", "unit", "from"),
        rows=tuple(
            (name, band.low, band.nominal, band.high, band.unit, band.source)
            for name, band in load_calibrated().bands.items()
        ),
        note="A conclusion that flips between low and high is none.",
    )
    return errors, bands
