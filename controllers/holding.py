"""From what a policy proposes to what is asked for: ramps up, holds, and brakes over everything.

The same under every policy. It only ever lowers a proposal.
"""

from __future__ import annotations

import numpy as np

from controllers.fleet import BoolArray, IntArray
from controllers.policy import Proposal, Situation


def held(
    situation: Situation,
    proposal: Proposal,
    *,
    brake: BoolArray,
    missing: BoolArray,
    blind: BoolArray,
) -> IntArray:
    """What is proposed, with rises ramped or forbidden; MHz per node.

    Args:
        situation: what the policy knew.
        proposal: what it wants.
        brake: domains that brake, by the policy's word or an order.
        missing: nodes that are not heard: they keep what they have.
        blind: nodes that are not to be raised: nobody reports a temperature of their zone, or an
            earlier leader's leases may be in force beside ours.
    """
    fleet, control = situation.fleet, situation.control
    wanted = proposal.ceiling_mhz
    if not brake.any() and np.array_equal(wanted, situation.ceiling_mhz):
        return situation.ceiling_mhz  # most cycles: nothing below moves what is not to move
    if control.policy != "none":
        step_mhz = situation.step_mhz(fleet.clock_mhz_max, fleet.clock_mhz_step)
        wanted = np.minimum(wanted, situation.ceiling_mhz + step_mhz)
    braked = (situation.shares[brake] > 0.0).any(axis=0)
    wanted = np.where(braked, np.minimum(wanted, fleet.brake_ceiling_mhz), wanted)
    still = blind | np.full_like(blind, situation.hold)
    wanted = np.where(still, np.minimum(wanted, situation.ceiling_mhz), wanted)
    return np.where(missing, situation.ceiling_mhz, fleet.snap_mhz(wanted))
