"""What a cycle tells: domain states with their sentences, node decisions, events on change.

Reads what was decided and decides nothing; remembers only what it has told before.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Final

import numpy as np

from controllers.fleet import BoolArray, FloatArray, IntArray
from controllers.narrator import domain_sentence, kilowatts
from controllers.policy import Situation
from controllers.snapshot import NodeView, Snapshot
from controllers.thermal import ZoneHeat
from facility.decisions import NodeDecision
from facility.topology import Site
from facility.wire import DomainState, Event, Mode, Severity

_SEVERITY: Final[dict[Mode, Severity]] = {
    Mode.NORMAL: "info",
    Mode.SHAVING: "info",
    Mode.EMERGENCY: "critical",
    Mode.BRAKE: "critical",
}


@dataclass(frozen=True)  # no slots: who is missing is counted once, not once per domain
class Outcome:
    """One finished cycle, as the reporter reads it. Nodes (n) and domains (d) in site order.

    `leased_for` says per node what the ledger lowered it for, empty where it did not.
    `prearmed_mhz` is 0 for nodes that a contingency does not concern.
    """

    snapshot: Snapshot
    situation: Situation
    decision_id: str
    ceiling_mhz: IntArray  # n
    bound_by: IntArray  # n
    leased_for: tuple[str, ...]  # n
    brake: BoolArray  # d
    exposure_w: FloatArray  # n
    heat: dict[str, ZoneHeat]
    prearmed_mhz: dict[str, IntArray]

    @cached_property
    def missing(self) -> BoolArray:
        """Nodes that count at their worst case."""
        return np.array([view.missing for view in self.snapshot.nodes.values()])

    @cached_property
    def below(self) -> BoolArray:
        """Domains x nodes: who hangs on whom."""
        below: BoolArray = self.situation.shares > 0.0
        return below

    @cached_property
    def bound(self) -> BoolArray:
        """Domains x nodes: whom each domain holds below its highest clock."""
        domains = np.arange(len(self.brake))[:, np.newaxis]
        bound: BoolArray = self.below & (self.bound_by == domains) & self.situation.movable
        return bound

    @cached_property
    def holds(self) -> bool:
        """Whether any domain holds any node."""
        return bool((self.bound_by >= 0).any())

    @cached_property
    def missing_counts(self) -> list[int]:
        """Per domain how many of its nodes are missing."""
        counts: list[int] = np.count_nonzero(self.below & self.missing, axis=1).tolist()
        return counts


START_CYCLES: Final = 10
"""After so many cycles a node that has never been heard is told of as missing."""


class Reporter:
    """Tells about cycles; keeps the last modes and the last missing nodes to tell changes."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._modes: dict[str, Mode] = dict.fromkeys(site.domains, Mode.NORMAL)
        # At a start nobody has been heard: who speaks is news, who is silent only after a while.
        self._missing = frozenset(site.nodes)
        self._cycles_count = 0
        self._loose: frozenset[str] = frozenset()
        self._stuck: frozenset[str] = frozenset()
        self._stuck_told: frozenset[str] = frozenset()
        self._held = True

    def domains(self, outcome: Outcome) -> tuple[DomainState, ...]:
        """One state per domain, in site order."""
        return tuple(
            self._domain(outcome, place, name) for place, name in enumerate(self._site.domains)
        )

    def _domain(self, outcome: Outcome, place: int, name: str) -> DomainState:
        situation, domain = outcome.situation, self._site.domains[name]
        below, bound = outcome.below[place], outcome.bound[place]
        struck = self._struck(outcome, name)
        mode = Mode.SHAVING if np.count_nonzero(bound) else Mode.NORMAL
        if struck:
            mode = Mode.EMERGENCY
        if outcome.brake[place]:
            mode = Mode.BRAKE
        heat = outcome.heat.get(name)
        return DomainState(
            domain=name,
            kind=domain.kind,
            decision_id=outcome.decision_id,
            at_s=outcome.snapshot.wall_s,
            power_w=round(float(situation.domain_power_w[place]), 1),
            forecast_w=round(float(situation.forecast_w[place]), 1),
            exposure_w=round(float(situation.shares[place] @ outcome.exposure_w), 1),
            capacity_w=round(float(situation.capacity_w[place]), 1),
            mode=mode,
            sentence=domain_sentence(
                situation,
                place,
                mode=mode,
                ceiling_mhz=outcome.ceiling_mhz,
                bound=bound,
                held_by=self._held_by(outcome, place, below),
                causes=(*struck, *self._causes(outcome, place, name)),
            )[:1024],
            nodes_count=len(domain.nodes),
            nodes_missing_count=outcome.missing_counts[place],
            temperature_c=heat.inlet_temperature_c if heat else None,
        )

    def _held_by(self, outcome: Outcome, place: int, below: BoolArray) -> tuple[str, ...]:
        """Other domains that hold nodes of this one, in site order."""
        if not outcome.holds:
            return ()
        holders = set(outcome.bound_by[below & outcome.situation.movable].tolist()) - {-1, place}
        return tuple(outcome.situation.fleet.domains[holder] for holder in sorted(holders))

    def _struck(self, outcome: Outcome, name: str) -> tuple[str, ...]:
        """Active contingencies that change what this domain, or what feeds it, may carry."""
        fleet = outcome.situation.fleet
        parents = self._site.domains[name].parents
        place = fleet.domain_index[name]
        struck = []
        for contingency in sorted(outcome.snapshot.active):
            alone = frozenset({contingency})
            changed = fleet.capacity_w(alone)[place] != fleet.capacity_w(frozenset())[place]
            moved = (fleet.shares(alone)[place] != fleet.shares(frozenset())[place]).any()
            orphaned = any(parent in self._site.lost(alone) for parent in parents)
            if changed or moved or orphaned:
                struck.append(contingency)
        return tuple(struck)

    def _causes(self, outcome: Outcome, place: int, name: str) -> tuple[str, ...]:
        causes = []
        heat = outcome.heat.get(name)
        if heat is not None and heat.excess_c is None:
            causes.append("no temperature from this zone: nothing is raised")
        elif heat is not None and heat.excess_c is not None and heat.excess_c > 0.0:
            causes.append(f"{heat.excess_c:.1f} C over its limit")
        missing = outcome.missing_counts[place]
        if missing:
            causes.append(f"{missing} missing at worst case")
        if any(outcome.leased_for):
            below = outcome.below[place].tolist()
            bound = Counter(filter(None, compress(outcome.leased_for, below)))
            for row, count in bound.most_common(1):
                causes.append(f"{count} leased no higher for {row}")
        if outcome.situation.hold:
            causes.append("too much of the site is silent: nothing is raised")
        return tuple(causes)

    def nodes(self, outcome: Outcome) -> tuple[NodeDecision, ...]:
        """One decision per node, in site order."""
        return tuple(
            self._node(outcome, place, view)
            for place, view in enumerate(outcome.snapshot.nodes.values())
        )

    def _node(self, outcome: Outcome, place: int, view: NodeView) -> NodeDecision:
        fleet = outcome.situation.fleet
        domain = int(outcome.bound_by[place])
        ceiling_mhz = int(outcome.ceiling_mhz[place])
        if view.missing:
            exposure = kilowatts(float(outcome.exposure_w[place]))
            sentence = f"{view.why_missing}: counts {exposure}"
        elif not view.controllable:
            sentence = f"uncontrollable: {view.why_uncontrollable}"
        elif domain >= 0:
            sentence = f"{ceiling_mhz} MHz: held by {fleet.domains[domain]}"
        elif outcome.leased_for[place]:
            sentence = f"{ceiling_mhz} MHz: no higher lease for {outcome.leased_for[place]}"
        elif ceiling_mhz < int(fleet.clock_mhz_max[place]):
            sentence = f"{ceiling_mhz} MHz: on its way up"
        else:
            sentence = f"{ceiling_mhz} MHz: free"
        return NodeDecision(
            node=view.node.name,
            ceiling_mhz=ceiling_mhz,
            contingency_ceilings_mhz={
                name: int(mhz[place])
                for name, mhz in outcome.prearmed_mhz.items()
                if mhz[place] > 0
            },
            power_w=float(outcome.situation.power_w[place]),
            exposure_w=float(outcome.exposure_w[place]),
            missing=view.missing,
            controllable=view.controllable,
            sentence=sentence,
        )

    def events(self, outcome: Outcome, domains: tuple[DomainState, ...]) -> tuple[Event, ...]:
        """What has changed since the cycle before."""
        found: list[tuple[str, Severity, str, str]] = []
        for state in domains:
            if state.mode is not self._modes[state.domain]:
                found.append(
                    ("mode", _SEVERITY[state.mode], state.domain,
                     f"{state.domain}: {state.mode.value}: {state.sentence}")
                )  # fmt: skip
                self._modes[state.domain] = state.mode
        self._cycles_count += 1
        if self._cycles_count == START_CYCLES:
            self._missing, self._held = frozenset(), False
        views = outcome.snapshot.nodes
        missing = frozenset(name for name, view in views.items() if view.missing)
        loose = frozenset(
            name for name, view in views.items() if not view.missing and not view.controllable
        )
        found += [
            ("node-missing", "warning", name, f"{name}: {views[name].why_missing}")
            for name in sorted(missing - self._missing)
        ]
        stuck = frozenset(
            name
            for name, view in views.items()
            if self._holds(outcome, view) and name not in missing
        )
        found += [
            (
                "node-holds-contingency",
                "critical",
                name,
                f"{name} holds {self._holds(outcome, views[name])}, which nobody has declared:"
                " end it with `ampacity contingency NAME off` or `ampacity release DOMAIN`",
            )
            for name in sorted(stuck & self._stuck - self._stuck_told)
        ]
        self._stuck_told = (self._stuck_told | (stuck & self._stuck)) & stuck
        self._stuck = stuck
        found += [
            ("node-back", "info", name, f"{name}: heard again")
            for name in sorted(self._missing - missing)
            if self._cycles_count > START_CYCLES
        ]
        found += [
            (
                "node-uncontrollable",
                "critical",
                name,
                f"{name}: counts at its worst case: {views[name].why_uncontrollable}",
            )
            for name in sorted(loose - self._loose)
        ]
        if outcome.situation.hold != self._held and self._cycles_count >= START_CYCLES:
            share = f"{100 * outcome.snapshot.missing_ratio:.0f} % of the site is silent"
            text = f"{share}: nothing is raised" if outcome.situation.hold else "the site is back"
            loud: Severity = "critical" if outcome.situation.hold else "info"
            found.append(("site-silent", loud, self._site.name, text))
        self._missing, self._loose, self._held = missing, loose, outcome.situation.hold
        return tuple(self._event(outcome, *item) for item in found)

    def _holds(self, outcome: Outcome, view: NodeView) -> str:
        """The contingency that a node's hardware is held by although it is not on; empty if none.

        An order's own brake counts as on for every node below its domain.
        """
        if view.applied is None or view.info is None or view.applied.session != view.info.session:
            return ""
        kind, _, name = view.applied.reason.partition(":")
        if kind != "contingency" or name in outcome.snapshot.active:
            return ""
        ordered = {
            outcome.situation.fleet.domains[place] for place in np.flatnonzero(outcome.brake)
        }
        braked = name == "brake" and bool(ordered & set(view.node.ancestors))
        return "" if braked else name

    def _event(
        self, outcome: Outcome, event: str, severity: Severity, subject: str, sentence: str
    ) -> Event:
        return Event(
            event=event,
            severity=severity,
            at_s=outcome.snapshot.wall_s,
            source="controller",
            subject=subject,
            sentence=sentence[:1024],
            decision_id=outcome.decision_id,
        )


def headline(domains: tuple[DomainState, ...]) -> str:
    """The sentence of the domain that needs it most."""
    rank = {Mode.BRAKE: 3, Mode.EMERGENCY: 2, Mode.SHAVING: 1, Mode.NORMAL: 0}

    def urgency(state: DomainState) -> tuple[int, float]:
        ratio = state.forecast_w / state.capacity_w if state.capacity_w > 0.0 else 0.0
        return rank[state.mode], ratio

    worst = max(domains, key=urgency)
    return f"{worst.domain}: {worst.sentence}"
