"""The whole calibration: every fit in order, from a folder of measurements to the constants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulator.calibrated import SCHEMA_VERSION, Calibrated
from simulator.calibration import clocks, engines
from simulator.calibration.bands import bands
from simulator.calibration.errors import Row
from simulator.calibration.files import DataFolder

A100_KNOWN: Final = clocks.IdlePoints(
    static_power_w=52.0,  # 53.7 W idle at 210 MHz (arXiv 2605.23918)
    context_power_w=28.0,  # 80.0 W idle with a context at 1410 MHz (same)
    memory_power_w=140.0,  # the sum of the two is fitted: 284 W at full bandwidth
    movement_power_w=144.0,
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a fit yields: the constants, and how well they hold."""

    constants: Calibrated
    rows: tuple[Row, ...]


def fit(folder: Path) -> Calibration:
    """Fit everything from the measurements in `folder`.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    data = DataFolder(folder)
    rows: list[Row] = []
    sweeps = {
        part: clocks.distinct(clocks.read_sweeps(data, part, "forward")) for part in clocks.SWEEPS
    }
    curves = {part: clocks.fit_curve(kinds[0]) for part, kinds in sweeps.items()}
    for part, curve in curves.items():
        rows += clocks.curve_rows(part, curve, sweeps[part])
    a100 = clocks.voltage_law(sweeps["a100"][0], curves["a100"], A100_KNOWN)
    profiles = engines.read_profiles(data)
    constants = Calibrated(
        schema_version=SCHEMA_VERSION,
        sources=data.sources,
        parts={"a100": a100},
        engines={
            profile.name: engines.fit_engine(profile, a100 if profile.part == "a100" else None)
            for profile in profiles
        },
        prefill_fixed_share=clocks.rounded(clocks.fixed_time_share(sweeps["a100"][0])),
        bands=bands(),
    )
    return Calibration(constants, tuple(rows))
