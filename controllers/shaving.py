"""Policies that keep a forecast under its target: `uniform` and `ampacity`.

Down at once and as far as needed, up by a ramp and only below the release ratio. Who gives how much
is the allocation's business; here is what it is given to fit, and who is asked first.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from controllers.allocation import NEVER_MHZ, Demand, Giving, allocate, load_of
from controllers.fleet import BoolArray, Fleet, FloatArray, IntArray
from controllers.levels import Levels
from controllers.parts import Parts, alike
from controllers.policy import BrakeLatch, Proposal, Situation
from controllers.tree import NOBODY, Tree
from predictors.power import steady_s
from predictors.steady import Steady

BRAKE_AFTER_CYCLES: Final = 3
"""A policy that shaves gets this many cycles to bring power back before the brake falls."""

GROUPS_RATIO_MAX: Final = 0.5
"""Fewer groups than this share of the nodes are worth the way from nodes to groups and back."""

MODE_BAND: Final = 0.05
"""How far below its release, as a share, a domain must fall before it stops holding nodes."""


class ShavingPolicy:
    """Keeps the forecast of every domain under its target by lowering ceilings, in stages.

    A stage is a set of nodes and the lowest ceiling it may be given; the next stage begins when
    the one before is exhausted. One stage of all nodes is `uniform`; low priority before high, and
    the safe ceiling before the brake ceiling, is `ampacity`. The last to give is the first to get
    back.
    """

    prearms = True
    looks_ahead = True

    def __init__(self, domain_count: int, *, by_priority: bool, cycle_s: float) -> None:
        self._by_priority = by_priority
        self._holding = np.zeros(domain_count, dtype=np.bool_)
        self._latch = BrakeLatch(domain_count, engage_s=BRAKE_AFTER_CYCLES * cycle_s)
        self._crowd: Crowd | None = None
        self._lowered_s: FloatArray | None = None
        self._busy = Steady(age_s=0.0, cycle_s=cycle_s)

    def propose(self, situation: Situation) -> Proposal:
        """Lower what is over its target, raise what is under its release."""
        brake = self._latch.step(situation)
        if self._crowd is None or not self._crowd.is_of(situation):
            self._crowd = Crowd(situation.fleet, situation.tree, by_priority=self._by_priority)
            control = situation.control
            self._busy = Steady(age_s=steady_s(control), cycle_s=control.cycle_s)
        parts, now_mhz = self._crowd.parts(situation)
        demand = demand_of(situation, parts, self._busy)
        load_w = load_of(parts.levels, parts.tree, demand, now_mhz)
        ceiling_mhz, bound_by = now_mhz, np.full(parts.count, NOBODY)
        target_w, release_w = _limits_w(situation)
        waits = self._waits(situation, parts)
        wanted_mhz = _raised_mhz(situation, parts, now_mhz, load_w < release_w, waits)
        if wanted_mhz is not now_mhz or (situation.alive & (load_w > target_w)).any():
            stages = self._stages(parts, situation, target_w)
            if wanted_mhz is not now_mhz:
                stages = [*_rises(stages, now_mhz, release_w), *stages]
            found = allocate(parts.levels, parts.tree, demand, wanted_mhz, stages)
            ceiling_mhz, bound_by = found.ceiling_mhz, found.bound_by
        bound_by = self._held_by(situation, parts, ceiling_mhz, bound_by, load_w / release_w)
        proposal = Proposal(parts.each(ceiling_mhz), parts.each(bound_by), brake)
        if self._lowered_s is not None:
            lowered = proposal.ceiling_mhz < situation.ceiling_mhz
            self._lowered_s[lowered] = situation.now_s
        return proposal

    def _waits(self, situation: Situation, parts: Parts) -> BoolArray | None:
        """Who must not rise yet, because a command to slow down may still be on its way there.

        None where commands arrive within the cycle. Down is never waited for.
        """
        control = situation.control
        if control.actuation_s <= control.cycle_s:
            return None
        if self._lowered_s is None:
            self._lowered_s = np.full(len(situation.power_w), -np.inf)
        waits = situation.now_s - self._lowered_s <= control.actuation_s + 1e-6
        return parts.any(waits)

    def _stages(self, parts: Parts, situation: Situation, target_w: FloatArray) -> list[Giving]:
        """Who gives how far, in order, to fit the target."""
        control, movable = situation.control, situation.movable
        floors = parts.floors_mhz(control.easy_ratios if self._by_priority else None)
        if parts.are_nodes and not movable.all():
            floors = [np.where(movable, floor_mhz, NEVER_MHZ) for floor_mhz in floors]
        return [Giving(floor_mhz, target_w) for floor_mhz in floors]

    def _held_by(
        self,
        situation: Situation,
        parts: Parts,
        ceiling_mhz: IntArray,
        bound_by: IntArray,
        release_share: FloatArray,
    ) -> IntArray:
        """Who is still below the highest clock stays with the domain that holds it there.

        A band below the release ratio, so that a domain near it does not change mode each cycle.
        """
        short = (bound_by < 0) & (ceiling_mhz < parts.clock_mhz_max)
        if parts.are_nodes:
            short &= situation.movable
        if short.any():
            highest, tightest = parts.tree.largest_above(release_share, otherwise=-1.0)
            holding = np.append(self._holding, np.False_)[tightest]
            enough = 1.0 - np.where(holding, MODE_BAND, 0.0)
            bound_by = np.where(short & (highest >= enough), tightest, bound_by)
        self._holding = np.zeros(len(situation.capacity_w), dtype=np.bool_)
        self._holding[bound_by[bound_by >= 0]] = True
        return bound_by


class Crowd:
    """The nodes of one tree as parts: groups of nodes while nothing tells their nodes apart."""

    def __init__(self, fleet: Fleet, tree: Tree, *, by_priority: bool) -> None:
        self._fleet, self._tree = fleet, tree
        levels = Levels(fleet)
        group = alike(fleet, tree, by_priority=by_priority)
        self._nodes = self._groups = Parts(fleet, tree, levels)
        if int(group.max(initial=0)) + 1 <= GROUPS_RATIO_MAX * len(group):
            self._groups = Parts(fleet, tree, levels, group)

    def is_of(self, situation: Situation) -> bool:
        """Whether these are the parts of what hangs on what in `situation`."""
        return self._fleet is situation.fleet and self._tree is situation.tree

    def parts(self, situation: Situation) -> tuple[Parts, IntArray]:
        """The parts to decide about now, and the ceiling of each, MHz."""
        if self._groups is not self._nodes and situation.movable.all():
            common_mhz = self._groups.common(situation.ceiling_mhz)
            if common_mhz is not None:
                return self._groups, common_mhz
        return self._nodes, situation.ceiling_mhz


def demand_of(situation: Situation, parts: Parts, busy: Steady) -> Demand:
    """What parts would draw under other ceilings, and how much each domain may rise.

    The part above idle scales as the worst case does, and the expected rise with the power that it
    is a rise of. How busy nodes are is taken over the time that `busy` says. Nodes that cannot be
    moved count as they are, and at most as their hardware.
    """
    fleet, movable, power_w = situation.fleet, situation.movable, situation.power_w
    expected_w = fleet.floor_w(power_w, situation.overhead_w)
    above_w = np.maximum(parts.all_levels.above_idle_w(situation.measured_mhz), 1.0)
    slope = busy.of((power_w - expected_w) / above_w)
    worst_w, worst_slope = parts.idle_w, parts.slope_max
    if not (situation.over_table == 1.0).all():
        worst_w = parts.total(fleet.idle_node_w * situation.over_table)
        worst_slope = parts.total(fleet.gpu_factor * situation.over_table)
    if parts.are_nodes and not movable.all():
        expected_w = np.where(movable, expected_w, power_w)
        worst_w = np.where(movable, worst_w, np.maximum(fleet.power_w_max, power_w))
        slope, worst_slope = slope * movable, worst_slope * movable
    now_w = situation.domain_power_w
    rise = np.divide(situation.rise_w, now_w, out=np.zeros_like(now_w), where=now_w > 0.0)
    return Demand(parts.total(expected_w), parts.total(slope), worst_w, worst_slope, 1.0 + rise)


def _limits_w(situation: Situation) -> tuple[FloatArray, FloatArray]:
    """What each domain's forecast is kept under, and what it must fall below for clocks to rise.

    Where a domain's own history backs the quantile, the quantile is the margin, and what is left
    is for meters and models; where it does not, the margin is wider.
    """
    control = situation.control
    ratio = np.where(situation.from_history, control.history_target_ratio, control.target_ratio)
    band = control.target_ratio - control.release_ratio
    # A lost domain keeps nothing, but is still divided by.
    capacity_w = np.maximum(situation.capacity_w, 1e-9)
    return ratio * capacity_w, (ratio - band) * capacity_w


def _raised_mhz(
    situation: Situation,
    parts: Parts,
    now_mhz: IntArray,
    room: BoolArray,
    waits: BoolArray | None,
) -> IntArray:
    """Ceilings with whatever may rise one step of the ramp higher; `now_mhz` if nothing may."""
    rises = now_mhz < parts.clock_mhz_max
    if situation.hold or not rises.any():
        return now_mhz
    rises &= ~parts.tree.any_above(~room)
    if parts.are_nodes:
        rises &= situation.movable
    if waits is not None:
        rises &= ~waits
    if not rises.any():
        return now_mhz
    step_mhz = situation.step_mhz(parts.clock_mhz_max, parts.clock_mhz_step)
    raised_mhz = parts.snap_mhz(now_mhz + step_mhz)
    return np.where(rises, np.maximum(raised_mhz, now_mhz), now_mhz)


def _rises(stages: list[Giving], now_mhz: IntArray, release_w: FloatArray) -> list[Giving]:
    """Stages that take back a rise, in the same order, where it would pass the release ratio."""
    kept = [np.maximum(stage.floor_mhz, now_mhz) for stage in stages]
    half = len(kept) // 2
    same = zip(kept[:half], kept[half:], strict=True)
    if half == 2 and all((one == two).all() for one, two in same):
        kept = kept[half:]  # nobody is below a safe ceiling: there is nothing to get back first
    return [Giving(floor_mhz, release_w) for floor_mhz in kept]
