"""Readings that cannot all be true: a server's meter against its GPUs, a GPU far below idle.

Decides when that is so and when to say it. It corrects no reading: which of two is wrong nobody can
tell from here.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from controllers.fleet import BoolArray, Fleet, FloatArray
from controllers.nodes_power import NodesPower
from controllers.snapshot import Snapshot
from facility.wire import Event, Severity

METER_LAG_S: Final = 5.0  # physics: meters of servers lag by 1 to 5 s; from memory
METER_ERROR_RATIO: Final = 0.05  # physics: 3 to 5 %; from memory
DIFFERS_COUNT: Final = 2
"""Cycles in a row that must agree on it: a frame may lie between two readings of the meter."""


class MeterCheck:
    """Which nodes' meters read what their GPUs cannot explain."""

    def __init__(self, fleet: Fleet) -> None:
        cycles = math.ceil(METER_LAG_S / fleet.site.control.cycle_s)
        self._overhead_w = fleet.overhead_w
        self._gpus_w = np.full((cycles + 1, len(fleet.nodes)), np.nan)
        self._place = 0
        self._count = np.zeros(len(fleet.nodes), dtype=np.int64)
        self.differs: BoolArray = np.zeros(len(fleet.nodes), dtype=np.bool_)
        self.lowest_w: FloatArray = self._gpus_w[0]
        self.highest_w: FloatArray = self._gpus_w[0]

    def see(self, gpus_w: FloatArray, meter_w: FloatArray) -> None:
        """Take one cycle's readings.

        A meter lags: it is right if any moment of the last seconds explains it. Where one of them
        is not known nothing is said.

        Args:
            gpus_w: what each node draws for its GPUs alone, W; NaN where one was not read.
            meter_w: each node's meter, W; NaN without one.
        """
        self._place = (self._place + 1) % len(self._gpus_w)
        self._gpus_w[self._place] = gpus_w
        self.lowest_w = self._gpus_w.min(axis=0)
        self.highest_w = self._gpus_w.max(axis=0) + self._overhead_w
        error_w = METER_ERROR_RATIO * np.maximum(meter_w, self.highest_w)
        outside = (meter_w > self.highest_w + error_w) | (meter_w < self.lowest_w - error_w)
        turns = np.isfinite(error_w) & (outside != self.differs)
        self._count = np.where(turns, self._count + 1, 0)
        flips = self._count >= DIFFERS_COUNT
        self.differs = np.where(flips, outside, self.differs)
        self._count = np.where(flips, 0, self._count)


class ReadingAlarms:
    """Speaks of readings that contradict each other, once when it begins and once when it ends."""

    def __init__(self, fleet: Fleet) -> None:
        self._nodes = fleet.nodes
        self._check = MeterCheck(fleet)
        self._impossible: BoolArray = np.zeros(len(fleet.nodes), dtype=np.bool_)

    def step(self, snapshot: Snapshot, nodes: NodesPower) -> tuple[Event, ...]:
        """The events of one cycle, of whose nodes' readings `nodes` has just been told."""
        check, impossible = self._check, nodes.impossible
        before, impossible_before = check.differs, self._impossible
        check.see(nodes.gpus_w, nodes.meter_w)
        self._impossible = impossible
        events = []
        for place in np.flatnonzero(check.differs != before).tolist():
            low_w, high_w = check.lowest_w[place], check.highest_w[place]
            figures = (
                f"its meter reads {nodes.meter_w[place] / 1_000:.2f} kW, its GPUs explain"
                f" {low_w / 1_000:.2f} to {high_w / 1_000:.2f} kW"
            )
            begins = bool(check.differs[place])
            word = "readings-differ" if begins else "readings-agree"
            events.append(
                self._event(snapshot, word, "warning" if begins else "info", place, figures)
            )
        for place in np.flatnonzero(impossible & ~impossible_before).tolist():
            text = "a GPU shows far less than it draws when idle: it counts at its worst"
            events.append(self._event(snapshot, "reading-refused", "warning", place, text))
        return tuple(events)

    def _event(
        self, snapshot: Snapshot, event: str, severity: Severity, place: int, text: str
    ) -> Event:
        name = self._nodes[place]
        return Event(
            event=event,
            severity=severity,
            at_s=snapshot.wall_s,
            source="controller",
            subject=name,
            sentence=f"{name}: {text}",
        )
