"""The twin itself against measurements: what it ships, not what a fit says.

Imports the twin, which reads the constants: only for use once they exist.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from simulator.calibration import clocks
from simulator.calibration.errors import Row, relative
from simulator.calibration.files import DataFolder
from simulator.calibration.operators import Operators
from simulator.engine import Engine, engine_named
from simulator.gpu import A100_SXM_80, H100_SXM, GpuConstants
from simulator.uncertain import band_of, part_with

GPUS: Final = 8
CHECKED_TOKENS: Final = (2048.0, 3072.0, 4096.0, 6144.0, 8192.0, 10240.0, 12288.0, 16384.0)
SUM_BOUND: Final = 25.0
OTHER_PART_BOUND: Final = 10.0
COMPARED_MIN: Final = 0.68
"""Below this share of its highest clock the H100's law draws up to 18 % less than the A100."""


def twin_rows(folder: Path) -> tuple[Row, ...]:
    """Errors of the parts' power laws, of prefill's speed, and of today's engine."""
    data = DataFolder(folder)
    kinds = clocks.distinct(clocks.read_sweeps(data, "a100", "forward"))
    checked = [clocks.split(len(kind.clock_mhz))[1] for kind in kinds]
    clock, time, power = (
        np.concatenate([kind.ratio[axis][part] for kind, part in zip(kinds, checked, strict=True)])
        for axis in range(3)
    )
    high = clock >= COMPARED_MIN
    low = band_of("h100_voltage_ratio").low
    flat = part_with(H100_SXM, {"h100_voltage_ratio": low})
    engine = engine_named("bloom-176b", "a100", GPUS)
    source, split = "Perseus A100, prefill-like", "every other clock; both stage kinds"
    return (
        relative("the twin's A100: power ratio", source, split,
                 model=_law(A100_SXM_80, clock), measured=power, bound=clocks.RATIO_BOUND),
        relative("the twin's prefill: time ratio", source, split,
                 model=1.0 / engine.prefill_speed(clock), measured=time, bound=clocks.RATIO_BOUND),
        relative("the twin's H100: power ratio", source, "clocks from .68; another part",
                 model=_law(H100_SXM, clock[high]), measured=power[high],
                 bound=OTHER_PART_BOUND),
        relative("the twin's H100 at its band's end: power ratio", source,
                 f"all clocks; another part, voltage ratio {low:g}",
                 model=_law(flat, clock), measured=power, bound=OTHER_PART_BOUND),
        _engine_row(data),
    )  # fmt: skip


def _law(part: GpuConstants, clock_ratio: clocks.FloatArray) -> clocks.FloatArray:
    """Power of dense prefill relative to that at the highest clock."""

    def power_w(clock_mhz: float) -> float:
        return part.power_w_at(clock_mhz, intensity=1.0, bandwidth=clocks.BANDWIDTH)

    top_w = power_w(part.clock_mhz_max)
    return np.array([power_w(ratio * part.clock_mhz_max) for ratio in clock_ratio]) / top_w


def _engine_row(data: DataFolder) -> Row:
    """How far today's engine, which the twin runs by default, lies from sums of operators."""
    table = Operators(data, "h100")
    model = Engine().prefill_s(np.array(CHECKED_TOKENS), GPUS * H100_SXM.peak_flop_per_s)
    floor = np.array([table.prefill_s(size) for size in CHECKED_TOKENS])
    return relative(
        "the twin's engine of today: prefill time", "AIConfigurator H100, sum of operators",
        "prompts of 2,048 to 16,384; nothing fitted", model=model, measured=floor, bound=SUM_BOUND,
    )  # fmt: skip
