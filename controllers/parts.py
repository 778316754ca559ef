"""A fleet in as few parts as decide alike: single nodes, or groups that nothing tells apart.

Nodes of one kind and priority, below the same domains by the same shares and under one ceiling, get
one ceiling again, so that they can be decided about as one part. In a long row that is a few parts
instead of a few dozen nodes. Exact, not an approximation; decides nothing.
"""

from __future__ import annotations

import numpy as np

from controllers.allocation import NEVER_MHZ
from controllers.fleet import BoolArray, Fleet, FloatArray, IntArray, snap_mhz
from controllers.levels import Levels
from controllers.tree import Tree


class Parts:
    """Constants of every part, and the way from nodes to parts and back.

    Args:
        fleet: whose nodes.
        tree: who hangs on whom.
        levels: the fleet's scale of clocks.
        group: the part of each node; None if every node is a part of its own.
    """

    def __init__(
        self, fleet: Fleet, tree: Tree, levels: Levels, group: IntArray | None = None
    ) -> None:
        self._group = group
        self.all_levels = levels
        self.are_nodes = group is None
        self._first: slice | IntArray = slice(None)
        self.tree, self.levels = tree, levels
        if group is not None:
            self._first = np.unique(group, return_index=True)[1]
            self.tree, self.levels = Tree(tree.shares[:, self._first]), levels.of(self._first)
        first = self._first
        self.clock_mhz_min: IntArray = fleet.clock_mhz_min[first]
        self.clock_mhz_max: IntArray = fleet.clock_mhz_max[first]
        self.clock_mhz_step: IntArray = fleet.clock_mhz_step[first]
        self.safe_ceiling_mhz: IntArray = fleet.safe_ceiling_mhz[first]
        self.brake_ceiling_mhz: IntArray = fleet.brake_ceiling_mhz[first]
        self.low_priority: BoolArray = fleet.low_priority[first]
        self._floors_mhz: dict[tuple[float, float] | None, list[IntArray]] = {}
        self.count = len(self.clock_mhz_max)
        self.idle_w = self.total(fleet.idle_node_w)
        self.slope_max = self.total(fleet.gpu_factor)

    def floors_mhz(self, easy: tuple[float, float] | None) -> list[IntArray]:
        """How far down each stage asks each part, in order: see `allocation.Giving`.

        Args:
            easy: shares of the highest clock down to which low and high priority give first of
                all; None if everybody gives alike, down to the brake ceiling.
        """
        if easy not in self._floors_mhz:
            self._floors_mhz[easy] = [self.brake_ceiling_mhz]
            if easy is not None:
                self._floors_mhz[easy] = self._floors_by_priority(easy)
        return self._floors_mhz[easy]

    def _floors_by_priority(self, easy: tuple[float, float]) -> list[IntArray]:
        low = self.low_priority
        easy_mhz: FloatArray = np.where(low, *easy) * self.clock_mhz_max
        floor_mhz = np.maximum(self.snap_mhz(easy_mhz), self.safe_ceiling_mhz)
        floors_mhz = [self.safe_ceiling_mhz, self.brake_ceiling_mhz]
        if min(easy) < 1.0:
            floors_mhz.insert(0, floor_mhz)
        return [
            np.where(group, floor_mhz, NEVER_MHZ)
            for floor_mhz in floors_mhz
            for group in (low, ~low)
        ]

    def snap_mhz(self, ceiling_mhz: FloatArray) -> IntArray:
        """Each part's ceiling moved down onto its clock grid."""
        return snap_mhz(ceiling_mhz, self.clock_mhz_min, self.clock_mhz_max, self.clock_mhz_step)

    def total(self, values: FloatArray) -> FloatArray:
        """The sum of a node's value over each part."""
        if self._group is None:
            return values
        return np.asarray(np.bincount(self._group, values, self.count), dtype=np.float64)

    def any(self, flags: BoolArray) -> BoolArray:
        """Which parts have a node that is flagged."""
        if self._group is None:
            return flags
        return self.total(flags.astype(np.float64)) > 0.0

    def common(self, values: IntArray) -> IntArray | None:
        """A node's value for each part; None if the nodes of any part differ in it."""
        if self._group is None:
            return values
        values_by_part: IntArray = values[self._first]
        return values_by_part if (values_by_part[self._group] == values).all() else None

    def each(self, values: IntArray) -> IntArray:
        """A part's value for each of its nodes."""
        return values if self._group is None else values[self._group]


def alike(fleet: Fleet, tree: Tree, *, by_priority: bool) -> IntArray:
    """A number per node, the same for nodes of one kind in one place of the tree.

    Args:
        fleet: whose nodes.
        tree: who hangs on whom.
        by_priority: whether nodes of different priority are decided about differently.
    """
    priority = fleet.low_priority if by_priority else np.zeros(len(fleet.nodes))
    keys = np.vstack([*tree.places(), fleet.kind, priority])
    numbers: IntArray = np.unique(keys, axis=1, return_inverse=True)[1].ravel()
    return numbers
