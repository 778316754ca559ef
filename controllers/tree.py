"""Who hangs on whom, as index arrays: sums up the power tree and answers down it, without loops.

Made once from a matrix of shares and kept with it. Sums are taken in one fixed order, so that they
are the same to the last bit on every machine. Nothing here decides anything.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Numbers = TypeVar("Numbers", FloatArray, IntArray)

CASES_KEPT: Final = 16
"""Index arrays for so many numbers of cases are kept with each layer."""

NOBODY: Final = -1
"""Where a node's domain is asked for and there is none."""


class Layer:
    """Domains that share no node, so that all of them can be asked at once.

    `place` says which of `domains` each node is below, and `len(domains)` for none.
    """

    def __init__(
        self, domains: IntArray, place: IntArray, share: FloatArray, *, nowhere: int
    ) -> None:
        self.domains, self.place, self.share = domains, place, share
        self.columns: IntArray = np.append(domains, nowhere)
        """`domains`, and after them the place after the last domain of all."""
        self._width = len(domains) + 1
        self._places = {1: place}

    def load(self, weighted: FloatArray) -> FloatArray:
        """Sums per domain, and a last one of the nodes that are below none.

        Args:
            weighted: a value per node, its share applied; or several cases of it as rows.
        """
        rows = weighted.size // len(self.place)
        if rows not in self._places:
            if len(self._places) >= CASES_KEPT:
                self._places = {1: self.place}
            offsets = self._width * np.arange(rows)[:, np.newaxis]
            self._places[rows] = (self.place + offsets).ravel()
        sums = np.bincount(self._places[rows], weighted.ravel(), rows * self._width)
        return np.asarray(sums, dtype=np.float64).reshape(*weighted.shape[:-1], self._width)


class Tree:
    """The domains above each node and the nodes below each domain of one matrix of shares.

    Args:
        shares: share of each node's power that each domain carries, domains x nodes. It is kept
            and must not change.
    """

    def __init__(self, shares: FloatArray) -> None:
        self.shares = shares
        self.domains_count, self.nodes_count = shares.shape
        self._domain, self._node = np.nonzero(shares > 0.0)
        self._share = shares[self._domain, self._node]
        self.alive: BoolArray = np.bincount(self._domain, minlength=self.domains_count) > 0
        """Domains that any node loads."""
        self._filled = np.flatnonzero(self.alive)
        self._starts = np.searchsorted(self._domain, self._filled)
        self._every_node_once = np.array_equal(self._node, np.arange(self.nodes_count))
        self._above = self._ancestors()
        self._nearest = np.where(self._above[0] == self.domains_count, NOBODY, self._above[0])

    def places(self) -> tuple[FloatArray, ...]:
        """Rows that are the same for two nodes below the same domains by the same shares."""
        share = np.vstack([self.shares, np.zeros(self.nodes_count)])
        nodes = np.arange(self.nodes_count)
        return tuple(row for above in self._above for row in (above, share[above, nodes]))

    def _ancestors(self) -> IntArray:
        """Depth x nodes: the places of the domains above each node, then `domains_count`."""
        order = np.argsort(self._node, kind="stable")
        node, domain = self._node[order], self._domain[order]
        firsts = np.searchsorted(node, np.arange(self.nodes_count))
        rank = np.arange(len(node)) - firsts[node]
        depth = int(rank.max(initial=-1)) + 1
        above = np.full((max(depth, 1), self.nodes_count), self.domains_count, dtype=np.int64)
        above[rank, node] = domain
        return above

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of domains that share no node, the smallest domains first."""
        size = np.count_nonzero(self.shares > 0.0, axis=1)
        layer_of = np.full(self.domains_count, NOBODY)
        highest = np.full(self.nodes_count, NOBODY)
        for domain in np.argsort(size, kind="stable"):
            below = self.shares[domain] > 0.0
            if below.any():
                layer_of[domain] = highest[below].max() + 1
                highest[below] = layer_of[domain]
        return tuple(self._layer(layer_of == place) for place in range(layer_of.max() + 1))

    def _layer(self, members: BoolArray) -> Layer:
        domains = np.flatnonzero(members)
        place = np.full(self.nodes_count, len(domains))
        share = np.zeros(self.nodes_count)
        for own, domain in enumerate(domains):
            below = self.shares[domain] > 0.0
            place[below], share[below] = own, self.shares[domain, below]
        return Layer(domains, place, share, nowhere=self.domains_count)

    def load(self, node_values: FloatArray) -> FloatArray:
        """What each domain carries of a value per node."""
        carried = self._share * (node_values if self._every_node_once else node_values[self._node])
        if not len(self._filled):
            return np.zeros(self.domains_count)
        sums: FloatArray = np.add.reduceat(carried, self._starts)
        if len(self._filled) == self.domains_count:
            return sums
        result = np.zeros(self.domains_count)
        result[self._filled] = sums
        return result

    def largest_above(
        self, domain_values: Numbers, *, otherwise: float
    ) -> tuple[Numbers, IntArray]:
        """Per node the largest value of the domains above it, and the first domain that has it.

        A node below none has `otherwise`, and `NOBODY`.
        """
        padded = np.empty_like(domain_values, shape=self.domains_count + 1)
        padded[:-1] = domain_values
        padded[-1] = otherwise
        if len(self._above) == 1:
            return padded[self._above[0]], self._nearest
        values = padded[self._above]
        first = values.argmax(axis=0) * self.nodes_count + np.arange(self.nodes_count)
        places = self._above.ravel()[first]
        return values.ravel()[first], np.where(places == self.domains_count, NOBODY, places)

    def any_above(self, flags: BoolArray) -> BoolArray:
        """Per node whether any domain above it is flagged."""
        padded: BoolArray = np.zeros(self.domains_count + 1, dtype=np.bool_)
        padded[:-1] = flags
        flagged: BoolArray = np.asarray(padded[self._above].any(axis=0))
        return flagged
