"""Prompts that wait at the twin's engines, in queues; of several at a node the higher goes first.

It decides which prompt is worked on when, and never how fast. A queue is a counter of the work that
could have been done so far; a prompt is done when the counter passes its mark. The counter runs on
while its queue is empty, so that a prompt begins at the later of its arrival and the end of the one
before it, to the instant and not to the step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


Prompt = tuple[int, int, float, float]
"""A prompt that came: its row in the table, its node, when, and seconds of work."""


class PromptQueues:
    """The queues of all nodes; arrays of shape (queues, nodes), the highest priority first.

    `counter_s` is the caller's array of counters, which `step` moves on. Work is in seconds at full
    speed. Engines that serve one priority each have one queue, and pay for no other.
    """

    def __init__(self, counter_s: FloatArray, *, lower_share_min: float) -> None:
        """Empty queues; lower ones keep `lower_share_min` of the work while they wait."""
        self._counter_s = counter_s
        self._lower_share_min = lower_share_min
        self.tail_s = np.zeros_like(counter_s)
        self.rate = np.zeros_like(counter_s)
        self._idle_s = np.zeros_like(counter_s)

    def waiting_s(self) -> FloatArray:
        """Work that waits, by queue and node."""
        waiting: FloatArray = np.maximum(self.tail_s - self._counter_s, 0.0)
        return waiting

    def step(
        self,
        *,
        at_s: float,
        dt_s: float,
        rate: FloatArray,
        prompts: Sequence[Sequence[Prompt]],
        marks_s: FloatArray,
        closed: BoolArray | None = None,
    ) -> FloatArray:
        """Work at `rate` of all queues together, (nodes,); returns what was done, (nodes,).

        `prompts` came during the step, by queue and in order of time; their marks go into `marks_s`
        at their rows. What one queue does not need is left to the next, but where `closed` only the
        highest queue is worked on.
        """
        left_s = rate * dt_s
        done_s = np.zeros_like(rate)
        for rank, queue in enumerate(prompts):
            own_s = left_s - self._kept_for_lower(rank, left_s)
            if rank > 0 and closed is not None:
                own_s = own_s * ~closed
            self.rate[rank] = own_s / dt_s
            if queue:
                self._line_up(rank, at_s, queue, marks_s)
            before_s = self._counter_s[rank]
            after_s = before_s + own_s
            work_s = np.minimum(self.tail_s[rank], after_s)
            work_s -= before_s
            if queue:
                work_s -= self._idle_s[rank]
                self._idle_s[rank] = 0.0
            np.maximum(work_s, 0.0, out=work_s)
            self._counter_s[rank] = after_s
            done_s += work_s
            left_s = left_s - work_s
        return done_s

    def _kept_for_lower(self, rank: int, left_s: FloatArray) -> FloatArray | float:
        """What a queue must leave to the lower ones that wait behind it."""
        if rank == len(self.tail_s) - 1:
            return 0.0
        both = self.tail_s[rank] > self._counter_s[rank]
        both &= (self.tail_s[rank + 1 :] > self._counter_s[rank + 1 :]).any(axis=0)
        return self._lower_share_min * left_s * both if np.count_nonzero(both) else 0.0

    def _line_up(
        self, rank: int, at_s: float, queue: Sequence[Prompt], marks_s: FloatArray
    ) -> None:
        """Each prompt after all that came before it, and not before it came."""
        counter_s, tail_s = self._counter_s[rank], self.tail_s[rank]
        rate, idle_s = self.rate[rank], self._idle_s[rank]
        for row, node, came_at_s, work_s in queue:
            now_s, free_s = counter_s[node], tail_s[node]
            came_s = now_s + rate[node] * max(came_at_s - at_s, 0.0)
            if came_s > free_s:
                idle_s[node] += came_s - max(free_s, now_s)
                free_s = came_s
            tail_s[node] = marks_s[row] = free_s + work_s

    def push_front(self, rank: int, node: int, work_s: float) -> float:
        """Put work before all that waits in a queue, whose marks move back by it; its mark."""
        mark_s = float(self._counter_s[rank, node]) + work_s
        self.tail_s[rank, node] = max(self.tail_s[rank, node], self._counter_s[rank, node]) + work_s
        return mark_s

    def clear(self, nodes: BoolArray) -> None:
        """Nothing waits at these nodes any more."""
        self.tail_s[:, nodes] = self._counter_s[:, nodes]
