"""The chassis through Linux hwmon files: a power meter and an inlet thermometer.

It owns the paths, the units and the bounds. It never raises: what cannot be read, or cannot be
true, is None. A read may block as long as the kernel asks the board, so it belongs in a worker.
"""

from __future__ import annotations

import glob
from typing import Final

from facility.ports import NodeSensors

MICRO: Final = 1e-6
MILLI: Final = 1e-3
NODE_POWER_W_MIN: Final = 1.0  # a node that runs this draws power: 0 is a dead meter
NODE_POWER_W_MAX: Final = 500_000.0
INLET_C_MIN: Final = -40.0  # below are the codes of a missing probe, such as -128
INLET_C_MAX: Final = 100.0  # above too, such as 127.875
READ_BYTES_MAX: Final = 64


class HwmonSensors:
    """Reads the two files, if they are given.

    A path may hold `*`, because `hwmonN` is numbered anew at every boot; it must then match one
    file exactly: two meters are no meter.
    """

    def __init__(
        self, *, node_power_file: str | None = None, inlet_temperature_file: str | None = None
    ) -> None:
        """Remember the paths: `power*_average` in microwatts, `temp*_input` in millidegrees."""
        self._node_power_file = node_power_file
        self._inlet_temperature_file = inlet_temperature_file

    def read(self) -> NodeSensors:
        """Both readings, each None when it is absent, unreadable or impossible."""
        power_w = _number(self._node_power_file, MICRO)
        inlet_c = _number(self._inlet_temperature_file, MILLI)
        return NodeSensors(
            node_power_w=_within(power_w, NODE_POWER_W_MIN, NODE_POWER_W_MAX),
            inlet_temperature_c=_within(inlet_c, INLET_C_MIN, INLET_C_MAX),
        )


def _number(path: str | None, scale: float) -> float | None:
    """The whole number in a file, scaled; hwmon writes nothing else."""
    if path is None:
        return None
    try:
        if "*" in path:
            (path,) = glob.glob(path)
        with open(path, "rb") as file:
            return int(file.read(READ_BYTES_MAX)) * scale
    except (OSError, ValueError):
        return None


def _within(value: float | None, low: float, high: float) -> float | None:
    return value if value is not None and low <= value <= high else None
