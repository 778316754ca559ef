"""Which server of a row gets a request: its own stream's, or the busiest that has a free place.

A router that spreads requests wakes servers, one that packs them lets servers rest; real ones lie
between. Rows hold different batches, so where packed requests go differs from row to row.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.dispatch import Packing
from simulator.fluid.rows import Layout

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

ROUNDS: Final = 3
"""More than so many servers are hardly filled within one step."""


class Router:
    """Spreads the requests of one step over the places of all rows."""

    def __init__(self, layout: Layout, packing: Packing) -> None:
        """Keep where each row's servers of each mix are."""
        self._layout = layout
        self._packing = packing
        self._rows = int(layout.row.max()) + 1
        self._servers = int(layout.server.max()) + 1
        self._length = np.bincount(layout.row)
        self._first = np.cumsum(self._length) - self._length
        mix_of = np.zeros(self._servers, dtype=np.int64)
        mix_of[layout.server] = layout.mix
        self._of_mix = [mix_of == mix for mix in range(int(mix_of.max()) + 1)]
        # A table of mixes x rows x the servers of a mix, so that one look finds all the fullest.
        width = max(int(mask.sum()) for mask in self._of_mix)
        self._of_rank = np.zeros((len(self._of_mix), width), dtype=np.int64)
        rank = np.zeros(self._servers, dtype=np.int64)
        for mix, mask in enumerate(self._of_mix):
            servers = np.flatnonzero(mask)
            self._of_rank[mix, : len(servers)] = servers
            rank[servers] = np.arange(len(servers))
        shape = (len(self._of_mix), self._rows, width)
        self._score = np.full(shape, -2.0)
        self._cells = self._score.reshape(-1)
        self._cell = (layout.mix * self._rows + layout.row) * width + rank[layout.server]
        self._mixes = np.arange(len(self._of_mix))[:, None]

    def split(self, amounts: FloatArray, packed: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Amounts per step and server as those of places, and what is to be packed.

        Args:
            amounts: shape (steps, servers).
            packed: which of them are to be packed, same shape.

        Returns:
            Shape (steps, n) and (steps, mixes, rows).
        """
        own = np.where(packed, 0.0, amounts).take(self._layout.server, axis=1)
        loose = np.where(packed, amounts, 0.0)
        totals = np.stack(
            [np.cumsum(loose * mask, axis=1)[:, self._length - 1] for mask in self._of_mix], axis=1
        )
        return own, totals

    def pack(
        self,
        requests: FloatArray,
        work_s: FloatArray,
        *,
        held: FloatArray,
        counts: FloatArray,
        works_s: FloatArray,
    ) -> None:
        """Add what is to be packed in one step to what comes to each place.

        One server after the other is filled up to the depth, the fullest first; what no server
        below the depth takes in `ROUNDS` goes to the last one.

        Args:
            requests: requests by place, shape (n,), added to.
            work_s: their work, added to.
            held: requests at each place, shape (n,), added to.
            counts: requests to be packed, shape (mixes, rows).
            works_s: their work, same shape.
        """
        each_s = works_s / np.maximum(counts, 1.0)
        for turn in range(ROUNDS):
            if not counts.any():
                return
            places = self._fullest(held)
            room = np.maximum(self._packing.depth - held.take(places), 1.0)
            taken = counts if turn == ROUNDS - 1 else np.minimum(counts, room)
            requests[places] += taken
            work_s[places] += taken * each_s
            held[places] += taken
            counts = counts - taken

    def _fullest(self, held: FloatArray) -> IntArray:
        """For each mix and row the place that holds most below the depth, or the first."""
        self._cells[self._cell] = np.where(held < self._packing.depth, held, -1.0)
        rank = self._score.argmax(axis=2)
        places: IntArray = self._first + self._of_rank[self._mixes, rank]
        return places
