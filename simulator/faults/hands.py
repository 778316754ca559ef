"""Hands on GPUs whose calls may hang, without threads and in virtual time.

They behave as the live hands do towards the brain: a call that hangs blinds its GPU after the
time-out, its write counts as hung, and what was wanted last is written once the GPU answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from controllers.node_hands import CeilingWrite, CeilingWriter, GpuSample, HandsReport, WriteResult
from facility.ports import GpuPort
from facility.wire import GpuApplied, GpuIdentity
from simulator.faults.gpu import Chassis
from simulator.hands import InlineHands


class HangingHands(InlineHands):
    """Inline hands that pass hung GPUs by."""

    def __init__(
        self,
        chassis: Chassis,
        *,
        sample_hz: float,
        call_timeout_s: float,
        clock: Callable[[], float],
        make_writer: Callable[[GpuPort, GpuIdentity], CeilingWriter],
    ) -> None:
        super().__init__(chassis, sample_hz=sample_hz, make_writer=make_writer, sensors=chassis)
        self._chassis = chassis
        self._clock = clock
        self._call_timeout_s = call_timeout_s
        self._hung_since_s: dict[str, float] = {}
        self._stuck: dict[str, tuple[float, int, bool]] = {}
        """Writes inside a hung call: since when, the ceiling wanted last, whether it was given
        up."""

    def poll(self, now_s: float) -> HandsReport:
        """Look at what hangs, then sample as usual."""
        self._watch(now_s)
        return super().poll(now_s)

    def _watch(self, now_s: float) -> None:
        for gpu in self._chassis.gpus:
            uuid = gpu.uuid
            if gpu.hung:
                since_s = self._hung_since_s.setdefault(uuid, now_s)
                if now_s - since_s > self._call_timeout_s and self._sight.blind.get(uuid) != "hung":
                    self._sight.failed(uuid, "hung")
            else:
                self._hung_since_s.pop(uuid, None)
            self._watch_write(uuid, gpu.hung, now_s)

    def _watch_write(self, uuid: str, hung: bool, now_s: float) -> None:
        if uuid not in self._stuck:
            return
        since_s, ceiling_mhz, told = self._stuck[uuid]
        writer = self._writers.get(uuid)
        if not hung or writer is None:
            del self._stuck[uuid]
            if writer is not None:
                self._late += super().write([CeilingWrite(uuid, ceiling_mhz)])
        elif not told and now_s - since_s > self._call_timeout_s:
            self._stuck[uuid] = (since_s, ceiling_mhz, True)
            writer.hung()
            applied = GpuApplied(requested_mhz=ceiling_mhz, cause="hung")
            self._late.append(WriteResult(uuid, self._generation, applied))

    def write(self, writes: Sequence[CeilingWrite]) -> Sequence[WriteResult]:
        """Write what can be written; a call into a hung GPU does not come back."""
        results: list[WriteResult] = []
        hung = {gpu.uuid for gpu in self._chassis.gpus if gpu.hung}
        for write in writes:
            if write.uuid not in hung or write.uuid not in self._writers:
                results += super().write([write])
                continue
            since_s, _, told = self._stuck.get(write.uuid, (self._clock(), 0, False))
            self._stuck[write.uuid] = (since_s, write.ceiling_mhz, told)
            if told:
                applied = GpuApplied(requested_mhz=write.ceiling_mhz, cause="hung")
                results.append(WriteResult(write.uuid, self._generation, applied))
        return results

    def _readable(self, uuid: str) -> bool:
        return uuid not in self._hung_since_s

    def _sample(self, now_s: float) -> Sequence[GpuSample]:
        ports = self._ports
        if self._hung_since_s:
            self._ports = {uuid: port for uuid, port in ports.items() if self._readable(uuid)}
        try:
            return super()._sample(now_s)
        finally:
            if self._ports is not ports and not self._fault:
                self._ports = ports
