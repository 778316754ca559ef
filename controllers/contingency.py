"""Ceilings that are ready before a failure, so that nothing has to be decided when it comes.

For each declared contingency: the highest ceilings under which the worst case of every node fits
every capacity that is left. Worst case, not forecast: the nodes act on them alone, and whatever
the load does then, the survivors hold.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from controllers.fitting import lowered_to_fit, stages_by_priority
from controllers.fleet import BoolArray, Fleet, FloatArray, IntArray
from controllers.patience import unnoticed_w


class Prearmed:
    """Computes contingency ceilings, anew only when what they follow from has changed."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._touches = {
            name: np.array([fleet.site.touches(name, node) for node in fleet.nodes])
            for name in fleet.site.contingencies
        }
        self._hears = {
            name: np.array([item.domain in node.ancestors for node in fleet.site.nodes.values()])
            for name, item in fleet.site.contingencies.items()
        }
        self._feeds = np.array([not domain.is_zone for domain in fleet.site.domains.values()])
        self._key: tuple[object, ...] | None = None
        self._ceilings: dict[str, IntArray] = {}

    def touches(self, contingency: str) -> BoolArray:
        """Per node whether `contingency` concerns it."""
        return self._touches[contingency]

    def hears(self, contingency: str) -> BoolArray:
        """Per node whether it is told of `contingency`.

        A node brakes on a contingency that its lease does not know, so it must know all it may be
        told of, those that change nothing for it included.
        """
        return self._hears[contingency]

    def ceilings_mhz(
        self,
        active: frozenset[str],
        *,
        movable: BoolArray,
        stuck_w: FloatArray,
        usable_w: Callable[[frozenset[str]], FloatArray],
        limits: Hashable,
    ) -> dict[str, IntArray]:
        """Per contingency the ceiling of each node if it came now, or if control ended under it.

        Args:
            active: contingencies that are on already.
            movable: nodes that will act; the others count with `stuck_w`.
            stuck_w: what each other node may draw, W.
            usable_w: what each domain may carry under given contingencies, heat and caps included.
            limits: changes whenever `usable_w` would answer differently.
        """
        key = (active, movable.tobytes(), stuck_w[~movable].tobytes(), limits)
        if key != self._key:
            self._key = key
            self._ceilings = {
                name: self._fit(active | {name}, movable, stuck_w, usable_w(active | {name}))
                for name in self._fleet.site.contingencies
                if name not in active
            }
            if active:
                held_mhz = self._fit(active, movable, stuck_w, usable_w(active))
                self._ceilings |= dict.fromkeys(active, held_mhz)
        return self._ceilings

    def _fit(
        self,
        active: frozenset[str],
        movable: BoolArray,
        stuck_w: FloatArray,
        capacity_w: FloatArray,
    ) -> IntArray:
        fleet = self._fleet
        shares = fleet.shares(active)
        stages = stages_by_priority(fleet, movable)
        # A node that nothing feeds any more draws nothing; if a feed is left after all, it brakes.
        dark = ~(shares[self._feeds] > 0.0).any(axis=0)
        ceiling_mhz = np.where(dark, fleet.brake_ceiling_mhz, fleet.clock_mhz_max).astype(np.int64)
        for domain in np.argsort((shares > 0.0).sum(axis=1), kind="stable"):
            row = shares[domain]
            if not row.any():
                continue

            def load_w(trial_mhz: IntArray, row: FloatArray = row) -> float:
                return float(row @ np.where(movable, fleet.worst_case_w(trial_mhz), stuck_w))

            ceiling_mhz = lowered_to_fit(
                fleet,
                ceiling_mhz,
                stages,
                below=row > 0.0,
                load_w=load_w,
                limit_w=float(capacity_w[domain]) - unnoticed_w(fleet, row, braked=True),
            )
        return ceiling_mhz
