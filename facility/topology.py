"""The site, compiled: power tree, zones, models and contingencies as immutable objects.

The load that a node puts on a domain is a share of its power, because a dual-fed row loads each
feed by half, and the survivor by all of it once the other is lost.
"""

from __future__ import annotations

import bisect
import graphlib
import math
from collections.abc import Mapping
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
    """One server; `ancestors` are all domains that feel its power, its zone included.

    `quality_levels` are the rungs below full quality that its service knows.
    """

    name: str
    model: NodeModel
    parents: tuple[str, ...]
    zone: str | None
    service: str | None
    priority: str
    routable: bool
    ancestors: tuple[str, ...]
    quality_levels: int = 0


@dataclass(frozen=True, slots=True)
class Contingency:
    """A declared failure, what it does to capacities, and how nodes learn of it."""

    name: str
    domain: str
    lost: frozenset[str]
    capacity_ratio: Mapping[str, float]
    detect_s: float = 1.0
    broker_survives: bool = False
    local_trigger: bool = False


@dataclass(frozen=True)
class Site:
    """One site, ready to be decided about. Nodes and domains keep the order of the file."""

    name: str
    control: ControlConfig
    domains: Mapping[str, Domain]
    nodes: Mapping[str, Node]
    contingencies: Mapping[str, Contingency]
    services: tuple[str, ...]
    _lost: dict[frozenset[str], frozenset[str]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _shares: dict[frozenset[str], dict[str, dict[str, float]]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _touched: dict[str, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)

    def lost(self, active: frozenset[str]) -> frozenset[str]:
        """Domains that carry nothing any more under the active contingencies.

        A domain goes dark with the last of its parents, however the file orders them.
        """
        if active not in self._lost:
            gone = set().union(*(self.contingencies[name].lost for name in active))
            self._lost[active] = self._dead(gone)
        return self._lost[active]

    def _dead(self, gone: set[str]) -> frozenset[str]:
        """`gone` and all that hangs on nothing else."""
        dead = set(gone)
        for name in reversed(self._upwards()):
            parents = self.domains[name].parents
            if parents and dead.issuperset(parents):
                dead.add(name)
        return frozenset(dead)

    def capacity_w(self, domain: str, active: frozenset[str]) -> float:
        """What `domain` may carry continuously while `active` contingencies last; 0 when lost.

        Losses add up: two air handlers that each leave 0.9 of the heat leave 0.8 together.
        """
        if domain in self.lost(active):
            return 0.0
        losses = (1.0 - self.contingencies[name].capacity_ratio.get(domain, 1.0) for name in active)
        return self.domains[domain].capacity_w * max(0.0, 1.0 - math.fsum(losses))

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
            self._split(table, node.name, node.parents, 1.0, gone)
            if node.zone is not None:
                table[node.zone][node.name] = 1.0
        # Children before parents: each domain's whole load is known before it is passed on.
        for name in self._upwards():
            for node_name, share in table[name].items():
                self._split(table, node_name, self.domains[name].parents, share, gone)
        return table

    def _split(
        self,
        table: dict[str, dict[str, float]],
        node: str,
        parents: tuple[str, ...],
        share: float,
        gone: frozenset[str],
    ) -> None:
        alive = [parent for parent in parents if parent not in gone]
        for parent in alive:
            table[parent][node] = table[parent].get(node, 0.0) + share / len(alive)

    def _upwards(self) -> tuple[str, ...]:
        """Every domain, children before parents."""
        parents = {name: domain.parents for name, domain in self.domains.items()}
        return tuple(reversed(tuple(graphlib.TopologicalSorter(parents).static_order())))

    def touches(self, contingency: str, node: str) -> bool:
        """Whether `contingency` changes what any ancestor of `node` may carry or does carry.

        The survivor of a lost feed is touched too, and so is a node that hangs on it alone.
        """
        if contingency not in self._touched:
            self._touched[contingency] = self._compute_touched(contingency)
        return not self._touched[contingency].isdisjoint(self.nodes[node].ancestors)

    def _compute_touched(self, contingency: str) -> frozenset[str]:
        active = frozenset({contingency})
        before, after = self.shares(frozenset()), self.shares(active)
        return frozenset(
            name
            for name, domain in self.domains.items()
            if self.capacity_w(name, active) != domain.capacity_w or before[name] != after[name]
        )
