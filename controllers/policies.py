"""The policies, one class each, compared in one run by name.

`none` does nothing at all; `brake-only` waits for the limit and then brakes (POLCA's No-cap);
`uniform` slows every node of a domain alike; `ampacity` slows low priority first; `polca`,
`one-threshold-low` and `one-threshold-all` are the paper's fixed thresholds.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from controllers.fitting import Stage, lowered_to_fit, stages_by_priority
from controllers.fleet import FloatArray, IntArray
from controllers.policy import BrakeLatch, Policy, Proposal, Situation, unbound
from controllers.thresholds import (
    ONE_THRESHOLD_ALL,
    ONE_THRESHOLD_LOW,
    POLCA,
    ThresholdPolicy,
)
from facility.config import PolicyName

BRAKE_AFTER_CYCLES: Final = 3
"""A policy that shaves gets this many cycles to bring power back before the brake falls."""

MODE_BAND: Final = 0.05
"""How far below its release ratio a domain must fall before it stops holding nodes."""


class NonePolicy:
    """No control: every clock as high as it goes, nothing pre-armed. The baseline that trips."""

    prearms = False

    def propose(self, situation: Situation) -> Proposal:
        """Highest clocks, whatever happens."""
        return Proposal(
            situation.fleet.clock_mhz_max,
            unbound(situation),
            np.zeros(len(situation.fleet.domains), dtype=np.bool_),
        )


class BrakeOnlyPolicy:
    """Highest clocks until a domain is over its capacity, then the brake (POLCA 1.4, No-cap)."""

    prearms = True

    def __init__(self, domain_count: int) -> None:
        self._latch = BrakeLatch(domain_count, engage_s=0.0)

    def propose(self, situation: Situation) -> Proposal:
        """Brake or nothing."""
        brake = self._latch.step(situation)
        return Proposal(situation.fleet.clock_mhz_max, unbound(situation), brake)


class ShavingPolicy:
    """Keeps the forecast of every domain under its target by lowering ceilings, in stages.

    A stage is a set of nodes and the lowest ceiling it may be given; the next stage begins when
    the one before is exhausted. One stage of all nodes is `uniform`; low priority before high, and
    the safe ceiling before the brake ceiling, is `ampacity`. Down at once and as far as needed; up
    only below the release ratio, the last stage to give being the first to get back.
    """

    prearms = True

    def __init__(self, domain_count: int, *, by_priority: bool, cycle_s: float) -> None:
        self._by_priority = by_priority
        self._bound_by: IntArray | None = None
        self._latch = BrakeLatch(domain_count, engage_s=BRAKE_AFTER_CYCLES * cycle_s)

    def propose(self, situation: Situation) -> Proposal:
        """Lower what is over its target, raise what is under its release."""
        brake = self._latch.step(situation)
        wanted = self._raised(situation)
        bound_by = unbound(situation)
        target_w = situation.control.target_ratio * situation.capacity_w
        # Lowering one domain raises no other: who fits now will fit then.
        over = situation.alive & (situation.predicted_w(wanted) > target_w)
        # Leaves first: what a rack gives up its row need not ask for again.
        for domain in sorted(np.flatnonzero(over), key=lambda place: len(situation.below[place])):
            lowered = self._lowered(situation, wanted, int(domain), float(target_w[domain]))
            bound_by[lowered < wanted] = domain
            wanted = lowered
        # A node that is still below its highest clock stays with the domain that holds it there.
        held = (bound_by < 0) & (wanted < situation.fleet.clock_mhz_max) & situation.movable
        tightest, ratio = self._tightest(situation)
        # A band below the release ratio, so that a domain near it does not change mode each cycle.
        again = self._bound_by == tightest if self._bound_by is not None else False
        held &= ratio >= situation.control.release_ratio - np.where(again, MODE_BAND, 0.0)
        bound_by[held] = tightest[held]
        self._bound_by = bound_by
        return Proposal(wanted, bound_by, brake)

    def _stages(self, situation: Situation) -> list[Stage]:
        if self._by_priority:
            return stages_by_priority(situation.fleet, situation.movable)
        return [Stage(situation.movable, situation.fleet.brake_ceiling_mhz)]

    def _lowered(
        self, situation: Situation, wanted: IntArray, domain: int, target_w: float
    ) -> IntArray:
        return lowered_to_fit(
            situation.fleet,
            wanted,
            self._stages(situation),
            below=situation.shares[domain] > 0.0,
            load_w=lambda ceiling_mhz: situation.predicted_domain_w(domain, ceiling_mhz),
            limit_w=target_w,
        )

    def _raised(self, situation: Situation) -> IntArray:
        """Ceilings with whatever may rise raised; the loop over domains takes back what is not."""
        fleet, control = situation.fleet, situation.control
        ceiling_mhz = situation.ceiling_mhz
        if situation.hold:
            return ceiling_mhz
        room = ~situation.alive | (
            situation.forecast_w < control.release_ratio * situation.capacity_w
        )
        cramped = (situation.shares[~room] > 0.0).any(axis=0)
        step_mhz = control.raise_ratio_per_s * control.cycle_s * fleet.clock_mhz_max
        limit_w = control.release_ratio * situation.capacity_w
        may = situation.movable & ~cramped & (ceiling_mhz < fleet.clock_mhz_max)
        for stage in reversed(self._stages(situation)):
            group = stage.nodes & may
            step = np.maximum(step_mhz, fleet.clock_mhz_step)
            raised = np.where(group, fleet.snap_mhz(ceiling_mhz + step), ceiling_mhz)
            ceiling_mhz = np.maximum(raised, ceiling_mhz)
            may &= ~group
            # The next stage rises as well only where this one leaves room for it.
            full = situation.alive & (situation.predicted_w(ceiling_mhz) >= limit_w)
            may &= ~(situation.shares[full] > 0.0).any(axis=0)
        return ceiling_mhz

    def _tightest(self, situation: Situation) -> tuple[IntArray, FloatArray]:
        """For each node the domain above it with the least room at the horizon, and its ratio."""
        ratio = situation.forecast_w / np.maximum(situation.capacity_w, 1.0)
        weighted = np.where(situation.shares > 0.0, ratio[:, np.newaxis], -1.0)
        return np.argmax(weighted, axis=0).astype(np.int64), weighted.max(axis=0)


def make_policy(name: PolicyName, *, domain_count: int, cycle_s: float) -> Policy:
    """The policy that `name` stands for."""
    match name:
        case "none":
            return NonePolicy()
        case "brake-only":
            return BrakeOnlyPolicy(domain_count)
        case "uniform":
            return ShavingPolicy(domain_count, by_priority=False, cycle_s=cycle_s)
        case "ampacity":
            return ShavingPolicy(domain_count, by_priority=True, cycle_s=cycle_s)
        case "polca":
            return ThresholdPolicy(domain_count, POLCA)
        case "one-threshold-low":
            return ThresholdPolicy(domain_count, ONE_THRESHOLD_LOW)
        case "one-threshold-all":
            return ThresholdPolicy(domain_count, ONE_THRESHOLD_ALL)
