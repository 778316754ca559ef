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


class RequestTable:
    """One row per request in flight; rows are reused, and the table grows as needed.

    Every node has two counters: seconds of prefill work done, and tokens decoded by each sequence
    of its batch. `where` says which counter a request waits for, `mark` at what value it is done.
    Columns are of shape (places,); `prefilled_s` and `decoded` of shape (nodes,).
    """

    def __init__(self, nodes: int) -> None:
        """Empty."""
        self._counters = np.zeros(2 * nodes)
        self.prefilled_s = self._counters[:nodes]
        self.decoded = self._counters[nodes:]
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
        self.priority = np.empty(0, np.int64)
        self.decoding = np.empty(0, np.bool_)
        self._grow(PLACES_FIRST)

    def _grow(self, places: int) -> None:
        for name in (
            "mark", "where", "node", "at_s", "first_s", "work_s", "begin", "context", "generated",
            "priority", "decoding",
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
        at_s: FloatArray,
        mark: FloatArray,
        work_s: FloatArray,
        context: IntArray,
        generated: IntArray,
        priority: IntArray,
    ) -> None:
        """Requests that wait for their prefill, arrays of shape (requests,)."""
        rows = self._places(len(node))
        self.node[rows] = self.where[rows] = node
        self.at_s[rows] = at_s
        self.mark[rows] = mark
        self.work_s[rows] = work_s
        self.context[rows] = context
        self.generated[rows] = generated
        self.priority[rows] = priority
        self.decoding[rows] = False

    def advance(self, prefill_s: FloatArray, tokens: FloatArray) -> None:
        """Move the counters of all nodes on."""
        self.prefilled_s += prefill_s
        self.decoded += tokens

    def passed(self) -> IntArray:
        """Rows whose counter has reached their mark."""
        used = self._used
        return np.flatnonzero(self.mark[:used] <= self._counters.take(self.where[:used]))

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
        return rows[begins >= self.prefilled_s[self.node[rows]]]
