"""Where requests should go: away from domains that shave, run hot or have gone.

Clocks act first, in milliseconds; routing follows after a domain has been under pressure for a
few seconds, moves by small steps, and decays by itself when no controller renews it.
"""

from __future__ import annotations

from typing import Final

from controllers.snapshot import Snapshot
from facility.topology import Site
from facility.wire import EndpointRoute, Mode, Routing

PATIENCE_S: Final = 5.0
"""A domain must be under pressure this long before requests move: clocks first."""
STEP_RATIO: Final = 0.1
WEIGHT_RATIO_MIN: Final = 0.2
"""Never steered to nothing by pressure alone: an endpoint without load tells nothing."""
REPUBLISH_S: Final = 10.0


class Router:
    """Turns pressure into endpoint weights, one service at a time."""

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
        self._weight = {name: 1.0 for names in self._endpoints.values() for name in names}
        self._pressed_since_s: dict[str, float] = {}
        self._sent: dict[str, tuple[float, tuple[EndpointRoute, ...]]] = {}

    def step(
        self,
        snapshot: Snapshot,
        *,
        decision_id: str,
        modes: dict[str, Mode],
        pressure: dict[str, float],
        drained: frozenset[str],
    ) -> tuple[Routing, ...]:
        """Return the routings to publish: what changed, and what must be renewed.

        Args:
            snapshot: this cycle's snapshot; missing nodes are drained.
            decision_id: of this cycle.
            modes: mode of each domain.
            pressure: forecast over capacity of each domain; hot zones are above 1.
            drained: nodes that an operator has drained.
        """
        self._note_pressure(snapshot.now_s, modes)
        routings = []
        for service, names in self._endpoints.items():
            if not names:
                continue
            routes = self._routes(snapshot, names, pressure, drained)
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

    def _note_pressure(self, now_s: float, modes: dict[str, Mode]) -> None:
        for domain, mode in modes.items():
            if mode is Mode.NORMAL:
                self._pressed_since_s.pop(domain, None)
            else:
                self._pressed_since_s.setdefault(domain, now_s)

    def _routes(
        self,
        snapshot: Snapshot,
        names: list[str],
        pressure: dict[str, float],
        drained: frozenset[str],
    ) -> tuple[EndpointRoute, ...]:
        felt = {name: self._felt(snapshot.now_s, name, pressure) for name in names}
        # Only differences move load: when every endpoint is pressed alike, none is better.
        least = min(felt.values())
        routes = []
        for name in names:
            wanted = max(WEIGHT_RATIO_MIN, 1.0 - 4.0 * (felt[name] - least))
            self._weight[name] += min(max(wanted - self._weight[name], -STEP_RATIO), STEP_RATIO)
            gone = snapshot.nodes[name].missing or name in drained
            routes.append(
                EndpointRoute(
                    endpoint=name,
                    weight_ratio=round(min(max(self._weight[name], 0.0), 1.0), 2),
                    drain=gone,
                )
            )
        if all(route.drain for route in routes) and not drained.issuperset(names):
            # Nothing is known about any endpoint: the telemetry is gone, not the service.
            routes = [
                EndpointRoute(
                    endpoint=route.endpoint,
                    weight_ratio=route.weight_ratio,
                    drain=route.endpoint in drained,
                )
                for route in routes
            ]
        return tuple(routes)

    def _felt(self, now_s: float, name: str, pressure: dict[str, float]) -> float:
        """The highest pressure among the node's domains that have been pressed long enough."""
        ancestors = self._site.nodes[name].ancestors
        return max(
            (
                pressure.get(domain, 0.0)
                for domain in ancestors
                if now_s - self._pressed_since_s.get(domain, now_s) >= PATIENCE_S
            ),
            default=0.0,
        )
