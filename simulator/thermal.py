"""Heat in the twin: die, sink and memory of every GPU, fans of every node, air of every zone.

It turns power into temperatures and fan speeds; it never changes power or clocks. Heat is slower
than work: power is averaged over `HEAT_S` before temperatures move, but near a part's limit they
move in every step, because there the part acts on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from facility.topology import Site
from simulator.gpu import GpuConstants

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

HEAT_S: Final = 1.0  # less than a die's time constant
NEAR_LIMIT_K: Final = 6.0  # more than a die gains in `HEAT_S` from idle to the power limit
SINK_SPREAD: Final = 0.10  # spread of sink resistance between boards: assumption
AIR_J_PER_M3_K: Final = 1206.0  # density times heat capacity of air at 20 C
NODE_AIRFLOW_M3_PER_S: Final = 0.52  # 1105 CFM, DGX H100 class                    from memory
AIRFLOW_FOR_GPU_W: Final = 5600.0  # the GPU power that this air flow is meant for
GPU_AIRFLOW_SHARE: Final = 0.5  # of the air passes over the GPUs: assumption, rear ones 15 % hotter
NOMINAL_FAN_RATIO: Final = 0.8  # fan speed at which the sink's resistance is quoted: assumption
FAN_RATIO_MIN: Final = 0.30  # assumption, as are the next four
FAN_STARTS_C: Final = 58.0
FAN_FULL_C: Final = 80.0
FAN_PER_INLET_K: Final = 0.02
FAN_RATIO_PER_S: Final = 0.05
MEMORY_OVER_DIE_K: Final = 4.0  # HBM runs 5-12 K over the die under load          from memory
MEMORY_K_PER_W: Final = 0.05
SUPPLY_C: Final = 22.0
ZONE_DESIGN_K: Final = 14.0  # rise of the air that a zone's heat capacity is quoted at: assumption
ZONE_J_PER_K_PER_NODE: Final = 62_500.0  # 500 kg a rack of four, 500 J/kg K       from memory
ZONE_COOLS_PER_K: Final = 0.03  # warmer return air gives up more heat: assumption
ZONE_TAU_S: Final = 60.0  # racks and ducts; +6 to +15 K/min at 40 kW per rack
RECIRCULATION_MIN: Final = 0.03  # contained aisle: assumption
RECIRCULATION_MAX: Final = 0.75
WARM_SINK_K: Final = 28.0  # near the middle of a busy row, only to save settling time
WARM_DIE_K: Final = 38.0
WARM_FAN_RATIO: Final = 0.6
TOP_OF_RACK_K: Final = 2.0  # largest offset of an inlet over its aisle              from memory


@dataclass(frozen=True, slots=True)
class ZoneAir:
    """Which zone cools each node (-1 for none), and the heat that each zone can remove."""

    zone_of: IntArray
    capacity_w: FloatArray

    @classmethod
    def of(cls, site: Site) -> ZoneAir:
        """The zones of a site, in its order."""
        zones = [domain for domain in site.domains.values() if domain.is_zone]
        rank = {domain.name: place for place, domain in enumerate(zones)}
        nodes = site.nodes.values()
        return cls(
            np.array([-1 if node.zone is None else rank[node.zone] for node in nodes]),
            np.array([domain.capacity_w for domain in zones]),
        )


class Heat:
    """Temperatures of all GPUs and nodes. Arrays of shape (gpus,), (nodes,) or (zones,)."""

    def __init__(
        self,
        parts: Sequence[GpuConstants],
        node_of: IntArray,
        air: ZoneAir,
        rng: np.random.Generator,
    ) -> None:
        """Everything starts at the supply temperature."""
        count, nodes = len(parts), int(node_of[-1]) + 1
        self._node_of = node_of
        self._starts = np.flatnonzero(np.diff(node_of, prepend=-1))
        self._air = air
        per_node = np.bincount(node_of, minlength=nodes)
        rank = np.arange(count) - self._starts[node_of]
        # Air passes over the front half of a node's GPUs first and reaches the rear half warmed.
        self._front = (rank < (per_node[node_of] + 1) // 2).astype(np.float64)
        self._rear = 1.0 - self._front
        self._die_k_per_w = np.array([part.die_sink_k_per_w for part in parts])
        self._die_j_per_k = np.array([part.die_j_per_k for part in parts])
        self._keeps_for_s, self._keeps = 0.0, np.ones(count)
        self._near_c = np.array([p.operating_temperature_c_max for p in parts]) - NEAR_LIMIT_K
        self._is_near = False
        self._gathered_s = 0.0
        self._gpu_j, self._node_j = np.zeros(count), np.zeros(nodes)
        self._sink_j_per_k = np.array([part.sink_j_per_k for part in parts])
        spread = 1.0 + rng.uniform(-SINK_SPREAD, SINK_SPREAD, count)
        self._sink_k_per_w = np.array([part.sink_air_k_per_w for part in parts]) * spread
        limits_w = np.array([part.power_limit_w for part in parts])
        node_w = np.bincount(node_of, weights=limits_w, minlength=nodes)
        self._flow_m3_per_s = NODE_AIRFLOW_M3_PER_S * node_w / AIRFLOW_FOR_GPU_W
        self._offset_k = rng.uniform(0.0, TOP_OF_RACK_K, nodes)
        zones = max(1, len(air.capacity_w))
        self.zone_c = np.full(zones, SUPPLY_C)
        self._stored_k = np.zeros(zones)
        self.inlet_c = SUPPLY_C + self._offset_k
        self.die_c = self.inlet_c[node_of]
        self.sink_c = self.die_c.copy()
        self.fan_ratio = np.full(nodes, FAN_RATIO_MIN)
        self._zone_of = np.where(air.zone_of >= 0, air.zone_of, 0)
        self._zoned = (air.zone_of >= 0).astype(np.float64)
        below = np.bincount(self._zone_of, self._zoned, minlength=zones)
        self._zone_j_per_k = ZONE_J_PER_K_PER_NODE * np.maximum(below, 1.0)

    def warm_up(self) -> None:
        """As after hours of work, roughly: metal hot, fans up. A minute of steps does the rest."""
        self.sink_c += WARM_SINK_K
        self.die_c = self.die_c + WARM_DIE_K
        self.fan_ratio[:] = WARM_FAN_RATIO

    def step(
        self,
        *,
        dt_s: float,
        gpu_power_w: FloatArray,
        node_power_w: FloatArray,
        zone_ratio: FloatArray,
    ) -> bool:
        """Gather the heat of `dt_s`; True when temperatures have moved.

        `zone_ratio` is the share of each zone's cooling that is left. Temperatures that move are
        new arrays.
        """
        self._gathered_s += dt_s
        self._gpu_j += gpu_power_w * dt_s
        self._node_j += node_power_w * dt_s
        if self._gathered_s < HEAT_S - 1e-9 and not self._is_near:
            return False
        span_s, self._gathered_s = self._gathered_s, 0.0
        flow = self._flow_m3_per_s * self.fan_ratio
        self._zones(span_s, flow, self._node_j / span_s, zone_ratio)
        self._gpus(span_s, flow, self._gpu_j / span_s)
        self._gpu_j[:] = 0.0
        self._node_j[:] = 0.0
        self._is_near = bool(np.count_nonzero(self.die_c > self._near_c))
        self._fans(span_s)
        return True

    def memory_c_at(self, memory_power_w: FloatArray) -> FloatArray:
        """Temperature of each GPU's memory stacks while they draw `memory_power_w`."""
        return self.die_c + MEMORY_OVER_DIE_K + MEMORY_K_PER_W * memory_power_w

    def _zones(
        self, dt_s: float, flow: FloatArray, node_power_w: FloatArray, zone_ratio: FloatArray
    ) -> None:
        """Heat beyond a zone's capacity is stored; air beyond its supply comes back hot.

        With a share r of recirculated air that is `rise` warmer than the inlet, the inlet settles
        r / (1 - r) x rise above the supply.
        """
        zones = len(self._air.capacity_w)
        if zones:
            demand = np.bincount(self._zone_of, flow * self._zoned, minlength=zones)
            heat_w = np.bincount(self._zone_of, node_power_w * self._zoned, minlength=zones)
            left_w = self._air.capacity_w * zone_ratio
            supply = left_w / (AIR_J_PER_M3_K * ZONE_DESIGN_K)
            missing = np.maximum(0.0, 1.0 - supply / np.maximum(demand, 1e-9))
            back = np.minimum(RECIRCULATION_MIN + missing, RECIRCULATION_MAX)
            rise_k = heat_w / (AIR_J_PER_M3_K * np.maximum(demand, 1e-9))
            excess_w = heat_w - left_w * (1.0 + ZONE_COOLS_PER_K * self._stored_k)
            self._stored_k += excess_w * dt_s / self._zone_j_per_k
            np.maximum(self._stored_k, 0.0, out=self._stored_k)
            target_c = SUPPLY_C + self._stored_k + back / (1.0 - back) * rise_k
            self.zone_c += (target_c - self.zone_c) * (1.0 - np.exp(-dt_s / ZONE_TAU_S))
        self.inlet_c = self.zone_c.take(self._zone_of) + self._offset_k

    def _gpus(self, dt_s: float, flow: FloatArray, power_w: FloatArray) -> None:
        """Die and sink; the die's time constant is near the step, so it relaxes exactly."""
        upstream_w = np.add.reduceat(power_w * self._front, self._starts)
        preheat_k = upstream_w / (AIR_J_PER_M3_K * GPU_AIRFLOW_SHARE * flow)
        air_c = self.inlet_c.take(self._node_of) + self._rear * preheat_k.take(self._node_of)
        breeze = (self.fan_ratio / NOMINAL_FAN_RATIO) ** -0.8
        to_air_k_per_w = self._sink_k_per_w * breeze.take(self._node_of)
        to_sink_w = (self.die_c - self.sink_c) / self._die_k_per_w
        settled_c = self.sink_c + power_w * self._die_k_per_w
        self.die_c = settled_c + (self.die_c - settled_c) * self._die_keeps(dt_s)
        to_air_w = (self.sink_c - air_c) / to_air_k_per_w
        self.sink_c += (to_sink_w - to_air_w) * dt_s / self._sink_j_per_k

    def _die_keeps(self, dt_s: float) -> FloatArray:
        """What is left of a die's distance from its settled temperature after `dt_s`."""
        if dt_s != self._keeps_for_s:
            self._keeps_for_s = dt_s
            self._keeps = np.exp(-dt_s / (self._die_k_per_w * self._die_j_per_k))
        return self._keeps

    def _fans(self, dt_s: float) -> None:
        hottest_c = np.maximum.reduceat(self.die_c, self._starts)
        wanted = FAN_RATIO_MIN + (hottest_c - FAN_STARTS_C) / (FAN_FULL_C - FAN_STARTS_C)
        wanted += FAN_PER_INLET_K * np.maximum(0.0, self.inlet_c - 25.0)
        change = np.minimum(np.maximum(wanted, FAN_RATIO_MIN), 1.0) - self.fan_ratio
        most = FAN_RATIO_PER_S * dt_s
        self.fan_ratio = self.fan_ratio + np.minimum(np.maximum(change, -most), most)
