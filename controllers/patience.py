"""What leases may add up to: per domain and state of the site, the load that patience allows.

Pure tables from the site and the reaction times. The ledger clamps to them, the proof prints them.
A state is the present one, or the present one with one more declared failure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controllers.fleet import Fleet, FloatArray
from controllers.reaction import Reaction

NOW = ""
"""The state in which no further failure comes."""


@dataclass(frozen=True, slots=True)
class LeaseRows:
    """One row per domain and state: shares of nodes (rows x nodes), limit in W, and its name."""

    load: FloatArray
    limit_w: FloatArray
    names: tuple[str, ...]
    domains: tuple[str, ...]
    states: tuple[str, ...]


class LeaseLimits:
    """Builds the rows of a site, anew only when contingencies or reaction times have changed."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._key: tuple[frozenset[str], Reaction] | None = None
        self._rows = LeaseRows(
            np.zeros((0, len(fleet.nodes))), np.zeros(0), names=(), domains=(), states=()
        )

    def rows(self, active: frozenset[str], reaction: Reaction) -> LeaseRows:
        """The rows while `active` contingencies are on and reactions take this long."""
        key = (active, reaction)
        if key != self._key:
            self._key = key
            self._rows = self._build(active, reaction)
        return self._rows

    def _build(self, active: frozenset[str], reaction: Reaction) -> LeaseRows:
        fleet, site = self._fleet, self._fleet.site
        loads, limits, labels = [], [], []
        before = fleet.shares(active), fleet.capacity_w(active)
        for state in (NOW, *(name for name in site.contingencies if name not in active)):
            failures = active | {state} if state else active
            shares, capacity_w = fleet.shares(failures), fleet.capacity_w(failures)
            needed_s = reaction.needed_s(site.contingencies[state] if state else None)
            for place, name in enumerate(fleet.domains):
                same = (shares[place] == before[0][place]).all()
                if state and same and capacity_w[place] == before[1][place]:
                    continue
                if not shares[place].any():
                    continue
                ratio = site.domains[name].trip_curve.load_ratio_for(needed_s)
                loads.append(shares[place])
                limits.append(ratio * capacity_w[place] - unnoticed_w(fleet, shares[place]))
                labels.append((name, state))
        return LeaseRows(
            np.array(loads).reshape(len(loads), len(fleet.nodes)),
            np.array(limits),
            names=tuple(f"{name} if {state}" if state else name for name, state in labels),
            domains=tuple(name for name, _ in labels),
            states=tuple(state for _, state in labels),
        )


def unnoticed_w(fleet: Fleet, share: FloatArray, *, braked: bool = False) -> float:
    """What `ignored_locks_max` nodes, the worst ones, may draw beyond their safe ceilings, W.

    Beyond their brake ceilings if `braked`: a contingency may ask for anything down to those.
    """
    count = fleet.site.control.ignored_locks_max
    if not count:
        return 0.0
    held_mhz = fleet.brake_ceiling_mhz if braked else fleet.safe_ceiling_mhz
    extra_w = share * (fleet.power_w_max - fleet.worst_case_w(held_mhz.astype(np.int64)))
    return float(np.sort(extra_w)[-count:].sum())
