"""Runs of many rows over weeks: requests in, power and latency out, a policy in the loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.dispatch import Packing
from simulator.fluid.book import Book
from simulator.fluid.loop import PolicyLoop
from simulator.fluid.router import Router
from simulator.fluid.rows import FluidRows, Layout
from simulator.fluid.tables import Mix, ServerTables
from simulator.fluid.tally import RowTally
from simulator.loads.envelope import generator
from simulator.loads.nodes import BLOCK_STEPS, NodeLoad

FloatArray = NDArray[np.float64]

COUNT_EVERY: Final = 5
"""Latencies of batches are counted every so many steps: they change over tens of seconds."""
SPREAD_STEPS: Final = 100
"""Steps whose requests are laid out for all rows at once: they must fit the processor's cache."""
CHANCE_KEY: Final = 0xC4A2
"""Keeps the chance of ends apart from what loads draw from the same seed."""

Chance = NDArray[np.float32]
Progress = Callable[[float], None]


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
        self, loop: PolicyLoop, layout: Layout, tables: ServerTables, mixes: tuple[Mix, ...],
        *, packing: Packing, tick_s: float, seed: int,
    ) -> None:  # fmt: skip
        """Everything idle, nothing counted."""
        self.loop = loop
        self.rows = FluidRows(layout, tables, mixes)
        self._router = Router(layout, packing)
        self._packing = packing
        self._tick_s = tick_s
        self._starts = np.searchsorted(layout.row, np.arange(len(loop.capacity_w)))
        generated = np.array([mix.generated_tokens for mix in mixes])[layout.mix]
        self._group = layout.row * len(mixes) + layout.mix
        groups = len(loop.capacity_w) * len(mixes)
        self.book = Book(self._group, groups, generated)
        self.tally = RowTally(loop.capacity_w, groups, dt_s=tick_s)
        self._now_s = 0.0
        self._steps = 0
        self._seed = seed
        self._server = layout.server
        self._servers = int(layout.server.max()) + 1
        self._sums = np.zeros((3, len(layout.row)))

    def run(
        self,
        load: NodeLoad,
        work: Work,
        *,
        duration_s: float,
        begin_s: float = 0.0,
        progress: Progress = lambda _: None,
    ) -> None:
        """Feed `duration_s` of a load from its time `begin_s`, after an uncounted warm-up.

        Raises:
            ValueError: `begin_s` is not a multiple of `BLOCK_STEPS` steps.
        """
        first = round(begin_s / self._tick_s)
        if first < 0 or first % BLOCK_STEPS or first * self._tick_s != begin_s:
            whole_s = BLOCK_STEPS * self._tick_s
            raise ValueError(f"begin_s is {begin_s:g}; expected a multiple of {whole_s:g}")
        steps = math.ceil(duration_s / self._tick_s)
        warm = first - BLOCK_STEPS if first else 0
        self._feed(load, work, begin=warm, steps=BLOCK_STEPS, counted=False)
        for begin in range(0, steps, BLOCK_STEPS):
            count = min(BLOCK_STEPS, steps - begin)
            self._feed(load, work, begin=first + begin, steps=count, counted=True)
            progress((begin + count) / steps)
        self.tally.close()

    def _feed(self, load: NodeLoad, work: Work, *, begin: int, steps: int, counted: bool) -> None:
        demand = load.demand(begin * self._tick_s, self._tick_s, steps)
        arrivals = demand.arrivals[:, : self._servers]
        seconds = arrivals * work.per_request_s[: self._servers]
        seconds += demand.prompt_tokens[:, : self._servers] * work.per_token_s[: self._servers]
        server = self._server
        rng = generator(self._seed, CHANCE_KEY, begin // BLOCK_STEPS)
        # The same chance for the same server in every row.
        chance = rng.random((steps, self._servers), np.float32)
        packed = rng.random((steps, self._servers), np.float32) < self._packing.share
        for first in range(0, steps, SPREAD_STEPS):
            some = slice(first, first + SPREAD_STEPS)
            requests, to_pack = self._router.split(arrivals[some], packed[some])
            work_s, work_to_pack = self._router.split(seconds[some], packed[some])
            drawn = chance[some].take(server, axis=1)
            for place in range(len(requests)):
                if self._packing.share > 0.0:
                    self._router.pack(
                        requests[place],
                        work_s[place],
                        held=self.rows.batch + self.rows.waiting,
                        counts=to_pack[place],
                        works_s=work_to_pack[place],
                    )
                self._step(requests[place], work_s[place], drawn[place], counted=counted)

    def _step(
        self, requests: FloatArray, work_s: FloatArray, chance: Chance, *, counted: bool
    ) -> None:
        rows, loop = self.rows, self.loop
        if loop.advance(self._now_s):
            rows.set_ceilings(loop.in_force_mhz)
        power_w = rows.step(requests, work_s, chance, self._tick_s)
        row_w = np.add.reduceat(power_w, self._starts)
        self._now_s += self._tick_s
        self._steps += 1
        pace_per_s, finished, arrived = self._sums
        pace_per_s += rows.pace_per_s
        finished += rows.finished
        arrived += requests
        if self._steps % COUNT_EVERY == 0:
            self._count(counted=counted)
        brake = loop.decide(self._now_s, power_w, rows.overhead_w, row_w)
        if counted:
            self.tally.add(row_w, brake)

    def _count(self, *, counted: bool) -> None:
        pace_per_s, finished, arrived = self._sums
        seconds = COUNT_EVERY * self._tick_s
        token_s = self.book.smooth(pace_per_s / COUNT_EVERY, seconds)
        if counted:
            self.book.add(
                token_s=token_s, finished=finished, wait_s=self.rows.wait_s, arrived=arrived
            )
            capped = self.loop.in_force_mhz < self.loop.fleet.clock_mhz_max
            self.tally.serve(self._group, finished, capped, seconds)
        self._sums = np.zeros_like(self._sums)
