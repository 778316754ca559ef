"""The policies, one class each, compared in one run by name.

`none` does nothing at all; `brake-only` waits for the limit and then brakes (POLCA's No-cap);
`uniform` slows every node of a domain alike; `ampacity` slows low priority first; `polca`,
`one-threshold-low` and `one-threshold-all` are the paper's fixed thresholds.
"""

from __future__ import annotations

import numpy as np

from controllers.policy import BrakeLatch, Policy, Proposal, Situation, unbound
from controllers.shaving import ShavingPolicy
from controllers.thresholds import (
    ONE_THRESHOLD_ALL,
    ONE_THRESHOLD_LOW,
    POLCA,
    ThresholdPolicy,
)
from facility.config import PolicyName


class NonePolicy:
    """No control: every clock as high as it goes, nothing pre-armed. The baseline that trips."""

    prearms = False
    looks_ahead = False

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
    looks_ahead = False

    def __init__(self, domain_count: int) -> None:
        self._latch = BrakeLatch(domain_count, engage_s=0.0)

    def propose(self, situation: Situation) -> Proposal:
        """Brake or nothing."""
        brake = self._latch.step(situation)
        return Proposal(situation.fleet.clock_mhz_max, unbound(situation), brake)


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
