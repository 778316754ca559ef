"""Roll-ups: what a second or a minute of one domain or one node amounts to.

A roll-up keeps what hurts: the largest power, forecast, exposure and temperature, the smallest
capacity, the worst mode, and beside them the mean power. Two roll-ups of the same period merge into
one, in any order, so that late messages and restarts need no special case. Nothing here does I/O.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from facility.decisions import Decision
from facility.wire import Mode, NodeTelemetry, Quality

Period = Literal[1, 60]
PERIODS_S: Final[tuple[Period, ...]] = (1, 60)

MODES: Final = (Mode.NORMAL, Mode.SHAVING, Mode.EMERGENCY, Mode.BRAKE)
"""Ascending severity: the position is what is stored."""


def worst(one: float | None, other: float | None) -> float | None:
    """The larger of two readings of which either may be missing."""
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _mean(one: float, one_count: int, other: float, other_count: int) -> float:
    return (one * one_count + other * other_count) / (one_count + other_count)


@dataclass(frozen=True, slots=True)
class DomainRollup:
    """One domain over `period_s` from `at_s` (UTC): `power_w` is the mean over its cycles."""

    domain: str
    at_s: int
    period_s: Period
    power_w: float
    power_w_max: float
    forecast_w_max: float
    exposure_w_max: float
    capacity_w_min: float
    mode: Mode
    temperature_c_max: float | None
    nodes_missing_count_max: int
    cycles_count: int

    def merged(self, other: DomainRollup) -> DomainRollup:
        """Both as one; they must be of the same domain and period."""
        cycles_count = self.cycles_count + other.cycles_count
        return DomainRollup(
            self.domain,
            self.at_s,
            self.period_s,
            _mean(self.power_w, self.cycles_count, other.power_w, other.cycles_count),
            max(self.power_w_max, other.power_w_max),
            max(self.forecast_w_max, other.forecast_w_max),
            max(self.exposure_w_max, other.exposure_w_max),
            min(self.capacity_w_min, other.capacity_w_min),
            MODES[max(MODES.index(self.mode), MODES.index(other.mode))],
            worst(self.temperature_c_max, other.temperature_c_max),
            max(self.nodes_missing_count_max, other.nodes_missing_count_max),
            cycles_count,
        )


@dataclass(frozen=True, slots=True)
class NodeRollup:
    """One node over `period_s` from `at_s` (UTC).

    `power_w` is the mean of the GPUs' sum and `power_w_max` the sum of each GPU's largest sample,
    an upper bound. `meter_power_w` is the mean of the node's own meter, None without one. A missing
    GPU counts at the worst case that its agent reported.
    """

    node: str
    at_s: int
    period_s: Period
    power_w: float
    power_w_max: float
    meter_power_w: float | None
    temperature_c_max: float | None
    inlet_temperature_c_max: float | None
    ceiling_mhz_min: int
    gpus_missing_count_max: int
    frames_count: int
    metered_count: int

    def merged(self, other: NodeRollup) -> NodeRollup:
        """Both as one; they must be of the same node and period."""
        return NodeRollup(
            self.node,
            self.at_s,
            self.period_s,
            _mean(self.power_w, self.frames_count, other.power_w, other.frames_count),
            max(self.power_w_max, other.power_w_max),
            self._meter_with(other),
            worst(self.temperature_c_max, other.temperature_c_max),
            worst(self.inlet_temperature_c_max, other.inlet_temperature_c_max),
            min(self.ceiling_mhz_min, other.ceiling_mhz_min),
            max(self.gpus_missing_count_max, other.gpus_missing_count_max),
            self.frames_count + other.frames_count,
            self.metered_count + other.metered_count,
        )

    def _meter_with(self, other: NodeRollup) -> float | None:
        if self.meter_power_w is None or other.meter_power_w is None:
            return other.meter_power_w if self.meter_power_w is None else self.meter_power_w
        return _mean(
            self.meter_power_w, self.metered_count, other.meter_power_w, other.metered_count
        )


def domain_rollups(decision: Decision) -> list[DomainRollup]:
    """One roll-up per domain and period of one cycle, placed by the decision's time of day."""
    return [
        DomainRollup(
            domain=state.domain,
            at_s=_bucket_s(decision.wall_s, period_s),
            period_s=period_s,
            power_w=state.power_w,
            power_w_max=state.power_w,
            forecast_w_max=state.forecast_w,
            exposure_w_max=state.exposure_w,
            capacity_w_min=state.capacity_w,
            mode=state.mode,
            temperature_c_max=state.temperature_c,
            nodes_missing_count_max=state.nodes_missing_count,
            cycles_count=1,
        )
        for state in decision.domains
        for period_s in PERIODS_S
    ]


def node_rollups(frame: NodeTelemetry) -> list[NodeRollup]:
    """One roll-up per period of one frame, placed by when it was sampled."""
    temperatures_c = [gpu.temperature_c for gpu in frame.gpus if gpu.temperature_c is not None]
    return [
        NodeRollup(
            node=frame.node,
            at_s=_bucket_s(frame.sampled_at_s, period_s),
            period_s=period_s,
            power_w=sum(gpu.power_w for gpu in frame.gpus),
            power_w_max=sum(gpu.power_w_max for gpu in frame.gpus),
            meter_power_w=frame.node_power_w,
            temperature_c_max=max(temperatures_c, default=None),
            inlet_temperature_c_max=frame.inlet_temperature_c,
            ceiling_mhz_min=min((gpu.ceiling_mhz for gpu in frame.gpus), default=0),
            gpus_missing_count_max=sum(gpu.quality is Quality.MISSING for gpu in frame.gpus),
            frames_count=1,
            metered_count=int(frame.node_power_w is not None),
        )
        for period_s in PERIODS_S
    ]


def _bucket_s(at_s: float, period_s: int) -> int:
    return math.floor(at_s / period_s) * period_s
