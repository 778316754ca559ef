"""What every node draws as far as anybody can tell, and where the site's table was wrong about it.

Whatever is not read counts at its worst: a node, a GPU without a reading, one whose reading cannot
be, one that is not there although the site has it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from controllers.fleet import BoolArray, Fleet, FloatArray, IntArray
from controllers.snapshot import NodeView, reported_ceiling_mhz
from facility.wire import Quality
from predictors.node_power import NodePowerEstimator

SETTLED_CYCLES: Final = 3
"""A frame holds some of the time before it: a ceiling must have stood this long to be judged."""
OVER_TABLE_MAX: Final = 1.5
IDLE_RATIO_MIN: Final = 0.25
"""A GPU that answers draws more than this share of its idle power, whatever its table rounds."""
FORGET_RATIO: Final = 0.999
"""Each cycle: a table that was wrong for an hour is believed again after a quarter of one."""


class NodesPower:
    """Estimates all nodes, and remembers by how much each was seen to pass its worst case."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._estimators = [NodePowerEstimator(node.model) for node in fleet.site.nodes.values()]
        self.over_table: FloatArray = np.ones(len(fleet.nodes))
        """Per node 1, or how many times its table's worst case it was seen to draw."""
        self.assumed_w: FloatArray = np.zeros(len(fleet.nodes))
        """What of the last estimate of each node nobody has read, W."""
        self.gpus_w: FloatArray = np.full(len(fleet.nodes), np.nan)
        """Of each node what it draws for its GPUs alone, W; NaN unless all are read and fresh."""
        self.meter_w: FloatArray = np.full(len(fleet.nodes), np.nan)
        """What each node's meter reads, W; NaN without one."""
        self.impossible: BoolArray = np.zeros(len(fleet.nodes), dtype=np.bool_)
        """Nodes with a GPU that shows less than any GPU draws."""
        self.overhead_w: FloatArray = fleet.overhead_w.copy()
        """What each node's GPUs do not explain, as learnt from its meter, or its model's, W."""
        self._steady_cycles = np.zeros(len(fleet.nodes), dtype=np.int64)
        self._steady_mhz = np.zeros(len(fleet.nodes), dtype=np.int64)

    def estimate_w(self, now_s: float, views: list[NodeView], highest_mhz: IntArray) -> FloatArray:
        """Per node what it draws, or all that it may draw when it is missing, W.

        Args:
            now_s: monotonic time.
            views: every node, in site order.
            highest_mhz: per node the highest ceiling that may be in force.
        """
        power_w = self._fleet.worst_case_w(highest_mhz)
        fresh = np.array([not view.missing for view in views])
        self.assumed_w = np.where(fresh, 0.0, power_w)
        self.gpus_w, self.meter_w = np.full((2, len(views)), np.nan)
        self.impossible = np.zeros(len(views), dtype=np.bool_)
        self.overhead_w = self._fleet.overhead_w.copy()
        for place in np.flatnonzero(fresh).tolist():
            frame = views[place].telemetry
            assert frame is not None
            read_w, assumed_w, impossible = _gpus_power_w(views[place], int(highest_mhz[place]))
            factor = views[place].node.model.gpu_power_factor
            self.impossible[place] = impossible
            if assumed_w == 0.0 and not any(gpu.quality is Quality.STALE for gpu in frame.gpus):
                self.gpus_w[place] = factor * read_w
            if frame.node_power_w is not None:
                self.meter_w[place] = frame.node_power_w
            power_w[place] = self._estimators[place].estimate_w(
                now_s, gpu_power_w=read_w + assumed_w, node_power_w=frame.node_power_w
            )
            self.assumed_w[place] = factor * assumed_w
            self.overhead_w[place] = self._estimators[place].overhead_w
        self._learn(power_w, views)
        return power_w

    def _learn(self, power_w: FloatArray, views: list[NodeView]) -> None:
        reported_mhz = np.array(
            [0 if view.missing else reported_ceiling_mhz(view) for view in views], dtype=np.int64
        )
        same = (reported_mhz == self._steady_mhz) & (reported_mhz > 0)
        self._steady_cycles = np.where(same, self._steady_cycles + 1, 0)
        self._steady_mhz = reported_mhz
        settled = self._steady_cycles >= SETTLED_CYCLES
        if not np.count_nonzero(settled):
            return
        seen = power_w / self._fleet.worst_case_w(np.maximum(reported_mhz, 1))
        learnt = np.maximum(np.maximum(seen, FORGET_RATIO * self.over_table), 1.0)
        self.over_table = np.where(settled, np.minimum(learnt, OVER_TABLE_MAX), self.over_table)


def _gpus_power_w(view: NodeView, highest_mhz: int) -> tuple[float, float, bool]:
    """The sum over a node's GPUs that are read, W; of the others, each at its worst, W.

    And whether any of the others shows what cannot be.
    """
    assert view.telemetry is not None
    model, gpus = view.node.model, view.telemetry.gpus
    worst_w, least_w = model.gpu.power_w_at(highest_mhz), IDLE_RATIO_MIN * model.gpu.idle_power_w
    absent = max(model.gpu_count - len(gpus), 0)
    read_w, assumed_w = 0.0, absent * model.gpu.power_w_at(model.gpu.clock_mhz_max)
    impossible = False
    for gpu in gpus:
        is_read = gpu.quality is not Quality.MISSING
        if is_read and gpu.power_w >= least_w:
            read_w += gpu.power_w
        else:
            assumed_w += max(gpu.power_w, worst_w)
            impossible |= is_read
    return read_w, assumed_w, impossible
