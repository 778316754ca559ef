"""The site, compiled: power tree, zones, models and contingencies as immutable objects.

The load that a node puts on a domain is a share of its power, because a dual-fed row loads each
feed by half, and the survivor by all of it once the other is lost.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from facility.config import ControlConfig
from facility.trip import TripCurve

Key = tuple[str | int, ...]
"""Where in a file a problem is: mapping keys and list positions from the top."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file: where, what, and what would be allowed."""

    key: Key
    text: str


class SiteError(ValueError):
    """A site that cannot be compiled, with every problem found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        """Keep all problems; the text is the first one's."""
        super().__init__(problems[0].text if problems else "no problem given")
        self.problems = problems


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A kind of GPU: its clock grid, and the most it can draw at each ceiling."""

    name: str
    clock_mhz_min: int
    clock_mhz_max: int
    clock_mhz_step: int
    safe_ceiling_mhz: int
    brake_ceiling_mhz: int
    idle_power_w: float
    worst_case_power_w: tuple[tuple[int, float], ...]

    def snap_mhz(self, clock_mhz: float) -> int:
        """The highest clock on the grid that is not above `clock_mhz`, never below the lowest."""
        inside = min(max(clock_mhz, self.clock_mhz_min), self.clock_mhz_max)
        if inside >= self.clock_mhz_max:
            return self.clock_mhz_max
        steps = int((inside - self.clock_mhz_min) // self.clock_mhz_step)
        return self.clock_mhz_min + steps * self.clock_mhz_step

    def power_w_at(self, ceiling_mhz: float) -> float:
        """The most that one GPU can draw under `ceiling_mhz`.

        Linear between points, which is an upper bound because power is convex in the clock;
        below the first point the first point counts, above the last the last.
        """
        points = self.worst_case_power_w
        place = bisect.bisect_left(points, (ceiling_mhz, 0.0))
        if place == 0:
            return points[0][1]
        if place == len(points):
            return points[-1][1]
        (low_mhz, low_w), (high_mhz, high_w) = points[place - 1], points[place]
        return low_w + (high_w - low_w) * (ceiling_mhz - low_mhz) / (high_mhz - low_mhz)

    def ceiling_mhz_for(self, power_w: float) -> int:
        """The highest ceiling on the grid whose worst case is within `power_w`; else the lowest."""
        low, high = 0, (self.clock_mhz_max - self.clock_mhz_min) // self.clock_mhz_step
        if self.power_w_at(self.clock_mhz_max) <= power_w:
            return self.clock_mhz_max
        while low < high:
            middle = (low + high + 1) // 2
            if self.power_w_at(self.clock_mhz_min + middle * self.clock_mhz_step) <= power_w:
                low = middle
            else:
                high = middle - 1
        return self.clock_mhz_min + low * self.clock_mhz_step


@dataclass(frozen=True, slots=True)
class NodeModel:
    """A kind of server: its GPUs and the power that they do not explain."""

    name: str
    gpu: GpuModel
    gpu_count: int
    overhead_w: float
    gpu_power_factor: float

    def node_power_w(self, gpu_power_w: float) -> float:
        """The whole node's power for `gpu_power_w` summed over its GPUs."""
        return self.overhead_w + self.gpu_power_factor * gpu_power_w

    def worst_case_w(self, ceiling_mhz: float) -> float:
        """The most that the node can draw with every GPU under `ceiling_mhz`."""
        return self.node_power_w(self.gpu_count * self.gpu.power_w_at(ceiling_mhz))

    @property
    def power_w_max(self) -> float:
        """The most that the node can draw without any lock."""
        return self.worst_case_w(self.gpu.clock_mhz_max)


@dataclass(frozen=True, slots=True)
class Domain:
    """Anything with a capacity; `nodes` are all nodes below it."""

    name: str
    kind: str
    capacity_w: float
    parents: tuple[str, ...]
    trip_curve: TripCurve
    inlet_temperature_c_max: float
    margin_c_min: float
    nodes: tuple[str, ...]

    @property
    def is_zone(self) -> bool:
        """Whether the capacity is heat rather than current."""
        return self.kind == "zone"


@dataclass(frozen=True, slots=True)
class Node:
    """One server; `ancestors` are all domains that feel its power, its zone included."""

    name: str
    model: NodeModel
    parents: tuple[str, ...]
    zone: str | None
    service: str | None
    priority: str
    routable: bool
    ancestors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contingency:
    """A declared failure and what it does to capacities."""

    name: str
    domain: str
    lost: frozenset[str]
    capacity_ratio: Mapping[str, float]


@dataclass(frozen=True)
class Site:
    """One site, ready to be decided about. Nodes and domains keep the order of the file."""

    name: str
    control: ControlConfig
    domains: Mapping[str, Domain]
    nodes: Mapping[str, Node]
    contingencies: Mapping[str, Contingency]
    services: tuple[str, ...]
    _shares: dict[frozenset[str], dict[str, dict[str, float]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def lost(self, active: frozenset[str]) -> frozenset[str]:
        """Domains that carry nothing any more under the active contingencies."""
        gone = set().union(*(self.contingencies[name].lost for name in active))
        for domain in self.domains.values():
            if domain.parents and all(parent in gone for parent in domain.parents):
                gone.add(domain.name)
        return frozenset(gone)

    def capacity_w(self, domain: str, active: frozenset[str]) -> float:
        """What `domain` may carry continuously while `active` contingencies last; 0 when lost."""
        if domain in self.lost(active):
            return 0.0
        ratios = (self.contingencies[name].capacity_ratio.get(domain, 1.0) for name in active)
        return self.domains[domain].capacity_w * min(ratios, default=1.0)

    def shares(self, active: frozenset[str]) -> Mapping[str, Mapping[str, float]]:
        """For each domain the share of each node's power that it carries, given what is lost.

        A node that no living domain feeds is dark: it is in no mapping but its zone's.
        """
        if active not in self._shares:
            self._shares[active] = self._compute_shares(self.lost(active))
        return self._shares[active]

    def _compute_shares(self, gone: frozenset[str]) -> dict[str, dict[str, float]]:
        table: dict[str, dict[str, float]] = {name: {} for name in self.domains}
        for node in self.nodes.values():
            for domain, share in self._paths(node.parents, 1.0, gone):
                table[domain][node.name] = table[domain].get(node.name, 0.0) + share
            if node.zone is not None:
                table[node.zone][node.name] = 1.0
        return table

    def _paths(
        self, parents: tuple[str, ...], share: float, gone: frozenset[str]
    ) -> Iterable[tuple[str, float]]:
        alive = [parent for parent in parents if parent not in gone]
        for parent in alive:
            yield parent, share / len(alive)
            yield from self._paths(self.domains[parent].parents, share / len(alive), gone)

    def touches(self, contingency: str, node: str) -> bool:
        """Whether `contingency` changes what any ancestor of `node` may carry or does carry."""
        after = self.contingencies[contingency]
        ancestors = set(self.nodes[node].ancestors)
        return bool(ancestors & (after.lost | set(after.capacity_ratio)))
