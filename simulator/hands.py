"""Hands without threads: a node's access to simulated GPUs, in the caller's own time.

The same interface as the live hands, over any GPU host that answers at once. It decides nothing and
knows no clock: everything happens inside `poll` and `write`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Final

from controllers.node_hands import (
    NO_SENSORS,
    CeilingWrite,
    CeilingWriter,
    GpuSample,
    HandsReport,
    SamplingPlan,
    Sight,
    WriteResult,
    read_gpu,
)
from facility.ports import (
    DriverLost,
    FastReading,
    GpuError,
    GpuHost,
    GpuPort,
    MediumReading,
    NodeSensorPort,
    SlowReading,
)
from facility.wire import GpuApplied, GpuIdentity

REOPEN_S: Final = 1.0
"""Between two attempts to open a driver that is gone."""


class PlainWriter:
    """Writes a ceiling and believes the answer: enough for GPUs that do what they say."""

    def __init__(self, port: GpuPort, identity: GpuIdentity) -> None:
        """Write through `port` on the clock grid of `identity`."""
        self._port = port
        self._clocks_mhz = identity.clocks_mhz
        self._last = GpuApplied(requested_mhz=0)

    def write(self, ceiling_mhz: int) -> GpuApplied:
        """Lock to the highest supported clock within `ceiling_mhz`; 0 lifts the lock."""
        self._last = applied = self._write(ceiling_mhz)
        return applied

    def verify(
        self,
        now_s: float,  # noqa: ARG002 - a writer that compares needs it
        fast: FastReading,
        medium: MediumReading | None = None,  # noqa: ARG002
        slow: SlowReading | None = None,  # noqa: ARG002
    ) -> GpuApplied:
        """The last result with the clock seen."""
        last = self._last
        return GpuApplied(
            requested_mhz=last.requested_mhz,
            accepted_mhz=last.accepted_mhz,
            observed_mhz=fast.sm_clock_mhz,
            cause=last.cause,
        )

    def hung(self) -> GpuApplied:
        """Never happens without threads; the word is kept all the same."""
        self._last = GpuApplied(requested_mhz=self._last.requested_mhz, cause="hung")
        return self._last

    def _write(self, ceiling_mhz: int) -> GpuApplied:
        clocks_mhz = self._clocks_mhz or (ceiling_mhz,)
        granted_mhz = clocks_mhz[max(bisect.bisect_right(clocks_mhz, ceiling_mhz) - 1, 0)]
        try:
            if ceiling_mhz == 0:
                self._port.reset_clocks()
                return GpuApplied(requested_mhz=0, accepted_mhz=0)
            self._port.lock_clocks(clock_mhz_min=clocks_mhz[0], ceiling_mhz=granted_mhz)
        except DriverLost:
            raise
        except GpuError as error:
            return GpuApplied(requested_mhz=ceiling_mhz, cause=error.cause)
        return GpuApplied(requested_mhz=ceiling_mhz, accepted_mhz=granted_mhz)


class InlineHands:
    """Access to one node's GPUs without threads; calls must return at once."""

    def __init__(
        self,
        host: GpuHost,
        *,
        sample_hz: float = 10.0,
        make_writer: Callable[[GpuPort, GpuIdentity], CeilingWriter] = PlainWriter,
        sensors: NodeSensorPort | None = None,
    ) -> None:
        """Use `host`; nothing is opened before the first poll."""
        self._host = host
        self._plan = SamplingPlan(sample_hz)
        self._make_writer = make_writer
        self._sensors = sensors
        self._ports: dict[str, GpuPort] = {}
        self._writers: dict[str, CeilingWriter] = {}
        self._identities: tuple[GpuIdentity, ...] = ()
        self._sight = Sight()
        self._generation = 0
        self._fault = "not opened yet"
        self._open_s = -math.inf
        self._readings = NO_SENSORS
        self._late: list[WriteResult] = []

    def start(self) -> None:
        """Nothing to prepare: the first poll opens the driver."""

    def poll(self, now_s: float) -> HandsReport:
        """Open the driver when it is due, and read what is due."""
        if self._fault and now_s >= self._open_s:
            self._open(now_s)
        samples = () if self._fault else self._sample(now_s)
        results, self._late = self._late, []
        return HandsReport(
            self._generation,
            self._identities,
            self._fault,
            samples,
            self._sight.blind,
            results,
            self._readings,
        )

    def _open(self, now_s: float) -> None:
        try:
            ports = {port.identity().uuid: port for port in self._host.open()}
            self._identities = tuple(port.identity() for port in ports.values())
        except GpuError as error:
            self._fault, self._open_s = str(error) or error.cause, now_s + REOPEN_S
            return
        self._ports = ports
        self._writers = {
            identity.uuid: self._make_writer(ports[identity.uuid], identity)
            for identity in self._identities
        }
        self._generation += 1
        self._fault = ""

    def _sample(self, now_s: float) -> Sequence[GpuSample]:
        due = self._plan.due(now_s)
        if due is None:
            return ()
        if due.medium and self._sensors is not None:
            self._readings = self._sensors.read()
        samples = []
        for uuid, port in self._ports.items():
            try:
                samples.append(read_gpu(port, self._writers[uuid], uuid, due, now_s))
                self._sight.saw(uuid)
            except DriverLost as error:
                self._lose(error)
                break
            except GpuError as error:
                self._sight.failed(uuid, error.cause)
        return samples

    def _lose(self, error: DriverLost) -> None:
        self._fault, self._open_s = str(error) or error.cause, -math.inf
        self._host.close()

    def write(self, writes: Sequence[CeilingWrite]) -> Sequence[WriteResult]:
        """Write at once; all results are known."""
        results = []
        for write in writes:
            applied = GpuApplied(requested_mhz=write.ceiling_mhz, cause="driver")
            writer = self._writers.get(write.uuid)
            if writer is not None and not self._fault:
                try:
                    applied = writer.write(write.ceiling_mhz)
                except DriverLost as error:
                    self._lose(error)
            results.append(WriteResult(write.uuid, self._generation, applied))
        return results

    def close(self) -> None:
        """Let go of the driver."""
        self._host.close()
