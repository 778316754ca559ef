"""The whole calibration: every fit in order, from a folder of measurements to the constants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulator.calibrated import SCHEMA_VERSION, Calibrated
from simulator.calibration import clocks, decode, engines, fans, heat, operators, serving
from simulator.calibration.bands import SENSOR, bands
from simulator.calibration.errors import Row
from simulator.calibration.files import DataFolder

A100_KNOWN: Final = clocks.IdlePoints(
    static_power_w=52.0,  # 53.7 W idle at 210 MHz (arXiv 2605.23918)
    context_power_w=28.0,  # 80.0 W idle with a context at 1410 MHz (same)
    memory_power_w=140.0,  # the sum of the two is fitted: 284 W at full bandwidth
    movement_power_w=144.0,
)
DECODE_LOADS: Final = ((0.12, 0.19), (0.14, 0.44), (0.16, 0.42))
"""Intensity and bandwidth of llama2-70b and bloom-176b at batch 1, and of bloom at 16."""


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
    fits = {
        profile.name: engines.fit_engine(profile, a100 if profile.part == "a100" else None)
        for profile in profiles
    }
    rows += engines.time_rows(profiles, fits) + engines.power_rows(profiles, fits, a100)
    served, serving_rows = serving.fit_serving(data)
    heated, heat_rows = heat.fit_heat(data)
    fan, fan_rows = fans.fit_fans(data)
    rows += serving_rows + heat_rows + fan_rows
    products = operators.h200_points(data)
    constants = Calibrated(
        schema_version=SCHEMA_VERSION,
        sources=data.sources,
        parts={"a100": a100},
        engines=fits,
        prefill_fixed_share=clocks.rounded(clocks.fixed_time_share(sweeps["a100"][0])),
        serving=served,
        heat=heated,
        fans=fan,
        h200_products=products,
        sensor=SENSOR,
        bands={**bands(), "decode_clock_exponent": decode.exponent_band(a100, DECODE_LOADS)},
    )
    return Calibration(constants, tuple(rows))
