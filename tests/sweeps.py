"""Sites of many independent rows, as a sweep has them, and a load that pushes them to the limit."""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from controllers.fleet import Fleet, FloatArray
from controllers.holding import held
from controllers.policies import make_policy
from controllers.policy import Situation
from facility.compiler import compile_site
from facility.config import ControlConfig, DomainConfig, NodeConfig, PolicyName, SiteConfig
from facility.example import row_site
from facility.topology import Site
from predictors.power import PowerForecaster

OVERSOLD_RATIO: Final = 1.3
"""Worst case of a row's nodes over its capacity."""


def rows_site(
    rows: int,
    nodes: int,
    policy: PolicyName,
    *,
    oversold_ratio: float = OVERSOLD_RATIO,
    **control: float,
) -> Site:
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
            DomainConfig(name=name, kind="row", rating_w=nodes * worst_w / oversold_ratio)
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
        control=msgspec.structs.replace(
            ControlConfig(policy=policy, cycle_s=2.0, horizon_s=2.0, lease_s=10.0), **control
        ),
    )
    return compile_site(config)


class Course:
    """A day of a sweep, step by step: each row has more load than the one before, up to +50 %.

    A node draws `load` of its worst case above idle under the ceiling that it has.
    """

    def __init__(self, site: Site, *, seed: int, steps: int) -> None:
        self.fleet = Fleet(site)
        rng = np.random.default_rng(seed)
        rows, nodes = len(site.domains), len(site.nodes)
        day = 0.6 + 0.4 * np.sin(np.pi * np.arange(steps) / steps)[:, np.newaxis] ** 2
        wave = 0.55 * day * np.linspace(1.0, 1.5, rows)
        spread = rng.normal(0.0, 0.05, (steps, nodes))
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
            overhead_w=fleet.overhead_w,
            rise_w=rise,
            ceiling_mhz=self.ceiling_mhz,
            measured_mhz=self.ceiling_mhz,
            over_table=self._by_table,
            movable=self._everybody,
            hold=False,
        )


@dataclass(frozen=True, slots=True)
class Driven:
    """What became of a row under a policy: all per step."""

    ratio: FloatArray  # steps x rows: power over capacity
    low_mhz: FloatArray  # steps: mean ceilings
    high_mhz: FloatArray
    turns: int  # times that any node's ceiling changed its direction
    brakes: int


def drive(site: Site, load: FloatArray, *, delay_steps: int, history: bool = True) -> Driven:
    """Run a policy with its forecast over a course of loads, step by step.

    Args:
        site: rows that share nothing.
        load: steps x nodes, of each node's worst case above idle.
        delay_steps: a ceiling is in force so many steps after it was decided.
        history: forecast from what is seen; the spike ratio for ever if not.
    """
    fleet, control = Fleet(site), site.control
    course = Course(site, seed=0, steps=1)
    rows = len(site.domains)
    policy = make_policy(control.policy, domain_count=rows, cycle_s=control.cycle_s)
    power = PowerForecaster(
        rows,
        cycle_s=control.cycle_s,
        horizon_s=control.horizon_s,
        quantile=control.forecast_quantile,
        spike_ratio=control.spike_ratio,
    )
    decided = course.ceiling_mhz = fleet.clock_mhz_max
    on_their_way = deque([decided] * delay_steps)
    nobody = np.zeros(len(fleet.nodes), dtype=np.bool_)
    tree = fleet.tree(fleet.shares(frozenset()))
    course.load = load
    ratios, lows, highs, turns, brakes = [], [], [], 0, 0
    direction = np.zeros(len(fleet.nodes))
    for step in range(len(load)):
        course.ceiling_mhz = on_their_way.popleft() if delay_steps else decided
        situation = course.situation(step)
        free_w = tree.load(
            fleet.free_w(situation.power_w, situation.measured_mhz, fleet.overhead_w)
        )
        found = power.forecast(situation.domain_power_w, free_w=free_w if history else None)
        situation = dataclasses.replace(
            situation,
            ceiling_mhz=decided,
            rise_w=found.rise_w if history else control.spike_ratio * situation.domain_power_w,
            from_history=found.from_history & history,
        )
        proposal = policy.propose(situation)
        before = decided
        decided = held(situation, proposal, brake=proposal.brake, missing=nobody, blind=nobody)
        on_their_way.append(decided)
        moved = np.sign(decided - before)
        turns += int(((moved * direction) < 0).sum())
        direction = np.where(moved != 0, moved, direction)
        brakes += int(proposal.brake.sum())
        ratios.append(situation.domain_power_w / situation.capacity_w)
        lows.append(float(decided[fleet.low_priority].mean()))
        highs.append(float(decided[~fleet.low_priority].mean()))
    return Driven(np.array(ratios), np.array(lows), np.array(highs), turns, brakes)
