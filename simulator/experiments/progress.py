"""How far a sweep is and how long it will take, from measured rates.

Keeps no clock: whoever tells it something says when.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.experiments.units import Unit


class SweepProgress:
    """Work done, by unit."""

    def __init__(self, waiting: Sequence[Unit], *, kept: int, now_s: float) -> None:
        """`kept` more units were done before."""
        self._units = {unit.id: unit for unit in waiting}
        self._fractions = dict.fromkeys(self._units, 0.0)
        self._kept = kept
        self._at_once = 1
        self._began_s = now_s

    def told(self, unit_id: str, fraction: float) -> None:
        """A unit says how far it is; only forward counts."""
        if unit_id in self._fractions:
            self._fractions[unit_id] = max(self._fractions[unit_id], min(1.0, fraction))
            running = sum(0.0 < value < 1.0 for value in self._fractions.values())
            self._at_once = max(self._at_once, running)

    def remaining_s(self, now_s: float) -> float | None:
        """Seconds until all is done, None before anything is."""
        work = {name: unit.cost * self._fractions[name] for name, unit in self._units.items()}
        left = {name: unit.cost - work[name] for name, unit in self._units.items()}
        done = sum(work.values())
        if done <= 0.0 or now_s <= self._began_s:
            return None
        rate_per_s = done / (now_s - self._began_s)
        # the last units cannot share themselves between the workers
        longest_s = max(left.values()) / (rate_per_s / self._at_once)
        return max(sum(left.values()) / rate_per_s, longest_s)

    def line(self, now_s: float) -> str:
        """One line for people."""
        done = self._kept + sum(value >= 1.0 for value in self._fractions.values())
        total = self._kept + len(self._units)
        work = sum(unit.cost for unit in self._units.values())
        part = sum(unit.cost * self._fractions[name] for name, unit in self._units.items())
        share = 100.0 * part / work if work else 100.0
        left_s = self.remaining_s(now_s)
        left = "" if left_s is None else f", {spoken(left_s)} left"
        return f"{done}/{total} units, {share:.0f} % of the work{left}"


def spoken(seconds: float) -> str:
    """A duration for people: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
