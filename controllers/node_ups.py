"""What the word of a UPS means: when it begins a contingency, when it ends, when nobody knows.

The same object serves a node that listens to a UPS by itself and the controller. It decides on
looks that others take; time is an argument. It only ever says on or off for one contingency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from facility.config import UpsConfig
from facility.nut import NutReading
from facility.wire import Severity

ON_LINE = "OL"


@dataclass(frozen=True, slots=True)
class Notice:
    """A change worth telling, without time and source."""

    event: str
    severity: Severity
    sentence: str


class UpsWatch:
    """One UPS, and whether the contingency that it stands for is on by its word."""

    def __init__(self, config: UpsConfig) -> None:
        """Start without knowledge: until a look says otherwise nothing is claimed."""
        self.config = config
        self.is_on: bool | None = None
        """Whether the contingency is on; None while nothing was seen that says so or not."""
        self.cause = ""
        """The words that began it."""
        self.is_missing = False
        """Whether it has been unknown for so long that somebody must look."""
        self.reading = NutReading("unreachable", detail="not looked yet")
        self.triggers: Counter[str] = Counter()
        """How often it has begun, by word."""
        self._clear_since_s: float | None = None
        self._missing_since_s: float | None = None

    def see(self, now_s: float, reading: NutReading) -> list[Notice]:
        """Take a look and say what has changed by it."""
        self.reading = reading
        if reading.state != "fresh":
            return self._miss(now_s, f"{reading.state}: {reading.detail}")
        words = [word for word in self.config.triggers if word in reading.flags]
        if words:
            return [*self._found(), *self._begin(words)]
        if ON_LINE not in reading.flags:
            # Neither on line nor on battery (OFF, BYPASS): nothing says that the load is safe.
            return self._miss(now_s, f"it says {' '.join(sorted(reading.flags))}")
        return [*self._found(), *self._clear(now_s)]

    def _begin(self, words: Sequence[str]) -> list[Notice]:
        self._clear_since_s = None
        cause = " ".join(words)
        new = [word for word in words if not self.is_on or word not in self.cause.split()]
        self.triggers.update(new)
        was_on, self.is_on, self.cause = self.is_on, True, cause
        if was_on and not new:
            return []
        text = f"{self.config.name} says {cause}: {self.config.contingency} is on"
        return [Notice("ups-alarm", "critical", text)]

    def _clear(self, now_s: float) -> list[Notice]:
        """On line again ends it after a quiet while: mains that come and go must not flap."""
        if self.is_on is False:
            return []
        if self._clear_since_s is None:
            self._clear_since_s = now_s
        if now_s - self._clear_since_s < self.config.quiet_s:
            return []
        was_on, self.is_on, self.cause = self.is_on, False, ""
        if not was_on:
            return []
        text = f"{self.config.name} is on line for {self.config.quiet_s:g} s: its word for"
        return [Notice("ups-clear", "info", f"{text} {self.config.contingency} is over")]

    def _miss(self, now_s: float, why: str) -> list[Notice]:
        """Nothing is known: what was last seen stays, as in NUT itself.

        A UPS last seen on battery stays there. One last seen on line raises an alarm and no more: a
        broken network or a restarted upsd must not brake a site, and what a power failure can do
        meanwhile is bounded by the leases, which end whether anybody sees the UPS or not.
        """
        self._clear_since_s = None
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        if self.is_missing or now_s - self._missing_since_s < self.config.missing_s:
            return []
        self.is_missing = True
        brakes = self.config.missing_is == "emergency" and not self.is_on
        if brakes:
            self.is_on, self.cause = True, "missing"
            self.triggers["missing"] += 1
        last = f"{self.config.contingency} is on" if self.is_on else "what was known before stays"
        text = f"{self.config.name} cannot be judged, {why}: {last}"
        return [Notice("ups-missing", "critical", text[:1_024])]

    def _found(self) -> list[Notice]:
        self._missing_since_s = None
        was_missing, self.is_missing = self.is_missing, False
        if not was_missing:
            return []
        return [Notice("ups-back", "info", f"{self.config.name} tells how it is again")]
