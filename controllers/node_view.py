"""The node as its hands report it: GPUs that come and go, readings, write results, the brake pin.

It keeps what was seen and tells events about it. Which ceiling must hold is not decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from controllers.node_events import EventLog
from controllers.node_gpu import DRIFT_CAUSE, UNCONTROLLABLE, GpuLock, GpuReadings
from controllers.node_hands import GpuSample, HandsReport, WriteResult
from controllers.node_limits import BrakeLatch, HeatLimit
from facility.config import AgentConfig
from facility.wire import GpuApplied, GpuIdentity


class Gpu:
    """Everything about one GPU; kept for the whole session, also when it is lost."""

    __slots__ = ("blind", "heat", "lock", "lost", "readings")

    def __init__(self, identity: GpuIdentity) -> None:
        """Start without a reading and without a lock."""
        self.readings = GpuReadings(identity)
        self.lock = GpuLock()
        self.heat = HeatLimit()
        self.blind = ""
        """Why it cannot be read now, empty when it can."""
        self.lost = False


class NodeView:
    """What is known of the GPUs of one node."""

    def __init__(self, config: AgentConfig, events: EventLog) -> None:
        """Start before the driver has been opened."""
        self.config = config
        self.gpus: dict[str, Gpu] = {}
        self.report = HandsReport()
        self.brake = BrakeLatch()
        self.refused: Counter[str] = Counter()
        self._events = events
        self.clock_mhz_max = 0
        """The highest clock of any GPU of this session; 0 when none is known."""

    @property
    def identities(self) -> tuple[GpuIdentity, ...]:
        """What every GPU of this session is, lost ones included."""
        return tuple(gpu.readings.identity for gpu in self.gpus.values())

    @property
    def writable(self) -> bool:
        """Whether ceilings may be written at all now."""
        return self.config.actuate and not self.report.host_fault and self.report.generation > 0

    @property
    def settled(self) -> bool:
        """Whether each GPU that can be asked has answered once in this life of the driver."""
        if self.report.generation == 0 or self.report.host_fault:
            return False
        if not self.config.actuate:
            return True
        return all(gpu.lost or gpu.lock.answered for gpu in self.gpus.values())

    def cannot_actuate_because(self) -> str:
        """Why nobody may count on the ceilings of this node; empty when they hold."""
        if not self.config.actuate:
            return "actuate: false in the configuration"
        if self.report.host_fault:
            return f"the GPU driver does not answer: {self.report.host_fault}"
        if self.report.generation == 0:
            return "the GPU driver has not been opened yet"
        if not self.gpus:
            return "the driver knows no GPU"
        for uuid, gpu in self.gpus.items():
            if gpu.lock.told_cause in UNCONTROLLABLE:
                return f"{gpu.lock.told_cause}: GPU {uuid} refuses a ceiling"
            if gpu.lock.is_ignored:
                return f"{DRIFT_CAUSE}: GPU {uuid} accepts ceilings and runs above them"
        return ""

    def see(
        self, report: HandsReport, now_s: float, cold_target_mhz: Callable[[str, float], int]
    ) -> None:
        """Take a report. `cold_target_mhz` tells a GPU's ceiling if heat did not matter."""
        before, self.report = self.report, report
        if report.generation != before.generation:
            self._opened(report, now_s)
        if report.host_fault and report.host_fault != before.host_fault:
            self._events.say(
                "driver-lost",
                f"the GPU driver does not answer: {report.host_fault}",
                now_s,
                severity="critical",
            )
        if report.blind != before.blind or report.identities != before.identities:
            self._see_presence(report, now_s)
        for sample in report.samples:
            self._see_sample(sample, now_s, cold_target_mhz)
        for result in report.results:
            self._see_result(result, now_s)

    def _opened(self, report: HandsReport, now_s: float) -> None:
        for identity in report.identities:
            known = self.gpus.get(identity.uuid)
            if known is None:
                self.gpus[identity.uuid] = Gpu(identity)
            else:
                known.lock = GpuLock()
        self._see_clocks()
        if report.generation > 1:
            self._events.say(
                "driver-open",
                f"the GPU driver is open again with {len(report.identities)} GPUs",
                now_s,
            )

    def _see_clocks(self) -> None:
        clocks_mhz = [max(one.clocks_mhz, default=0) for one in self.identities]
        self.clock_mhz_max = max(clocks_mhz, default=0)

    def _see_presence(self, report: HandsReport, now_s: float) -> None:
        present = {identity.uuid: identity for identity in report.identities}
        for uuid, gpu in self.gpus.items():
            if uuid in present:
                gpu.readings.identity = present[uuid]
            cause = report.blind.get(uuid, "") if uuid in present else "gpu-lost"
            if gpu.lost and cause != "gpu-lost":
                # It was reset while it was away: whatever was locked is not locked any more.
                gpu.lock = GpuLock()
            gpu.lost = cause == "gpu-lost"
            if cause and cause != gpu.blind:
                self._events.say(
                    "gpu-lost" if gpu.lost else "gpu-blind",
                    f"the GPU cannot be read: {cause}",
                    now_s,
                    subject=uuid,
                    severity="critical",
                )
            elif gpu.blind and not cause:
                self._events.say(
                    "gpu-back", f"the GPU answers again after: {gpu.blind}", now_s, subject=uuid
                )
            gpu.blind = cause
        self._see_clocks()

    def _see_sample(
        self, sample: GpuSample, now_s: float, cold_target_mhz: Callable[[str, float], int]
    ) -> None:
        gpu = self.gpus.get(sample.uuid)
        if gpu is None:
            return
        if not gpu.readings.take(sample):
            self.refused["reading"] += 1
            self._events.say(
                "reading-refused",
                "power or clock cannot be true, the sample was thrown away",
                now_s,
                subject=sample.uuid,
                severity="warning",
            )
            return
        if sample.fast is not None:
            self.brake.observe_fast(sample.uuid, sample.fast, sample.at_s)
        if sample.seen is not None:
            self._see_effect(gpu, sample.seen, sample, now_s)
        if sample.medium is not None:
            self.brake.observe_medium(sample.medium, sample.at_s)
            gpu.heat.observe(
                sample.medium,
                at_s=sample.at_s,
                running_mhz=gpu.readings.clock_mhz,
                wanted_mhz=cold_target_mhz(sample.uuid, now_s),
                floor_mhz=self.config.brake_ceiling_mhz,
                margin_c_min=self.config.margin_c_min,
            )

    def _see_effect(self, gpu: Gpu, seen: GpuApplied, sample: GpuSample, now_s: float) -> None:
        before = gpu.lock.told_cause
        if gpu.lock.watch(seen, sample.at_s):
            self._events.say(
                "lock-drifted",
                f"{seen.observed_mhz} MHz is above the ceiling of {seen.requested_mhz} MHz:"
                " the ceiling is asked for again",
                now_s,
                subject=sample.uuid,
                severity="critical" if gpu.lock.is_ignored else "warning",
            )
        elif gpu.lock.told_cause not in ("", before, DRIFT_CAUSE):
            self._events.say(
                "gpu-limited",
                f"the GPU runs at {seen.observed_mhz} MHz: {seen.cause}",
                now_s,
                subject=sample.uuid,
                severity="warning",
            )

    def _see_result(self, result: WriteResult, now_s: float) -> None:
        gpu = self.gpus.get(result.uuid)
        if gpu is None or result.generation != self.report.generation:
            return
        applied, before = result.applied, gpu.lock.told_cause
        if not gpu.lock.finished(applied, now_s):
            return
        if applied.cause and applied.cause != before:
            self._events.say(
                "no-permission" if applied.cause == "no-permission" else "ceiling-deviates",
                f"asked for {applied.requested_mhz} MHz, the driver"
                + (
                    " refused"
                    if applied.accepted_mhz is None
                    else f" accepted {applied.accepted_mhz} MHz"
                )
                + f": {applied.cause}",
                now_s,
                subject=result.uuid,
                severity="critical" if applied.accepted_mhz is None else "warning",
            )
