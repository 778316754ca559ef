"""Every limit that may still be in force, and the most that a domain could draw under them.

Invariant: the exposure of a node is never below what any lease that it may still hold allows. A
granted lease counts until its node's own clock must have ended it, however silent the node is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from controllers.fleet import BoolArray, Fleet, FloatArray, IntArray

GRANTS_PER_NODE_MAX: Final = 10_000
"""One per clock of the grid at most."""
APPLY_S: Final = 0.2
"""From the end of a lease until the safe ceiling is in force: 100 ms to write, and the clock's own
settling (physics A.4)."""


@dataclass(frozen=True, slots=True)
class _Grant:
    """One lease on its way or in force: it ends at `expires_at_s` at the latest."""

    ceiling_mhz: int
    expires_at_s: float


class Ledger:
    """Remembers grants and answers with exposures.

    Times are the controller's monotonic clock. A lease counts at its node from the frame that it
    answers, and that frame was received after it was sampled: `received_at_s + lease_s` therefore
    bounds the expiry without any agreement between clocks.
    """

    def __init__(self, fleet: Fleet, *, started_at_s: float, lease_s: float) -> None:
        self._fleet = fleet
        self._grants: list[deque[_Grant]] = [deque() for _ in fleet.nodes]
        # An earlier controller may have granted anything up to the highest clock just before this
        # one started, so until such a lease has surely ended every node counts as unlocked.
        self._inherited_until_s = started_at_s + lease_s

    def grant(self, node: int, *, ceiling_mhz: int, expires_at_s: float) -> None:
        """Record a lease before it is sent.

        Grants that this one covers, not higher and not longer, need not be remembered: what is
        left falls in ceiling, and there are not more clocks than places.
        """
        grant = _Grant(ceiling_mhz, expires_at_s + APPLY_S)
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
        if now_s < self._inherited_until_s:
            return self._fleet.clock_mhz_max.astype(np.int64)
        return self.granted_mhz(now_s)

    def granted_mhz(self, now_s: float) -> IntArray:
        """Per node the highest ceiling that this controller's leases allow at `now_s`, MHz."""
        highest = self._fleet.safe_ceiling_mhz.astype(np.int64).copy()
        for place, grants in enumerate(self._grants):
            while grants and grants[0].expires_at_s <= now_s:
                grants.popleft()
            for grant in grants:
                if grant.expires_at_s > now_s and grant.ceiling_mhz > highest[place]:
                    highest[place] = grant.ceiling_mhz
        return highest

    def exposure_w(self, now_s: float, unlocked: BoolArray) -> FloatArray:
        """Per node the most that it can draw at `now_s`, W.

        Args:
            now_s: monotonic time.
            unlocked: nodes whose lock cannot be relied on: never heard, uncontrollable, deviating,
                or silent by themselves (a restarted host comes back without its lock).
        """
        ceiling_mhz = np.where(unlocked, self._fleet.clock_mhz_max, self.ceiling_mhz(now_s))
        return self._fleet.worst_case_w(ceiling_mhz.astype(np.int64))
