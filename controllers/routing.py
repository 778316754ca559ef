"""Where requests should go, and how many: away from domains that shave, run hot or have gone.

Clocks act first, in milliseconds; routing follows after a domain has been under pressure for a
few seconds, moves by small steps, and decays by itself when no controller renews it. What clocks
cannot solve is `controllers.escalation`'s; here it becomes part of the routing message. Steps that
touch an endpoint anew are counted against the site's budget; weights come back uncounted, because
they come back by small steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from controllers.escalation import Change, Escalation, named
from controllers.need import Need
from controllers.snapshot import Snapshot
from controllers.steps import StepBudget
from facility.topology import Site
from facility.wire import DomainState, EndpointRoute, Event, Routing, Severity

STEP_RATIO: Final = 0.1
WEIGHT_RATIO_MIN: Final = 0.2
"""Never steered to nothing by pressure alone: an endpoint without load tells nothing."""
STEER_BELOW_RATIO: Final = 0.9
STEER_ABOVE_RATIO: Final = 0.99
"""An endpoint keeps its full share until it should have less than the one, and is only then steered
until it should have more than the other."""
REPUBLISH_S: Final = 10.0
NEVER_HEARD_S: Final = 30.0
"""A node that has not been heard for so long after a start is taken for gone."""


@dataclass(frozen=True, slots=True)
class Steering:
    """What one cycle does to requests: messages, what it says, and domains that now say it too."""

    routing: tuple[Routing, ...]
    domains: tuple[DomainState, ...]
    events: tuple[Event, ...]


class Router:
    """Turns pressure and need into endpoint weights and limits, one service at a time."""

    def __init__(self, site: Site, *, valid_s: float = 3 * REPUBLISH_S) -> None:
        self._site = site
        self._valid_s = valid_s
        self._endpoints = {
            service: [
                node.name
                for node in site.nodes.values()
                if node.service == service and node.routable
            ]
            for service in site.services
        }
        # Where a minute's steps do not suffice for all, low priority's come first.
        self._low_first = sorted(
            (names for names in self._endpoints.values() if names),
            key=lambda names: site.nodes[names[0]].priority != "low",
        )
        self._weight = {name: 1.0 for names in self._endpoints.values() for name in names}
        self._budget = StepBudget(site.control.automatic_steps_per_minute_max)
        self._escalation = Escalation(site, self._budget)
        self._steered: set[str] = set()
        self._silent: set[str] = set()
        self._heard: set[str] = set()
        self._started_at_s: float | None = None
        self._sent: dict[str, tuple[float, tuple[EndpointRoute, ...]]] = {}

    @property
    def steps_count(self) -> int:
        """Automatic steps taken since the start."""
        return self._budget.taken_count

    def step(
        self,
        snapshot: Snapshot,
        domains: tuple[DomainState, ...],
        needs: Mapping[str, Need],
        *,
        decision_id: str,
        drained: frozenset[str],
        hold: bool,
    ) -> Steering:
        """Decide about requests: what changed, and what must be renewed.

        Args:
            snapshot: this cycle's snapshot; missing nodes are drained.
            domains: states of this cycle; their sentences gain what was taken for them.
            needs: need of each domain.
            decision_id: of this cycle.
            drained: nodes that an operator has drained.
            hold: too much of the site is silent.
        """
        now_s = snapshot.now_s
        self._note_silent(snapshot, drained)
        changes = self._escalation.step(now_s, needs, hold=hold)
        found = [_told(change) for change in changes]
        felt = self._felt(now_s, domains)
        for names in self._low_first:
            found += self._weigh(now_s, names, felt)
        return Steering(
            routing=self._routings(snapshot, decision_id, drained),
            domains=tuple(self._with_words(state) for state in domains),
            events=tuple(
                Event(
                    event=event,
                    severity=severity,
                    at_s=snapshot.wall_s,
                    source="controller",
                    subject=subject,
                    sentence=sentence[:1024],
                    decision_id=decision_id,
                )
                for event, severity, subject, sentence in found
            ),
        )

    def _with_words(self, state: DomainState) -> DomainState:
        words = self._escalation.words(state.domain)
        if not words:
            return state
        return msgspec.structs.replace(state, sentence=f"{state.sentence}; {words}"[:1024])

    def _note_silent(self, snapshot: Snapshot, drained: frozenset[str]) -> None:
        """Who is silent and shall get no request; never a whole service: then nothing is known."""
        now_s = snapshot.now_s
        if self._started_at_s is None:
            self._started_at_s = now_s
        missing = {name for name, view in snapshot.nodes.items() if view.missing}
        self._heard |= snapshot.nodes.keys() - missing
        self._silent &= missing
        for names in self._endpoints.values():
            if missing.union(drained).issuperset(names):
                self._silent.difference_update(names)
                continue
            for name in names:
                known = name in self._heard or now_s - self._started_at_s > NEVER_HEARD_S
                if name not in missing or name in self._silent or not known:
                    continue
                if self._budget.take(now_s):
                    self._silent.add(name)

    def _felt(self, now_s: float, domains: tuple[DomainState, ...]) -> dict[str, float]:
        """Per endpoint the highest pressure among its domains that have been pressed long enough.

        Pressure is forecast over capacity; a domain without capacity counts double.
        """
        pressed = self._escalation.pressed(now_s)
        pressure = {
            state.domain: state.forecast_w / state.capacity_w if state.capacity_w > 0.0 else 2.0
            for state in domains
            if state.domain in pressed
        }
        return {
            name: max(
                (pressure.get(domain, 0.0) for domain in self._site.nodes[name].ancestors),
                default=0.0,
            )
            for name in self._weight
        }

    def _weigh(self, now_s: float, names: list[str], felt: Mapping[str, float]) -> list[_Told]:
        """Move the weights of one service a step; says who is steered away from anew, and why."""
        # Only differences move load: when every endpoint is pressed alike, none is better.
        least = min(felt[name] for name in names)
        begun, ended = [], []
        for name in names:
            wanted = max(WEIGHT_RATIO_MIN, 1.0 - 4.0 * (felt[name] - least))
            if name not in self._steered:
                if wanted >= STEER_BELOW_RATIO or not self._budget.take(now_s):
                    continue
                self._steered.add(name)
                begun.append(name)
            moved = self._weight[name]
            moved += min(max(wanted - moved, -STEP_RATIO), STEP_RATIO)
            self._weight[name] = min(max(moved, 0.0), 1.0)
            if wanted >= STEER_ABOVE_RATIO and self._weight[name] >= wanted - 1e-9:
                self._weight[name] = 1.0
                self._steered.discard(name)
                ended.append(name)
        told: list[_Told] = []
        service = self._site.nodes[names[0]].service or ""
        if begun:
            there = f"{100 * max(felt[name] for name in begun):.0f} % of capacity there"
            elsewhere = f"{100 * least:.0f} %" if least > 0.0 else "no pressure"
            sentence = f"fewer requests to {named(begun)}: {there}, {elsewhere} elsewhere"
            told.append(("rerouted", "info", service, f"{service}: {sentence}"))
        if ended:
            sentence = f"{service}: the full share of requests again to {named(ended)}"
            told.append(("rerouted", "info", service, sentence))
        return told

    def _routings(
        self, snapshot: Snapshot, decision_id: str, drained: frozenset[str]
    ) -> tuple[Routing, ...]:
        routings = []
        for service, names in self._endpoints.items():
            if not names:
                continue
            routes = tuple(self._route(name, drained) for name in names)
            sent_at_s, sent = self._sent.get(service, (-1e9, ()))
            if routes == sent and snapshot.now_s - sent_at_s < REPUBLISH_S:
                continue
            self._sent[service] = (snapshot.now_s, routes)
            routings.append(
                Routing(
                    service=service,
                    decision_id=decision_id,
                    at_s=snapshot.wall_s,
                    valid_s=self._valid_s,
                    endpoints=routes,
                )
            )
        return tuple(routings)

    def _route(self, name: str, drained: frozenset[str]) -> EndpointRoute:
        taken = self._escalation.taken(name)
        batch_ratio = self._site.control.escalation_batch_ratio
        return EndpointRoute(
            endpoint=name,
            weight_ratio=round(self._weight[name], 2),
            drain=taken.off or name in self._silent or name in drained,
            batch_ratio=batch_ratio if taken.batch else 1.0,
            quality_level=min(taken.quality_level, self._site.nodes[name].quality_levels),
        )


_Told = tuple[str, Severity, str, str]
"""Event, severity, subject and sentence."""


def _told(change: Change) -> _Told:
    event = "eased" if change.given_back else "escalated"
    return event, change.severity, change.domain, change.sentence
