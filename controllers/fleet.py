"""The site as arrays: worst cases, shares and predictions for all nodes at once.

Rows are domains and columns are nodes, both in site order. Nothing here decides anything.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from controllers.tree import BoolArray, FloatArray, IntArray, Tree
from facility.topology import GpuModel, Site

__all__ = ["BoolArray", "Fleet", "FloatArray", "IntArray", "snap_mhz"]

_CLOCK_MHZ_MAX: Final = 10_000


class Fleet:
    """Constants of every node and domain of a site, and the arithmetic on them."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.nodes = tuple(site.nodes)
        self.domains = tuple(site.domains)
        self.node_index = {name: place for place, name in enumerate(self.nodes)}
        self.domain_index = {name: place for place, name in enumerate(self.domains)}
        models = [node.model for node in site.nodes.values()]
        self.overhead_w = np.array([model.overhead_w for model in models])
        self.gpu_factor = np.array([model.gpu_power_factor * model.gpu_count for model in models])
        self.clock_mhz_min = np.array([model.gpu.clock_mhz_min for model in models])
        self.clock_mhz_max = np.array([model.gpu.clock_mhz_max for model in models])
        self.clock_mhz_step = np.array([model.gpu.clock_mhz_step for model in models])
        self.safe_ceiling_mhz = np.array([model.gpu.safe_ceiling_mhz for model in models])
        self.brake_ceiling_mhz = np.array([model.gpu.brake_ceiling_mhz for model in models])
        self.idle_w = np.array([model.gpu.idle_power_w for model in models])
        self.low_priority = np.array([node.priority == "low" for node in site.nodes.values()])
        self.is_zone = np.array([domain.is_zone for domain in site.domains.values()])
        gpus = {model.gpu.name: model.gpu for model in models}
        rank = {name: place for place, name in enumerate(gpus)}
        self.gpu_rank = np.array([rank[model.gpu.name] for model in models])
        self.gpu_power_w_by_mhz = np.stack([_power_by_mhz(gpu) for gpu in gpus.values()])
        self._every_power_w = self.gpu_power_w_by_mhz.ravel()
        self._power_place = self.gpu_rank * (_CLOCK_MHZ_MAX + 1)
        self.idle_w_by_gpu = np.array([gpu.idle_power_w for gpu in gpus.values()])
        self.idle_node_w = self.overhead_w + self.gpu_factor * self.idle_w
        """What each node draws with idle GPUs, W."""
        self.power_w_max = self.worst_case_w(self.clock_mhz_max)
        """The most that each node can draw without any lock, W."""
        kinds = list(dict.fromkeys(model.name for model in models))
        self.kind = np.array([kinds.index(model.name) for model in models])
        """A number for each kind of server."""
        self._tree: Tree | None = None
        self._shares: dict[frozenset[str], FloatArray] = {}
        self._capacity_w: dict[frozenset[str], FloatArray] = {}

    def snap_mhz(self, ceiling_mhz: FloatArray | IntArray) -> IntArray:
        """Each node's ceiling moved down onto its clock grid, inside its clocks."""
        return snap_mhz(ceiling_mhz, self.clock_mhz_min, self.clock_mhz_max, self.clock_mhz_step)

    def gpu_power_w(self, ceiling_mhz: IntArray) -> FloatArray:
        """The most that one GPU of each node can draw under its ceiling, W."""
        # Not np.clip: on integers it looks up their limits each time.
        place = np.minimum(np.maximum(ceiling_mhz, 0), _CLOCK_MHZ_MAX)
        power_w: FloatArray = self._every_power_w.take(self._power_place + place)
        return power_w

    def worst_case_w(self, ceiling_mhz: IntArray) -> FloatArray:
        """The most that each node can draw with all its GPUs under its ceiling, W."""
        return self.overhead_w + self.gpu_factor * self.gpu_power_w(ceiling_mhz)

    def floor_w(self, power_w: FloatArray, overhead_w: FloatArray) -> FloatArray:
        """What of each node's power clocks cannot take away: idle GPUs, and all but the GPUs."""
        kept_w: FloatArray = np.minimum(overhead_w + self.gpu_factor * self.idle_w, power_w)
        return kept_w

    def predict_w(
        self,
        power_w: FloatArray,
        ceiling_mhz: IntArray,
        wanted_mhz: IntArray,
        overhead_w: FloatArray,
    ) -> FloatArray:
        """What each node would draw under `wanted_mhz`, from its power under `ceiling_mhz`.

        What its GPUs draw above idle scales as the worst case does, and the rest, `overhead_w`,
        stays; the result is never above the worst case of the wanted ceiling when that is lower
        than the present one.
        """
        idle_w = self.idle_w
        floor_w = self.floor_w(power_w, overhead_w)
        now_w = np.maximum(self.gpu_power_w(ceiling_mhz) - idle_w, 1.0)
        then_w = np.maximum(self.gpu_power_w(wanted_mhz) - idle_w, 0.0)
        predicted_w = floor_w + (power_w - floor_w) * then_w / now_w
        bound_w = self.worst_case_w(np.maximum(ceiling_mhz, wanted_mhz))
        bounded_w: FloatArray = np.minimum(predicted_w, np.maximum(bound_w, power_w))
        return bounded_w

    def free_w(
        self, power_w: FloatArray, ceiling_mhz: IntArray, overhead_w: FloatArray
    ) -> FloatArray:
        """What each node would draw at its highest clock, from its power under `ceiling_mhz`."""
        if np.array_equal(ceiling_mhz, self.clock_mhz_max):
            return power_w
        return self.predict_w(power_w, ceiling_mhz, self.clock_mhz_max, overhead_w)

    def shares(self, active: frozenset[str]) -> FloatArray:
        """Share of each node's power that each domain carries: domains x nodes."""
        if active not in self._shares:
            matrix = np.zeros((len(self.domains), len(self.nodes)))
            for domain, row in self.site.shares(active).items():
                for node, share in row.items():
                    matrix[self.domain_index[domain], self.node_index[node]] = share
            matrix.setflags(write=False)
            self._shares[active] = matrix
        return self._shares[active]

    def tree(self, shares: FloatArray) -> Tree:
        """The tree of a matrix of shares, made anew only when it is another matrix than before."""
        if self._tree is None or self._tree.shares is not shares:
            self._tree = Tree(shares)
        return self._tree

    def capacity_w(self, active: frozenset[str]) -> FloatArray:
        """What each domain may carry while `active` contingencies last, W; 0 when lost."""
        if active not in self._capacity_w:
            self._capacity_w[active] = np.array(
                [self.site.capacity_w(domain, active) for domain in self.domains]
            )
        return self._capacity_w[active]


def snap_mhz(
    ceiling_mhz: FloatArray | IntArray, lowest: IntArray, highest: IntArray, step: IntArray
) -> IntArray:
    """Ceilings moved down onto clock grids, inside their clocks; all in MHz."""
    # Whole numbers first: dividing them is several times faster, and clocks are above 0.
    inside = np.minimum(np.maximum(ceiling_mhz, lowest), highest).astype(np.int64)
    snapped = lowest + (inside - lowest) // step * step
    return np.where(inside >= highest, highest, snapped)


def _power_by_mhz(gpu: GpuModel) -> FloatArray:
    """Worst-case power at every whole MHz, so that a look-up costs one index.

    The same lines as `GpuModel.power_w_at`, all at once: a controller starts with this.
    """
    clocks_mhz, power_w = (np.array(column) for column in zip(*gpu.worst_case_power_w, strict=True))
    mhz = np.arange(_CLOCK_MHZ_MAX + 1)
    high = np.minimum(np.maximum(np.searchsorted(clocks_mhz, mhz), 1), len(clocks_mhz) - 1)
    low = high - 1
    rise_w = (power_w[high] - power_w[low]) * (mhz - clocks_mhz[low])
    line_w = power_w[low] + rise_w / (clocks_mhz[high] - clocks_mhz[low])
    bounded_w: FloatArray = np.minimum(np.maximum(line_w, power_w[0]), power_w[-1])
    return bounded_w
