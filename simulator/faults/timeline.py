"""Virtual time: a queue of what happens when, and the clocks that hosts read.

Events at the same instant happen in the order in which they were put there. Nothing here sleeps.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Final

Act = Callable[[], object]

WALL_START_S: Final = 1_700_000_000.0
"""The time of day at the start of a run."""


class Timeline:
    """What happens when; `now_s` is true time since the start of the run."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._queue: list[tuple[float, int, Act]] = []
        self._order = itertools.count()

    def at(self, at_s: float, act: Act) -> None:
        """Do `act` at `at_s`, or next if that has passed."""
        now_s = self.now_s
        heapq.heappush(self._queue, (max(now_s, at_s), next(self._order), act))

    def after(self, wait_s: float, act: Act) -> None:
        """Do `act` in `wait_s`."""
        self.at(self.now_s + wait_s, act)

    def run_until(self, until_s: float) -> None:
        """Let everything happen up to and including `until_s`."""
        queue = self._queue
        while queue and queue[0][0] <= until_s:
            self.now_s, _, act = heapq.heappop(queue)
            act()
        self.now_s = until_s


class HostClock:
    """The clocks of one host: monotonic, which only drifts, and a time of day, which may jump."""

    def __init__(self, timeline: Timeline, *, started_at_s: float, drift_ratio: float) -> None:
        """`started_at_s` is what the monotonic clock shows at time 0."""
        self._timeline = timeline
        self._started_at_s = started_at_s
        self.rate_ratio = 1.0 + drift_ratio
        self.wall_offset_s = 0.0

    def now_s(self) -> float:
        """Monotonic seconds."""
        return self._started_at_s + self._timeline.now_s * self.rate_ratio

    def wall_s(self) -> float:
        """Time of day."""
        return WALL_START_S + self._timeline.now_s * self.rate_ratio + self.wall_offset_s

    def true_s(self, monotonic_s: float) -> float:
        """The true time at which the monotonic clock shows `monotonic_s`."""
        return (monotonic_s - self._started_at_s) / self.rate_ratio

    def time(self) -> float:
        """The same as an event loop's."""
        return self.now_s()

    def call_later(self, delay_s: float, callback: Callable[[str], object], topic: str, /) -> None:
        """Call in `delay_s`, as an event loop does."""
        self._timeline.after(delay_s / self.rate_ratio, lambda: callback(topic))

    async def sleep_until(self, at_s: float) -> None:
        """Nobody sleeps here; the clock has the method because the live one has it."""
