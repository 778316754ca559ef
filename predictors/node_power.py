"""What a whole node draws, from what its GPUs report and, where there is one, its own meter.

GPU readings are fast and lack the rest of the server; a meter sees all and is slow. The part that
GPUs do not explain is learnt slowly from the meter, and is the model's worst case until then.
"""

from __future__ import annotations

from typing import Final

from facility.topology import NodeModel

CORRECTION_TAU_S: Final = 30.0
"""A meter lags by seconds: a faster correction would mistake a load step for overhead."""

OVERHEAD_RATIO_BAND: Final = (0.5, 1.5)
"""A meter may move the overhead within this band of the model's, so that a broken one, or one that
sees one supply of two, can neither hide nor invent a server."""


class NodePowerEstimator:
    """Estimates the power of one node; learns its overhead from a meter if there is one."""

    def __init__(self, model: NodeModel) -> None:
        self._model = model
        self._overhead_w = model.overhead_w
        self._last_s: float | None = None

    @property
    def overhead_w(self) -> float:
        """The part that the GPUs do not explain, as learnt so far, W."""
        return self._overhead_w

    def estimate_w(self, now_s: float, *, gpu_power_w: float, node_power_w: float | None) -> float:
        """Learn from one frame and return the node's power in W.

        Args:
            now_s: monotonic time of the frame.
            gpu_power_w: sum over the node's GPUs.
            node_power_w: the meter's reading, None without a meter.
        """
        explained_w = self._model.gpu_power_factor * gpu_power_w
        if node_power_w is not None and node_power_w >= explained_w:
            # After a silence one reading is one reading: it does not weigh more for being late.
            elapsed_s = 1.0 if self._last_s is None else min(max(now_s - self._last_s, 0.0), 2.0)
            share = min(elapsed_s / CORRECTION_TAU_S, 1.0)
            low_w, high_w = (ratio * self._model.overhead_w for ratio in OVERHEAD_RATIO_BAND)
            seen_w = min(max(node_power_w - explained_w, low_w), high_w)
            self._overhead_w += share * (seen_w - self._overhead_w)
        elif node_power_w is not None:
            # Below its own GPUs a meter is wrong, and tells nothing: back towards the worst case.
            self._overhead_w = max(self._overhead_w, self._model.overhead_w)
        self._last_s = now_s
        return self._overhead_w + explained_w
