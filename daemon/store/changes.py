"""What is new in a decision: most cycles repeat the one before, and only changes are worth keeping.

A sentence carries figures that move every cycle ("41.2 kW of 42.0 kW"); it counts as changed when
its wording does, or the mode, the capacity, a ceiling or a route. Nothing here decides anything.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any, Final

from msgspec import Struct, field

from facility.decisions import Decision
from facility.wire import Emergency, EndpointRoute, Routing

_FIGURE: Final = re.compile(r"(?<![\w-])-?\d[\d.,]*")
"""A number that is no part of a name: `row-1` and `n12` stay, `1410 MHz` and `30s` do not."""


class Change(Struct, frozen=True):
    """One thing about which a decision differs from those before; `detail` is plain JSON."""

    kind: str  # site, domain, node, routing, emergency
    subject: str
    sentence: str
    mode: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


def wording(sentence: str) -> str:
    """The sentence without its figures."""
    return _FIGURE.sub("#", sentence)


class ChangeLog:
    """Remembers the last of each subject and yields what differs.

    With `figures_s` a sentence whose figures alone moved is yielded too, at most that often.
    """

    def __init__(self, *, figures_s: float | None = None) -> None:
        """Start knowing nothing: the first decision is all new."""
        self._figures_s = figures_s
        self._last: dict[tuple[str, str], tuple[Hashable, str, float]] = {}

    def changes(self, decision: Decision) -> list[Change]:
        """What this decision changes, in the order site, domains, nodes, routes, emergencies."""
        return [
            change for change, key in _keyed(decision) if self._is_new(change, key, decision.wall_s)
        ]

    def _is_new(self, change: Change, key: Hashable, wall_s: float) -> bool:
        subject = (change.kind, change.subject)
        last = self._last.get(subject)
        if last is not None and last[0] == key:
            moved = self._figures_s is not None and last[1] != change.sentence
            if not moved or abs(wall_s - last[2]) < (self._figures_s or 0.0):
                return False
        self._last[subject] = (key, change.sentence, wall_s)
        return True


def _keyed(decision: Decision) -> Iterator[tuple[Change, Hashable]]:
    """Every subject of the decision with the key whose change makes it new."""
    yield Change("site", "", decision.sentence), wording(decision.sentence)
    for state in decision.domains:
        detail: dict[str, Any] = {"capacity_w": state.capacity_w, "power_w": state.power_w}
        change = Change("domain", state.domain, state.sentence, state.mode.value, detail)
        yield change, (state.mode, state.capacity_w, wording(state.sentence))
    for node in decision.nodes:
        detail = {
            "ceiling_mhz": node.ceiling_mhz,
            "contingency_ceilings_mhz": node.contingency_ceilings_mhz,
            "missing": node.missing,
            "controllable": node.controllable,
        }
        ceilings = tuple(sorted(node.contingency_ceilings_mhz.items()))
        key = (node.ceiling_mhz, ceilings, node.missing, node.controllable, wording(node.sentence))
        yield Change("node", node.node, node.sentence, "", detail), key
    yield from map(_keyed_routing, decision.routing)
    yield from map(_keyed_emergency, decision.emergencies)


def _keyed_routing(routing: Routing) -> tuple[Change, Hashable]:
    detail = {route.endpoint: _route(route) for route in routing.endpoints}
    return Change("routing", routing.service, "", "", detail), routing.endpoints


def _route(route: EndpointRoute) -> str | float | dict[str, float]:
    """A route as it is audited: the weight alone while nothing is taken."""
    if route.drain:
        return "drain"
    if route.batch_ratio == 1.0 and route.quality_level == 0:
        return route.weight_ratio
    return {
        "weight_ratio": route.weight_ratio,
        "batch_ratio": route.batch_ratio,
        "quality_level": route.quality_level,
    }


def _keyed_emergency(emergency: Emergency) -> tuple[Change, Hashable]:
    detail = {
        "active": list(emergency.active),
        "epoch": emergency.epoch,
        "sequence": emergency.sequence,
        "by": emergency.by,
    }
    key = (emergency.active, emergency.epoch, emergency.sequence)
    return Change("emergency", emergency.domain, "", "", detail), key
