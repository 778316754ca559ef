"""The live policy in the loop of simulated rows: power in, ceilings out, over some control path.

The policy, its forecast and its ramps are the objects that run live; only the power readings and
the path to the clocks are simulated. Nothing here decides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controllers.fleet import Fleet
from controllers.holding import held
from controllers.policies import make_policy
from controllers.policy import Situation
from facility.topology import Site
from predictors.power import PowerForecaster
from simulator.fluid.actuation import Actuation, Path

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class PolicyLoop:
    """One policy for all rows of a site; arrays of shape (n,) in the site's order."""

    def __init__(self, site: Site, path: Path) -> None:
        """Everything at its highest clock."""
        control = site.control
        self.site = site
        self.fleet = Fleet(site)
        self._policy = make_policy(
            control.policy, domain_count=len(site.domains), cycle_s=control.cycle_s
        )
        self._forecaster = PowerForecaster.of(control, len(site.domains))
        self._decides = control.policy != "none"
        nothing = frozenset[str]()
        self._shares = self.fleet.shares(nothing)
        self.capacity_w = self.fleet.capacity_w(nothing)
        count, rows = len(site.nodes), len(site.domains)
        self.row = self._shares.argmax(axis=0)
        self._starts = np.searchsorted(self.row, np.arange(len(site.domains)))
        self._ceiling_mhz = self.fleet.clock_mhz_max.astype(np.int64)
        self._slow = path.clock_s > 0.0
        brake_mhz = self.fleet.brake_ceiling_mhz.astype(np.int64)
        self._actuation = Actuation(path, self._ceiling_mhz, brake_mhz)
        self._ones = np.ones(count)
        self._all = np.ones(count, dtype=np.bool_)
        self._nobody = np.zeros(count, dtype=np.bool_)
        self._no_row = np.zeros(rows, dtype=np.bool_)
        self._no_rise = np.zeros(rows)
        self.in_force_mhz = self._ceiling_mhz

    def advance(self, now_s: float) -> bool:
        """What has arrived by `now_s` is in force; whether that differs from before."""
        before = self.in_force_mhz
        self.in_force_mhz = self._actuation.advance(now_s)
        return self.in_force_mhz is not before and not np.array_equal(before, self.in_force_mhz)

    def decide(
        self, now_s: float, power_w: FloatArray, overhead_w: FloatArray, row_w: FloatArray
    ) -> BoolArray:
        """One decision at `now_s`; returns which rows brake.

        Args:
            now_s: time.
            power_w: what nodes drew.
            overhead_w: what of it was not their GPUs.
            row_w: what rows drew.
        """
        if not self._decides:
            return self._no_row
        rise_w, from_history = self._no_rise, self._no_row
        if self._policy.looks_ahead:
            free_w = self.fleet.free_w(power_w, self.in_force_mhz, overhead_w)
            free_w = np.add.reduceat(free_w, self._starts)
            forecast = self._forecaster.forecast(row_w, free_w=free_w, now_s=now_s)
            rise_w, from_history = forecast.rise_w, forecast.from_history
        situation = Situation(
            now_s=now_s,
            fleet=self.fleet,
            control=self.site.control,
            shares=self._shares,
            rated_w=self.capacity_w,
            capacity_w=self.capacity_w,
            over_table=self._ones,
            power_w=power_w,
            overhead_w=overhead_w,
            rise_w=rise_w,
            from_history=from_history,
            ceiling_mhz=self._ceiling_mhz,
            measured_mhz=self.in_force_mhz,
            movable=self._all,
            hold=False,
        )
        proposal = self._policy.propose(situation)
        brake = proposal.brake
        # A slow path has a line of its own for the brake; its clock commands go on without it.
        self._ceiling_mhz = held(
            situation,
            proposal,
            brake=self._no_row if self._slow else brake,
            missing=self._nobody,
            blind=self._nobody,
        )
        braked = brake.take(self.row) if self._slow and brake.any() else self._nobody
        self._actuation.command(now_s, self._ceiling_mhz, braked)
        return brake
