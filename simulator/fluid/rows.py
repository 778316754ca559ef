"""Many rows of servers as one set of arrays, one step of a few seconds at a time.

Each server has a queue of prefill work, a batch and fans that follow slowly. All rows see the same
requests, server by server, so that what differs between rows is what was decided for them. Nothing
here decides a ceiling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.fluid.tables import COLUMNS_PER_SEQUENCE, FAN_STEP_W, Mix, ServerTables

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Chance = NDArray[np.float32]

FAN_PERIOD_S: Final = 6.0
FAN_TAU_S: Final = 45.0  # the heat sink's time constant, which fans follow
BUSY_BATCH: Final = 0.5
NOTHING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Layout:
    """Which server each place is: its row, its number within the row, and its mix; shape (n,).

    Places of a row are next to each other. `power_factor` is how much more power hungry than the
    model a place's work is.
    """

    row: IntArray
    server: IntArray
    mix: IntArray
    power_factor: FloatArray


class FluidRows:
    """The state of all places, and one step of it. Arrays of shape (n,)."""

    def __init__(self, layout: Layout, tables: ServerTables, mixes: tuple[Mix, ...]) -> None:
        """Idle servers at their highest clock."""
        count = len(layout.row)
        engine, model = tables.model.engine, tables.model
        self.layout = layout
        self._tables = tables
        self._base = layout.mix * len(tables.clocks_mhz)
        self._generated = np.array([mix.generated_tokens for mix in mixes])[layout.mix]
        self._batch_max = float(engine.batch_max)
        self._share_max = engine.prefill_share_max
        self._fixed_w = model.chassis.fixed_power_w
        self._busy_w = model.chassis.busy_power_w
        self._gpus = model.chassis.gpu_count * model.chassis.gpu_power_factor
        self._factor = layout.power_factor
        self._scaled = bool((layout.power_factor != 1.0).any())
        self.backlog_s = np.zeros(count)
        self.waiting = np.zeros(count)
        self.batch = np.zeros(count)
        self.fan_w = np.full(count, float(tables.fan_w[0]))
        self.pace_per_s = np.zeros(count)
        self.wait_s = np.zeros(count)
        self.finished = np.zeros(count)
        self.overhead_w = np.zeros(count)
        """What of the last step's power was not the GPUs', W."""
        self._since_fans_s = 0.0
        self.set_ceilings(np.full(count, int(tables.clocks_mhz[-1])))

    def set_ceilings(self, ceiling_mhz: IntArray) -> None:
        """From now on places run at these ceilings, on the clock grid."""
        tables = self._tables
        grid = tables.clocks_mhz
        clock = ((ceiling_mhz - grid[0]) / (grid[1] - grid[0])).astype(np.int64) + self._base
        self._speed = tables.prefill_speed.take(clock)
        self._prefill_w = tables.prefill_w.take(clock)
        self._column = clock * tables.columns

    def step(
        self, requests: FloatArray, work_s: FloatArray, chance: Chance, dt_s: float
    ) -> FloatArray:
        """Run `dt_s`; returns the power of each place, W.

        `requests` come, with `work_s` seconds of prefill at full clock together. Batches are whole
        sequences: `chance`, even in [0, 1), decides whether a part of one begins or ends now.
        """
        tables, batch, speed = self._tables, self.batch, self._speed
        backlog, waiting = self.backlog_s, self.waiting
        decoding = batch > BUSY_BATCH
        rate = speed * np.where(decoding, self._share_max, 1.0)
        self.wait_s = backlog / rate
        backlog += work_s
        waiting += requests
        done = np.minimum(backlog, rate * dt_s)
        moved = waiting * (done / np.maximum(backlog, NOTHING))
        if (batch + moved).max() > self._batch_max:
            # A batch that is full takes no more: what is over waits, and its prefill with it.
            room = (self._batch_max - batch) / np.maximum(moved, NOTHING)
            room = np.minimum(np.maximum(room, 0.0), 1.0)
            done *= room
            moved *= room
        backlog -= done
        moved = np.minimum(np.floor(moved + chance), waiting)
        waiting -= moved
        share = done / (speed * dt_s)
        place = self._column + (batch * COLUMNS_PER_SEQUENCE).astype(np.int64)
        # Prompts take their share of the time from the sequences that decode.
        pace_per_s = (1.0 - np.minimum(share, self._share_max)) / tables.token_s.take(place)
        ending = batch * pace_per_s * (dt_s / self._generated)
        finished = np.minimum(np.floor(ending + chance), batch)
        batch += moved
        batch -= finished
        gpu_w = tables.decode_w.take(place)
        gpu_w += share * (self._prefill_w - gpu_w)
        self._turn_fans(gpu_w, dt_s)
        power_w = np.where(decoding, self._busy_w, self._busy_w * share)
        power_w += self.fan_w
        power_w += self._fixed_w
        gpus_w = self._gpus * gpu_w
        if self._scaled:
            power_w *= self._factor
            gpus_w *= self._factor
        self.overhead_w = power_w
        whole_w: FloatArray = power_w + gpus_w
        self.pace_per_s, self.finished = pace_per_s, finished
        return whole_w

    def _turn_fans(self, gpu_w: FloatArray, dt_s: float) -> None:
        """Fans follow slowly, so they are looked after every few steps."""
        self._since_fans_s += dt_s
        if self._since_fans_s >= FAN_PERIOD_S:
            place = (gpu_w * (1.0 / FAN_STEP_W)).astype(np.int64)
            follows = 1.0 - math.exp(-self._since_fans_s / FAN_TAU_S)
            self.fan_w += follows * (self._tables.fan_w.take(place) - self.fan_w)
            self._since_fans_s = 0.0
