"""How much a sender may cost: a budget that fills with time and is spent by what arrives.

A token bucket, and nothing about who the sender is or what becomes of what is over budget. Time is
an argument.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """What may be spent each second, and at most at once after a quiet time; any unit."""

    per_s: float
    burst: float


class Budget:
    """One sender's budget. It begins full."""

    __slots__ = ("_at_s", "_left", "_rate")

    def __init__(self, rate: Rate, now_s: float) -> None:
        """Start at `now_s` with a whole burst."""
        self._rate = rate
        self._left = rate.burst
        self._at_s = now_s

    def _fill(self, now_s: float) -> None:
        gained = max(now_s - self._at_s, 0.0) * self._rate.per_s
        self._left = min(self._left + gained, self._rate.burst)
        self._at_s = max(self._at_s, now_s)

    def spend(self, now_s: float, cost: float = 1.0) -> bool:
        """Spend `cost`, or nothing at all when there is less; says which."""
        self._fill(now_s)
        if cost > self._left:
            return False
        self._left -= cost
        return True

    def wait_s(self, now_s: float, cost: float = 1.0) -> float:
        """How long until `cost` can be spent; a cost above the burst never can."""
        self._fill(now_s)
        return max(cost - self._left, 0.0) / self._rate.per_s
