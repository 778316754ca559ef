"""What ports read of the twin's GPUs, as plain lists: one conversion per step, if anybody reads.

Sensors show what they would show, errors and all; nothing here changes a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from simulator.bank import GpuBank
from simulator.thermal import Heat

REASON_IDLE: Final = 0x1
REASON_POWER_CAP: Final = 0x4
REASON_THERMAL: Final = 0x20
REASON_HARD_THERMAL: Final = 0x48
REASON_BRAKE: Final = 0x88


@dataclass(slots=True)
class View:
    """Readings of all GPUs after one step."""

    power_w: list[float]
    clock_mhz: list[int]
    limit_w: list[float]
    limit_requested_w: list[float]
    brake_s: list[float]
    power_throttle_s: list[float]
    thermal_throttle_s: list[float]
    energy_j: list[float]
    temperature_c: list[float]
    memory_temperature_c: list[float]
    reasons: list[int]

    @classmethod
    def of(cls, bank: GpuBank, heat: Heat) -> View:
        """Look at all GPUs."""
        reasons = (
            REASON_POWER_CAP * bank.power_throttled
            | REASON_THERMAL * bank.thermal_throttled
            | REASON_HARD_THERMAL * (heat.die_c >= bank.slowdown_c)
            | REASON_BRAKE * bank.braked
            | REASON_IDLE * ~bank.has_context
        )
        return cls(
            bank.seen_w.tolist(),
            bank.seen_mhz.tolist(),
            bank.limit_w.tolist(),
            bank.limit_requested_w.tolist(),
            bank.brake_s.tolist(),
            bank.power_throttle_s.tolist(),
            bank.thermal_throttle_s.tolist(),
            bank.energy_j.tolist(),
            np.rint(heat.die_c).tolist(),
            np.rint(heat.memory_c_at(bank.memory_power_w())).tolist(),
            reasons.tolist(),
        )
