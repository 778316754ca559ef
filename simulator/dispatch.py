"""The twin's request router: weighted least-loaded over the endpoints of a service, or packed.

It takes the weights, drains and limits of `facility.wire.Routing` as a real router would, and
forgets them when they are no longer valid. It decides no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facility.topology import Site
from facility.wire import Routing

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Packing:
    """A router that does not look for the least load: it packs a `share` of all requests.

    A packed request goes to the fullest endpoint that holds less than `depth`, any other to any
    endpoint, as it comes. Packing lets servers rest; a share of 0 makes each a stream of its own.
    """

    share: float
    depth: int


class Dispatcher:
    """Endpoints of every service with their weights; one endpoint per node.

    `weight`, `batch_ratio` and `quality_level` are of shape (nodes,); weight 0 means drained.
    `is_reduced` says that some quality level is above 0.
    `priorities` are those of the services.
    """

    def __init__(
        self,
        site: Site,
        ranks: Sequence[str] = ("high", "low"),
        *,
        packing: Packing | None = None,
    ) -> None:
        """Equal weights; a service takes requests by its share of the endpoints.

        A request that has a priority, which is a place in `ranks`, goes to services of its own
        priority; where there are none, to any.
        """
        nodes = list(site.nodes.values())
        self._packing = packing
        self.services = tuple(
            name for name in site.services if any(node.service == name for node in nodes)
        )
        self._endpoints = [
            np.array([i for i, node in enumerate(nodes) if node.service == name])
            for name in self.services
        ]
        self.priorities = tuple(nodes[int(endpoints[0])].priority for endpoints in self._endpoints)
        self._names = {node.name: i for i, node in enumerate(nodes)}
        self._service_of = {node.name: node.service for node in nodes}
        counts = np.array([len(endpoints) for endpoints in self._endpoints], dtype=np.float64)
        self.shares = counts / max(counts.sum(), 1.0)
        self._steps = np.cumsum(self.shares)
        own = [self.shares * [one == rank for one in self.priorities] for rank in ranks]
        self.has_own = tuple(bool(shares.any()) for shares in own)
        self._steps_of = np.array(
            [np.cumsum(one / one.sum()) if one.any() else self._steps for one in own]
        )
        single = [np.flatnonzero(shares) for shares in own]
        self._only_of = (
            np.array([int(places[0]) for places in single])
            if all(len(places) == 1 for places in single)
            else None
        )
        self.weight = np.ones(len(nodes))
        self.batch_ratio = np.ones(len(nodes))
        self.quality_level = np.zeros(len(nodes), dtype=np.int64)
        self.is_reduced = False
        self._up = np.ones(len(nodes), dtype=np.bool_)
        self._price = [np.ones(len(endpoints)) for endpoints in self._endpoints]
        self._until_s: dict[int, float] = {}

    def set_up(self, up: BoolArray) -> None:
        """Health checks: which endpoints answer, shape (nodes,)."""
        self._up = up.copy()
        self._reprice()

    def _reprice(self) -> None:
        """What one request's load costs at each endpoint: 1 / weight, infinite for none."""
        self.is_reduced = bool(np.count_nonzero(self.quality_level))
        with np.errstate(divide="ignore"):
            self._price = [1.0 / (self.weight[e] * self._up[e]) for e in self._endpoints]

    def assign(
        self,
        count: int,
        *,
        load: FloatArray,
        load_max: float,
        rng: np.random.Generator,
        priority: IntArray | None = None,
    ) -> tuple[IntArray, IntArray]:
        """Draw a service for each of `count` requests, and choose its node; -1 where none has room.

        Raises:
            ValueError: the site has no node with a service.
        """
        if not self.services:
            raise ValueError("no node of the site runs a service: there is nobody to ask")
        service = self._services(count, rng, priority)
        if self._packing is None:
            return service, self._choose(service, load, load_max)
        node = np.full(count, -1)
        for place in range(len(self.services)):
            mine = (service == place).nonzero()[0]
            if len(mine):
                draws = rng.random((2, len(mine)))
                node[mine] = self._pack(draws, self._packing, place, load, load_max)
        return service, node

    def _services(
        self, count: int, rng: np.random.Generator, priority: IntArray | None
    ) -> IntArray:
        """A service for each request: of its priority if there are any, by their shares."""
        if priority is not None and self._only_of is not None:
            return self._only_of[priority]
        draws = rng.random(count)
        if priority is None:
            service = self._steps.searchsorted(draws, "right")
        else:
            service = np.count_nonzero(draws[:, None] >= self._steps_of[priority], axis=1)
        drawn: IntArray = np.minimum(service, len(self.services) - 1)
        return drawn

    def _choose(self, service: IntArray, load: FloatArray, load_max: float) -> IntArray:
        """One request after the other to where (load + 1) / weight is least.

        A loop: few requests come in one step, and a choice costs less than to sort all choices.
        """
        chosen = np.full(len(service), -1)
        books: dict[int, tuple[FloatArray, FloatArray, FloatArray]] = {}
        for request, place in enumerate(service.tolist()):
            if place not in books:
                books[place] = self._costs(place, load, load_max)
            cost, price, most = books[place]
            best = int(cost.argmin())
            lowest = cost[best]
            if lowest < np.inf:
                chosen[request] = self._endpoints[place][best]
                after = lowest + price[best]
                cost[best] = after if after <= most[best] else np.inf
        return chosen

    def _costs(
        self, service: int, load: FloatArray, load_max: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What the next request costs at each endpoint, each one after it more, and the most."""
        price = self._price[service]
        cost = (load.take(self._endpoints[service]) + 1.0) * price
        # Half a request more than fits: a sum of prices may be a rounding away from its product.
        most = (load_max + 0.5) * price
        cost[cost > most] = np.inf
        return cost, price, most

    def _pack(
        self, draws: FloatArray, packing: Packing, service: int, load: FloatArray, load_max: float
    ) -> IntArray:
        """One request after the other, by two numbers for each: packed or not, and where if not.

        Where that endpoint is full, the least loaded takes the request.
        """
        endpoints = self._endpoints[service][self._price[service] < np.inf]
        chosen = np.full(draws.shape[1], -1)
        if len(endpoints) == 0:
            return chosen
        held = load.take(endpoints)
        places = (draws[1] * len(endpoints)).astype(np.int64).tolist()
        is_packed = (draws[0] < packing.share).tolist()
        for request, place in enumerate(places):
            if is_packed[request]:
                fits = held < packing.depth
                if np.count_nonzero(fits):
                    place = int(np.where(fits, held, -1.0).argmax())
            if held[place] >= load_max:
                place = int(held.argmin())
                if held[place] >= load_max:
                    break
            held[place] += 1.0
            chosen[request] = endpoints[place]
        return chosen

    def apply(self, routing: Routing, now_s: float) -> list[str]:
        """Take weights, drains and limits, all or what is possible; a sentence per refusal."""
        if routing.service not in self.services:
            return [f"no service is named {routing.service!r}"]
        refused = []
        for route in routing.endpoints:
            if self._service_of.get(route.endpoint) != routing.service:
                refused.append(f"{route.endpoint} is no endpoint of {routing.service}")
            else:
                weight = 0.0 if route.drain else route.weight_ratio
                place = self._names[route.endpoint]
                self.weight[place] = weight
                self.batch_ratio[place] = route.batch_ratio
                self.quality_level[place] = route.quality_level
        self._until_s[self.services.index(routing.service)] = now_s + routing.valid_s
        self._reprice()
        return refused

    def expire(self, now_s: float) -> None:
        """Back to equal weights without limits where the last routing is no longer valid."""
        for service, until_s in list(self._until_s.items()):
            if now_s > until_s:
                endpoints = self._endpoints[service]
                self.weight[endpoints] = self.batch_ratio[endpoints] = 1.0
                self.quality_level[endpoints] = 0
                del self._until_s[service]
                self._reprice()
