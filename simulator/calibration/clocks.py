"""Power and time against the SM clock, fitted to the Perseus sweeps of A100-SXM and A40.

Prefill-like work: forward passes of GPT-3 175B at every locked clock, 15 MHz apart. Three traps:
the files have eight stages, but the first seven are copies of one measurement, so stages are no
independent data; the top clocks are clipped (A40 draws its 300 W limit from about 1,450 MHz, and
at the top of A100 power and time hardly move), so they are what a board can sustain, not what a
clock costs; and A100 reads 473 W on a board of 400 W, so ratios are used and watts only once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibrated import PartFit
from simulator.calibration.errors import Row, relative
from simulator.calibration.files import DataFolder

FloatArray = NDArray[np.float64]

SWEEPS: Final = {
    "a100": "zeus-perseus/stage_profile_gpt3-175b+a100_sxm_bf16.csv.gz",
    "a40": "zeus-perseus/stage_profile_gpt3-175b+a40_bf16.csv.gz",
}
KNOTS: Final = 11
"""Points of a curve, by quantiles of the fitted clocks: 15 % fewer than half of the clocks."""
RATIO_BOUND: Final = 5.0
BANDWIDTH: Final = 0.18
"""Memory bandwidth in use by prefill, as a share of the peak: assumption, as in the engine."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One measurement at every clock, ascending; arrays of shape (clocks,)."""

    clock_mhz: FloatArray
    time_s: FloatArray
    power_w: FloatArray

    @property
    def ratio(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Clock, time and power as shares of those at the highest clock."""
        return (
            self.clock_mhz / self.clock_mhz[-1],
            self.time_s / self.time_s[-1],
            self.power_w / self.power_w[-1],
        )


@dataclass(frozen=True, slots=True)
class ClockCurve:
    """Time and power ratio at clock ratios, straight between them."""

    clock_ratio: FloatArray
    time_ratio: FloatArray
    power_ratio: FloatArray

    def time_at(self, ratio: FloatArray) -> FloatArray:
        """Time at a share of the highest clock, 1 at full clock."""
        found: FloatArray = np.interp(ratio, self.clock_ratio, self.time_ratio)
        return found

    def power_at(self, ratio: FloatArray) -> FloatArray:
        """Power at a share of the highest clock, 1 at full clock."""
        found: FloatArray = np.interp(ratio, self.clock_ratio, self.power_ratio)
        return found


def read_sweeps(data: DataFolder, part: str, work: str) -> dict[int, Sweep]:
    """The sweeps of one part by stage; `work` is forward or backward."""
    found: dict[int, list[tuple[float, float, float]]] = {}
    for row in data.rows(SWEEPS[part], "stage", "instruction", "frequency", "time", "energy"):
        if row["instruction"] == work:
            time_s = float(row["time"])
            found.setdefault(int(row["stage"]), []).append(
                (float(row["frequency"]), time_s, float(row["energy"]) / time_s)
            )
    return {stage: _sweep(rows) for stage, rows in found.items()}


def _sweep(rows: list[tuple[float, float, float]]) -> Sweep:
    clock, time, power = np.array(sorted(rows)).T
    return Sweep(clock, time, power)


def distinct(sweeps: dict[int, Sweep]) -> list[Sweep]:
    """One sweep of each group of stages whose powers are the same to 0.5 %: copies are no data."""
    kept: list[Sweep] = []
    for stage in sorted(sweeps):
        new = sweeps[stage]
        if all(np.max(np.abs(new.power_w / old.power_w - 1.0)) > 0.005 for old in kept):
            kept.append(new)
    return kept


def split(count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which clocks are fitted, and which are checked: every other one, from the top."""
    fitted = (np.arange(count)[::-1] % 2) == 0
    return fitted, ~fitted


def fit_curve(sweep: Sweep) -> ClockCurve:
    """Least squares over every other clock, by straight lines between a few knots."""
    fitted, _ = split(len(sweep.clock_mhz))
    clock, time, power = (values[fitted] for values in sweep.ratio)
    knots = np.quantile(clock, np.linspace(0.0, 1.0, KNOTS))
    hats = np.stack([np.interp(clock, knots, row) for row in np.eye(KNOTS)], axis=1)
    time_ratio = np.linalg.lstsq(hats, time, rcond=None)[0]
    power_ratio = np.linalg.lstsq(hats, power, rcond=None)[0]
    return ClockCurve(knots, time_ratio / time_ratio[-1], power_ratio / power_ratio[-1])


def fixed_time_share(sweep: Sweep) -> float:
    """The share s of time = s + (1 - s) / clock that follows no clock, by least squares."""
    fitted, _ = split(len(sweep.clock_mhz))
    clock, time, _ = (values[fitted] for values in sweep.ratio)
    slower = 1.0 / clock - 1.0
    return 1.0 - float(slower @ (time - 1.0) / (slower @ slower))


@dataclass(frozen=True, slots=True)
class IdlePoints:
    """What is known of a part beside its sweep.

    `movement_power_w` and `memory_power_w` are at full memory bandwidth, see `GpuConstants`.
    """

    static_power_w: float
    context_power_w: float
    memory_power_w: float
    movement_power_w: float


def voltage_law(sweep: Sweep, curve: ClockCurve, known: IdlePoints) -> PartFit:
    """The voltage curve with which the power law follows `curve`, and the power of full cores.

    With x the share of the highest clock, dense prefill draws
    fixed + v^2 (dynamic x + movement): solved for v at every knot. Below the lowest measured clock
    the voltage stays: the sweep is nearly straight there.
    """
    top_w = float(sweep.power_w[-1])
    fixed_w = known.static_power_w + known.memory_power_w * BANDWIDTH
    moving_w = known.movement_power_w * BANDWIDTH
    dynamic_w = top_w - fixed_w - moving_w
    square = (top_w * curve.power_ratio - fixed_w) / (dynamic_w * curve.clock_ratio + moving_w)
    voltage = np.maximum.accumulate(np.sqrt(square))
    points = zip(curve.clock_ratio.tolist(), (voltage / voltage[-1]).tolist(), strict=True)
    return PartFit(
        static_power_w=known.static_power_w,
        context_power_w=known.context_power_w,
        compute_power_w=rounded(dynamic_w - known.context_power_w),
        memory_power_w=known.memory_power_w,
        movement_power_w=known.movement_power_w,
        voltage_curve_ratio=tuple((rounded(clock), rounded(volts)) for clock, volts in points),
    )


def rounded(value: float) -> float:
    """Five significant digits: the same file on every machine."""
    return float(f"{value:.5g}")


def law_ratio(part: PartFit, clock_ratio: FloatArray) -> FloatArray:
    """Power of dense prefill by the law, relative to that at the highest clock."""
    clocks, volts = np.array(part.voltage_curve_ratio).T
    square = np.interp(clock_ratio, clocks, volts) ** 2
    full_w = part.context_power_w + part.compute_power_w
    fixed_w = part.static_power_w + part.memory_power_w * BANDWIDTH
    moving_w = part.movement_power_w * BANDWIDTH
    power_w: FloatArray = fixed_w + (full_w * clock_ratio + moving_w) * square
    return power_w / (fixed_w + full_w + moving_w)


def curve_rows(part: str, curve: ClockCurve, sweeps: list[Sweep]) -> list[Row]:
    """Errors on the clocks that were not fitted, of every measurement that is not a copy."""
    parts = [split(len(sweep.clock_mhz))[1] for sweep in sweeps]
    clock, time, power = (
        np.concatenate([sweep.ratio[axis][part] for sweep, part in zip(sweeps, parts, strict=True)])
        for axis in range(3)
    )
    source, share = f"Perseus {part.upper()}, prefill-like", "every other clock; both stage kinds"
    return [
        relative(f"{part} power ratio by clock", source, share,
                 model=curve.power_at(clock), measured=power, bound=RATIO_BOUND),
        relative(f"{part} time ratio by clock", source, share,
                 model=curve.time_at(clock), measured=time, bound=RATIO_BOUND),
    ]  # fmt: skip
