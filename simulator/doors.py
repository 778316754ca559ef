"""The twin behind the ports of `facility.ports`: what agents and the controller may see and do.

Readings come from sensors with their errors, never from the truth. Calls return at once; a lock
takes effect in the plant's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from facility.ports import (
    DriverLost,
    FastReading,
    GpuInvalid,
    GpuLost,
    MediumReading,
    NodeSensors,
    SlowReading,
)
from facility.wire import GpuIdentity, Routing
from simulator.bank import GpuBank
from simulator.dispatch import Dispatcher
from simulator.gpu import GpuConstants
from simulator.readings import View


@dataclass(slots=True)
class NodeState:
    """What the plant tells the doors of one node."""

    driver_up: bool = True
    sensors_frozen: NodeSensors | None = None


@dataclass(frozen=True, slots=True)
class ChassisView:
    """What the chassis sensors of all nodes read, as plain lists."""

    power_w: list[float]
    inlet_temperature_c: list[float]


class SimulatedGpu:
    """One GPU of the bank as a `GpuPort`."""

    def __init__(
        self,
        *,
        bank: GpuBank,
        index: int,
        identity: GpuIdentity,
        node: NodeState,
        view: Callable[[], View],
        clock: Callable[[], float],
    ) -> None:
        """GPU `index` of the bank; `view` gives this step's readings, `clock` the plant's time."""
        self._bank = bank
        self._index = index
        self._identity = identity
        self._part: GpuConstants = bank.parts[index]
        self._node = node
        self._view = view
        self._clock = clock
        self._frozen: tuple[FastReading, MediumReading] | None = None

    def identity(self) -> GpuIdentity:
        """What this GPU is."""
        self._check()
        return self._identity

    def _check(self) -> None:
        if not self._node.driver_up:
            raise DriverLost("the node is down")
        if self._bank.lost[self._index]:
            raise GpuLost("the GPU has fallen off the bus")

    def read_fast(self) -> FastReading:
        """Power as its sensor sees it, clock, limit and counters."""
        self._check()
        if self._frozen is not None:
            return self._frozen[0]
        index, view = self._index, self._view()
        return FastReading(
            view.power_w[index],
            view.clock_mhz[index],
            view.limit_w[index],
            view.brake_s[index],
            view.power_throttle_s[index],
        )

    def read_medium(self) -> MediumReading:
        """Temperatures in whole degrees, margins, energy and event reasons."""
        self._check()
        if self._frozen is not None:
            return self._frozen[1]
        index, view, part = self._index, self._view(), self._part
        temperature_c, memory_c = view.temperature_c[index], view.memory_temperature_c[index]
        return MediumReading(
            temperature_c=temperature_c,
            margin_c=part.operating_temperature_c_max - temperature_c,
            memory_temperature_c=memory_c,
            memory_margin_c=part.memory_temperature_c_max - memory_c,
            energy_j=view.energy_j[index],
            thermal_throttle_s=view.thermal_throttle_s[index],
            event_reasons=view.reasons[index],
        )

    def read_slow(self) -> SlowReading:
        """The limit that was asked for, which a foreign limit undercuts."""
        self._check()
        return SlowReading(
            power_limit_requested_w=self._view().limit_requested_w[self._index], recovery_action=0
        )

    def lock_clocks(self, *, clock_mhz_min: int, ceiling_mhz: int) -> None:
        """Ask for a ceiling.

        Raises:
            GpuInvalid: off the grid of supported clocks, or the lower above the upper.
        """
        self._check()
        known = self._identity.clocks_mhz
        if clock_mhz_min not in known or ceiling_mhz not in known or clock_mhz_min > ceiling_mhz:
            raise GpuInvalid(
                f"[{clock_mhz_min}, {ceiling_mhz}] MHz; expected two supported clocks from"
                f" {known[0]} to {known[-1]}, the lower first"
            )
        self._bank.lock(self._index, ceiling_mhz, self._clock())

    def reset_clocks(self) -> None:
        """Lift the lock."""
        self._check()
        self._bank.lock(self._index, self._part.clock_mhz_max, self._clock())

    def freeze(self, *, on: bool) -> None:
        """A stuck sensor: readings stay what they are now."""
        if not on:
            self._frozen = None
        elif self._frozen is None:
            self._frozen = (self.read_fast(), self.read_medium())


class SimulatedHost:
    """One node's driver as a `GpuHost`."""

    def __init__(self, gpus: Sequence[SimulatedGpu], node: NodeState) -> None:
        """The node's GPUs, in order."""
        self.gpus = tuple(gpus)
        self._node = node

    def open(self) -> Sequence[SimulatedGpu]:
        """All GPUs, those that are lost included, as the real driver lists them.

        Raises:
            DriverLost: the node is down.
        """
        if not self._node.driver_up:
            raise DriverLost("the node is down")
        return self.gpus

    def close(self) -> None:
        """Nothing is held."""


def simulated_host(
    name: str,
    *,
    bank: GpuBank,
    gpus: range,
    node: NodeState,
    view: Callable[[], View],
    clock: Callable[[], float],
) -> SimulatedHost:
    """The driver of node `name`, whose GPUs are places `gpus` of the bank."""
    ports = []
    for rank, index in enumerate(gpus):
        part = bank.parts[index]
        identity = GpuIdentity(
            uuid=f"GPU-{name}-{rank}",
            index=rank,
            model=part.name,
            pci_bus_id=f"00000000:{0x10 + rank:02X}:00.0",
            clocks_mhz=part.clocks_mhz,
            power_limit_w_min=part.power_limit_w_min,
            power_limit_w_max=part.power_limit_w,
            power_limit_w_default=part.power_limit_w,
        )
        ports.append(
            SimulatedGpu(
                bank=bank, index=index, identity=identity, node=node, view=view, clock=clock
            )
        )
    return SimulatedHost(ports, node)


class SimulatedSensors:
    """One node's chassis as a `NodeSensorPort`."""

    def __init__(
        self, place: int, node: NodeState, *, view: Callable[[], ChassisView], has_meter: bool
    ) -> None:
        """Node `place` of the plant; `has_meter` false: it has no power meter."""
        self._place = place
        self._node = node
        self._view = view
        self._has_meter = has_meter

    def read(self) -> NodeSensors:
        """The meter in whole watts, the inlet in whole degrees; nothing while the node is down."""
        if not self._node.driver_up:
            return NodeSensors()
        if self._node.sensors_frozen is not None:
            return self._node.sensors_frozen
        view = self._view()
        return NodeSensors(
            view.power_w[self._place] if self._has_meter else None,
            view.inlet_temperature_c[self._place],
        )


class SimulatedRouter:
    """The twin's request router as a `RouterPort`."""

    def __init__(self, dispatcher: Dispatcher, clock: Callable[[], float]) -> None:
        """Steer `dispatcher` in the plant's time."""
        self._dispatcher = dispatcher
        self._clock = clock

    async def apply(self, routing: Routing) -> Sequence[str]:
        """Take weights, drains and limits; valid for `valid_s` from now on."""
        return self.steer(routing)

    def steer(self, routing: Routing) -> Sequence[str]:
        """The same, for callers without an event loop."""
        return self._dispatcher.apply(routing, self._clock())

    async def close(self) -> None:
        """Nothing is held."""
