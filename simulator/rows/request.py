"""The request level of the twin as a row of servers under given ceilings.

It puts ceilings in force and adds up what came of them. It decides nothing, and none of its
protections opens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from facility.topology import Site
from simulator.latency import KINDS
from simulator.plant import PRIORITIES, Plant, PlantSettings
from simulator.rows.row import Served, Times

FloatArray = NDArray[np.float64]

ROW_DT_S: Final = 0.25
"""Longest step of the plant: results stay within 1 % (power) and 3 % (latency) of 0.1 s."""


class RequestRow:
    """The request level as a `Row`: ceilings are in force from the beginning of their tick on.

    Delays and losses on the way to the clocks are the driver's own to model.
    """

    def __init__(self, site: Site, settings: PlantSettings) -> None:
        """Build the plant, without protections and without locks that are ignored.

        Raises:
            ValueError: as `Plant`.
        """
        self.plant = Plant(site, replace(settings, trips=False, lock_ignored_ratio=0.0))
        self._held_mhz: FloatArray | None = None

    def step(self, ceiling_mhz: FloatArray, tick_s: float) -> FloatArray:
        """Run `tick_s`, a multiple of the plant's step.

        Raises:
            ValueError: a tick that is no multiple of the step.
        """
        plant, dt_s = self.plant, self.plant.settings.dt_s
        steps = round(tick_s / dt_s)
        if steps < 1 or abs(steps * dt_s - tick_s) > 1e-6:
            raise ValueError(f"tick_s is {tick_s:g}; expected a multiple of the step, {dt_s:g}")
        if self._held_mhz is None or not np.array_equal(ceiling_mhz, self._held_mhz):
            self._held_mhz = ceiling_mhz.astype(np.float64)
            plant.hold(self._held_mhz)
        sum_w = np.zeros(len(ceiling_mhz))
        for _ in range(steps):
            plant.step()
            sum_w += plant.node_power_w
        return sum_w / steps

    def served(self) -> dict[str, Served]:
        """What became of the requests since time 0, by priority."""
        engines, counts = self.plant.engines, self.plant.book.counts()
        return {
            priority: Served(
                int(engines.arrived[rank]),
                int(engines.served[rank]),
                int(engines.lost[rank]),
                **{kind: Times(counts[place, rank]) for place, kind in enumerate(KINDS)},
            )
            for rank, priority in enumerate(PRIORITIES)
        }
