"""What really happened in the twin: a snapshot for display and the report of a run.

All of it comes from the true physics. What was not measured is None, never zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from facility.topology import Site
from simulator.bank import GpuBank
from simulator.electrical import PowerTree, Trip
from simulator.latency import KINDS, QUANTILES, Latency
from simulator.thermal import Heat

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

ReportValue = float | int | bool | None | list[dict[str, float | str]]


@dataclass(frozen=True, slots=True)
class DomainTruth:
    """One domain now; `wear_ratio` is how much of its protection's patience is used up."""

    name: str
    kind: str
    power_w: float
    capacity_w: float
    load_ratio: float
    wear_ratio: float
    tripped: bool


@dataclass(frozen=True, slots=True)
class NodeTruth:
    """One node now; `clock_mhz_mean` over its GPUs."""

    name: str
    power_w: float
    inlet_temperature_c: float
    gpu_temperature_c_max: float
    clock_mhz_mean: float
    dark: bool
    batch: int
    queued: int


@dataclass(frozen=True, slots=True)
class PriorityTruth:
    """Requests and latency of one priority since time 0, and latency over the last minute."""

    priority: str
    served: int
    lost: int
    last_minute: Latency
    total: Latency


@dataclass(frozen=True, slots=True)
class PlantTruth:
    """The whole plant now. `queued` requests wait for their prefill, `in_flight` ones do not."""

    now_s: float
    domains: Mapping[str, DomainTruth]
    nodes: Mapping[str, NodeTruth]
    priorities: Mapping[str, PriorityTruth]
    contingencies: frozenset[str]
    requests_arrived: int
    requests_served: int
    requests_lost: int
    requests_queued: int
    requests_in_flight: int


@dataclass(slots=True)
class Tally:
    """Extremes and sums since time 0."""

    seconds: float = 0.0
    seconds_over_capacity: float = 0.0
    row_power_ratio_max: float = 0.0
    energy_j: float = 0.0
    gpu_temperature_c_max: float = -math.inf
    inlet_temperature_c_max: float = -math.inf
    trips: list[Trip] = field(default_factory=list)

    def add(self, *, dt_s: float, tree: PowerTree, power_w: float) -> None:
        """Count one step; the tree holds the loads of it."""
        self.seconds += dt_s
        self.energy_j += power_w * dt_s
        self.row_power_ratio_max = max(self.row_power_ratio_max, tree.row_load_ratio)
        self.seconds_over_capacity += dt_s if tree.any_over else 0.0

    def feel(self, gpu_temperature_c: FloatArray, inlet_temperature_c: FloatArray) -> None:
        """Temperatures have moved to these."""
        self.gpu_temperature_c_max = max(self.gpu_temperature_c_max, float(gpu_temperature_c.max()))
        hottest_c = float(inlet_temperature_c.max())
        self.inlet_temperature_c_max = max(self.inlet_temperature_c_max, hottest_c)

    def report(self) -> dict[str, ReportValue]:
        """The electrical and thermal part of a report."""
        measured = self.seconds > 0.0
        return {
            "seconds": round(self.seconds, 6),
            "row_power_ratio_max": self.row_power_ratio_max if measured else None,
            "seconds_over_capacity": round(self.seconds_over_capacity, 6),
            "tripped": bool(self.trips),
            "tripped_domains": [
                {"domain": trip.domain, "at_s": round(trip.at_s, 6), "load_ratio": trip.load_ratio}
                for trip in self.trips
            ],
            "energy_j": self.energy_j if measured else None,
            "gpu_temperature_c_max": self.gpu_temperature_c_max if measured else None,
            "inlet_temperature_c_max": self.inlet_temperature_c_max if measured else None,
        }


def domains_of(tree: PowerTree, kinds: Mapping[str, str]) -> dict[str, DomainTruth]:
    """All domains as they are now."""
    columns = (tree.power_w, tree.capacity_w, tree.load_ratio, tree.wear_ratio)
    rows = np.stack(columns, axis=1).tolist()
    return {
        name: DomainTruth(
            name=name,
            kind=kinds[name],
            power_w=power_w,
            capacity_w=capacity_w,
            load_ratio=load_ratio,
            wear_ratio=wear_ratio,
            tripped=name in tree.tripped,
        )
        for name, (power_w, capacity_w, load_ratio, wear_ratio) in zip(
            tree.names, rows, strict=True
        )
    }


def nodes_of(
    site: Site,
    *,
    power_w: FloatArray,
    bank: GpuBank,
    heat: Heat,
    dark: BoolArray,
    batch: FloatArray,
    queued: IntArray,
) -> dict[str, NodeTruth]:
    """All nodes as they are now; arrays of shape (nodes,)."""
    starts = bank.starts
    gpus = np.diff(starts, append=bank.count)
    columns = (
        power_w.tolist(),
        heat.inlet_c.tolist(),
        np.maximum.reduceat(heat.die_c, starts).tolist(),
        (np.add.reduceat(bank.seen_mhz, starts) / gpus).tolist(),
        dark.tolist(),
        batch.astype(np.int64).tolist(),
        queued.tolist(),
    )
    rows = zip(site.nodes, *columns, strict=True)
    return {name: NodeTruth(name, *values) for name, *values in rows}


def requests_report(truth: PlantTruth) -> dict[str, ReportValue]:
    """Counts of requests, and latency quantiles by priority, one key each."""
    return {
        "requests_arrived": truth.requests_arrived,
        "requests_served": truth.requests_served,
        "requests_lost": truth.requests_lost,
        "requests_queued": truth.requests_queued,
        "requests_in_flight": truth.requests_in_flight,
        **{
            f"{kind}_{share}_s_{priority}": getattr(item.total, f"{kind}_{share}_s")
            for priority, item in truth.priorities.items()
            for kind in KINDS
            for share in QUANTILES
        },
    }
