"""What one server does at every clock and batch, as tables: one look-up a step instead of a model.

The figures are those of the request level: the same engine, the same power law of a GPU and its
limiter, the same fans. Nothing here depends on time or on who decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.chassis import ServerConstants
from simulator.engine import Engine
from simulator.gpu import GpuConstants
from simulator.thermal import (
    AIR_J_PER_M3_K,
    AIRFLOW_FOR_GPU_W,
    FAN_FULL_C,
    FAN_RATIO_MIN,
    FAN_STARTS_C,
    GPU_AIRFLOW_SHARE,
    NODE_AIRFLOW_M3_PER_S,
    NOMINAL_FAN_RATIO,
    SUPPLY_C,
    TOP_OF_RACK_K,
)

FloatArray = NDArray[np.float64]

COLUMNS_PER_SEQUENCE: Final = 2
"""Batches are kept to half a sequence: token time changes by less than 1 % between columns."""
DIE_C: Final = 62.0  # near the middle of a busy row; 10 K more are 1 % of a GPU's power
FAN_STEP_W: Final = 2.0
FAN_ROUNDS: Final = 60


@dataclass(frozen=True, slots=True)
class ServerModel:
    """One kind of server, the part in it, and the engine that runs over all its GPUs."""

    chassis: ServerConstants
    part: GpuConstants
    engine: Engine


@dataclass(frozen=True, slots=True)
class Mix:
    """What the requests of one priority look like to a server.

    `context_tokens` is held by a sequence while it decodes, `generated_tokens` its mean length,
    `prefill_intensity` as the engine's, averaged by work.
    """

    context_tokens: float
    generated_tokens: float
    prefill_intensity: float


class ServerTables:
    """Tables of one server model for several mixes.

    `decode_w` and `token_s` are flat, of shape (mixes x clocks x columns), GPU power in W and
    seconds per token of each sequence; `prefill_w` and `prefill_speed` of (mixes x clocks).
    """

    def __init__(self, model: ServerModel, mixes: Sequence[Mix]) -> None:
        """Compute everything once."""
        part, engine = model.part, model.engine
        self.model = model
        self.clocks_mhz = np.array(part.clocks_mhz, dtype=np.float64)
        self.columns = engine.batch_max * COLUMNS_PER_SEQUENCE + 1
        batch = np.arange(self.columns) / COLUMNS_PER_SEQUENCE
        decode_w, token_s, prefill_w, speed = [], [], [], []
        for mix in mixes:
            powers, times = self._decode(mix, batch)
            decode_w.append(powers)
            token_s.append(times)
            power_w, clock = self._limited(mix.prefill_intensity, engine.prefill_bandwidth)
            prefill_w.append(power_w)
            speed.append(engine.prefill_speed(clock / part.clock_mhz_max))
        self.decode_w = np.stack(decode_w).ravel()
        self.token_s = np.stack(token_s).ravel()
        self.prefill_w = np.stack(prefill_w).ravel()
        self.prefill_speed = np.stack(speed).ravel()
        self.fan_w = self._fans()

    def _power_w(self, place: int, intensity: FloatArray, bandwidth: FloatArray) -> FloatArray:
        clock = float(self.clocks_mhz[place])
        return np.array(
            [
                self.model.part.power_w_at(clock, intensity=a, bandwidth=m, temperature_c=DIE_C)
                for a, m in zip(intensity.tolist(), bandwidth.tolist(), strict=True)
            ]
        )

    def _limited(self, intensity: float, bandwidth: float) -> tuple[FloatArray, FloatArray]:
        """Power and clock at each ceiling under one load, with the part's own limiter, settled."""
        part = self.model.part
        free = np.array(
            [
                part.power_w_at(
                    clock, intensity=intensity, bandwidth=bandwidth, temperature_c=DIE_C
                )
                for clock in self.clocks_mhz.tolist()
            ]
        )
        fits = np.flatnonzero(free <= self.model.part.power_limit_w)
        highest = int(fits[-1]) if len(fits) else 0
        place = np.minimum(np.arange(len(free)), highest)
        return free[place], self.clocks_mhz[place]

    def _decode(self, mix: Mix, batch: FloatArray) -> tuple[FloatArray, FloatArray]:
        model, part = self.model, self.model.part
        byte_per_s = np.full(len(batch), model.chassis.gpu_count * part.memory_byte_per_s)
        powers, times = [], []
        for place, clock in enumerate(self.clocks_mhz.tolist()):
            step = model.engine.decode_step(
                batch=batch,
                key_tokens=batch * mix.context_tokens,
                clock_ratio=np.full(len(batch), clock / part.clock_mhz_max),
                byte_per_s=byte_per_s,
            )
            working = batch > 0.0
            power_w = self._power_w(place, step.intensity * working, step.bandwidth * working)
            powers.append(np.minimum(power_w, part.power_limit_w))
            times.append(step.seconds)
        return np.stack(powers), np.stack(times)

    def _fans(self) -> FloatArray:
        """Power of all fans of a node once they have settled, by GPU power in steps of 2 W.

        The hottest GPU is a rear one; the fan law and the heat path are those of `Heat`.
        """
        part, model = self.model.part, self.model
        gpu_w = np.arange(0.0, part.power_limit_w + 2.0 * FAN_STEP_W, FAN_STEP_W)
        flow = (
            NODE_AIRFLOW_M3_PER_S * model.chassis.gpu_count * part.power_limit_w / AIRFLOW_FOR_GPU_W
        )
        ratio = np.full(len(gpu_w), 0.6)
        for _ in range(FAN_ROUNDS):
            front_w = gpu_w * ((model.chassis.gpu_count + 1) // 2)
            preheat_k = front_w / (AIR_J_PER_M3_K * GPU_AIRFLOW_SHARE * flow * ratio)
            to_air = part.sink_air_k_per_w * (ratio / NOMINAL_FAN_RATIO) ** -0.8
            inlet_c = SUPPLY_C + 0.5 * TOP_OF_RACK_K
            die_c = inlet_c + preheat_k + gpu_w * (part.die_sink_k_per_w + to_air)
            wanted = FAN_RATIO_MIN + (die_c - FAN_STARTS_C) / (FAN_FULL_C - FAN_STARTS_C)
            ratio += 0.3 * (np.clip(wanted, FAN_RATIO_MIN, 1.0) - ratio)
        power_w: FloatArray = model.chassis.fan_power_w * ratio**3
        return power_w
