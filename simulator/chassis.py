"""Servers around the GPUs: what boards, processors, fans and supplies of one kind draw.

It turns GPU power, fan speed and work into the power of a server. It never says how fast the fans
turn (`simulator.thermal`), and a site's own node models go before it (`simulator.electrical`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ServerConstants:
    """One kind of server.

    It draws `fixed_power_w` always, `busy_power_w` at full work, `fan_power_w` at full speed of
    its fans (with the cube of speed), and `gpu_power_factor` watts for each watt of its GPUs.
    """

    name: str
    rated_power_w: float
    gpu_count: int
    fixed_power_w: float
    busy_power_w: float
    fan_power_w: float
    gpu_power_factor: float

    def power_w_at(
        self, gpu_power_w: FloatArray, *, fan_ratio: FloatArray, busy: FloatArray
    ) -> FloatArray:
        """Power of servers whose GPUs draw `gpu_power_w` together; `busy` is 0 to 1."""
        own_w = self.fixed_power_w + self.busy_power_w * busy + self.fan_power_w * fan_ratio**3
        power_w: FloatArray = own_w + self.gpu_power_factor * gpu_power_w
        return power_w


DGX_A100: Final = ServerConstants(
    name="DGX A100 (8x A100-SXM4-80GB)",
    rated_power_w=6500.0,  # splitwise-sim, skus
    gpu_count=8,
    # Chosen together (assumption): GPUs at their limit are half of the rated power (POLCA,
    # arXiv 2308.12908), fans a quarter (from memory), the rest a quarter; idle 1,700 W with a
    # context and fans at .3, of a band of 1,500 to 1,900 W (from memory).
    fixed_power_w=955.0,
    busy_power_w=400.0,
    fan_power_w=1625.0,
    gpu_power_factor=1.10,  # losses of supplies (6 %) and regulators (3 %)
)
"""All at their most: 3,520 + 955 + 400 + 1,625 = 6,500 W. Bands: `server_*` in calibrated.json."""

DGX_H100: Final = ServerConstants(
    name="DGX H100 (8x H100 80GB HBM3)",
    rated_power_w=10_200.0,  # splitwise-sim, skus
    gpu_count=8,
    fixed_power_w=1389.0,  # these three sum to 2,240 W: 8.4 kW at most (arXiv 2506.14551)
    busy_power_w=224.0,
    fan_power_w=627.0,
    gpu_power_factor=1.10,
)

SERVERS: Final = {"a100": DGX_A100, "h100": DGX_H100}
"""Servers by the word of their GPUs' part."""
