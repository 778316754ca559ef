"""What a policy sees and what it proposes; every policy is one value of one setting.

A policy proposes ceilings. Ramps, missing nodes, contingencies, zones, leases and exposures are
the cycle's business and the same under every policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np

from controllers.fleet import BoolArray, Fleet, FloatArray, IntArray
from controllers.tree import NOBODY, Tree
from facility.config import ControlConfig

WHOLE_CYCLE_RATIO: Final = 0.9
"""From here on a cycle is a whole one: timers are not exact, and a grid step is not divisible."""


def ramp_share(elapsed_s: float, cycle_s: float) -> float:
    """The share of one cycle's rise that the time since the last decision allows, at most 1."""
    return 1.0 if elapsed_s >= WHOLE_CYCLE_RATIO * cycle_s else elapsed_s / cycle_s


@dataclass(frozen=True)  # no slots: what follows from it is computed once, not once per domain
class Situation:
    """One instant as arrays: nodes (n) and domains (d) in site order.

    `rated_w` is what protection and air handlers stand under the active contingencies; 0 means
    lost. `capacity_w` is what may be used of it: operators' caps and hot zones take their part.
    `power_w` counts missing nodes at worst case; `rise_w` is the forecast's addition per domain.
    `ceiling_mhz` is what was decided last; `measured_mhz` is the ceiling under which `power_w` was
    measured, which follows a moment later. `over_table` is 1, or how many times its worst case a
    node was seen to draw: a table may be wrong. `movable` nodes are fresh and controllable: nobody
    else's ceiling can be changed.
    """

    now_s: float
    fleet: Fleet
    control: ControlConfig
    shares: FloatArray  # d x n
    rated_w: FloatArray  # d
    capacity_w: FloatArray  # d
    power_w: FloatArray  # n
    overhead_w: FloatArray  # n; what of `power_w` is not the GPUs'
    rise_w: FloatArray  # d
    ceiling_mhz: IntArray  # n
    measured_mhz: IntArray  # n
    over_table: FloatArray  # n
    movable: BoolArray  # n
    hold: bool  # too much is missing: raise nothing
    from_history: BoolArray | bool = False  # d; whether `rise_w` is a quantile of the domain's own
    ramp_share: float = 1.0  # of a cycle that has passed since the last decision

    @cached_property
    def tree(self) -> Tree:
        """Who hangs on whom."""
        return self.fleet.tree(self.shares)

    @cached_property
    def domain_power_w(self) -> FloatArray:
        """Power of each domain now, W."""
        return self.tree.load(self.power_w)

    @cached_property
    def forecast_w(self) -> FloatArray:
        """Power of each domain at the horizon, W; never above what the ceilings allow at all."""
        return np.minimum(self.domain_power_w + self.rise_w, self.tree.load(self._worst_w()))

    def step_mhz(
        self, clock_mhz_max: FloatArray | IntArray, clock_mhz_step: FloatArray | IntArray
    ) -> FloatArray:
        """How far ceilings may rise in this decision, MHz.

        A ramp goes by time: whoever decides twice in a cycle does not raise twice as fast.
        """
        control = self.control
        step_mhz = control.raise_ratio_per_s * control.cycle_s * clock_mhz_max
        raised_mhz: FloatArray = np.maximum(step_mhz, clock_mhz_step) * self.ramp_share
        return raised_mhz

    @property
    def alive(self) -> BoolArray:
        """Domains that any node still loads; a capacity of nothing is a limit, not an absence."""
        return self.tree.alive

    def _worst_w(self) -> FloatArray:
        """The most that nodes can draw: by the table and what they were seen to add to it.

        A node that cannot be moved is bound by nothing but its hardware.
        """
        table_w = self.fleet.worst_case_w(self.ceiling_mhz) * self.over_table
        free_w = np.maximum(self.fleet.power_w_max, self.power_w)
        return np.where(self.movable, table_w, free_w)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Ceilings per node, which domain bound each (-1 for none), and which domains brake."""

    ceiling_mhz: IntArray
    bound_by: IntArray
    brake: BoolArray


class Policy(Protocol):
    """Decides ceilings; may remember modes between cycles."""

    prearms: bool
    """Whether contingency ceilings are computed: `none` protects nothing, the rest all do."""
    looks_ahead: bool
    """Whether the forecast decides; the others act on what is measured."""

    def propose(self, situation: Situation) -> Proposal:
        """Return ceilings for this cycle."""
        ...


def unbound(situation: Situation) -> IntArray:
    """Nobody bound by any domain."""
    return np.full(len(situation.fleet.nodes), NOBODY, dtype=np.int64)


ZONE_ENGAGE_S: Final = 30.0
"""Air warms by a few kelvin within this time at the most (physics C.6)."""


class BrakeLatch:
    """Holds the power brake of each domain: in at once, out only after a quiet while.

    A domain brakes when its power has been above what it is rated for `engage_s`, and stops when it
    has been below the release ratio for `quiet_s`. A cap or a warm aisle is no reason to brake, and
    air takes half a minute to warm: a zone brakes after `ZONE_ENGAGE_S`.
    """

    def __init__(self, domain_count: int, *, engage_s: float, quiet_s: float = 5.0) -> None:
        self._over_since_s = np.full(domain_count, np.inf)
        self._quiet_since_s = np.full(domain_count, np.inf)
        self._engaged = np.zeros(domain_count, dtype=np.bool_)
        self._watching = False
        self._engage_s = engage_s
        self._engage_by_domain_s: FloatArray | None = None
        self._quiet_s = quiet_s

    def step(self, situation: Situation) -> BoolArray:
        """Return which domains brake now."""
        now_s = situation.now_s
        power_w, rated_w = situation.domain_power_w, situation.rated_w
        over = situation.alive & (power_w > rated_w)
        if not self._watching and not over.any():
            return self._engaged.copy()
        quiet = power_w < situation.control.release_ratio * rated_w
        self._over_since_s = np.where(over, np.minimum(self._over_since_s, now_s), np.inf)
        self._quiet_since_s = np.where(quiet, np.minimum(self._quiet_since_s, now_s), np.inf)
        engage = over & (now_s - self._over_since_s >= self._engage_after_s(situation.fleet))
        release = now_s - self._quiet_since_s >= self._quiet_s
        self._engaged = (self._engaged | engage) & ~(release & ~engage) & situation.alive
        # A quiet while counts from the brake on, so that without one there is nothing to watch.
        self._watching = bool(over.any() or self._engaged.any())
        return self._engaged.copy()

    def _engage_after_s(self, fleet: Fleet) -> FloatArray:
        if self._engage_by_domain_s is None:
            slow_s = max(self._engage_s, ZONE_ENGAGE_S)
            self._engage_by_domain_s = np.where(fleet.is_zone, slow_s, self._engage_s)
        return self._engage_by_domain_s
