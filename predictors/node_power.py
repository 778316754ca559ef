"""What a whole node draws, from what its GPUs report and, where there is one, its own meter.

GPU readings are fast and lack the rest of the server; a meter sees all and is slow. The part that
GPUs do not explain is learnt slowly from the meter, and is the model's worst case until then.
"""

from __future__ import annotations

from typing import Final

from facility.topology import NodeModel

CORRECTION_TAU_S: Final = 30.0
"""A meter lags by seconds: a faster correction would mistake a load step for overhead."""


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
        if node_power_w is not None:
            elapsed_s = 1.0 if self._last_s is None else max(now_s - self._last_s, 0.0)
            share = min(elapsed_s / CORRECTION_TAU_S, 1.0)
            # A meter below its own GPUs is wrong: overhead never falls under zero, nor far above
            # the model's worst case, so that a broken meter cannot hide or invent a server.
            seen_w = min(max(node_power_w - explained_w, 0.0), 1.5 * self._model.overhead_w)
            self._overhead_w += share * (seen_w - self._overhead_w)
            self._last_s = now_s
        return self._overhead_w + explained_w
