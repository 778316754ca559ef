"""What a node's brain sees and asks for: readings, write results, and the hands that carry both.

These are values and one protocol. Live hands run threads over NVML, simulated hands call the twin
directly; the brain cannot tell them apart. Nothing here decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct, field

from controllers.node_local import LocalTrigger
from controllers.node_mail import OperatorEmergency, Refusal
from facility.ports import (
    DriverLost,
    FastReading,
    GpuError,
    GpuLost,
    GpuPort,
    MediumReading,
    NodeSensors,
    SlowReading,
)
from facility.wire import Emergency, GpuApplied, GpuIdentity, Lease

NO_SENSORS: Final = NodeSensors()


class GpuSample(Struct, frozen=True):
    """What was read of one GPU at `at_s`, on the monotonic clock; None was not due.

    `seen` is what the readings say about the last ceiling, None where nobody compares.
    """

    uuid: str
    at_s: float
    fast: FastReading | None = None
    medium: MediumReading | None = None
    slow: SlowReading | None = None
    seen: GpuApplied | None = None


class CeilingWrite(Struct, frozen=True):
    """A ceiling to ask one GPU for; 0 lifts the lock."""

    uuid: str
    ceiling_mhz: int


class WriteResult(Struct, frozen=True):
    """What became of a write. Results of one GPU come in the order of its writes."""

    uuid: str
    generation: int
    applied: GpuApplied


class HandsReport(Struct, frozen=True):
    """What the hands know since the last report.

    `generation` counts openings of the driver, 0 for never: with a new one every lock is void.
    `host_fault` says why the driver is not open now, empty when it is. `blind` maps each GPU that
    cannot be read now to its cause, a word of `GpuApplied.cause`. Samples and results are those
    since the last report; everything else is the present state.
    """

    generation: int = 0
    identities: tuple[GpuIdentity, ...] = ()
    host_fault: str = ""
    samples: Sequence[GpuSample] = ()
    blind: Mapping[str, str] = field(default_factory=dict)
    results: Sequence[WriteResult] = ()
    sensors: NodeSensors = NO_SENSORS


class Hands(Protocol):
    """Access to the GPUs of one node. No method waits for the hardware, except `close`."""

    def start(self) -> None:
        """Begin to open the driver and to sample; never raises."""
        ...

    def poll(self, now_s: float) -> HandsReport:
        """What happened since the last call."""
        ...

    def write(self, writes: Sequence[CeilingWrite]) -> Sequence[WriteResult]:
        """Ask for ceilings, 0 to lift the lock; of several for one GPU the last one wins.

        Returns:
            The results already known; the others come by `poll`.
        """
        ...

    def close(self) -> None:
        """Stop sampling and let go of the driver; waits a bounded time, never raises."""
        ...


class CeilingWriter(Protocol):
    """Writes the ceiling of one GPU, looks at what came of it and names a deviation's cause."""

    def write(self, ceiling_mhz: int) -> GpuApplied:
        """Ask for `ceiling_mhz`, or lift the lock when it is 0. May block; raises DriverLost."""
        ...

    def verify(
        self,
        now_s: float,
        fast: FastReading,
        medium: MediumReading | None = None,
        slow: SlowReading | None = None,
    ) -> GpuApplied:
        """Compare readings with the last write; never blocks."""
        ...

    def hung(self) -> GpuApplied:
        """The write under way was given up; it may still land at any time."""
        ...


MEDIUM_S: Final = 0.5
SLOW_S: Final = 5.0
"""Periods of the sampling plan (physics A.10); the fast one is configured."""
BLIND_FAILURES: Final = 3
"""Failures in a row that make a GPU blind; its readings grow stale from the first one on."""


class Due(Struct, frozen=True):
    """Which classes of readings are due; the fast one always is."""

    medium: bool
    slow: bool


class SamplingPlan:
    """When to read what. A reader that comes late skips periods instead of catching up."""

    def __init__(self, sample_hz: float) -> None:
        """Everything is due at once."""
        self._period_s = 1.0 / sample_hz
        self.next_s = -math.inf
        self._medium_s = self._slow_s = -math.inf

    def due(self, now_s: float) -> Due | None:
        """What to read now, None when nothing is due."""
        # Half a microsecond of slack: sums of 0.1 s fall short of it by rounding.
        if now_s < self.next_s - 5e-7:
            return None
        late = now_s - self.next_s >= self._period_s
        self.next_s = now_s + self._period_s if late else self.next_s + self._period_s
        medium, slow = now_s >= self._medium_s, now_s >= self._slow_s
        if medium:
            self._medium_s = now_s + MEDIUM_S - 5e-7
        if slow:
            self._slow_s = now_s + SLOW_S
        return Due(medium, slow)


def read_gpu(port: GpuPort, writer: CeilingWriter, uuid: str, due: Due, at_s: float) -> GpuSample:
    """One sample of one GPU. A slower class that fails is left out; raises GpuError for the rest.

    A GPU that is lost says so in any class, and so does a driver.
    """
    fast = port.read_fast()
    medium = slow = None
    try:
        medium = port.read_medium() if due.medium else None
        slow = port.read_slow() if due.slow else None
    except (GpuLost, DriverLost):
        raise
    except GpuError:
        slow = None
    return GpuSample(uuid, at_s, fast, medium, slow, writer.verify(at_s, fast, medium, slow))


class Sight:
    """Which GPUs cannot be read, and why: from the first loss, or some failures in a row."""

    def __init__(self) -> None:
        """Everything can be read."""
        self.blind: dict[str, str] = {}
        """Replaced, never changed, so that a report may keep it."""
        self._failures: dict[str, int] = {}

    def saw(self, uuid: str) -> None:
        """A GPU was read."""
        if uuid in self._failures or uuid in self.blind:
            self._failures.pop(uuid, None)
            self.blind = {other: cause for other, cause in self.blind.items() if other != uuid}

    def failed(self, uuid: str, cause: str) -> None:
        """A GPU could not be read."""
        count = self._failures[uuid] = self._failures.get(uuid, 0) + 1
        if cause in ("gpu-lost", "hung") or count >= BLIND_FAILURES:
            self.blind = {**self.blind, uuid: cause}


class NodeInputs(Struct, frozen=True):
    """Everything that one step of the brain may know."""

    hands: HandsReport
    leases: Sequence[Lease] = ()
    emergencies: Sequence[Emergency] = ()
    orders: Sequence[OperatorEmergency] = ()
    refusals: Sequence[Refusal] = ()
    local: Sequence[LocalTrigger] = ()
