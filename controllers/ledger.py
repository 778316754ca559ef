"""Every limit that may still be in force, and what a domain could draw under all of them.

Stands between every policy and the wire. Invariants: the exposure of a node is never below what any
lease that it may still hold allows; and no ceiling above the safe one is granted by which a domain,
now or under one more declared failure, would be loaded beyond what its protection tolerates for as
long as the reaction takes. Proposals are clamped to that, never trusted.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec import Struct

from controllers.fitting import Stage, lowered_to_fit
from controllers.fleet import BoolArray, Fleet, FloatArray, IntArray
from controllers.patience import LeaseLimits
from controllers.reaction import Reaction

GRANTS_PER_NODE_MAX: Final = 10_000
"""One per clock of the grid at most."""


class _Grant(Struct, frozen=True):
    """One lease on its way or in force: it ends at `expires_at_s` at the latest."""

    ceiling_mhz: int
    expires_at_s: float


@dataclass(frozen=True, slots=True)
class Clamped:
    """Proposals as the ledger lets them pass.

    `bound_by` has one text per node: what it was lowered for, empty where it was not. `exceeded`
    names every domain whose rule does not hold although nothing above the safe ceiling is granted
    anew: what is in force, or cannot be moved, is too much by itself.
    """

    ceiling_mhz: IntArray
    bound_by: tuple[str, ...]
    exceeded: tuple[str, ...]


class Ledger:
    """Remembers grants, answers with exposures, and clamps what is proposed.

    Times are the controller's monotonic clock. A lease counts at its node from the frame that it
    answers, and that frame was received after it was sampled: `received_at_s + lease_s` therefore
    bounds the expiry without any agreement between clocks.
    """

    def __init__(self, fleet: Fleet, *, started_at_s: float, reaction: Reaction) -> None:
        self._fleet = fleet
        self._reaction = reaction
        self._limits = LeaseLimits(fleet)
        self._grants: list[deque[_Grant]] = [deque() for _ in fleet.nodes]
        # An earlier controller may have granted anything up to the highest clock just before this
        # one started, so until such a lease has surely ended every node counts as unlocked.
        self._inherited_until_s = -math.inf
        self.inherit(started_at_s + reaction.lease_s)

    def react_within(self, reaction: Reaction) -> None:
        """From now on the reaction takes this long: what was measured may be worse than promised.

        Leases that are granted already keep the end that was computed for them.
        """
        self._reaction = reaction

    def inherit(self, until_s: float) -> None:
        """Count every node as unlocked until what an earlier leader granted has surely ended.

        Args:
            until_s: when the last of its leases ends.
        """
        ends_s = until_s + self._reaction.expire_s + self._reaction.settle_s
        self._inherited_until_s = max(self._inherited_until_s, ends_s)

    def inherits(self, now_s: float) -> bool:
        """Whether an earlier leader's leases may be in force: nothing may be raised beside them."""
        return now_s < self._inherited_until_s

    def grant(self, node: int, *, ceiling_mhz: int, expires_at_s: float) -> None:
        """Record a lease before it is sent.

        Grants that this one covers, not higher and not longer, need not be remembered: what is
        left falls in ceiling, and there are not more clocks than places.
        """
        ends_s = expires_at_s + self._reaction.expire_s + self._reaction.settle_s
        grant = _Grant(ceiling_mhz, ends_s)
        grants = self._grants[node]
        while (
            grants
            and grants[-1].ceiling_mhz <= ceiling_mhz
            and grants[-1].expires_at_s <= grant.expires_at_s
        ):
            grants.pop()
        assert len(grants) < GRANTS_PER_NODE_MAX
        grants.append(grant)

    def ceiling_mhz(self, now_s: float) -> IntArray:
        """Per node the highest ceiling that may be in force at `now_s`, MHz."""
        if self.inherits(now_s):
            return self._fleet.clock_mhz_max.astype(np.int64)
        return self.granted_mhz(now_s)

    def granted_mhz(self, now_s: float) -> IntArray:
        """Per node the highest ceiling that this controller's leases allow at `now_s`, MHz."""
        highest: list[int] = self._fleet.safe_ceiling_mhz.tolist()
        for place, grants in enumerate(self._grants):
            while grants and grants[0].expires_at_s <= now_s:
                grants.popleft()
            for grant in grants:
                if grant.expires_at_s > now_s and grant.ceiling_mhz > highest[place]:
                    highest[place] = grant.ceiling_mhz
        return np.array(highest, dtype=np.int64)

    def exposure_w(self, now_s: float, unlocked: BoolArray) -> FloatArray:
        """Per node the most that it can draw at `now_s`, W.

        Args:
            now_s: monotonic time.
            unlocked: nodes whose lock cannot be relied on: never heard, uncontrollable, deviating,
                or silent by themselves (a restarted host comes back without its lock).
        """
        ceiling_mhz = np.where(unlocked, self._fleet.clock_mhz_max, self.ceiling_mhz(now_s))
        return self._fleet.worst_case_w(ceiling_mhz.astype(np.int64))

    def clamp(
        self,
        now_s: float,
        proposed_mhz: IntArray,
        *,
        movable: BoolArray,
        unlocked: BoolArray,
        active: frozenset[str],
    ) -> Clamped:
        """The highest ceilings, none above those proposed, whose grant the rule allows.

        Twice: for the time when what is in force has ended and only the new leases hold, and for
        now, when a node may still use the higher of both. A ceiling that is in force already is
        not lowered for the sake of now: that would not end it.

        Args:
            now_s: monotonic time.
            proposed_mhz: what the policy wants, per node.
            movable: nodes that a lease can be granted to.
            unlocked: nodes that count at their highest clock.
            active: contingencies that are on.
        """
        fleet = self._fleet
        rows = self._limits.rows(active, self._reaction)
        in_force_mhz = np.where(unlocked, fleet.clock_mhz_max, self.ceiling_mhz(now_s))
        # A lease below the safe ceiling ends at the safe ceiling.
        later_mhz = np.where(movable, fleet.safe_ceiling_mhz, in_force_mhz)
        bound_by = np.full(len(fleet.nodes), -1, dtype=np.int64)
        wanted_mhz = proposed_mhz
        for held_mhz in (later_mhz.astype(np.int64), in_force_mhz.astype(np.int64)):
            may = movable & (wanted_mhz > held_mhz)
            stages = [
                Stage(may & fleet.low_priority, held_mhz),
                Stage(may & ~fleet.low_priority, held_mhz),
            ]
            for row in self._over(rows.load, rows.limit_w, np.maximum(wanted_mhz, held_mhz)):
                share = rows.load[row]

                def load_w(
                    trial_mhz: IntArray, share: FloatArray = share, held_mhz: IntArray = held_mhz
                ) -> float:
                    return float(share @ fleet.worst_case_w(np.maximum(trial_mhz, held_mhz)))

                lowered = lowered_to_fit(
                    fleet,
                    wanted_mhz,
                    stages,
                    below=share > 0.0,
                    load_w=load_w,
                    limit_w=float(rows.limit_w[row]),
                )
                bound_by[lowered < wanted_mhz] = row
                wanted_mhz = lowered
        exceeded = self._over(rows.load, rows.limit_w, np.maximum(wanted_mhz, in_force_mhz))
        return Clamped(
            wanted_mhz,
            tuple(rows.names[row] if row >= 0 else "" for row in bound_by.tolist()),
            tuple(rows.names[row] for row in exceeded),
        )

    def _over(self, load: FloatArray, limit_w: FloatArray, ceiling_mhz: IntArray) -> list[int]:
        """Rows whose limit the worst case exceeds, those of fewest nodes first."""
        exposure_w = self._fleet.worst_case_w(ceiling_mhz.astype(np.int64))
        (over,) = (load @ exposure_w > limit_w).nonzero()
        return sorted(over.tolist(), key=lambda row: int(np.count_nonzero(load[row])))
