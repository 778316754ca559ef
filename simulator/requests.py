"""Requests in flight as columns of one table: no object per request, no search for a free place.

It keeps marks and counters and finds what has passed its mark; what that means is for the engines.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

PLACES_FIRST: Final = 1024
NOT_LINED_UP: Final = 1e300
"""The mark of a request that has come and is not in a queue yet; no counter gets there."""


class RequestTable:
    """One row per request in flight; rows are reused, and the table grows as needed.

    Every node has a counter of prefill work for each of its queues, and one of tokens decoded by
    each sequence of its batch. `where` is the counter that a request waits for, as a place in
    `counters`, and `mark` the value at which it is done. `done` are the tokens that a preempted
    request had before it lost its place. Columns are of shape (places,), `prefilled_s` is of shape
    (queues, nodes) and `decoded` (nodes,).
    """

    def __init__(self, nodes: int, queues: int) -> None:
        """Empty."""
        self.counters = np.zeros((queues + 1) * nodes)
        self.prefilled_s = self.counters[: queues * nodes].reshape(queues, nodes)
        self.decoded = self.counters[queues * nodes :]
        self._used = 0
        self._free: list[int] = []
        self.mark = np.empty(0)
        self.where = np.empty(0, np.int64)
        self.node = np.empty(0, np.int64)
        self.at_s = np.empty(0)
        self.first_s = np.empty(0)
        self.work_s = np.empty(0)
        self.begin = np.empty(0)
        self.context = np.empty(0, np.int64)
        self.generated = np.empty(0, np.int64)
        self.done = np.empty(0, np.int64)
        self.preempted = np.empty(0, np.int64)
        self.priority = np.empty(0, np.int64)
        self.decoding = np.empty(0, np.bool_)
        self._grow(PLACES_FIRST)

    def _grow(self, places: int) -> None:
        for name in (
            "mark", "where", "node", "at_s", "first_s", "work_s", "begin", "context", "generated",
            "done", "preempted", "priority", "decoding",
        ):  # fmt: skip
            old = getattr(self, name)
            new = np.zeros(places, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
        self.mark[self._used :] = np.inf

    def _places(self, count: int) -> IntArray:
        """Free places, the lowest and last freed first, so that the used part stays short."""
        reused = min(count, len(self._free))
        places = self._free[len(self._free) - reused :]
        del self._free[len(self._free) - reused :]
        new = count - reused
        if self._used + new > len(self.mark):
            self._grow(2 * (self._used + new))
        places.extend(range(self._used, self._used + new))
        self._used += new
        return np.array(places, dtype=np.int64)

    def add(
        self,
        *,
        node: IntArray,
        where: IntArray,
        at_s: FloatArray,
        work_s: FloatArray,
        context: IntArray,
        generated: IntArray,
        priority: IntArray,
    ) -> IntArray:
        """Requests that come, arrays of shape (requests,); returns their rows."""
        rows = self._places(len(node))
        self.node[rows] = node
        self.where[rows] = where
        self.at_s[rows] = at_s
        self.mark[rows] = NOT_LINED_UP
        self.work_s[rows] = work_s
        self.context[rows] = context
        self.generated[rows] = generated
        self.priority[rows] = priority
        self.decoding[rows] = False
        self.done[rows] = self.preempted[rows] = 0
        return rows

    def wait_again(self, row: int, *, where: int, mark: float, work_s: float) -> None:
        """A sequence goes back before all prompts of a queue, whose marks move by its work."""
        self.decoding[row] = False
        rows = self.in_use()
        behind = rows[(self.where[rows] == where) & (self.mark[rows] < NOT_LINED_UP)]
        self.mark[behind] += work_s
        self.where[row], self.mark[row], self.work_s[row] = where, mark, work_s

    def passed(self) -> IntArray:
        """Rows whose counter has reached their mark."""
        used = self._used
        passed: IntArray = (self.mark[:used] <= self.counters.take(self.where[:used])).nonzero()[0]
        return passed

    def free(self, rows: IntArray) -> None:
        """Requests that are over."""
        self.mark[rows] = np.inf
        self._free.extend(rows[::-1].tolist())

    @property
    def count(self) -> int:
        """How many requests the table holds."""
        return self._used - len(self._free)

    def in_use(self) -> IntArray:
        """All rows that hold a request."""
        return np.flatnonzero(np.isfinite(self.mark[: self._used]))

    def at_nodes(self, nodes: BoolArray) -> IntArray:
        """All rows of some nodes."""
        rows = self.in_use()
        return rows[nodes[self.node[rows]]]

    def waiting(self) -> IntArray:
        """Rows whose prefill has not begun."""
        rows = self.in_use()
        rows = rows[~self.decoding[rows]]
        begins = self.mark[rows] - self.work_s[rows]
        return rows[begins >= self.counters[self.where[rows]]]
