"""The GPUs of the twin: constants per part, the power law, the part's own limiters, its sensors.

All GPUs of a site are one bank of arrays. The bank owns clocks, power and what NVML would report;
it never decides a ceiling, and temperature is given to it (`simulator.thermal`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

from simulator.calibrated import load_calibrated


@dataclass(frozen=True, slots=True)
class GpuConstants:
    """One part: grid, limits, power law, heat path and memory.

    With f the SM clock, v the voltage relative to its highest, a the SM intensity, m the share of
    memory bandwidth in use and T the die temperature, the power law is

        phi = f / f_max * v^2
        v   = 1 / voltage_ratio                          below `knee_mhz`
            = rising linearly from there to 1 at f_max   above it
        P   = static * (1 + leak(T)) + context * phi + compute * a * phi
              + memory * m + movement * m * v^2

    Where `voltage_curve_ratio` holds points (clock and voltage as shares of their highest,
    ascending), v runs straight between them instead, and stays below the first: a measured curve.

    `context` is the clock tree: it follows the clock whether or not anything runs. An idle GPU
    without a context drops to `idle_clock_mhz`, one with a context stays at its ceiling, which
    reproduces both published idle figures. Heat: die and sink are two nodes in series,
    `*_k_per_w` and `*_j_per_k`; the sink's resistance is at nominal air flow.
    """

    name: str
    clock_mhz_min: int
    clock_mhz_max: int
    clock_mhz_step: int
    idle_clock_mhz: int
    brake_clock_mhz: int
    power_limit_w: float
    power_limit_w_min: float
    static_power_w: float
    context_power_w: float
    compute_power_w: float
    memory_power_w: float
    movement_power_w: float
    knee_mhz: int
    voltage_ratio: float
    operating_temperature_c_max: float
    slowdown_temperature_c: float
    shutdown_temperature_c: float
    memory_temperature_c_max: float
    die_sink_k_per_w: float
    die_j_per_k: float
    sink_air_k_per_w: float
    sink_j_per_k: float
    peak_flop_per_s: float
    memory_byte_per_s: float
    voltage_curve_ratio: tuple[tuple[float, float], ...] = ()

    @property
    def clocks_mhz(self) -> tuple[int, ...]:
        """The supported SM clocks, ascending."""
        return tuple(range(self.clock_mhz_min, self.clock_mhz_max + 1, self.clock_mhz_step))

    def voltage_at(self, clock_mhz: float) -> float:
        """Core voltage at `clock_mhz`, relative to the voltage at the highest clock."""
        if self.voltage_curve_ratio:
            return _between(self.voltage_curve_ratio, clock_mhz / self.clock_mhz_max)
        above = max(0.0, (clock_mhz - self.knee_mhz) / (self.clock_mhz_max - self.knee_mhz))
        return (1.0 + (self.voltage_ratio - 1.0) * above) / self.voltage_ratio

    def dynamic_at(self, clock_mhz: float) -> float:
        """Dynamic power at `clock_mhz`, relative to the highest clock: phi in the power law."""
        return clock_mhz / self.clock_mhz_max * self.voltage_at(clock_mhz) ** 2

    def power_w_at(
        self, clock_mhz: float, *, intensity: float, bandwidth: float, temperature_c: float = 45.0
    ) -> float:
        """Power by the law above, before the part's own limiters."""
        phi, voltage = self.dynamic_at(clock_mhz), self.voltage_at(clock_mhz)
        return (
            self.static_power_w * (1.0 + leak_ratio(temperature_c))
            + (self.context_power_w + self.compute_power_w * intensity) * phi
            + (self.memory_power_w + self.movement_power_w * voltage**2) * bandwidth
        )


def _between(points: tuple[tuple[float, float], ...], at: float) -> float:
    """The value at `at`, straight between ascending points; the end's value outside them."""
    right = bisect_right(points, at, key=lambda point: point[0])
    if right == 0 or right == len(points):
        return points[min(right, len(points) - 1)][1]
    (low, low_value), (high, high_value) = points[right - 1], points[right]
    return low_value + (high_value - low_value) * (at - low) / (high - low)


LEAK_SHARE: Final = 0.5  # half of the static part leaks                            assumption
LEAK_PER_K: Final = 0.018  # growth of that half per kelvin                         assumption
LEAK_FROM_C: Final = 45.0  # the static figure holds up to here                     assumption


def leak_ratio(temperature_c: float) -> float:
    """Extra leakage as a share of the static power; none below the reference temperature."""
    return LEAK_SHARE * (math.exp(LEAK_PER_K * max(0.0, temperature_c - LEAK_FROM_C)) - 1.0)


H100_SXM: Final = GpuConstants(
    name="NVIDIA H100 80GB HBM3",
    clock_mhz_min=210,  # lowest on the list                                        from memory
    clock_mhz_max=1980,  # nvidia-smi dumps
    clock_mhz_step=15,  # from memory
    idle_clock_mhz=345,  # nvidia-smi dumps
    brake_clock_mhz=210,  # lowest clock: assumption, the pin's effect is undocumented
    power_limit_w=700.0,  # nvidia-smi dumps
    power_limit_w_min=200.0,  # nvidia-smi dumps
    static_power_w=67.0,  # fitted: 71.8 W idle at 345 MHz (arXiv 2605.23918)
    context_power_w=55.0,  # fitted: 121.7 W idle with a context at 1980 MHz (same)
    compute_power_w=684.0,  # assumption: full dense demand 1.22 of the limit, settles near 1785
    memory_power_w=150.0,  # assumption, scaled from A100 by energy per byte
    movement_power_w=170.0,  # assumption, as above
    knee_mhz=1150,  # assumption
    voltage_ratio=1.40,  # assumption
    operating_temperature_c_max=87.0,  # nvidia-smi dumps, as are the next three
    slowdown_temperature_c=89.0,
    shutdown_temperature_c=92.0,
    memory_temperature_c_max=95.0,
    die_sink_k_per_w=0.018,  # assumption, as are the next three: 42 K over the inlet at 700 W
    die_j_per_k=80.0,
    sink_air_k_per_w=0.042,
    sink_j_per_k=1000.0,
    peak_flop_per_s=989e12,  # dense BF16                                           from memory
    memory_byte_per_s=3.35e12,  # from memory
)

_A100: Final = load_calibrated().parts["a100"]

A100_SXM_80: Final = GpuConstants(
    name="NVIDIA A100-SXM4-80GB",
    clock_mhz_min=210,  # nvidia-smi dumps
    clock_mhz_max=1410,  # nvidia-smi dumps
    clock_mhz_step=15,  # from memory
    idle_clock_mhz=210,  # nvidia-smi dumps
    brake_clock_mhz=288,  # POLCA preprint (arXiv 2308.12908)
    power_limit_w=400.0,  # nvidia-smi dumps
    power_limit_w_min=100.0,  # nvidia-smi dumps
    static_power_w=_A100.static_power_w,
    context_power_w=_A100.context_power_w,
    compute_power_w=_A100.compute_power_w,
    memory_power_w=_A100.memory_power_w,
    movement_power_w=_A100.movement_power_w,
    knee_mhz=1080,  # of the zeus-perseus sweep, for a law without the curve
    voltage_ratio=1.25,  # as above
    operating_temperature_c_max=85.0,  # nvidia-smi dumps, as are the next three
    slowdown_temperature_c=89.0,
    shutdown_temperature_c=92.0,
    memory_temperature_c_max=95.0,
    die_sink_k_per_w=0.025,  # assumption, as are the next three: 36 K over the inlet at 400 W
    die_j_per_k=60.0,
    sink_air_k_per_w=0.065,
    sink_j_per_k=700.0,
    peak_flop_per_s=312e12,  # dense BF16                                           from memory
    memory_byte_per_s=2.039e12,  # from memory
    voltage_curve_ratio=_A100.voltage_curve_ratio,
)

PARTS: Final = {"h100": H100_SXM, "a100": A100_SXM_80}
"""Parts by the word that a site's GPU model must contain to be one."""


def part_named(model: str) -> GpuConstants:
    """The part that a site's GPU model means.

    Raises:
        ValueError: no part is known for it.
    """
    for word, constants in PARTS.items():
        if word in model.lower():
            return constants
    raise ValueError(
        f"the twin knows no GPU like {model!r}; the name must contain one of {', '.join(PARTS)}"
    )
