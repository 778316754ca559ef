"""Who gives how much: ceilings under which every domain keeps its limit, and no watt is left over.

Nested water-filling over the power tree. Each domain fills up to the highest common level at which
it fits, children before parents, so that a parent counts what its children have already given; a
node ends at the lowest level of the domains above it. Stages say who gives first and how far.
Domains that share no node are solved together as arrays; cooling zones and second feeds are layers
of their own. Pure arithmetic: it knows no modes, no ramps and no leases.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from controllers.levels import Levels
from controllers.tree import NOBODY, BoolArray, FloatArray, IntArray, Layer, Tree

NEVER_MHZ: Final = 1 << 30
"""Floor of whoever has nothing to give in a stage."""

PROBED_AT_ONCE: Final = 2_000
PROBES_MIN: Final = 4
"""Nodes times levels to evaluate in one go: fewer calls against more arithmetic."""

PASSES_MAX: Final = 4
"""Passes over the layers: the first is exact for a tree; two families of domains need more."""

SLACK_RATIO: Final = 0.01
"""A domain that took something and ends further below its limit than this took too much."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What nodes would draw, as a line over what one of their GPUs may draw above idle, W.

    Expected power is `expected_w + expected_slope x` and the most possible `worst_w + worst_slope
    x`; a node that cannot be moved has slopes of 0. A domain's expected load is `scale` times the
    sum, which is how much it may rise; it never counts as more than the most possible.
    """

    expected_w: FloatArray  # n
    expected_slope: FloatArray  # n
    worst_w: FloatArray  # n
    worst_slope: FloatArray  # n
    scale: FloatArray  # d


@dataclass(frozen=True, slots=True)
class Giving:
    """A stage: how far down each node may be asked, MHz, and what each domain must fit then, W."""

    floor_mhz: IntArray  # n
    limit_w: FloatArray  # d


@dataclass(frozen=True, slots=True)
class Allocation:
    """Ceilings, and for each node the place of the domain that lowered it, or -1."""

    ceiling_mhz: IntArray
    bound_by: IntArray


def allocate(
    levels: Levels, tree: Tree, demand: Demand, wanted_mhz: IntArray, stages: Sequence[Giving]
) -> Allocation:
    """The highest ceilings, none above `wanted_mhz`, under which every domain fits its limit.

    A domain that does not fit with every stage at its floor has everything at its floor.

    Args:
        levels: the fleet's scale of clocks.
        tree: who hangs on whom.
        demand: what nodes draw.
        wanted_mhz: ceilings to start from, per node.
        stages: who gives, in order; limits must not fall from one stage to the next.
    """
    problem = _Problem(levels, tree, demand, stages)
    ceiling_mhz, bound_by = problem.once(wanted_mhz)
    for _ in range(PASSES_MAX - 1 if len(tree.layers) > 1 else 0):
        # Those who gave to a domain that another one relieved afterwards are asked again, the
        # others stay where they are.
        gave = bound_by != NOBODY
        again = problem.relieved(ceiling_mhz) & gave if gave.any() else gave
        if not again.any():
            break
        trial_mhz, trial_by = problem.once(np.where(again, wanted_mhz, ceiling_mhz))
        if not problem.is_better(trial_mhz, ceiling_mhz):
            break
        kept = (trial_by == NOBODY) & (trial_mhz < wanted_mhz)
        ceiling_mhz, bound_by = trial_mhz, np.where(kept, bound_by, trial_by)
    return Allocation(ceiling_mhz, bound_by)


def load_of(levels: Levels, tree: Tree, demand: Demand, ceiling_mhz: IntArray) -> FloatArray:
    """What is expected of each domain under given ceilings, W; at most what it can draw at all."""
    above_w = levels.above_idle_w(ceiling_mhz)
    expected_w = demand.scale * tree.load(demand.expected_w + demand.expected_slope * above_w)
    return np.minimum(expected_w, tree.load(demand.worst_w + demand.worst_slope * above_w))


class _Problem:
    """One instant: the sums over its tree, and one pass over its layers."""

    def __init__(
        self, levels: Levels, tree: Tree, demand: Demand, stages: Sequence[Giving]
    ) -> None:
        self._levels = levels
        self._tree = tree
        self._demand = demand
        self._floors_mhz = [stage.floor_mhz for stage in stages]
        # The last column is for nodes below no domain of a layer: they draw nothing, and fit.
        self._limits_w = np.full((len(stages), tree.domains_count + 1), np.inf)
        for number, stage in enumerate(stages):
            self._limits_w[number, :-1] = stage.limit_w
        self._bases_w = np.zeros((3, tree.domains_count + 1))
        self._bases_w[0, :-1] = tree.load(demand.expected_w)
        self._bases_w[1, :-1] = tree.load(demand.worst_w)
        self._bases_w[2, :-1] = demand.scale
        self._had_to_fit_w = stages[0].limit_w.copy()

    def once(self, wanted_mhz: IntArray) -> tuple[IntArray, IntArray]:
        """Lower what does not fit, layer by layer; who was lowered for which domain."""
        bound_by = np.full(len(wanted_mhz), NOBODY)
        several = len(self._tree.layers) > 1
        for layer in self._tree.layers:
            sums = _Sums(self._levels, self._demand, layer, self._bases_w[:, layer.columns])
            limits_w = self._limits_w[:, layer.columns]
            # Of many layers most have nothing to give; of a single one that is known before.
            if several and sums.fit(sums.loads(wanted_mhz), limits_w[0]).all():
                continue
            lowered_mhz = self._lowered(sums, limits_w, wanted_mhz)
            given = np.flatnonzero(lowered_mhz < wanted_mhz)
            bound_by[given] = layer.domains[layer.place[given]]
            wanted_mhz = lowered_mhz
        return wanted_mhz, bound_by

    def _lowered(self, sums: _Sums, limits_w: FloatArray, wanted_mhz: IntArray) -> IntArray:
        """Ceilings under which each domain of one layer fits, or has nothing left to give."""
        layer, stages = sums.layer, len(limits_w)
        steps_mhz = np.minimum.accumulate(np.array([wanted_mhz, *self._floors_mhz]))
        expected_w, worst_w = sums.loads(steps_mhz)
        enough = sums.fit((expected_w[:-1], worst_w[:-1]), limits_w)  # without this stage
        fits = sums.fit((expected_w[1:], worst_w[1:]), limits_w)  # with all that it has to give
        ends = enough | fits
        stage, columns = ends.argmax(axis=0), np.arange(limits_w.shape[1])
        ended = ends[stage, columns]
        stage[~ended] = stages - 1
        # What there is to look for is a level between two steps, but not for those who have given
        # all, or who need give nothing in the stage they have come to.
        search = ended & ~enough[stage, columns]
        limit_w = limits_w[stage, columns]
        self._had_to_fit_w[layer.domains] = limit_w[:-1]
        stage_of, parts = stage[layer.place], np.arange(len(wanted_mhz))
        low_mhz = steps_mhz[stage_of + (search | ~ended)[layer.place], parts]
        if not search.any():
            return np.asarray(low_mhz)
        high_mhz = np.where(search[layer.place], steps_mhz[stage_of, parts], low_mhz)
        bounded = worst_w < expected_w
        by_worst = (search & (bounded[stage, columns] | bounded[stage + 1, columns])).any()
        movers = np.flatnonzero(high_mhz > low_mhz)
        if self._levels.above_idle_w_by_level is None or by_worst or sums.any_shared(movers):
            return self._highest(sums, limit_w, low_mhz, high_mhz, by_worst=bool(by_worst))
        return self._alone(sums, limit_w, low_mhz, high_mhz, movers)

    def _alone(
        self,
        sums: _Sums,
        limit_w: FloatArray,
        low_mhz: IntArray,
        high_mhz: IntArray,
        movers: IntArray,
    ) -> IntArray:
        """The same as `_highest` where only one part of each domain moves: no search is needed."""
        levels = self._levels
        assert levels.above_idle_w_by_level is not None
        above_w = levels.above_idle_w(low_mhz)
        most_w = above_w[movers] + sums.room_for(movers, above_w, limit_w)
        level = np.searchsorted(levels.above_idle_w_by_level, most_w, side="right") - 1
        found_mhz = low_mhz.copy()
        clocks_mhz = levels.mhz[0].take(np.maximum(level, 0))
        found_mhz[movers] = np.maximum(np.minimum(clocks_mhz, high_mhz[movers]), low_mhz[movers])
        return found_mhz

    def _highest(
        self,
        sums: _Sums,
        limit_w: FloatArray,
        low_mhz: IntArray,
        high_mhz: IntArray,
        *,
        by_worst: bool,
    ) -> IntArray:
        """Look for each domain's level between `low_mhz`, which fits, and `high_mhz`.

        All domains at once, at as many levels at once as are worth a look.
        """
        levels, place = self._levels, sums.layer.place
        low = np.zeros(len(limit_w), dtype=np.int64)
        high = np.full(len(limit_w), levels.count - 1)
        probes_max = _probes(levels.count, len(place))
        while (left := int((high - low).max())) > 0:
            probes = min(probes_max, left)
            stride = -(-left // (probes + 1)) if left > probes else 1
            tried = np.minimum(low + stride * np.arange(1, probes + 1)[:, np.newaxis], high)
            clocks_mhz = levels.at(tried[:, place])
            trial_mhz = np.maximum(np.minimum(clocks_mhz, high_mhz), low_mhz)
            if by_worst:
                fit = sums.fit(sums.loads(trial_mhz), limit_w)
            else:
                fit = sums.expected_w(levels.above_idle_w(trial_mhz)) <= limit_w
            fitting = np.count_nonzero(fit, axis=0)
            reached = np.minimum(low + stride * fitting, high)
            failed = np.minimum(reached + stride, high)
            low, high = reached, np.where(fitting == probes, high, failed - 1)
        found_mhz: IntArray = np.maximum(np.minimum(levels.at(low[place]), high_mhz), low_mhz)
        return found_mhz

    def relieved(self, ceiling_mhz: IntArray) -> BoolArray:
        """Nodes that gave, and every domain above them ends well below what it had to fit."""
        load_w = load_of(self._levels, self._tree, self._demand, ceiling_mhz)
        full = load_w >= (1.0 - SLACK_RATIO) * self._had_to_fit_w
        return ~self._tree.any_above(full)

    def is_better(self, one_mhz: IntArray, other_mhz: IntArray) -> bool:
        """Whether `one` serves more than `other`: what is given last counts first."""
        worth = self._demand.expected_slope * self._levels.worth
        gains, top_mhz = [], np.maximum(one_mhz, other_mhz)
        for stage_mhz in self._floors_mhz:
            floor_mhz = np.minimum(top_mhz, stage_mhz)
            one, other = (np.clip(mhz, floor_mhz, top_mhz) for mhz in (one_mhz, other_mhz))
            gains.append(float(worth @ (one - other)))
            top_mhz = floor_mhz
        return next((gain > 0.0 for gain in reversed(gains) if abs(gain) > 1e-9), False)


class _Sums:
    """Loads of one layer's domains as sums over nodes; those below no domain are a last one."""

    def __init__(self, levels: Levels, demand: Demand, layer: Layer, bases_w: FloatArray) -> None:
        self.layer = layer
        self._levels = levels
        self._slope = layer.share * demand.expected_slope
        self._worst_slope = layer.share * demand.worst_slope
        self._base_w, self._worst_base_w, self._scale = bases_w

    def loads(self, ceiling_mhz: IntArray) -> tuple[FloatArray, FloatArray]:
        """Per domain what is expected, and the most possible, W.

        Args:
            ceiling_mhz: per node, or several cases of it as rows.
        """
        above_w = self._levels.above_idle_w(ceiling_mhz)
        worst_w = self._worst_base_w + self.layer.load(self._worst_slope * above_w)
        return self.expected_w(above_w), worst_w

    def expected_w(self, above_idle_w: FloatArray) -> FloatArray:
        """Per domain what is expected under what one GPU of each node may draw, W."""
        moved_w = self.layer.load(self._slope * above_idle_w)
        expected_w: FloatArray = self._scale * (self._base_w + moved_w)
        return expected_w

    def any_shared(self, parts: IntArray) -> bool:
        """Whether two of `parts` are below the same domain."""
        return bool(np.bincount(self.layer.place[parts]).max(initial=0) > 1)

    def room_for(
        self, parts: IntArray, above_idle_w: FloatArray, limit_w: FloatArray
    ) -> FloatArray:
        """How much more one GPU of each of `parts` may draw until its domain is at its limit, W.

        Args:
            parts: no two below the same domain.
            above_idle_w: what one GPU of each part draws now.
            limit_w: per domain.
        """
        left_w = (limit_w - self.expected_w(above_idle_w)) / self._scale
        room_w: FloatArray = left_w[self.layer.place[parts]] / np.maximum(self._slope[parts], 1e-9)
        return room_w

    def fit(self, loads: tuple[FloatArray, FloatArray], limit_w: FloatArray) -> BoolArray:
        """Which domains keep a limit: by what is expected, or whatever happens."""
        expected_w, worst_w = loads
        return (expected_w <= limit_w) | (worst_w <= limit_w)


@functools.cache
def _probes(levels: int, nodes: int) -> int:
    """How many levels to try at once: no more than find the one in the same number of rounds."""
    most = max(PROBES_MIN, PROBED_AT_ONCE // nodes)
    rounds = max(math.ceil(math.log(levels) / math.log(most + 1)), 1)
    return max(math.ceil(math.pow(levels, 1.0 / rounds)) - 1, 1)
