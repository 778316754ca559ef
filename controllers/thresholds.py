"""Policies of fixed thresholds on measured power: POLCA and the paper's two baselines.

Each domain walks up and down a short list of steps; a step is a threshold and what it makes of the
clocks. Nothing is forecast and nothing allocated: that is what `ampacity` is compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from controllers.fleet import Fleet, FloatArray, IntArray
from controllers.policy import BrakeLatch, Proposal, Situation

HYSTERESIS: Final = 0.05
"""How far below its threshold power must fall before a step is given back."""
PERIOD_S: Final = 2.0
"""One reading of the row's meter; a decision must show before the next (papers: section 4)."""

T1: Final = 0.80
T2: Final = 0.89
LOW_T1: Final = 1275 / 1410
LOW_T2: Final = 1110 / 1410
HIGH_T2: Final = 1305 / 1410
"""POLCA's A100 clocks as shares of their highest, 1410 MHz."""


@dataclass(frozen=True, slots=True)
class Step:
    """From `threshold` of its capacity on, a domain's clocks are at these shares of the highest.

    `if_not_enough`: only when the step before has been carried out and power is still there.
    """

    threshold: float
    low: float
    high: float
    if_not_enough: bool = False


POLCA: Final = (
    Step(T1, low=LOW_T1, high=1.0),
    Step(T2, low=LOW_T2, high=1.0),
    Step(T2, low=LOW_T2, high=HIGH_T2, if_not_enough=True),
)
ONE_THRESHOLD_LOW: Final = (Step(T2, low=LOW_T2, high=1.0),)
ONE_THRESHOLD_ALL: Final = (Step(T2, low=LOW_T2, high=LOW_T2),)


class ThresholdPolicy:
    """Steps with hysteresis per domain, low priority first; at 100 % everything brakes.

    A command is in flight for `control.actuation_s`. While one is, power says nothing about it:
    no step that waits for its effect is taken, and none is given back. A threshold that is passed
    for the first time is answered at once all the same.
    """

    prearms = True
    looks_ahead = False

    def __init__(self, domain_count: int, steps: tuple[Step, ...]) -> None:
        self._decided_s = -math.inf
        self._level = np.zeros(domain_count, dtype=np.int64)  # steps taken
        self._changed_s = np.full(domain_count, -math.inf)
        self._latch = BrakeLatch(domain_count, engage_s=0.0)
        self._steps = steps
        self._at_once = np.array([step.threshold for step in steps if not step.if_not_enough])
        self._later = np.array(
            [step.threshold if step.if_not_enough else math.inf for step in steps] + [math.inf]
        )
        self._leave = np.array([-math.inf] + [step.threshold - HYSTERESIS for step in steps])
        self._ceilings_mhz: IntArray | None = None
        self._last: tuple[Fleet, FloatArray, Proposal] | None = None

    def propose(self, situation: Situation) -> Proposal:
        """One decision of every domain's state machine; the lowest ceiling wins."""
        brake = self._latch.step(situation)
        if situation.now_s - self._decided_s >= PERIOD_S - 1e-6:
            self._decided_s = situation.now_s
            ratio = situation.domain_power_w / np.maximum(situation.capacity_w, 1.0)
            self._step(ratio, situation.now_s, situation.control.actuation_s)
        proposed = self._proposal(situation)
        wanted = proposed.ceiling_mhz
        if situation.hold:
            wanted = np.minimum(wanted, situation.ceiling_mhz)
        return Proposal(wanted, proposed.bound_by, brake)

    def _step(self, ratio: FloatArray, now_s: float, actuation_s: float) -> None:
        level = self._level
        reached = np.searchsorted(self._at_once, ratio, side="right")
        shown = now_s - self._changed_s > actuation_s + 1e-6
        further = shown & (ratio >= self._later[level])
        back = shown & (ratio < self._leave[level])
        now = np.maximum(level + further - back, reached)
        changed = now != level
        if changed.any():
            self._changed_s[changed] = now_s
            self._level, self._last = now, None

    def _proposal(self, situation: Situation) -> Proposal:
        """Ceilings for the steps taken; they stay what they were while no domain moves."""
        fleet, shares = situation.fleet, situation.shares
        if self._last is not None and self._last[0] is fleet and self._last[1] is shares:
            return self._last[2]
        level, domain = situation.tree.largest_above(self._level, otherwise=0)
        ceiling_mhz = self._table(fleet)[level, np.arange(len(level))]
        bound_by = np.where(ceiling_mhz < fleet.clock_mhz_max, domain, -1)
        for array in (ceiling_mhz, bound_by):
            array.setflags(write=False)  # they are handed out until a domain moves
        proposal = Proposal(ceiling_mhz, bound_by, np.zeros(len(self._level), dtype=np.bool_))
        self._last = fleet, shares, proposal
        return proposal

    def _table(self, fleet: Fleet) -> IntArray:
        """Each node's ceiling after each number of steps, MHz: steps x nodes."""
        if self._ceilings_mhz is None:
            rows = [fleet.clock_mhz_max]
            for step in self._steps:
                share = np.where(fleet.low_priority, step.low, step.high)
                rows.append(fleet.snap_mhz(share * fleet.clock_mhz_max))
            self._ceilings_mhz = np.stack(rows)
        return self._ceilings_mhz
