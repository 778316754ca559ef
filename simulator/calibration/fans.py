"""Fan power against server power, fitted to eight points of Azure's GreenSKU data."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibrated import FanFit
from simulator.calibration.clocks import rounded
from simulator.calibration.errors import Row, relative
from simulator.calibration.files import DataFolder

FloatArray = NDArray[np.float64]

POINTS: Final = "azure-greensku/server_fan_power.csv"
FAN_BOUND: Final = 15.0


def fit_fans(data: DataFolder) -> tuple[FanFit, list[Row]]:
    """A straight line over every other point, checked on the others.

    These are servers without GPUs, 320 to 911 W: for the shape of fan power, not for a DGX.
    """
    table = data.rows(POINTS, "server power", "fan power")
    server, fan = np.array([[float(r["server power"]), float(r["fan power"])] for r in table]).T
    fitted = np.arange(len(server)) % 2 == 0
    parts = np.stack([np.ones_like(server), server], axis=1)
    base, slope = np.linalg.lstsq(parts[fitted], fan[fitted], rcond=None)[0].tolist()
    model: FloatArray = parts @ np.array([base, slope])
    row = relative("fan power by server power", "Azure GreenSKU", "every other point",
                   model=model[~fitted], measured=fan[~fitted], bound=FAN_BOUND)  # fmt: skip
    return FanFit(base_power_w=rounded(base), power_ratio=rounded(slope)), [row]
