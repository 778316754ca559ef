"""The lease proof: that no failure of control can load a domain longer than it tolerates.

For every domain, now and under each declared failure, two things must hold. The floor: with every
node where it goes by itself, and as many unlocked as may go unnoticed, the domain is within its
capacity. The leases: what may be granted above the floor is tolerated for as long as the reaction
takes. The ledger sees to the second while it runs; without it every node counts at its highest
clock. Pure arithmetic on the site file; nothing is measured here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from controllers.fleet import Fleet, FloatArray, IntArray
from controllers.patience import unnoticed_w
from controllers.reaction import Reaction, reaction_bounds
from facility.topology import Site
from facility.trip import TripCurve

NORMAL: Final = "normal"
"""What the state without any contingency is called."""
ROUNDING_RATIO: Final = 1e-9
"""What sums of floats may be off: a load that equals its capacity is within it."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What would make a row pass; None where nothing of that kind would."""

    lease_s: float | None
    safe_ceiling_mhz: int | None
    nodes_count: int | None


@dataclass(frozen=True, slots=True)
class ProofRow:
    """One domain in one state. Worst cases in W, times in s, ratios of the capacity in that state.

    `floor_w` is what is left when everything has gone where it goes by itself, with the nodes that
    may ignore their locks at full clocks. `leased_w` is the most that leases may add up to, and
    `patience_s` what the protection tolerates then; `reaction_s` is what counts against it.
    `lease_ceiling_mhz` is the clock that all nodes of the domain may be leased at once.
    """

    domain: str
    state: str
    trip_curve: str
    capacity_w: float
    brake_w: float
    safe_w: float
    full_w: float
    floor_w: float
    leased_w: float
    lease_ceiling_mhz: int
    patience_s: float
    with_control_s: float
    without_control_s: float
    reaction_s: float
    needed_s: float
    problem: str
    advice: Advice | None

    @property
    def passed(self) -> bool:
        """Whether the proof holds for this row."""
        return not self.problem

    @property
    def load_ratio(self) -> float | None:
        """The largest load that leases allow, as a share of the capacity; None without one."""
        return self.leased_w / self.capacity_w if self.capacity_w > 0.0 else None

    @property
    def margin_ratio(self) -> float | None:
        """Patience over reaction; None when the patience is infinite."""
        return self.patience_s / self.reaction_s if math.isfinite(self.patience_s) else None


@dataclass(frozen=True, slots=True)
class Proof:
    """Every row of a site, and the reaction times that they rest on."""

    rows: tuple[ProofRow, ...]
    reaction: Reaction

    @property
    def passed(self) -> bool:
        """Whether leases may be granted on this site at all."""
        return all(row.passed for row in self.rows)

    @property
    def failures(self) -> tuple[ProofRow, ...]:
        """The rows that do not hold."""
        return tuple(row for row in self.rows if not row.passed)


def prove(site: Site) -> Proof:
    """Each domain normally, then under each contingency that changes what it carries or may."""
    prover = _Prover(site)
    rows = [prover.row(name, "") for name in site.domains]
    for state in site.contingencies:
        rows += [prover.row(name, state) for name in site.domains if prover.differs(name, state)]
    return Proof(tuple(rows), prover.reaction)


def undeclared(site: Site) -> tuple[str, ...]:
    """Domains whose loss would move load to others, and that no contingency declares.

    Their loss is not in the proof: nobody has said how nodes would learn of it.
    """
    declared = {name for item in site.contingencies.values() for name in item.lost}
    shared = {
        parent
        for parents in (
            *(domain.parents for domain in site.domains.values()),
            *(node.parents for node in site.nodes.values()),
        )
        if len(parents) > 1
        for parent in parents
    }
    return tuple(name for name in site.domains if name in shared - declared)


class _Prover:
    """The arithmetic of one site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.fleet = Fleet(site)
        self.reaction = reaction_bounds(site.control)

    def differs(self, domain: str, state: str) -> bool:
        """Whether a contingency changes the domain's capacity, or who loads it."""
        fleet, place = self.fleet, self.fleet.domain_index[domain]
        failed, none = frozenset({state}), frozenset[str]()
        moved = (fleet.shares(failed)[place] != fleet.shares(none)[place]).any()
        return bool(moved or fleet.capacity_w(failed)[place] != fleet.capacity_w(none)[place])

    def row(self, domain: str, state: str) -> ProofRow:
        """One row. `state` is empty for the normal one."""
        site, fleet, reaction = self.site, self.fleet, self.reaction
        failed = frozenset({state} if state else ())
        place = fleet.domain_index[domain]
        share = fleet.shares(failed)[place]
        capacity_w = float(fleet.capacity_w(failed)[place])
        contingency = site.contingencies[state] if state else None
        curve = site.domains[domain].trip_curve
        brake_w, safe_w, full_w = (
            self._worst_w(share, mhz)
            for mhz in (fleet.brake_ceiling_mhz, fleet.safe_ceiling_mhz, fleet.clock_mhz_max)
        )
        # With a trigger of its own every node goes to its contingency ceiling, the brake at worst.
        lowest_w = brake_w if contingency and contingency.local_trigger else safe_w
        triggered = contingency is not None and contingency.local_trigger
        unnoticed = unnoticed_w(fleet, share, braked=triggered)
        floor_w = min(lowest_w + unnoticed, full_w)
        needed_s = reaction.needed_s(contingency)
        limit_w = curve.load_ratio_for(needed_s) * capacity_w
        if site.control.policy == "none":
            limit_w = capacity_w  # nobody would ever react
        leased_w, ceiling_mhz = full_w, int(fleet.clock_mhz_max.max())
        if site.control.ledger and site.control.policy != "none" and limit_w < full_w:
            room_w = max(limit_w - unnoticed_w(fleet, share), safe_w)
            leased_w = min(full_w, room_w + unnoticed_w(fleet, share))
            ceiling_mhz = self._highest_mhz(share, room_w)
        alive_s = reaction.with_control_s
        reaction_s = needed_s / reaction.margin_ratio
        if contingency:
            alive_s = reaction.contingency_s(contingency)
        problem = self._problem(capacity_w, floor_w, leased_w, limit_w, needed_s)
        return ProofRow(
            domain=domain,
            state=state or NORMAL,
            trip_curve=curve.name,
            capacity_w=capacity_w,
            brake_w=brake_w,
            safe_w=safe_w,
            full_w=full_w,
            floor_w=floor_w,
            leased_w=leased_w,
            lease_ceiling_mhz=ceiling_mhz,
            patience_s=_patience_s(curve, leased_w, capacity_w),
            with_control_s=alive_s,
            without_control_s=reaction.without_control_s,
            reaction_s=reaction_s,
            needed_s=needed_s,
            problem=problem,
            advice=self._advice(share, curve, capacity_w, full_w) if problem else None,
        )

    def _worst_w(self, share: FloatArray, ceiling_mhz: IntArray) -> float:
        return float(share @ self.fleet.worst_case_w(ceiling_mhz.astype(np.int64)))

    def _problem(
        self, capacity_w: float, floor_w: float, leased_w: float, limit_w: float, needed_s: float
    ) -> str:
        if floor_w > capacity_w * (1.0 + ROUNDING_RATIO):
            return "where nodes go by themselves is above the capacity"
        if leased_w > max(limit_w, floor_w) * (1.0 + ROUNDING_RATIO):
            return f"leases may add up to what is not tolerated for {needed_s:.1f} s"
        return ""

    def _highest_mhz(self, share: FloatArray, limit_w: float) -> int:
        """The highest clock at which all nodes of a domain together are within `limit_w`; or 0."""
        fleet, below = self.fleet, share > 0.0
        low, high = 0, int(fleet.clock_mhz_max[below].max())
        load_w = partial(self._level_w, share)
        if load_w(int(fleet.clock_mhz_min[below].min())) > limit_w * (1.0 + ROUNDING_RATIO):
            return 0
        while low < high:
            middle = (low + high + 1) // 2
            if load_w(middle) <= limit_w * (1.0 + ROUNDING_RATIO):
                low = middle
            else:
                high = middle - 1
        return int(fleet.snap_mhz(np.full(len(share), low))[below].max())

    def _level_w(self, share: FloatArray, level_mhz: int) -> float:
        fleet = self.fleet
        level = np.clip(level_mhz, fleet.clock_mhz_min, fleet.clock_mhz_max)
        return self._worst_w(share, level)

    def _advice(
        self, share: FloatArray, curve: TripCurve, capacity_w: float, full_w: float
    ) -> Advice:
        """The largest lease, safe ceiling and number of servers with which the row would pass."""
        reaction, unnoticed = self.reaction, unnoticed_w(self.fleet, share)
        patience_s = _patience_s(curve, full_w, capacity_w)
        lease_s = (
            patience_s / reaction.margin_ratio - reaction.expire_s - reaction.settle_s
            if math.isfinite(patience_s)
            else math.inf
        )
        ceiling_mhz = self._highest_mhz(share, capacity_w - unnoticed)
        floors_w = share * self.fleet.worst_case_w(self.fleet.safe_ceiling_mhz.astype(np.int64))
        largest_first = np.sort(floors_w[share > 0.0])[::-1]
        fits = int(np.searchsorted(np.cumsum(largest_first), capacity_w - unnoticed, side="right"))
        return Advice(
            lease_s=lease_s if 0.0 < lease_s < math.inf else None,
            safe_ceiling_mhz=ceiling_mhz or None,
            nodes_count=fits or None,
        )


def _patience_s(curve: TripCurve, load_w: float, capacity_w: float) -> float:
    if load_w <= 0.0:
        return math.inf
    if capacity_w <= 0.0:
        return 0.0
    ratio = load_w / capacity_w
    return math.inf if ratio <= 1.0 + ROUNDING_RATIO else curve.patience_s(ratio * (1.0 - 1e-9))
