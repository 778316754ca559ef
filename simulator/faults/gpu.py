"""What an agent may see and do of one node of the lean plant, through the ports of `facility`.

Each GPU has switches for what can go wrong with it: locks ignored, calls that hang, sensors that
stick, drift, lie or give no number, limits set by somebody else. The truth stays in the plant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from facility.ports import (
    DriverLost,
    FastReading,
    GpuInvalid,
    GpuLost,
    MediumReading,
    NodeSensors,
    SlowReading,
)
from facility.topology import Node
from facility.wire import GpuIdentity
from simulator.faults.plant import SLOWDOWN_C, Plant
from simulator.faults.timeline import Timeline

BRAKE_REASON: Final = 0x80


class FaultyGpu:
    """One GPU as a `GpuPort`, with its switches."""

    def __init__(self, plant: Plant, index: int, identity: GpuIdentity, chassis: Chassis) -> None:
        self.index = index
        self.uuid = identity.uuid
        self._plant = plant
        self._identity = identity
        self._chassis = chassis
        self._power_limit_w = identity.power_limit_w_max or 0.0
        self.lost = False
        self.hung = False
        self.ignores = False
        """Accepts locks and does not change its clock."""
        self.lifted = False
        """Its last lock was lifted, and not by its agent."""
        self.foreign_limit_w = math.inf
        self.power_factor = 1.0
        """What the power sensor shows of the truth."""
        self.garbage = False
        self.stuck: tuple[FastReading, MediumReading] | None = None
        self.thermometer_stuck_c: float | None = None

    def identity(self) -> GpuIdentity:
        """What this GPU is."""
        self._check()
        return self._identity

    def _check(self) -> None:
        if self._chassis.driver_gone:
            raise DriverLost("the driver was unloaded")
        if self.lost or not self._plant.alive[self.index]:
            raise GpuLost("the GPU has fallen off the bus")

    def read_fast(self) -> FastReading:
        """Power as its sensor sees it, clock, limit and the brake counter."""
        self._check()
        if self.stuck is not None:
            return self.stuck[0]
        index, plant = self.index, self._plant
        power_w = math.nan if self.garbage else float(plant.gpu_w[index]) * self.power_factor
        return FastReading(
            power_w,
            plant.lock_mhz[index],
            min(self._power_limit_w, self.foreign_limit_w),
            self._chassis.brake_s,
            0.0,
        )

    def read_medium(self) -> MediumReading:
        """Temperature in whole degrees, its margin and event reasons."""
        self._check()
        if self.stuck is not None:
            return self.stuck[1]
        die_c = float(self._plant.die_c[self.index])
        if self.thermometer_stuck_c is not None:
            die_c = self.thermometer_stuck_c
        shown_c = float(round(die_c))
        return MediumReading(
            temperature_c=shown_c,
            margin_c=math.nan if self.garbage else SLOWDOWN_C - shown_c,
            energy_j=None,
            thermal_throttle_s=0.0,
            event_reasons=BRAKE_REASON if self._chassis.braked else 0,
        )

    def read_slow(self) -> SlowReading:
        """The limit that was asked for."""
        self._check()
        return SlowReading(power_limit_requested_w=self._power_limit_w, recovery_action=0)

    def lock_clocks(self, *, clock_mhz_min: int, ceiling_mhz: int) -> None:
        """Ask for a ceiling; it takes effect a moment later. Raises GpuInvalid off the grid."""
        self._check()
        known = self._identity.clocks_mhz
        if clock_mhz_min not in known or ceiling_mhz not in known:
            raise GpuInvalid(f"[{clock_mhz_min}, {ceiling_mhz}] MHz is off the grid")
        self._chassis.lock_later(self, self.index, ceiling_mhz)

    def reset_clocks(self) -> None:
        """Lift the lock."""
        self._check()
        self._chassis.lock_later(self, self.index, self._identity.clocks_mhz[-1])

    def stick(self) -> None:
        """Readings stay what they are now."""
        if not self.lost and not self._chassis.driver_gone and self._plant.alive[self.index]:
            self.stuck = None
            self.stuck = (self.read_fast(), self.read_medium())


class Chassis:
    """One node: its GPUs, its driver, its power meter, inlet thermometer and brake pin."""

    def __init__(
        self,
        plant: Plant,
        node: Node,
        timeline: Timeline,
        *,
        settle_s: Callable[[], float],
        has_meter: bool,
    ) -> None:
        """`settle_s` draws how long the next lock takes to bite."""
        self.node = node
        self.place = list(plant.site.nodes).index(node.name)
        self.driver_gone = False
        self.meter_gone = not has_meter
        self.meter_factor = 1.0
        self.inlet_gone = False
        self.brake_s = 0.0
        self.braked = False
        self._plant = plant
        self._timeline = timeline
        self._settle_s = settle_s
        self._locks: dict[int, int] = {}
        clocks = _clocks_mhz(node)
        limit_w = node.model.gpu.power_w_at(node.model.gpu.clock_mhz_max)
        self.gpus = tuple(
            FaultyGpu(plant, index, _identity(node, rank, clocks, limit_w), self)
            for rank, index in enumerate(plant.gpus_of(node.name))
        )

    def open(self) -> Sequence[FaultyGpu]:
        """Every GPU that is there. Raises DriverLost."""
        if self.driver_gone:
            raise DriverLost("the driver was unloaded")
        return [gpu for gpu in self.gpus if not gpu.lost and self._plant.alive[gpu.index]]

    def close(self) -> None:
        """Nothing is held."""

    def read(self) -> NodeSensors:
        """The meter in whole watts and the inlet in whole degrees."""
        power_w = round(float(self._plant.node_w[self.place]) * self.meter_factor)
        inlet_c = round(float(self._plant.air_c[self._plant.zone_of[self.place]]))
        return NodeSensors(
            None if self.meter_gone else float(power_w),
            None if self.inlet_gone else float(inlet_c),
        )

    def lock_later(self, gpu: FaultyGpu, index: int, clock_mhz: int) -> None:
        """The hardware follows a lock in its own time, unless it ignores it."""
        if gpu.ignores:
            return
        serial = self._locks[index] = self._locks.get(index, 0) + 1

        def bite() -> None:
            if self._locks[index] == serial and not gpu.ignores:
                gpu.lifted = False
                self._plant.lock(index, clock_mhz)

        self._timeline.after(self._settle_s(), bite)

    def forget_locks(self) -> None:
        """A reboot or a driver reload: every lock is gone, those on their way too."""
        for gpu in self.gpus:
            self.unlock(gpu)

    def unlock(self, gpu: FaultyGpu) -> None:
        """Somebody else lifts the lock of one GPU."""
        gpu.lifted = True
        self._locks[gpu.index] = self._locks.get(gpu.index, 0) + 1
        self._plant.lock(gpu.index, self.node.model.gpu.clock_mhz_max)


def _clocks_mhz(node: Node) -> tuple[int, ...]:
    gpu = node.model.gpu
    clocks = list(range(gpu.clock_mhz_min, gpu.clock_mhz_max, gpu.clock_mhz_step))
    return (*clocks, gpu.clock_mhz_max)


def _identity(node: Node, rank: int, clocks_mhz: tuple[int, ...], limit_w: float) -> GpuIdentity:
    return GpuIdentity(
        uuid=f"GPU-{node.name}-{rank}",
        index=rank,
        model=node.model.gpu.name,
        clocks_mhz=clocks_mhz,
        power_limit_w_min=0.0,
        power_limit_w_max=limit_w,
        power_limit_w_default=limit_w,
    )
