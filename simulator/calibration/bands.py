"""What no data settles, as parameters with a band: what the twin uses, and what it may really be.

A conclusion that depends on where in its band a figure lies is no conclusion; experiments run
across the bands and say so.
"""

from __future__ import annotations

from simulator.calibrated import Band
from simulator.chassis import DGX_A100


def bands() -> dict[str, Band]:
    """Every uncertain figure by name."""
    return {
        "decode_slow_ratio": Band(
            low=0.33, nominal=0.667, high=1.33, unit="1",
            source="assumption: decode takes 1 x its time down to .7 of the highest clock and"
            " 1.1 x (1.05 to 1.2) at .55",
        ),
        "server_a100_fixed_power_w": Band(
            low=755.0, nominal=DGX_A100.fixed_power_w, high=1155.0, unit="W",
            source="assumption: a DGX A100 idles at 1,500 to 1,900 W (from memory)",
        ),
        "server_a100_fan_power_w": Band(
            low=1000.0, nominal=DGX_A100.fan_power_w, high=1625.0, unit="W",
            source="from memory: fans are a quarter of what is provisioned (POLCA: GPUs half)",
        ),
    }  # fmt: skip
