"""How many requests a second a workload brings over time, with its slow noise.

An envelope is what was recorded or declared; a `Rate` is one seeded course of it. Neither draws a
request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Seed = int | np.random.SeedSequence

WEEK_S: Final = 604_800.0
NOISE_KNOT_S: Final = 30.0
NOISE_KNOTS: Final = 2**18
"""The slow noise repeats after so many knots, 91 days. It is drawn whole: any time can be asked."""
WEEKS: Final = 64
"""The levels of the weeks repeat after so many."""


def generator(seed: Seed, *key: int) -> np.random.Generator:
    """A generator of its own for each `key` of a seed, whatever was drawn before."""
    if isinstance(seed, int):
        seed = np.random.SeedSequence(seed)
    own = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key))
    return np.random.default_rng(own)


@dataclass(frozen=True, slots=True)
class Noise:
    """How one course of an envelope departs from it, as multipliers with mean 1.

    `ratio` is the standard deviation of a slow noise whose correlation falls to 1/e in `slow_s`;
    `week_ratio` that of the level of whole weeks.
    """

    ratio: float = 0.0
    slow_s: float = 300.0
    week_ratio: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn. Raises ValueError."""
        for name, value in (("ratio", self.ratio), ("week_ratio", self.week_ratio)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value:g}; expected from 0 to 1")
        if not NOISE_KNOT_S <= self.slow_s <= WEEK_S:
            raise ValueError(
                f"slow_s is {self.slow_s:g}; expected from {NOISE_KNOT_S:g} to {WEEK_S:g}"
            )


@dataclass(frozen=True, slots=True)
class Envelope:
    """Requests per second at ascending times in [0, period_s), straight between, repeated."""

    at_s: FloatArray
    rate_per_s: FloatArray
    period_s: float

    def __post_init__(self) -> None:
        """Refuse what is no course of rates. Raises ValueError."""
        at_s, rate = self.at_s, self.rate_per_s
        if len(at_s) == 0 or at_s.shape != rate.shape:
            raise ValueError("an envelope needs as many rates as times, and at least one")
        if at_s[0] < 0.0 or at_s[-1] >= self.period_s or (np.diff(at_s) <= 0.0).any():
            raise ValueError("an envelope needs ascending times from 0 to before its period's end")
        if not (np.isfinite(rate) & (rate >= 0.0)).all() or not rate.any():
            raise ValueError("an envelope needs rates of 0 and more, and one above 0")

    @classmethod
    def even(cls, rate_per_s: FloatArray, step_s: float) -> Envelope:
        """Mean rates over equal steps, each put at the middle of its step."""
        count = len(rate_per_s)
        at_s = (np.arange(count, dtype=np.float64) + 0.5) * step_s
        return cls(at_s, rate_per_s, count * step_s)

    def _knots(self) -> tuple[FloatArray, FloatArray]:
        """Times and rates with one knot more at each end, so that the period closes."""
        at_s, rate = self.at_s, self.rate_per_s
        ends_s = at_s[-1] - self.period_s, at_s[0] + self.period_s
        return (
            np.concatenate([[ends_s[0]], at_s, [ends_s[1]]]),
            np.concatenate([[rate[-1]], rate, [rate[0]]]),
        )

    @property
    def mean_per_s(self) -> float:
        """The mean rate over one period."""
        at_s, rate = self._knots()
        return float(np.trapezoid(rate[1:], at_s[1:]) / self.period_s)

    @property
    def peak_per_s(self) -> float:
        """The highest rate."""
        return float(self.rate_per_s.max())

    def scaled(self, ratio: float) -> Envelope:
        """The same course at another level."""
        return Envelope(self.at_s, self.rate_per_s * ratio, self.period_s)


class Rate:
    """One course of an envelope: the same seed gives the same rate at the same time."""

    def __init__(self, envelope: Envelope, noise: Noise, seed: Seed) -> None:
        """Draw the noise, all of it."""
        self._period_s = envelope.period_s
        self._knots = envelope._knots()
        self._noise = self._slow(noise, generator(seed, 0))
        spread = noise.week_ratio
        weeks = generator(seed, 1).standard_normal(WEEKS)
        self._weeks = np.exp(spread * weeks - spread**2 / 2.0) if spread > 0.0 else None

    @staticmethod
    def _slow(noise: Noise, rng: np.random.Generator) -> FloatArray | None:
        """Noise with the spectrum of an Ornstein-Uhlenbeck process, made in its spectrum."""
        if noise.ratio == 0.0:
            return None
        steps = np.arange(NOISE_KNOTS // 2 + 1) * (2.0 * np.pi / NOISE_KNOTS)
        keep = np.exp(-NOISE_KNOT_S / noise.slow_s)
        gain = np.sqrt((1.0 - keep**2) / (1.0 + keep**2 - 2.0 * keep * np.cos(steps)))
        white = np.fft.rfft(rng.standard_normal(NOISE_KNOTS))
        normal = np.fft.irfft(white * gain, NOISE_KNOTS)
        drawn: FloatArray = np.exp(noise.ratio * normal - noise.ratio**2 / 2.0)
        return drawn

    def at(self, at_s: NDArray[np.floating]) -> FloatArray:
        """Requests per second at these times, which may lie before 0."""
        rate: FloatArray = np.interp(np.mod(at_s, self._period_s), *self._knots)
        if self._noise is not None:
            rate = rate * _around(at_s / NOISE_KNOT_S, self._noise)
        if self._weeks is not None:
            # Level of a week in its middle, straight between: no step at midnight.
            rate = rate * _around(at_s / WEEK_S - 0.5, self._weeks)
        return rate


def _around(place: NDArray[np.floating], values: FloatArray) -> FloatArray:
    """Values at whole places, straight between, repeated."""
    whole = np.floor(place)
    left = whole.astype(np.int64) % len(values)
    part = place - whole
    between: FloatArray = values[left] * (1.0 - part) + values[(left + 1) % len(values)] * part
    return between
