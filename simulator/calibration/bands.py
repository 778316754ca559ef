"""What no data settles, as parameters with a band: what the twin uses, and what it may really be.

A conclusion that depends on where in its band a figure lies is no conclusion; experiments run
across the bands and say so.
"""

from __future__ import annotations

from simulator.calibrated import Band, SensorFit
from simulator.chassis import DGX_A100

SENSOR = SensorFit(
    window_s=0.025,
    period_s=0.100,
    gain_spread_ratio=0.05,
    average_s=1.0,
    source="A100 and H100 look at 25 ms of every 100 ms, gain within 5 % per board"
    " (arXiv 2312.02741); the averaged reading is a 1 s mean",
)
"""A reading is gain x mean power of the window, out at the period's end, phase random per GPU."""


def bands() -> dict[str, Band]:
    """Every uncertain figure by name, but for those that a fit yields."""
    return {**_clock_bands(), **_heat_bands(), **_electrical_bands()}


def _band(low: float, nominal: float, high: float, unit: str, source: str) -> Band:
    return Band(low=low, nominal=nominal, high=high, unit=unit, source=source)


def _clock_bands() -> dict[str, Band]:
    return {
        "prefill_power_factor": _band(
            0.9, 1.0, 1.1, "1",
            "assumption: other parts follow the power ratio of A100 at the same share of their"
            " highest clock, within a tenth",
        ),
        "a100_prefill_demand_ratio": _band(
            1.02, 1.02, 1.18, "limit",
            "splitwise-sim peaks read 1.02 of the limit, where the board clips; Perseus reads 1.18"
            " for dense work: what bloom would draw without the limit is in between",
        ),
        "decode_slow_ratio": _band(
            0.33, 0.667, 1.33, "1",
            "assumption: decode takes 1 x its time down to .7 of the highest clock and 1.1 x"
            " (1.05 to 1.2) at .55",
        ),
        "decode_loss_ratio": _band(
            0.0, 0.0, 0.45, "1",
            "assumption: what decode loses of its speed for each share of the clock that is missing"
            " near the top; POLCA saw from none (GPT-NeoX) to 5 % (BLOOM) at a cut of the peak by"
            " 13 %",
        ),
        "bandwidth_knee_ratio": _band(
            0.45, 0.55, 0.65, "1",
            "from memory: below this share of the highest clock the cores starve the memory",
        ),
        "h100_voltage_ratio": _band(
            1.25, 1.40, 1.45, "1",
            "assumption: highest over lowest core voltage; with 1.25 the H100 follows the A100's"
            " measured power ratio within a tenth at every clock",
        ),
        "lock_settled_p50_s": _band(
            0.010, 0.025, 0.080, "s",
            "V100 clock-change data set: 5 ms in the driver and 20 ms to settle",
        ),
    }  # fmt: skip


def _heat_bands() -> dict[str, Band]:
    return {
        "a100_sxm_k_per_w": _band(
            0.07, 0.09, 0.12, "K/W",
            "assumption for SXM boards in 8-GPU servers; the PCIe card of `heat` reads .226",
        ),
        "h100_sxm_k_per_w": _band(
            0.05, 0.06, 0.08, "K/W",
            "about .06 by two published points of H100 SXM; the PCIe card of `heat` reads .101",
        ),
        "die_s": _band(
            0.8, 1.5, 3.0, "s", "assumption: hourly data holds no time constant"
        ),
        "sink_s": _band(
            20.0, 45.0, 90.0, "s", "assumption: hourly data holds no time constant"
        ),
        "room_s": _band(
            30.0, 60.0, 600.0, "s", "from memory: racks and ducts, minutes for a whole room"
        ),
    }  # fmt: skip


def _electrical_bands() -> dict[str, Band]:
    return {
        "trip_patience_ratio": _band(
            0.5, 1.0, 2.0, "1",
            "no open curve with figures: how long breakers and supplies bear an overload, against"
            " the curve that the site names",
        ),
        "server_a100_fixed_power_w": _band(
            755.0, DGX_A100.fixed_power_w, 1155.0, "W",
            "assumption: a DGX A100 idles at 1,500 to 1,900 W (from memory)",
        ),
        "server_a100_fan_power_w": _band(
            1000.0, DGX_A100.fan_power_w, 1625.0, "W",
            "from memory: fans are a quarter of what is provisioned (POLCA: GPUs half)",
        ),
    }  # fmt: skip
