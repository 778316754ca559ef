"""The workload of the POLCA evaluation: three kinds of requests along a diurnal week.

Shares, lengths and priorities are the paper's table; the course of the week is that of Azure's
conversation service in May 2024, as the production trace of the paper is not public.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from simulator.loads.envelope import Envelope, Noise
from simulator.loads.formats import shipped
from simulator.loads.lengths import uniform
from simulator.loads.rates import read_week
from simulator.loads.workload import Kind, Workload

WEEK: Final = "azure/arrivals_per_minute_conv_2024week.csv"
SMOOTH_KNOTS: Final = 9
"""About an hour of the digitised week: shorter wiggles are drawn anew as noise."""
NOISE: Final = Noise(ratio=0.05, slow_s=300.0, week_ratio=0.03)
"""Assumption: within 7 minutes the digitised week varies by 7 % from minute to minute."""


def polca(*, peak_per_s: float = 1.0, noise: Noise = NOISE) -> Workload:
    """POLCA's table; `peak_per_s` is the highest rate of the week before noise.

    Used per node, it is the requests/s of one server at the week's peak.
    """
    # Shares, ranges and priorities of the paper's table                               from memory
    low, high = {"low": 1.0}, {"high": 1.0}
    return Workload(
        "polca",
        diurnal_week(peak_per_s),
        (
            Kind("summarize", 0.25, uniform((2048, 8192), (256, 512)), low),
            Kind("search", 0.25, uniform((512, 2048), (1024, 2048)), high),
            Kind("chat", 0.50, uniform((2048, 4096), (128, 2048)), {"high": 0.5, "low": 0.5}),
        ),
        noise=noise,
    )


def diurnal_week(peak_per_s: float) -> Envelope:
    """The digitised week, smoothed over an hour and scaled to its peak."""
    week = read_week(WEEK, shipped(WEEK)).envelope
    rate = week.rate_per_s
    around = np.concatenate([rate[-(SMOOTH_KNOTS // 2) :], rate, rate[: SMOOTH_KNOTS // 2]])
    smooth = np.convolve(around, np.full(SMOOTH_KNOTS, 1.0 / SMOOTH_KNOTS), "valid")
    return Envelope(week.at_s, smooth * (peak_per_s / smooth.max()), week.period_s)
