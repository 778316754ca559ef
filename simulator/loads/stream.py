"""The load of the request level: requests drawn from a workload, one by one.

The same workload on the fluid level is `simulator.loads.nodes`: both have the same rate over time,
the same lengths by priority and the same bursts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from simulator.loads.blocks import BLOCK_S, Source
from simulator.loads.envelope import FloatArray, Rate, Seed, generator
from simulator.loads.trace import Arrivals
from simulator.loads.workload import TABLE, Workload

GRID: Final = 20
"""Within a block the rate is straight between so many and one more points."""
RATE_MAX_PER_S: Final = 1_000_000.0


class Stream(Source):
    """Requests of a workload from time `start_s`; `scale` times its envelope is their rate.

    `offset_s` is the time of the workload at time 0. Each request has its place in `priorities`, if
    the workload has priorities at all.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        scale: float,
        seed: Seed,
        priorities: Sequence[str] = ("high", "low"),
        start_s: float = 0.0,
        offset_s: float = 0.0,
    ) -> None:
        """Tables and slow noise.

        Raises:
            ValueError: a rate out of range, or the workload has a priority that is not listed.
        """
        super().__init__(start_s)
        peak = workload.envelope.peak_per_s * scale
        if not 0.0 < peak <= RATE_MAX_PER_S:
            raise ValueError(
                f"{peak:g} requests/s at peak; expected above 0, at most {RATE_MAX_PER_S:g}"
            )
        self._shares = workload.priorities
        for priority in self._shares:
            if priority not in priorities:
                raise ValueError(
                    f"{workload.name} has requests of priority {priority!r}; expected only"
                    f" {', '.join(priorities)}"
                )
        self._rate = Rate(workload.envelope, workload.noise, seed)
        self._scale, self._offset_s = scale, offset_s
        self._rng = generator(seed, 6)
        self._shape = 1.0 / workload.cv**2
        lengths = [workload.lengths(priority) for priority in self._shares or (None,)]
        self._ranks = np.array([list(priorities).index(priority) for priority in self._shares])
        self._steps = np.cumsum(list(self._shares.values()))
        self._prompt = np.concatenate([one.prompt_tokens for one in lengths])
        self._generated = np.concatenate([one.generated_tokens for one in lengths])
        # At a time that knows of no request, the gap around it is a long one more often.
        self._gap = float(self._rng.gamma(self._shape + 1.0) / self._shape * self._rng.random())

    def _fill(self, begin_s: float) -> Arrivals:
        """Gaps at rate 1, stretched so that the envelope's integral grows as they do."""
        grid_s = begin_s + np.linspace(0.0, BLOCK_S, GRID + 1)
        rate = self._rate.at(grid_s + self._offset_s) * self._scale
        grown = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) * (BLOCK_S / GRID / 2.0))])
        at_s = np.interp(self._marks(float(grown[-1])), grown, grid_s)
        at_s = np.minimum(at_s, np.nextafter(begin_s + BLOCK_S, begin_s))
        place = self._rng.integers(0, TABLE, len(at_s))
        priority = None
        if len(self._ranks):
            drawn = self._steps.searchsorted(self._rng.random(len(at_s)), "right")
            kind = np.minimum(drawn, len(self._ranks) - 1)
            priority, place = self._ranks[kind], place + kind * TABLE
        return Arrivals(at_s, self._prompt[place], self._generated[place], priority)

    def _marks(self, end: float) -> FloatArray:
        """Where arrivals lie in [0, end) at rate 1, going on from the block before."""
        marks = [np.empty(0)]
        last = self._gap
        while last < end:
            count = int(end - last) + 16
            gaps = self._rng.standard_gamma(self._shape, count) / self._shape
            more = last + np.concatenate([[0.0], np.cumsum(gaps)])
            marks.append(more[:-1])
            last = float(more[-1])
        every = np.concatenate([*marks, [last]])
        before = int(every.searchsorted(end))
        self._gap = float(every[before]) - end
        return every[:before]
