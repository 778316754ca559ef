"""What a power meter's word means: when a domain brakes for it, when that is over, what disagrees.

A meter sees what the breaker sees, load that nobody controls included. It decides on readings that
others take; time is an argument.
"""

from __future__ import annotations

import math
from typing import Final

from controllers.node_ups import Notice
from facility.config import MeterConfig
from facility.nut import NutReading

DISAGREES_COUNT: Final = 5
"""Readings in a row that differ before it is told: the two are never taken at the same moment."""


class MeterWatch:
    """One meter of one domain, and whether the domain must brake by its word."""

    def __init__(self, config: MeterConfig) -> None:
        """Start without a reading."""
        self.config = config
        self.is_on = False
        """Whether the domain must brake."""
        self.is_missing = False
        self.disagrees = False
        self.power_w: float | None = None
        self.trips_count = 0
        """How often it has braked its domain."""
        self._over_count = 0
        self._differ_count = 0
        self._clear_since_s: float | None = None
        self._missing_since_s: float | None = None
        self._capacity_w = 0.0
        self._before_w = 0.0
        self._fell_s = -math.inf

    def lifted(self) -> None:
        """An operator has released the domain: judge anew."""
        self.is_on, self._over_count, self._clear_since_s = False, 0, None

    def see(
        self, now_s: float, reading: NutReading, *, capacity_w: float, nodes_w: float | None
    ) -> list[Notice]:
        """Take a reading and say what has changed by it.

        Args:
            now_s: monotonic clock.
            reading: of the meter.
            capacity_w: of the domain under the contingencies that are on; 0 when it is lost.
            nodes_w: what its nodes report together, None while that is not known.
        """
        limit_w = self._limit_w(now_s, capacity_w)
        if reading.state != "fresh" or reading.power_w is None:
            return self._miss(now_s, reading)
        self.power_w = power_w = reading.power_w
        notices = [*self._found(), *self._compare(power_w, nodes_w)]
        if capacity_w <= 0.0:
            return notices  # it is declared lost: nothing is left to protect
        self._over_count = self._over_count + 1 if power_w > limit_w else 0
        far = power_w > self.config.over_ratio * limit_w
        if far or self._over_count >= self.config.readings_count:
            return [*notices, *self._begin(power_w, limit_w)]
        return [*notices, *self._clear(now_s, power_w, capacity_w)]

    def _limit_w(self, now_s: float, capacity_w: float) -> float:
        """The capacity, and for `settle_s` after it has fallen the one before.

        Nodes act on a contingency at once; a meter's reading may be from before.
        """
        if capacity_w < self._capacity_w:
            settled = now_s - self._fell_s >= self.config.settle_s
            self._before_w = self._capacity_w if settled else max(self._before_w, self._capacity_w)
            self._fell_s = now_s
        self._capacity_w = capacity_w
        if now_s - self._fell_s < self.config.settle_s:
            return max(capacity_w, self._before_w)
        return capacity_w

    def _begin(self, power_w: float, limit_w: float) -> list[Notice]:
        self._clear_since_s = None
        if self.is_on:
            return []
        self.is_on = True
        self.trips_count += 1
        text = (
            f"{self.config.name} reads {power_w / 1_000:.1f} kW of {limit_w / 1_000:.1f} kW:"
            f" {self.config.domain} brakes"
        )
        return [Notice("meter-over", "critical", text)]

    def _clear(self, now_s: float, power_w: float, capacity_w: float) -> list[Notice]:
        if not self.is_on or power_w >= self.config.release_ratio * capacity_w:
            self._clear_since_s = None
            return []
        if self._clear_since_s is None:
            self._clear_since_s = now_s
        if now_s - self._clear_since_s < self.config.quiet_s:
            return []
        self.lifted()
        text = f"{self.config.name} reads {power_w / 1_000:.1f} kW: {self.config.domain} may rise"
        return [Notice("meter-clear", "info", text)]

    def _compare(self, power_w: float, nodes_w: float | None) -> list[Notice]:
        """Tell when meter and nodes differ for a while, once; neither is corrected by the other."""
        if nodes_w is None:
            return []
        differ = abs(power_w - nodes_w) > self.config.differ_ratio * max(power_w, nodes_w)
        self._differ_count = self._differ_count + 1 if differ != self.disagrees else 0
        if self._differ_count < DISAGREES_COUNT:
            return []
        self._differ_count, self.disagrees = 0, differ
        figures = f"{power_w / 1_000:.1f} kW, its nodes {nodes_w / 1_000:.1f} kW"
        text = f"{self.config.name} reads for {self.config.domain} {figures}"
        event = "meter-differs" if differ else "meter-agrees"
        return [Notice(event, "warning" if differ else "info", text)]

    def _miss(self, now_s: float, reading: NutReading) -> list[Notice]:
        """No reading is no reason to brake: the nodes' own telemetry still counts.

        It is none to let go either.
        """
        self.power_w = self._clear_since_s = None
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        if self.is_missing or now_s - self._missing_since_s < self.config.missing_s:
            return []
        self.is_missing = True
        why = f"{reading.state}: {reading.detail}" if reading.detail else "it tells no power"
        text = f"{self.config.name} of {self.config.domain} tells nothing: {why}"
        return [Notice("meter-missing", "critical", text[:1_024])]

    def _found(self) -> list[Notice]:
        self._missing_since_s = None
        was_missing, self.is_missing = self.is_missing, False
        if not was_missing:
            return []
        return [Notice("meter-back", "info", f"{self.config.name} tells its power again")]
