"""What a node tells: its frames, its birth certificate, and what became of its ceilings.

A frame goes out every period whatever the hardware does, so that a silent node is a dead one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from controllers.node_gpu import STALE_PERIODS, bounded
from controllers.node_lease import LeaseBook
from controllers.node_view import Gpu, NodeView
from facility.wire import Applied, GpuApplied, NodeInfo, NodeTelemetry

APPLIED_WAIT_S: Final = 0.5
"""A report waits this long for the results of its writes: eight in series take 160 ms at worst."""
FRESH_SAMPLES: Final = 2
"""A reading is fresh while it is younger than this many sampling periods."""
INFO_REPEAT_S: Final = 20.0
"""A birth certificate is said again: what a broker keeps may be lost, or be an older one."""


class NodeReporter:
    """Builds the messages of one session when they are due or have something new to say."""

    def __init__(self, view: NodeView, book: LeaseBook, *, session: str, version: str) -> None:
        """Start before the first frame."""
        self._view = view
        self._book = book
        self._session = session
        self._version = version
        self._started_wall_s = 0.0
        self._patience_s = math.inf
        self._late_s = 0.0
        self._generation = -1
        self._told_info: tuple[object, ...] | None = None
        self._told_info_s = -math.inf
        self._told_applied: tuple[object, ...] | None = None
        self._told_applied_s = -math.inf
        self.seq = 0
        self.frame_due_s = math.inf

    @property
    def has_introduced(self) -> bool:
        """Whether the birth certificate has gone out."""
        return self._told_info is not None

    def begin(self, now_s: float, wall_s: float) -> None:
        """Start the first period; the first frame waits for the GPUs, but not for ever."""
        self._started_wall_s = wall_s
        self.frame_due_s = now_s + self._view.config.telemetry_s

    def info(self, now_s: float) -> NodeInfo | None:
        """The birth certificate, when it has changed and the GPUs have answered.

        After a driver reload the ceilings are applied again before the node calls itself healthy;
        a GPU that never answers is waited for `call_timeout_s`, not longer.
        """
        view = self._view
        if view.report.generation != self._generation:
            self._generation = view.report.generation
            self._patience_s = now_s + view.config.call_timeout_s
            self._told_info = None
        because = view.cannot_actuate_because()
        is_new = self._told_info is None
        if is_new and not view.settled and now_s < self._patience_s:
            return None
        config, identities = view.config, view.identities
        news = (because, identities, config.safe_ceiling_mhz, config.brake_ceiling_mhz)
        if news == self._told_info and now_s - self._told_info_s < INFO_REPEAT_S:
            return None
        if self.seq == 0:
            self.frame_due_s = now_s
        self._told_info, self._told_info_s = news, now_s
        return NodeInfo(
            node=config.node,
            session=self._session,
            agent_version=self._version,
            started_at_s=self._started_wall_s,
            gpus=identities,
            safe_ceiling_mhz=config.safe_ceiling_mhz,
            brake_ceiling_mhz=config.brake_ceiling_mhz,
            telemetry_s=config.telemetry_s,
            can_actuate=not because,
            cannot_actuate_because=because,
        )

    def late(self, late_s: float) -> None:
        """The node was stepped so long after its deadline; the worst of it goes into a frame."""
        self._late_s = max(self._late_s, late_s)

    def frame(self, now_s: float, wall_s: float) -> NodeTelemetry | None:
        """The next frame when its time has come; its time is what a lease counts from."""
        if now_s < self.frame_due_s:
            return None
        config = self._view.config
        self.frame_due_s += config.telemetry_s
        if self.frame_due_s <= now_s:
            self.frame_due_s = now_s + config.telemetry_s
        self.seq += 1
        late_s, self._late_s = self._late_s, 0.0
        self._book.sampled(self.seq, now_s)
        sensors = self._view.report.sensors
        return NodeTelemetry(
            node=config.node,
            session=self._session,
            seq=self.seq,
            sampled_at_s=wall_s,
            gpus=tuple(
                gpu.readings.frame(
                    now_s,
                    ceiling_mhz=gpu.lock.requested_mhz,
                    fresh_s=max(config.telemetry_s, FRESH_SAMPLES / config.sample_hz),
                    stale_s=STALE_PERIODS * config.telemetry_s,
                    lost=gpu.lost,
                    confirmed=gpu.lock.answered or not config.actuate,
                )
                for gpu in self._view.gpus.values()
            ),
            node_power_w=bounded(sensors.node_power_w, 0.0, 500_000.0),
            inlet_temperature_c=bounded(sensors.inlet_temperature_c, -60.0, 200.0),
            late_s=round(late_s, 4),
        )

    def applied(self, now_s: float, wall_s: float, reason: str) -> Applied | None:
        """What holds, when that has changed and its writes have come back or have taken long."""
        gpus = self._view.gpus
        if not self._view.config.actuate or not gpus or _is_waiting(gpus, now_s):
            return None
        last = self._book.last
        stamp = (last.decision_id, last.epoch, last.sequence) if last else ("", self._book.epoch, 0)
        news = (
            *stamp,
            reason,
            *((gpu.lock.requested_mhz, *_outcome(gpu)) for gpu in gpus.values()),
        )
        if news == self._told_applied:
            return None
        fast = self._told_applied is None or news[:4] != self._told_applied[:4]
        if not fast and now_s - self._told_applied_s < APPLIED_WAIT_S:
            # A limiter that comes and goes at 10 Hz is not told ten times a second.
            return None
        self._told_applied, self._told_applied_s = news, now_s
        return Applied(
            node=self._view.config.node,
            session=self._session,
            decision_id=stamp[0],
            epoch=stamp[1],
            sequence=stamp[2],
            reason=reason,
            applied_at_s=wall_s,
            gpus={uuid: _gpu_applied(gpu) for uuid, gpu in gpus.items()},
        )


def _is_waiting(gpus: Mapping[str, Gpu], now_s: float) -> bool:
    under_way = (gpu.lock.under_way_s for gpu in gpus.values())
    return any(asked_s is not None and now_s - asked_s < APPLIED_WAIT_S for asked_s in under_way)


def _outcome(gpu: Gpu) -> tuple[int | None, str]:
    """What was accepted, and the cause of a deviation."""
    result = gpu.lock.result
    if gpu.blind:
        return (result.accepted_mhz if result else None), gpu.blind
    return (result.accepted_mhz, result.cause) if result else (None, "")


def _gpu_applied(gpu: Gpu) -> GpuApplied:
    accepted_mhz, cause = _outcome(gpu)
    result = gpu.lock.result
    observed_mhz = gpu.readings.clock_mhz if gpu.readings.fast is not None else None
    if result is not None and gpu.readings.sampled_s <= gpu.lock.asked_s:
        observed_mhz = result.observed_mhz
    return GpuApplied(
        requested_mhz=gpu.lock.requested_mhz,
        accepted_mhz=accepted_mhz,
        observed_mhz=observed_mhz,
        cause=cause,
    )
