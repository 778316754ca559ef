"""Decode power against the clock, where nobody has measured it: a form, and its band.

The form is an assumption: of what decode draws above an idle GPU with a context at the same clock,
a share `s` follows the power of prefill, and the rest follows no clock. The twin's law gets there
through one exponent of its decode intensity, fitted here for each `s`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibrated import Band, PartFit
from simulator.calibration.clocks import law_ratio, rounded

FloatArray = NDArray[np.float64]

SHARES: Final = {"low": 0.30, "nominal": 0.45, "high": 0.65}
CLOCKS_RATIO: Final = tuple(step / 100.0 for step in range(60, 101, 5))
EXPONENTS: Final = tuple(step / 20.0 for step in range(-60, 61))


def dynamic(part: PartFit, clock_ratio: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Dynamic power and the square of the voltage at shares of the highest clock."""
    clocks, volts = np.array(part.voltage_curve_ratio).T
    square: FloatArray = np.interp(clock_ratio, clocks, volts) ** 2
    return clock_ratio * square, square


def law_w(part: PartFit, *, intensity: float, bandwidth: float, exponent: float) -> FloatArray:
    """Power of decode by the twin's law over `CLOCKS_RATIO`."""
    clock = np.array(CLOCKS_RATIO)
    phi, square = dynamic(part, clock)
    cores_w = part.compute_power_w * intensity * phi / clock ** (1.0 + exponent)
    memory_w = (part.memory_power_w + part.movement_power_w * square) * bandwidth
    power_w: FloatArray = part.static_power_w + part.context_power_w * phi + cores_w + memory_w
    return power_w


def form_w(part: PartFit, *, intensity: float, bandwidth: float, share: float) -> FloatArray:
    """Power of decode by the form over `CLOCKS_RATIO`."""
    clock = np.array(CLOCKS_RATIO)
    idle_w = part.static_power_w + part.context_power_w * dynamic(part, clock)[0]
    full_w = law_w(part, intensity=intensity, bandwidth=bandwidth, exponent=0.0)[-1]
    above_w = full_w - part.static_power_w - part.context_power_w
    power_w: FloatArray = idle_w + above_w * (1.0 - share + share * law_ratio(part, clock))
    return power_w


def exponent_band(part: PartFit, loads: tuple[tuple[float, float], ...]) -> Band:
    """The exponent for each share, by least squares over loads of intensity and bandwidth."""
    found = {name: _exponent(part, loads, share) for name, share in SHARES.items()}
    return Band(
        low=min(found.values()),
        nominal=found["nominal"],
        high=max(found.values()),
        unit="1",
        source="assumption: decode power = idle + (P - idle) (1 - s + s x prefill's power ratio),"
        " s = .45 of .30 to .65; large exponents save less when the clock falls",
    )


def _exponent(part: PartFit, loads: tuple[tuple[float, float], ...], share: float) -> float:
    def off(exponent: float) -> float:
        total = 0.0
        for intensity, bandwidth in loads:
            law = law_w(part, intensity=intensity, bandwidth=bandwidth, exponent=exponent)
            form = form_w(part, intensity=intensity, bandwidth=bandwidth, share=share)
            total += float(np.sum((law / form - 1.0) ** 2))
        return total

    return rounded(min(EXPONENTS, key=off))
