"""The few doors to hardware and servers, as protocols, with the errors that come through them.

A real adapter, the simulated plant and a test's own double all stand behind the same door, so the
code on this side cannot tell which it talks to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from facility.wire import GpuIdentity, Routing


class GpuError(Exception):
    """A GPU call failed. `cause` is the word that `GpuApplied.cause` carries."""

    cause = "driver"


class GpuUnsupported(GpuError):
    """This part or driver does not know the call; it is not asked again before a driver reload."""

    cause = "unsupported"


class GpuDenied(GpuError):
    """No permission: the agent is read-only and the node uncontrollable."""

    cause = "no-permission"


class GpuLost(GpuError):
    """The GPU fell off the bus or needs a reset."""

    cause = "gpu-lost"


class GpuInvalid(GpuError):
    """The value is off the grid or out of range: a bug or a stale clock list; never retried."""

    cause = "invalid"


class DriverLost(GpuError):
    """The driver went away or was reloaded: every handle is void until the host is opened again."""

    cause = "driver"


class FastReading(Struct, frozen=True):
    """What is read ten times a second. `*_s` counters are cumulative seconds since driver load."""

    power_w: float
    sm_clock_mhz: int
    power_limit_w: float | None = None
    brake_s: float | None = None
    power_throttle_s: float | None = None


class MediumReading(Struct, frozen=True):
    """What is read twice a second. Margins are distances to the nearest slowdown threshold."""

    temperature_c: float | None = None
    margin_c: float | None = None
    memory_temperature_c: float | None = None
    memory_margin_c: float | None = None
    energy_j: float | None = None
    thermal_throttle_s: float | None = None
    event_reasons: int = 0


class SlowReading(Struct, frozen=True):
    """What is read every five seconds."""

    power_limit_requested_w: float | None = None
    recovery_action: int | None = None


class GpuPort(Protocol):
    """One GPU. Calls block, may hang, and raise `GpuError`; they never run on an event loop.

    A reading that the part does not support is None, with its reason in `identity().refusals`.
    """

    def identity(self) -> GpuIdentity:
        """What this GPU is; read anew after every driver reload."""
        ...

    def read_fast(self) -> FastReading:
        """Power, clock, limit and brake counters. Raises GpuError."""
        ...

    def read_medium(self) -> MediumReading:
        """Temperatures, margins, energy and event reasons. Raises GpuError."""
        ...

    def read_slow(self) -> SlowReading:
        """Requested limit and the driver's recovery advice. Raises GpuError."""
        ...

    def lock_clocks(self, *, clock_mhz_min: int, ceiling_mhz: int) -> None:
        """Ask for SM clocks within the range; success is only a request. Raises GpuError."""
        ...

    def reset_clocks(self) -> None:
        """Lift the lock. Raises GpuError."""
        ...


class GpuHost(Protocol):
    """The driver of one node."""

    def open(self) -> Sequence[GpuPort]:
        """Initialise the driver and return its GPUs. Raises DriverLost, GpuDenied, GpuError."""
        ...

    def close(self) -> None:
        """Let go of the driver, so that others may reset GPUs; never raises."""
        ...


class NodeSensors(Struct, frozen=True):
    """Readings of the chassis; None where the node has no such sensor."""

    node_power_w: float | None = None
    inlet_temperature_c: float | None = None


class NodeSensorPort(Protocol):
    """The chassis: a power meter and an inlet thermometer, if there are any."""

    def read(self) -> NodeSensors:
        """Never raises; what cannot be read is None."""
        ...


class RouterPort(Protocol):
    """A request router that takes weights and drains, each idempotent."""

    async def apply(self, routing: Routing) -> Sequence[str]:
        """Set the weights; returns one sentence per endpoint that refused, empty when all took."""
        ...

    async def close(self) -> None:
        """Let go of the connection; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What a consensus store keeps under our key; revision 0 and no bytes when there is nothing."""

    value: bytes
    revision: int


class LockStoreLost(Exception):
    """The store gave no answer that can be used; a write may or may not have happened."""


class LockRefused(Exception):
    """The value is not the one that was to be replaced: nothing was written."""


class LockStore(Protocol):
    """One value in a consensus store (NATS KV, etcd) under compare-and-set.

    A read may be late, a write never: it happens on exactly the revision that it names, or not.
    After `LockStoreLost` the next call asks another server.
    """

    async def read(self) -> Kept:
        """What is there. Raises LockStoreLost."""
        ...

    async def write(self, value: bytes, *, revision: int) -> int:
        """Replace what has `revision`; returns the new one. Raises LockRefused, LockStoreLost."""
        ...

    async def close(self) -> None:
        """Let go of connections; never raises."""
        ...
