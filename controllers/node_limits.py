"""What a node limits by itself, whatever a lease says: heat, the power brake pin, the way back up.

All of it only ever lowers a ceiling. It acts on what this node knows alone, and lets go slowly.
"""

from __future__ import annotations

import math
from typing import Final

from facility.ports import FastReading, MediumReading

HEAT_STEP_RATIO: Final = 0.9
"""One step down: a tenth of the clock is about a fifth of dynamic power."""
HEAT_STEP_S: Final = 2.0
"""Step again after this even if the margin recovers: slower than a die, faster than a heatsink."""
HEAT_AHEAD_LOOKS: Final = 2.0
"""A trend is followed for so many looks: to the next one, and until what it asks for has bitten."""
HEAT_AHEAD_S_MAX: Final = 2.0
"""And no longer than this, or whoever looks seldom would take every warming for the last."""
HEAT_FALL_C_MIN: Final = 2.0
"""From one look to the next; less may be the sensor's 1 C resolution."""
HEAT_RELEASE_C: Final = 2.0
"""Margin above the minimum before anything is released: twice the sensor's 1 C resolution."""
HEAT_RELEASE_S: Final = 5.0
"""Between two steps up; a heatsink needs longer than that to show what a step did."""
HEAT_RELEASE_RATIO: Final = 1.05

BRAKE_QUIET_S: Final = 10.0
"""The brake counter must stand still for this long before its ceiling is let go."""

_THERMAL_SLOWDOWN: Final = 0x20 | 0x40
_POWER_BRAKE: Final = 0x80


def thermal_margin_c(medium: MediumReading) -> float | None:
    """The smaller of the two margins, GPU and memory; None where the part has neither."""
    margins = [
        margin
        for margin in (medium.margin_c, medium.memory_margin_c)
        if margin is not None and math.isfinite(margin)
    ]
    return min(margins, default=None)


class HeatLimit:
    """The ceiling that keeps one GPU away from its own slowdown threshold."""

    def __init__(self) -> None:
        """Start without a limit."""
        self.ceiling_mhz: int | None = None
        self._margin_c = math.inf
        self._looked_s = -math.inf
        self._fall_c_per_s = 0.0
        self._stepped_s = -math.inf
        self._throttle_s: float | None = None

    def observe(
        self,
        medium: MediumReading,
        *,
        at_s: float,
        running_mhz: int,
        wanted_mhz: int,
        floor_mhz: int,
        margin_c_min: float,
    ) -> None:
        """Take a reading. `running_mhz` is the clock seen, `wanted_mhz` the ceiling without heat.

        A GPU that already slows down by itself goes to the floor at once, and so does one that will
        before anything milder could help: its margin falls too fast. One that did so between two
        looks, as its counter tells, is stepped down like one with too little margin.
        """
        margin_c = thermal_margin_c(medium)
        ahead_c = None if margin_c is None else margin_c - self._fall_ahead_c(margin_c, at_s)
        has_slowed = self._has_slowed(medium)
        slows = bool(medium.event_reasons & _THERMAL_SLOWDOWN)
        if slows or (ahead_c is not None and ahead_c <= 0.0):
            self.ceiling_mhz, self._stepped_s = floor_mhz, at_s
        elif has_slowed or (ahead_c is not None and ahead_c < margin_c_min):
            worse = has_slowed or margin_c is None or margin_c <= self._margin_c
            if self.ceiling_mhz is None or worse or at_s - self._stepped_s >= HEAT_STEP_S:
                self._step_down(running_mhz, wanted_mhz, floor_mhz)
                self._stepped_s = at_s
        elif self._is_cool(margin_c, margin_c_min):
            self._release(at_s, wanted_mhz)
        if margin_c is not None:
            self._margin_c = margin_c

    def _fall_ahead_c(self, margin_c: float, at_s: float) -> float:
        """How much of the margin will be gone before the next look has had an effect, C.

        Only a fall that lasts from look to look goes on: work that begins heats a die at once, by
        what lies between it and its heat sink, and then slowly.
        """
        elapsed_s = at_s - self._looked_s
        fall_c = self._margin_c - margin_c
        before_c_per_s, self._fall_c_per_s, self._looked_s = self._fall_c_per_s, 0.0, at_s
        if not 0.0 < elapsed_s < math.inf or not HEAT_FALL_C_MIN <= fall_c < math.inf:
            return 0.0
        self._fall_c_per_s = fall_c / elapsed_s
        ahead_s = min(HEAT_AHEAD_LOOKS * elapsed_s, HEAT_AHEAD_S_MAX)
        return min(before_c_per_s, self._fall_c_per_s) * ahead_s

    def _has_slowed(self, medium: MediumReading) -> bool:
        """Whether the cumulative counter has risen; a fall is a driver reload."""
        count_s, before_s = medium.thermal_throttle_s, self._throttle_s
        if count_s is None or not math.isfinite(count_s):
            return False
        self._throttle_s = count_s
        return before_s is not None and count_s > before_s

    def _is_cool(self, margin_c: float | None, margin_c_min: float) -> bool:
        """Whether something may be released. A part that never told a margin has only its bits."""
        if margin_c is None:
            return self._margin_c == math.inf
        return margin_c >= margin_c_min + HEAT_RELEASE_C

    def _step_down(self, running_mhz: int, wanted_mhz: int, floor_mhz: int) -> None:
        # A ceiling above the clock that the GPU runs at would cool nothing.
        basis_mhz = wanted_mhz if self.ceiling_mhz is None else min(self.ceiling_mhz, wanted_mhz)
        if 0 < running_mhz < basis_mhz:
            basis_mhz = running_mhz
        self.ceiling_mhz = max(floor_mhz, int(basis_mhz * HEAT_STEP_RATIO))

    def _release(self, at_s: float, wanted_mhz: int) -> None:
        if self.ceiling_mhz is None or at_s - self._stepped_s < HEAT_RELEASE_S:
            return
        self._stepped_s = at_s
        raised_mhz = math.ceil(self.ceiling_mhz * HEAT_RELEASE_RATIO)
        self.ceiling_mhz = None if raised_mhz >= wanted_mhz else raised_mhz


class BrakeLatch:
    """Whether the chassis pulls the power brake pin.

    The pin belongs to the chassis, not to a GPU: one GPU that feels it means that the whole node is
    in an electrical emergency already under way, so one latch holds for all.
    """

    def __init__(self) -> None:
        """Start let go."""
        self._counters_s: dict[str, float] = {}
        self._until_s = -math.inf

    def observe_fast(self, uuid: str, fast: FastReading, at_s: float) -> None:
        """Pull when the cumulative counter has risen; a fall is a driver reload, no brake."""
        count_s = fast.brake_s
        if count_s is None or not math.isfinite(count_s):
            return
        before_s = self._counters_s.get(uuid)
        self._counters_s[uuid] = count_s
        if before_s is not None and count_s > before_s:
            self._until_s = at_s + BRAKE_QUIET_S

    def observe_medium(self, medium: MediumReading, at_s: float) -> None:
        """Pull when the event bit is set, for parts without a counter."""
        if medium.event_reasons & _POWER_BRAKE:
            self._until_s = at_s + BRAKE_QUIET_S

    def is_pulled(self, now_s: float) -> bool:
        """Whether the pin was pulled within the last BRAKE_QUIET_S."""
        return now_s < self._until_s


class Ramp:
    """The way back up: a cap that ends lets go little by little, whatever a lease allows by then.

    A lease may have been granted before the cap came, and everybody's load would come back at once.
    """

    def __init__(self) -> None:
        """Start with nothing held back."""
        self._level_mhz = math.inf
        self._at_s = 0.0
        self._is_bound = False

    def limit_mhz(
        self, now_s: float, cap_mhz: int | None, *, rise_mhz: float, top_mhz: int
    ) -> int | None:
        """The ceiling that holds now, None when nothing is held back any more.

        Args:
            now_s: monotonic clock.
            cap_mhz: the lowest cap that is on, None without any.
            rise_mhz: the rise in one second.
            top_mhz: where the ramp ends: the highest clock.
        """
        elapsed_s = 0.0 if self._is_bound else max(now_s - self._at_s, 0.0)
        risen_mhz = self._level_mhz + rise_mhz * elapsed_s
        self._at_s = now_s
        self._level_mhz = risen_mhz if cap_mhz is None else min(risen_mhz, cap_mhz)
        self._is_bound = self._level_mhz == cap_mhz
        if cap_mhz is None and self._level_mhz >= top_mhz:
            self._level_mhz = math.inf
        return None if self._level_mhz == math.inf else int(self._level_mhz)
