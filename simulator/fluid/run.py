"""One run: requests in, power and latency out, with a policy in the loop for all rows at once.

The policy, its forecast and its ramps are the live ones; only the power readings and the path to
the clocks are simulated. Nothing here decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from controllers.fleet import Fleet
from controllers.holding import held
from controllers.policies import make_policy
from controllers.policy import Situation
from facility.topology import Site
from predictors.power import PowerForecaster
from simulator.fluid.actuation import Actuation, Path
from simulator.fluid.book import Book
from simulator.fluid.rows import FluidRows, Layout
from simulator.fluid.tables import Mix, ServerTables
from simulator.fluid.tally import RowTally
from simulator.loads.nodes import NodeLoad
from simulator.loads.workload import Workload

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

COUNT_EVERY: Final = 5
"""Latencies are counted every so many steps: what they follow changes over tens of seconds."""
BLOCK_STEPS: Final = 1_000
SPREAD_STEPS: Final = 100
"""Steps whose requests are laid out for all rows at once: they must fit the processor's cache."""
WARM_UP_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Work:
    """Prefill work of a server's requests, linear in their number and tokens, s; shape (servers,).

    The line has the mean and the slope of the engine's curve over the lengths of its requests.
    """

    per_request_s: FloatArray
    per_token_s: FloatArray


class FluidRun:
    """Rows of one site under one policy."""

    def __init__(
        self,
        site: Site,
        layout: Layout,
        tables: ServerTables,
        mixes: tuple[Mix, ...],
        *,
        path: Path,
        tick_s: float,
    ) -> None:
        """Everything idle, nothing counted."""
        control = site.control
        self.site = site
        self.fleet = Fleet(site)
        self.rows = FluidRows(layout, tables, mixes)
        self.tick_s = tick_s
        self._layout = layout
        self.servers = layout.server
        self._policy = make_policy(
            control.policy, domain_count=len(site.domains), cycle_s=control.cycle_s
        )
        self._forecaster = PowerForecaster(
            len(site.domains),
            cycle_s=control.cycle_s,
            horizon_s=control.horizon_s,
            quantile=control.forecast_quantile,
            spike_ratio=control.spike_ratio,
        )
        self._forecasts = control.policy in ("ampacity", "uniform")
        none = frozenset[str]()
        self._shares = self.fleet.shares(none)
        self._capacity_w = self.fleet.capacity_w(none)
        count = len(layout.row)
        self._ceiling_mhz = self.fleet.clock_mhz_max.astype(np.int64)
        self._brake_mhz = self.fleet.brake_ceiling_mhz.astype(np.int64)
        self._path = path
        self._actuation = Actuation(path, self._ceiling_mhz, self._brake_mhz)
        self._in_force_mhz = self._ceiling_mhz
        self._ones = np.ones(count)
        self._movable = np.ones(count, dtype=np.bool_)
        self._nobody = np.zeros(count, dtype=np.bool_)
        self._no_domain = np.zeros(len(site.domains), dtype=np.bool_)
        self._no_rise = np.zeros(len(site.domains))
        self._starts = np.searchsorted(layout.row, np.arange(len(site.domains)))
        mixes_count = len(mixes)
        generated = np.array([mix.generated_tokens for mix in mixes])[layout.mix]
        self._group = layout.row * mixes_count + layout.mix
        groups = len(site.domains) * mixes_count
        self.book = Book(self._group, groups, generated)
        self.tally = RowTally(self._capacity_w, groups, dt_s=tick_s)
        self.now_s = 0.0
        self._steps = 0
        self._sums = np.zeros((3, count))

    def step(self, requests: FloatArray, work_s: FloatArray, *, counted: bool) -> None:
        """One tick: servers work under what is in force, then the policy decides on what it saw.

        `requests` and their prefill `work_s` are of shape (n,).
        """
        rows = self.rows
        in_force_mhz = self._actuation.advance(self.now_s)
        if in_force_mhz is not self._in_force_mhz:
            rows.set_ceilings(in_force_mhz)
            self._in_force_mhz = in_force_mhz
        power_w = rows.step(requests, work_s, self.tick_s)
        row_w = np.add.reduceat(power_w, self._starts)
        self.now_s += self.tick_s
        self._steps += 1
        token_s, finished, arrived = self._sums
        token_s += rows.token_s
        finished += rows.finished
        arrived += requests
        if self._steps % COUNT_EVERY == 0:
            self._count(counted=counted)
        brake = self._decide(power_w, row_w, in_force_mhz)
        if counted:
            self.tally.add(row_w, brake)

    def _count(self, *, counted: bool) -> None:
        token_s, finished, arrived = self._sums
        seconds = COUNT_EVERY * self.tick_s
        smooth_s = self.book.smooth(token_s / COUNT_EVERY, seconds)
        if counted:
            rows = self.rows
            self.book.add(
                token_s=smooth_s, finished=finished, wait_s=rows.wait_s, arrived=arrived
            )
            capped = self._in_force_mhz < self.fleet.clock_mhz_max
            self.tally.serve(self._group, finished, capped, rows.backlog_s, seconds)
        self._sums = np.zeros_like(self._sums)

    def _decide(self, power_w: FloatArray, row_w: FloatArray, in_force_mhz: IntArray) -> BoolArray:
        if self.site.control.policy == "none":
            return self._no_domain
        rise_w = self._forecaster.forecast(row_w).rise_w if self._forecasts else self._no_rise
        situation = Situation(
            now_s=self.now_s,
            fleet=self.fleet,
            control=self.site.control,
            shares=self._shares,
            rated_w=self._capacity_w,
            capacity_w=self._capacity_w,
            over_table=self._ones,
            power_w=power_w,
            rise_w=rise_w,
            ceiling_mhz=self._ceiling_mhz,
            measured_mhz=in_force_mhz,
            movable=self._movable,
            hold=False,
        )
        proposal = self._policy.propose(situation)
        brake = proposal.brake
        slow = self._path.clock_s > 0.0
        # A slow path has a line of its own for the brake; its clock commands go on without it.
        wanted = held(
            situation,
            proposal,
            brake=self._no_domain if slow else brake,
            missing=self._nobody,
            blind=self._nobody,
        )
        self._ceiling_mhz = wanted
        braked = brake.take(self._layout.row) if slow and brake.any() else self._nobody
        self._actuation.command(self.now_s, wanted, braked)
        return brake


def run_workload(
    run: FluidRun,
    load: NodeLoad,
    work: Work,
    *,
    duration_s: float,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Feed a load to a run: a warm-up with the first minutes, then `duration_s` counted."""
    tick_s = run.tick_s
    steps = math.ceil(duration_s / tick_s)
    warm = math.ceil(WARM_UP_S / tick_s)
    _feed(run, load, work, begin=0, steps=warm, counted=False)
    for begin in range(0, steps, BLOCK_STEPS):
        _feed(run, load, work, begin=begin, steps=min(BLOCK_STEPS, steps - begin), counted=True)
        progress(min(1.0, (begin + BLOCK_STEPS) / steps))
    run.tally.close()


def _feed(
    run: FluidRun, load: NodeLoad, work: Work, *, begin: int, steps: int, counted: bool
) -> None:
    demand = load.demand(begin * run.tick_s, run.tick_s, steps)
    seconds = demand.arrivals * work.per_request_s + demand.prompt_tokens * work.per_token_s
    for first in range(0, steps, SPREAD_STEPS):
        some = slice(first, first + SPREAD_STEPS)
        requests = demand.arrivals[some].take(run.servers, axis=1)
        work_s = seconds[some].take(run.servers, axis=1)
        for place in range(len(requests)):
            run.step(requests[place], work_s[place], counted=counted)
