"""How many automatic steps a minute may touch requests: one count for the whole site.

Clock locks are not counted: they must never wait. Everything else that a controller does by itself
is, endpoint by endpoint, so that a mistake of its own cannot turn a site off.
"""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_S: Final = 60.0


class StepBudget:
    """Lets at most `per_minute_max` steps happen within any minute. Time is the caller's."""

    def __init__(self, per_minute_max: int) -> None:
        """Start with none taken: what an earlier life did is over."""
        self.per_minute_max = per_minute_max
        self.taken_count = 0
        self._at_s: deque[float] = deque(maxlen=max(per_minute_max, 1))

    def take(self, now_s: float) -> bool:
        """Whether one more step may happen now; if so it counts. A refusal is not remembered."""
        while self._at_s and now_s - self._at_s[0] >= WINDOW_S:
            self._at_s.popleft()
        if len(self._at_s) >= self.per_minute_max:
            return False
        self._at_s.append(now_s)
        self.taken_count += 1
        return True
