"""Series of domain power: stationary, a real week, abrupt; and how often a forecast was passed.

The week is the Azure conversation service of May 2024 (`simulator/data/azure`): its arrivals make
the level, batches that come and go the noise around it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

import simulator
from predictors.power import PowerForecaster
from predictors.rises import BoolArray, FloatArray

DOMAINS: Final = 16
WEEK_FILE: Final = "data/azure/arrivals_per_minute_conv_2024week.csv"


def noise(rng: np.random.Generator, steps: int, *, tau_steps: float = 10.0) -> FloatArray:
    """Unit noise that remembers `tau_steps`: batches last for some seconds."""
    keep = float(np.exp(-1.0 / tau_steps))
    shocks = rng.standard_normal((steps, DOMAINS)) * np.sqrt(1.0 - keep**2)
    values: FloatArray = np.empty_like(shocks)
    values[0] = rng.standard_normal(DOMAINS)
    for step in range(1, steps):
        values[step] = keep * values[step - 1] + shocks[step]
    return values


def stationary(seed: int, steps: int) -> FloatArray:
    """About 200 kW, give or take 3 %."""
    return np.asarray(2e5 * np.exp(0.03 * noise(np.random.default_rng(seed), steps)))


def week(seed: int, steps: int, cycle_s: float) -> FloatArray:
    """The first `steps` cycles of the week: 80 kW of idle, and 120 kW at the highest arrivals."""
    path = Path(simulator.__file__).parent / WEEK_FILE
    rows = [line.split(",") for line in path.read_text().splitlines()[1:] if line[:1] != "#"]
    rate = np.array([float(row[1]) for row in rows])
    seconds = np.arange(len(rate)) * 7 * 86_400.0 / len(rate)
    rate = np.interp(np.arange(steps) * cycle_s, seconds, rate / rate.max())
    active = rate[:, np.newaxis] * (1.0 + 0.06 * noise(np.random.default_rng(seed), steps))
    return np.asarray(8e4 + 1.2e5 * np.maximum(active, 0.0))


def abrupt(seed: int, steps: int) -> FloatArray:
    """A level that jumps by up to a third and noise that changes its size, each now and then."""
    rng = np.random.default_rng(seed)
    jumps = rng.random((steps, DOMAINS)) < 1.0 / 2_000.0
    levels = rng.uniform(1.0, 1.33, (steps, DOMAINS))
    sizes = rng.choice([0.01, 0.03, 0.06], (steps, DOMAINS))
    held = np.maximum.accumulate(np.where(jumps, np.arange(steps)[:, np.newaxis], 0), axis=0)
    level = np.take_along_axis(levels, held, axis=0)
    size = np.take_along_axis(sizes, held, axis=0)
    return np.asarray(1.5e5 * level * np.exp(size * noise(rng, steps, tau_steps=5.0)))


def passed(
    series_w: FloatArray,
    *,
    cycle_s: float,
    horizon_s: float,
    quantile: float,
    missing: BoolArray | None = None,
) -> tuple[float, float, PowerForecaster]:
    """How often the highest moment of the horizon passed what was said, and the mean margin said.

    Counts only what history backs. `missing` flags cycles that did not happen.
    """
    power = PowerForecaster(
        series_w.shape[1],
        cycle_s=cycle_s,
        horizon_s=horizon_s,
        quantile=quantile,
        spike_ratio=0.09,
    )
    steps = round(horizon_s / cycle_s)
    said = np.full_like(series_w, np.nan)
    for step, power_w in enumerate(series_w):
        if missing is None or not missing[step]:
            found = power.forecast(power_w, now_s=step * cycle_s)
            said[step] = np.where(found.from_history, found.forecast_w, np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(series_w[1:], steps, axis=0)
    highest = windows.max(axis=-1)
    said = said[: len(highest)]
    known = np.isfinite(said)
    margin = float((said / series_w[: len(said)] - 1.0)[known].mean())
    return float((highest > said)[known].mean()), margin, power
