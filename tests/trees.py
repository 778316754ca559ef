"""Random power trees and what their nodes draw, and the best that any allocation could do.

The optimum is a chain of linear programs, one for each stage, what is given last first: it may put
every node anywhere between two clocks, so that it bounds every allocation from above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.optimize  # type: ignore[import-untyped]
import scipy.sparse  # type: ignore[import-untyped]

from controllers.allocation import NEVER_MHZ, Demand, Giving
from controllers.fleet import Fleet
from controllers.levels import Levels
from controllers.tree import FloatArray, IntArray, Tree
from facility.compiler import compile_site
from facility.config import (
    DomainConfig,
    GpuModelConfig,
    NodeConfig,
    NodeModelConfig,
    SiteConfig,
)
from facility.example import row_site

A100: Final = GpuModelConfig(
    clock_mhz_min=210,
    clock_mhz_max=1410,
    safe_ceiling_mhz=1005,
    brake_ceiling_mhz=300,
    idle_power_w=55.0,
    worst_case_power_w=((210, 120.0), (900, 200.0), (1200, 290.0), (1410, 400.0)),
)
HGX_A100: Final = NodeModelConfig(
    gpu_model="a100", gpu_count=8, overhead_w=1_200.0, gpu_power_factor=1.2
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to allocate."""

    fleet: Fleet
    levels: Levels
    tree: Tree
    demand: Demand
    wanted_mhz: IntArray
    stages: list[Giving]


def fleet_of(site: str, domains: Sequence[DomainConfig], nodes: Sequence[NodeConfig]) -> Fleet:
    """A site of the two kinds of server, `dgx-h100` and `hgx-a100`."""
    base = row_site(nodes=4)
    return Fleet(
        compile_site(
            SiteConfig(
                version=1,
                site=site,
                gpu_models=base.gpu_models | {"a100": A100},
                node_models=base.node_models | {"hgx-a100": HGX_A100},
                domains=tuple(domains),
                nodes=tuple(nodes),
            )
        )
    )


def random_site(
    rng: np.random.Generator,
    *,
    rows: int = 3,
    racks: int = 3,
    nodes: int = 4,
    mixed: bool = True,
    zones: bool = True,
    feeds: int = 2,
) -> Fleet:
    """Feeds, rows, racks and nodes; two kinds of server and cooling zones across racks if asked."""
    domains = [DomainConfig(name=f"ups-{feed}", kind="feed", rating_w=1e9) for feed in range(feeds)]
    kinds = ("dgx-h100", "hgx-a100") if mixed else ("dgx-h100",)
    found: list[NodeConfig] = []
    for row in range(rows):
        above = tuple(f"ups-{feed}" for feed in range(feeds))
        if feeds > 1 and rng.random() < 0.3:
            above = above[:1]
        domains.append(DomainConfig(name=f"row-{row}", kind="row", rating_w=1e9, parents=above))
        for rack in range(racks):
            name = f"rack-{row}-{rack}"
            domains.append(
                DomainConfig(name=name, kind="rack", rating_w=1e9, parents=(f"row-{row}",))
            )
            found += [
                NodeConfig(
                    name=f"n-{row}-{rack}-{place}",
                    model=kinds[int(rng.integers(len(kinds)))],
                    parents=(name,),
                    zone=f"aisle-{int(rng.integers(2))}" if zones else None,
                    priority="low" if rng.random() < 0.5 else "high",
                )
                for place in range(int(rng.integers(1, nodes + 1)))
            ]
    if zones:
        domains += [DomainConfig(name=f"aisle-{z}", kind="zone", rating_w=1e9) for z in range(2)]
    return fleet_of("random", domains, found)


def random_problem(
    rng: np.random.Generator,
    fleet: Fleet,
    *,
    stuck: bool = True,
    bounded: bool = True,
    tightest: float = 0.55,
) -> Problem:
    """Nodes at random loads below domains of random capacities; some cannot be moved if `stuck`.

    No capacity is below `tightest` of what everybody would draw. `bounded`: what is possible at
    all may be less than what is expected.
    """
    count = len(fleet.nodes)
    tree = fleet.tree(fleet.shares(frozenset()))
    levels = Levels(fleet)
    busy = rng.uniform(0.1, 1.0, count)
    movable = rng.random(count) < 0.9 if stuck else np.ones(count, dtype=np.bool_)
    slope = fleet.gpu_factor * busy
    highest_w = slope * levels.above_idle_w(fleet.clock_mhz_max)
    expected_w = fleet.idle_node_w + np.where(movable, 0.0, highest_w)
    scale: FloatArray = np.asarray(1.0 + rng.uniform(0.0, 0.15, size=tree.domains_count))
    worst_w = fleet.idle_node_w if bounded else np.full(count, 1e12)
    demand = Demand(
        expected_w,
        np.where(movable, slope, 0.0),
        np.where(movable, worst_w, fleet.power_w_max),
        np.where(movable, fleet.gpu_factor, 0.0),
        scale,
    )
    full_w = scale * tree.load(fleet.idle_node_w + highest_w)
    target_w = full_w * rng.uniform(tightest, 1.1, tree.domains_count)
    low = fleet.low_priority
    stages = [
        Giving(np.where(movable & group, floor_mhz, NEVER_MHZ), target_w)
        for floor_mhz in (fleet.safe_ceiling_mhz, fleet.brake_ceiling_mhz)
        for group in (low, ~low)
    ]
    return Problem(fleet, levels, tree, demand, fleet.clock_mhz_max, stages)


def knee_mhz(fleet: Fleet) -> IntArray:
    """Per node the clock above which its worst case rises no more."""
    tops = []
    for node in fleet.site.nodes.values():
        points = node.model.gpu.worst_case_power_w
        tops.append(next(mhz for mhz, power_w in points if power_w == points[-1][1]))
    return np.array(tops)


def services(problem: Problem, ceiling_mhz: IntArray) -> FloatArray:
    """What each stage has left, the one that gives last first: busy GPUs times relative clock.

    Clocks that cost no power count for nothing.
    """
    worth = problem.demand.expected_slope * problem.levels.worth
    knee = knee_mhz(problem.fleet)
    reached, top = np.minimum(ceiling_mhz, knee), np.minimum(problem.wanted_mhz, knee)
    found = []
    for stage in problem.stages:
        floor = np.minimum(top, stage.floor_mhz)
        found.append(float(worth @ (np.clip(reached, floor, top) - floor)))
        top = floor
    return np.array(found[::-1])


def optimum(problem: Problem) -> FloatArray:
    """The most that `services` can be, entry after entry; limits that floors break are widened."""
    fleet, demand, tree = problem.fleet, problem.demand, problem.tree
    knee = knee_mhz(fleet)
    columns: list[tuple[int, int, float, float]] = []  # node, stage, watts above idle, service
    top, bottom = np.minimum(problem.wanted_mhz, knee), problem.wanted_mhz
    for number, stage in enumerate(problem.stages):
        floor = np.minimum(top, stage.floor_mhz)
        for node in np.flatnonzero((floor < top) & (demand.expected_slope > 0.0)):
            points = fleet.site.nodes[fleet.nodes[node]].model.gpu.worst_case_power_w
            inner = [mhz for mhz, _ in points if floor[node] < mhz < top[node]]
            edges = np.array([floor[node], *inner, top[node]])
            above_w = fleet.gpu_power_w_by_mhz[fleet.gpu_rank[node], edges]
            worth = demand.expected_slope[node] * problem.levels.worth[node]
            columns += [
                (int(node), number, float(watts), float(worth * clock))
                for watts, clock in zip(np.diff(above_w), np.diff(edges), strict=True)
            ]
        top = floor
        bottom = np.minimum(bottom, stage.floor_mhz)
    node_of = np.array([column[0] for column in columns])
    stage_of = np.array([column[1] for column in columns])
    watts = np.array([column[2] for column in columns])
    service = np.array([column[3] for column in columns])
    at_floor_w = demand.expected_w + demand.expected_slope * problem.levels.above_idle_w(bottom)
    base_w = demand.scale * tree.load(at_floor_w)
    limit_w = np.maximum(problem.stages[-1].limit_w - base_w, 0.0)
    rows = demand.scale[:, np.newaxis] * tree.shares[:, node_of]
    matrix = scipy.sparse.csr_matrix(rows * (demand.expected_slope[node_of] * watts))
    best = []
    for number in reversed(range(len(problem.stages))):
        gain = np.where(stage_of == number, service, 0.0)
        solved = scipy.optimize.linprog(
            -gain, A_ub=matrix, b_ub=limit_w, bounds=(0.0, 1.0), method="highs"
        )
        assert solved.success, solved.message
        best.append(-float(solved.fun))
        # What comes next must leave this as good, but for rounding.
        matrix = scipy.sparse.vstack([matrix, scipy.sparse.csr_matrix(-gain)]).tocsr()
        limit_w = np.append(limit_w, -best[-1] * (1.0 - 1e-7))
    return np.array(best)
