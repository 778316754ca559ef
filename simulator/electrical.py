"""The power tree of the twin: what every domain really carries, and which breakers trip.

It judges true power by the trip curves and darkens what no living domain feeds. It knows nothing
of controllers, so that what it says about them is an independent witness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from facility.topology import Contingency, Site
from simulator.chassis import ServerConstants
from simulator.thermal import FAN_RATIO_MIN

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

COOLING_S: Final = 120.0  # time constant of a protection's recovery: breaker-low-band's own
FIXED_SHARE: Final = 0.62  # of a node's overhead: boards, memory, network, idle CPUs: assumption
BUSY_SHARE: Final = 0.10  # CPUs and network that follow the work: assumption
FAN_SHARE: Final = 0.28  # fans at full speed, with the cube of speed: assumption
WORN_OUT: Final = 1.0 - 1e-9
"""Patience is used up here: rounding must not grant a breaker one more step."""


def _trip_of(domain: str) -> str:
    return f"trip of {domain}"


class NodePower:
    """Node power from GPU power, fans and work; at most `NodeModel.node_power_w` of the GPUs."""

    def __init__(self, site: Site, server: ServerConstants | None = None) -> None:
        """Take overheads and factors from the node models, or all from one kind of server."""
        models = [node.model for node in site.nodes.values()]
        overhead_w = np.array([model.overhead_w for model in models])
        self._fixed_w, self._busy_w, self._fan_w = (
            share * overhead_w for share in (FIXED_SHARE, BUSY_SHARE, FAN_SHARE)
        )
        self._factor = np.array([model.gpu_power_factor for model in models])
        if server is not None:
            self._fixed_w = np.full(len(models), server.fixed_power_w)
            self._busy_w = np.full(len(models), server.busy_power_w)
            self._fan_w = np.full(len(models), server.fan_power_w)
            self._factor = np.full(len(models), server.gpu_power_factor)

    def at(self, *, gpu_power_w: FloatArray, fan_ratio: FloatArray, busy: FloatArray) -> FloatArray:
        """Power of each node, all arrays of shape (nodes,); `busy` is 0 to 1.

        The three shares of the overhead sum to one, so a node at full fans and full work draws
        what its model calls the worst case and never more.
        """
        fan_ratio = np.maximum(fan_ratio, FAN_RATIO_MIN)
        # Three factors: a power of an array costs more than all the rest of this.
        power_w: FloatArray = self._fan_w * (fan_ratio * fan_ratio * fan_ratio)
        power_w += self._fixed_w
        power_w += self._busy_w * busy
        power_w += self._factor * gpu_power_w
        return power_w


@dataclass(frozen=True, slots=True)
class Trip:
    """A protection that opened: where, when, and at what load."""

    domain: str
    at_s: float
    load_ratio: float


class PowerTree:
    """Loads, capacities in force and protections of every domain, in the site's order.

    A protection sums dt / patience while its domain is over capacity, and trips when the sum
    reaches one; below capacity the sum decays. No patience means it trips at once. `zone_ratio`
    is the share of each zone's cooling that is left.
    """

    def __init__(self, site: Site) -> None:
        """Everything is whole and cold."""
        # A trip is a contingency that nobody declared: with one for each domain, the site itself
        # says where the load goes.
        trips = {
            _trip_of(name): Contingency(_trip_of(name), name, frozenset({name}), {})
            for name in site.domains
        }
        self._site = Site(
            name=site.name,
            control=site.control,
            domains=site.domains,
            nodes=site.nodes,
            contingencies={**site.contingencies, **trips},
            services=site.services,
        )
        self.names = tuple(site.domains)
        self._domains = tuple(site.domains.values())
        self._nodes = {name: place for place, name in enumerate(site.nodes)}
        self._electrical = np.array([not domain.is_zone for domain in self._domains])
        self._over_from = np.where(self._electrical, 1.0, np.inf)  # a zone is hot, never "over"
        self._zone_rows = [i for i, domain in enumerate(self._domains) if domain.is_zone]
        self._upper = [i for i, item in enumerate(self._domains) if item.kind in ("feed", "row")]
        self._zone_full_w = np.array([self._domains[i].capacity_w for i in self._zone_rows])
        self.active: frozenset[str] = frozenset()
        self.tripped: dict[str, Trip] = {}
        self.wear_ratio = np.zeros(len(self.names))
        self._is_worn = False
        self.power_w = np.zeros(len(self.names))
        self.load_ratio = np.zeros(len(self.names))
        self.row_load_ratio = 0.0
        self.any_over = False
        self._over = np.zeros(len(self.names), dtype=np.bool_)
        self._rewire()

    def set_active(self, active: frozenset[str]) -> None:
        """Contingencies that are physically there from now on.

        Raises:
            ValueError: a name that the site does not declare.
        """
        unknown = active - self._site.contingencies.keys()
        if unknown:
            raise ValueError(f"the site declares no contingency {', '.join(sorted(unknown))}")
        self.active = active
        self._rewire()

    def _rewire(self) -> None:
        """Shares and capacities after a contingency or a trip."""
        active = self.active | {_trip_of(name) for name in self.tripped}
        table = self._site.shares(active)
        self.shares = np.zeros((len(self.names), len(self._nodes)))
        for row, name in enumerate(self.names):
            for node, share in table[name].items():
                self.shares[row, self._nodes[node]] = share
        self.fed = self.shares[self._electrical].any(axis=0)
        self.capacity_w = np.array([self._site.capacity_w(name, active) for name in self.names])
        self._divisor_w = np.maximum(self.capacity_w, 1e-9)
        self.zone_ratio = self.capacity_w[self._zone_rows] / self._zone_full_w

    def step(
        self, *, at_s: float, dt_s: float, node_power_w: FloatArray, armed: bool = True
    ) -> list[Trip]:
        """Load every domain for `dt_s` up to `at_s`; returns what tripped.

        Protections that are not `armed` neither wear nor trip.
        """
        self.load(node_power_w)
        return self.wear(at_s=at_s, dt_s=dt_s) if armed else []

    def load(self, node_power_w: FloatArray) -> None:
        """What every domain carries from now on."""
        self.power_w = self.shares @ node_power_w
        self.load_ratio = self.power_w / self._divisor_w
        self.row_load_ratio = max(self.load_ratio.take(self._upper).tolist(), default=0.0)
        self._over = self.load_ratio > self._over_from
        self.any_over = bool(np.count_nonzero(self._over))

    def wear(self, *, at_s: float, dt_s: float) -> list[Trip]:
        """Let every protection bear its load for `dt_s` up to `at_s`; returns what tripped."""
        if self._is_worn:
            self.wear_ratio[~self._over] *= math.exp(-dt_s / COOLING_S)
        if not self.any_over:
            return []
        self._is_worn = True
        new = [
            Trip(self.names[row], at_s, float(self.load_ratio[row]))
            for row in np.flatnonzero(self._over).tolist()
            if self._wear(row, dt_s) >= WORN_OUT
        ]
        if new:
            self.tripped |= {trip.domain: trip for trip in new}
            self._rewire()
        return new

    def _wear(self, row: int, dt_s: float) -> float:
        """Patience used up after another `dt_s` at the present load, 1 when none is left."""
        patience_s = self._domains[row].trip_curve.patience_s(float(self.load_ratio[row]))
        self.wear_ratio[row] += dt_s / patience_s if patience_s > 0.0 else 1.0
        return float(self.wear_ratio[row])
