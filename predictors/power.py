"""What each domain will draw within one reaction, as a quantile.

Short-term trend plus the rises that the domain itself has shown; while its history is short, plus
the fastest rise known for an inference row instead, which is larger. The forecast says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

WINDOW_S: Final = 300.0
"""How far back rises are remembered: inference load is stable over minutes (POLCA 1.2)."""
TREND_S: Final = 5.0
"""The slope is taken over this long; shorter follows noise, longer misses a ramp."""
HISTORY_S_MIN: Final = 60.0
"""Below this much history rises say nothing; a high quantile needs more: 1 / (1 - q) rises."""


@dataclass(frozen=True, slots=True)
class PowerForecast:
    """Per domain: power now, power at the horizon as a quantile, and whether history backs it.

    All arrays have one entry per domain, in site order; W.
    """

    power_w: FloatArray
    forecast_w: FloatArray
    from_history: BoolArray

    @property
    def rise_w(self) -> FloatArray:
        """How much more than now is to be expected; never negative."""
        return np.maximum(self.forecast_w - self.power_w, 0.0)


class PowerForecaster:
    """Learns one sample per cycle and forecasts all domains at once.

    Args:
        domain_count: number of domains.
        cycle_s: seconds between samples.
        horizon_s: how far ahead: one reaction, from sample to effect.
        quantile: share of futures that the forecast covers.
        spike_ratio: rise within the horizon to assume without history, as a share of power.
    """

    def __init__(
        self,
        domain_count: int,
        *,
        cycle_s: float,
        horizon_s: float,
        quantile: float,
        spike_ratio: float,
    ) -> None:
        self._samples_max = max(int(WINDOW_S / cycle_s), 2)
        self._history = np.full((self._samples_max, domain_count), np.nan)
        self._filled = np.zeros(domain_count, dtype=np.int64)
        self._horizon_steps = max(int(np.ceil(horizon_s / cycle_s)), 1)
        self._trend_steps = max(int(TREND_S / cycle_s), 1)
        self._history_steps_min = int(HISTORY_S_MIN / cycle_s) + self._horizon_steps
        self._horizon_s = horizon_s
        self._cycle_s = cycle_s
        self._quantile = quantile
        self._spike_ratio = spike_ratio

    def forget(self, domains: BoolArray) -> None:
        """Drop the history of `domains`: what they carry has changed, so their rises say nothing.

        Args:
            domains: one flag per domain.
        """
        self._history[:, domains] = np.nan
        self._filled[domains] = 0

    def forecast(self, power_w: FloatArray) -> PowerForecast:
        """Learn this cycle's power and forecast the horizon.

        Args:
            power_w: power of each domain now, W; missing nodes already at their worst case.
        """
        self._history = np.roll(self._history, -1, axis=0)
        self._history[-1] = power_w
        self._filled = np.minimum(self._filled + 1, self._samples_max)
        rises_count = np.maximum(self._filled - self._horizon_steps, 0)
        # A quantile of too few rises is no more than their largest: the k-th largest of n with
        # k = (1 - q)(n + 1) is passed as often as it should be, and k must be 1 at least.
        rank = np.floor((1.0 - self._quantile) * (rises_count + 1) + 1e-9).astype(np.int64)
        backed = (self._filled >= self._history_steps_min) & (rank >= 1)
        rise_w = np.where(
            backed, self._empirical_rise_w(np.maximum(rank, 1)), self._spike_ratio * power_w
        )
        rise_w = np.maximum(rise_w, self._trend_rise_w(power_w))
        return PowerForecast(power_w.copy(), power_w + rise_w, backed)

    def _empirical_rise_w(self, rank: IntArray) -> FloatArray:
        """The `rank`-th largest rise over the horizon within the window; 0 without any."""
        steps = self._horizon_steps
        if int(self._filled.max(initial=0)) <= steps:
            return np.zeros(self._history.shape[1])
        start = self._samples_max - int(self._filled.max())
        rises = self._history[start + steps :] - self._history[start : self._samples_max - steps]
        rises = np.where(np.isfinite(rises), rises, -np.inf)
        ranked = np.sort(rises, axis=0)
        place = np.maximum(ranked.shape[0] - rank, 0)
        chosen = np.take_along_axis(ranked, place[np.newaxis, :], axis=0)[0]
        return np.maximum(np.where(np.isfinite(chosen), chosen, 0.0), 0.0)

    def _trend_rise_w(self, power_w: FloatArray) -> FloatArray:
        """What the slope of the last seconds adds within the horizon."""
        before_w = self._history[-1 - min(self._trend_steps, self._samples_max - 1)]
        slope = (power_w - before_w) / (self._trend_steps * self._cycle_s)
        return np.maximum(np.where(np.isfinite(slope), slope * self._horizon_s, 0.0), 0.0)
