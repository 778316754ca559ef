"""Time as an argument: the machine's clock, and a simulated one that others wait on.

A simulated clock moves only when its driver moves it. On a machine that is too slow for the speed
asked for, simulated time falls behind instead of leases running out.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds, the time of day, and waiting for the former."""

    def now_s(self) -> float:
        """Monotonic seconds since an arbitrary start."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch."""
        ...

    async def sleep_until(self, at_s: float) -> None:
        """Return at monotonic `at_s`, at once if that has passed."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()

    def wall_s(self) -> float:
        """The time of day."""
        return time.time()

    async def sleep_until(self, at_s: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(max(at_s - time.monotonic(), 0.0))


class SimulatedClock:
    """A clock that its driver advances; the time of day runs along from `wall_start_s`."""

    def __init__(self, *, wall_start_s: float) -> None:
        self._now_s = 0.0
        self._wall_start_s = wall_start_s
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_s(self) -> float:
        """Simulated seconds since the start."""
        return self._now_s

    def wall_s(self) -> float:
        """Simulated time of day."""
        return self._wall_start_s + self._now_s

    async def sleep_until(self, at_s: float) -> None:
        """Wait until the driver has moved the clock to `at_s`."""
        if at_s <= self._now_s:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (at_s, next(self._order), future))
        await future

    def advance_to(self, at_s: float) -> None:
        """Move time to `at_s` and wake whoever waited for it, in order of their times."""
        assert at_s >= self._now_s, "time does not run backwards"
        self._now_s = at_s
        while self._waiting and self._waiting[0][0] <= at_s + 1e-9:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
