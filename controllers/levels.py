"""One scale of clocks for all kinds of nodes: what the next watt buys decides who is next.

Service is counted as clock, as a share of a GPU's own highest, for each GPU that is busy. Under a
worst case that is convex in the clock the cheapest clocks come first, so walking up this scale
spends every watt where it buys most; nodes of one kind are at one common clock all the way.
"""

from __future__ import annotations

import copy

import numpy as np

from controllers.fleet import Fleet
from controllers.tree import FloatArray, IntArray


class Levels:
    """The common scale of one fleet: clocks by kind and level, and power by node and clock."""

    def __init__(self, fleet: Fleet) -> None:
        models = [node.model for node in fleet.site.nodes.values()]
        keys = [(model.gpu.name, model.gpu_power_factor) for model in models]
        kinds = list(dict.fromkeys(keys))
        firsts = [keys.index(kind) for kind in kinds]
        self._kind: IntArray = np.array([kinds.index(key) for key in keys])
        factor = np.array([model.gpu_power_factor for model in models])
        self.worth: FloatArray = 1.0 / (factor * fleet.clock_mhz_max)
        """Service of each node's MHz, for each watt that its GPUs draw per watt above idle."""
        ladders = [_ladder_mhz(fleet, first) for first in firsts]
        cost = np.concatenate([_cost(fleet, *pair) for pair in zip(firsts, ladders, strict=True)])
        height = np.concatenate([ladder[1:] / ladder[-1] for ladder in ladders])
        kind = np.repeat(np.arange(len(kinds)), [len(ladder) - 1 for ladder in ladders])
        order = np.lexsort((height, cost))
        self.mhz: IntArray = np.stack(
            [
                ladder[np.concatenate(([0], np.cumsum(kind[order] == place)))]
                for place, ladder in enumerate(ladders)
            ]
        )
        """Clock of each kind at each level, kinds x levels: never falling."""
        self.count = self.mhz.shape[1]
        self.halvings = int(self.count - 1).bit_length()
        """How often a range of all levels must be halved until one is left."""
        table_w = np.maximum(fleet.gpu_power_w_by_mhz - fleet.idle_w_by_gpu[:, np.newaxis], 0.0)
        self._above_idle_w = table_w.ravel()
        self.above_idle_w_by_level: FloatArray | None = None
        """With one kind of node: what one of its GPUs may draw above idle at each level."""
        if len(kinds) == 1:
            self.above_idle_w_by_level = table_w[0, self.mhz[0]]
        self._row = fleet.gpu_rank * table_w.shape[1] if len(table_w) > 1 else None

    def above_idle_w(self, ceiling_mhz: IntArray) -> FloatArray:
        """The most that one GPU of each node draws above idle under its ceiling, W."""
        place = ceiling_mhz if self._row is None else self._row + ceiling_mhz
        above_w: FloatArray = self._above_idle_w.take(place, mode="clip")
        return above_w

    def of(self, nodes: IntArray) -> Levels:
        """The same scale for some of the nodes."""
        chosen = copy.copy(self)
        chosen._kind, chosen.worth = self._kind[nodes], self.worth[nodes]
        chosen._row = None if self._row is None else self._row[nodes]
        return chosen

    def at(self, level: IntArray) -> IntArray:
        """Each node's clock at a level of its own, MHz."""
        clocks: IntArray
        clocks = self.mhz[0].take(level) if len(self.mhz) == 1 else self.mhz[self._kind, level]
        return clocks


def _ladder_mhz(fleet: Fleet, node: int) -> IntArray:
    """The clock grid of one node, its highest clock included."""
    grid = np.arange(
        fleet.clock_mhz_min[node], fleet.clock_mhz_max[node] + 1, fleet.clock_mhz_step[node]
    )
    return np.unique(np.append(grid, fleet.clock_mhz_max[node]))


def _cost(fleet: Fleet, node: int, ladder_mhz: IntArray) -> FloatArray:
    """Watts of the node per share of its highest clock, for each step of its ladder.

    Never falling: where a board's own limit ends the curve clocks cost nothing, but they can only
    be had after all that lead to them.
    """
    power_w = fleet.gpu_power_w_by_mhz[fleet.gpu_rank[node], ladder_mhz]
    model = fleet.site.nodes[fleet.nodes[node]].model
    share = np.diff(ladder_mhz) / ladder_mhz[-1]
    # Lines of a table give the same cost to within rounding: equal, or the order would be noise.
    cost = np.round(model.gpu_power_factor * np.diff(power_w) / share, 6)
    rising: FloatArray = np.maximum.accumulate(cost)
    return rising
