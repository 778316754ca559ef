"""Sites of many independent rows, as a sweep has them, and a load that pushes them to the limit."""

from __future__ import annotations

from typing import Final

import numpy as np

from controllers.fleet import Fleet, FloatArray
from controllers.policy import Situation
from facility.compiler import compile_site
from facility.config import ControlConfig, DomainConfig, NodeConfig, PolicyName, SiteConfig
from facility.example import row_site
from facility.topology import Site

OVERSOLD_RATIO: Final = 1.35


def rows_site(rows: int, nodes: int, policy: PolicyName) -> Site:
    """`rows` rows of `nodes` nodes each that share nothing."""
    base = row_site(nodes=nodes)
    model = base.node_models["dgx-h100"]
    worst_w = model.overhead_w + model.gpu_power_factor * 8 * 700.0
    names = [f"row-{row:02d}" for row in range(rows)]
    config = SiteConfig(
        version=1,
        site="rows",
        gpu_models=base.gpu_models,
        node_models=base.node_models,
        domains=tuple(
            DomainConfig(name=name, kind="row", rating_w=nodes * worst_w / OVERSOLD_RATIO)
            for name in names
        ),
        nodes=tuple(
            NodeConfig(
                name=f"{name}-n{place:03d}",
                model="dgx-h100",
                parents=(name,),
                priority="low" if place % 2 else "high",
            )
            for name in names
            for place in range(nodes)
        ),
        control=ControlConfig(policy=policy, cycle_s=2.0, horizon_s=2.0, lease_s=10.0),
    )
    return compile_site(config)


class Course:
    """What the nodes of a site draw, step by step: a slow wave of its own in each row, and noise.

    A node draws `load` of its worst case above idle under the ceiling that it has.
    """

    def __init__(self, site: Site, *, seed: int, steps: int) -> None:
        self.fleet = Fleet(site)
        rng = np.random.default_rng(seed)
        rows, nodes = len(site.domains), len(site.nodes)
        time = np.arange(steps)[:, np.newaxis] / steps
        wave = 0.72 + 0.22 * np.sin(2.0 * np.pi * (3.0 * time + np.arange(rows) / rows))
        spread = rng.normal(0.0, 0.06, (steps, nodes))
        self.load = np.clip(np.repeat(wave, nodes // rows, axis=1) + spread, 0.0, 1.0)
        self.ceiling_mhz = self.fleet.safe_ceiling_mhz.copy()
        self._shares = self.fleet.shares(frozenset())
        self._rated_w = self.fleet.capacity_w(frozenset())
        self._everybody = np.ones(nodes, dtype=np.bool_)
        self._by_table = np.ones(nodes)

    def situation(self, step: int, rise_w: FloatArray | None = None) -> Situation:
        """The next instant, before anything is decided."""
        fleet = self.fleet
        worst_w = fleet.worst_case_w(self.ceiling_mhz)
        idle_w = fleet.overhead_w + fleet.gpu_factor * fleet.idle_w
        power_w = idle_w + self.load[step] * (worst_w - idle_w)
        rise = 0.05 * fleet.tree(self._shares).load(power_w) if rise_w is None else rise_w
        return Situation(
            now_s=2.0 * step,
            fleet=fleet,
            control=fleet.site.control,
            shares=self._shares,
            rated_w=self._rated_w,
            capacity_w=self._rated_w,
            power_w=power_w,
            rise_w=rise,
            ceiling_mhz=self.ceiling_mhz,
            measured_mhz=self.ceiling_mhz,
            over_table=self._by_table,
            movable=self._everybody,
            hold=False,
        )
