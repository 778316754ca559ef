"""How long it takes from an event to less power: configured bounds, and what is measured.

The lease rule needs upper bounds. A hop that is measured slower than its bound counts as measured;
one that is measured faster keeps its bound. Times come in as arguments; nothing here has a clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from controllers.snapshot import NodeView, Snapshot
from facility.config import ControlConfig, PolicyName
from facility.decisions import HopTime
from facility.topology import Contingency
from facility.wire import Lease

Hop = Literal["report", "decide", "act", "expire"]
HOPS: Final[tuple[Hop, ...]] = ("report", "decide", "act", "expire")

DECISION_S: Final[dict[PolicyName, float]] = {
    "polca": 2.0,
    "one-threshold-low": 2.0,
    "one-threshold-all": 2.0,
}
"""Policies that decide less often than a cycle (POLCA: one reading of the row's meter)."""
QUANTILE: Final = 0.999
OBSERVATIONS_MIN: Final = 1_000
"""A 99.9th percentile of fewer would be the largest of them, whatever happened."""
OBSERVATIONS_MAX: Final = 20_000
EVALUATE_EVERY: Final = 200
"""Observations between two looks at the percentile, which costs a millisecond."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """Bounds of one site, s, made of four hops.

    `report`: from a change of power until the frame that shows it has been received. `decide`: from
    there until the leases that follow from it have left. `act`: until the driver has answered.
    `expire`: from the end of a lease until the driver has answered. `settle_s` is the clock's own.
    """

    report_s: float
    decide_s: float
    act_s: float
    expire_s: float
    settle_s: float
    message_s: float
    lease_s: float
    margin_ratio: float

    @property
    def with_control_s(self) -> float:
        """While the controller decides: from a rise of power until it is lower again."""
        return self.report_s + self.decide_s + self.act_s + self.settle_s

    @property
    def without_control_s(self) -> float:
        """After the controller, its broker or its network is gone: until all is at the floor."""
        return self.lease_s + self.expire_s + self.settle_s

    def contingency_s(self, contingency: Contingency) -> float:
        """From a declared failure until the nodes it concerns have acted on it."""
        if contingency.local_trigger:
            return contingency.detect_s + self.expire_s + self.settle_s
        if contingency.broker_survives:
            return contingency.detect_s + self.message_s + self.settle_s
        # It may take the broker along, or leave it: then leases go on until somebody knows.
        noticed_s = contingency.detect_s + self.message_s + self.settle_s
        return max(self.without_control_s, noticed_s)

    def needed_s(self, contingency: Contingency | None = None) -> float:
        """The patience that a protection must have, in the present state or if a failure came.

        In the present state control may also be lost in the middle of a reaction: the sum of both
        is a bound without any margin.
        """
        if contingency is None:
            alive_s, lost_s = self.with_control_s, self.without_control_s
            return max(self.margin_ratio * max(alive_s, lost_s), alive_s + lost_s)
        return self.margin_ratio * self.contingency_s(contingency)


def reaction_bounds(control: ControlConfig) -> Reaction:
    """What the configuration promises."""
    hops = control.reaction
    return Reaction(
        report_s=control.telemetry_s + hops.sample_s + hops.transport_s,
        decide_s=max(control.cycle_s, DECISION_S.get(control.policy, 0.0)) + hops.decide_s,
        act_s=hops.transport_s + hops.apply_s,
        expire_s=hops.apply_s,
        settle_s=hops.settle_s,
        # A message that says a failure has come waits at most for a decision that is being made.
        message_s=hops.decide_s + hops.transport_s + hops.apply_s,
        lease_s=control.lease_s,
        margin_ratio=hops.margin_ratio,
    )


class ReactionMeter:
    """The last observations of every hop, and the bounds that follow from them."""

    def __init__(self, control: ControlConfig) -> None:
        self.bounds = bounds = reaction_bounds(control)
        self.bounds_s: dict[Hop, float] = {
            "report": bounds.report_s,
            "decide": bounds.decide_s,
            "act": bounds.act_s,
            "expire": bounds.expire_s,
        }
        self._seen_s = {hop: np.zeros(OBSERVATIONS_MAX) for hop in HOPS}
        self._counts = dict.fromkeys(HOPS, 0)
        self._looked = dict.fromkeys(HOPS, 0)
        self.measured_s: dict[Hop, float] = {}
        """The 99.9th percentile of each hop that has been observed often enough."""
        self._now = self.bounds

    def observe(self, hop: Hop, seconds: Sequence[float]) -> None:
        """Take observations of one hop; only finite ones of zero or more are observations."""
        for value in seconds:
            if 0.0 <= value < np.inf:
                self._seen_s[hop][self._counts[hop] % OBSERVATIONS_MAX] = value
                self._counts[hop] += 1
        count = self._counts[hop]
        if count < OBSERVATIONS_MIN or count - self._looked[hop] < EVALUATE_EVERY:
            return
        self._looked[hop] = count
        kept = self._seen_s[hop][: min(count, OBSERVATIONS_MAX)]
        self.measured_s[hop] = float(np.quantile(kept, QUANTILE, method="higher"))
        self._now = self._measured()

    def _measured(self) -> Reaction:
        bounds, measured = self.bounds, self.measured_s
        return Reaction(
            report_s=max(bounds.report_s, measured.get("report", 0.0)),
            decide_s=max(bounds.decide_s, measured.get("decide", 0.0)),
            act_s=max(bounds.act_s, measured.get("act", 0.0)),
            expire_s=max(bounds.expire_s, measured.get("expire", 0.0)),
            settle_s=bounds.settle_s,
            # The part of a message's way that is measured is the way of a lease to its driver.
            message_s=bounds.message_s + max(0.0, measured.get("act", 0.0) - bounds.act_s),
            lease_s=bounds.lease_s,
            margin_ratio=bounds.margin_ratio,
        )

    @property
    def reaction(self) -> Reaction:
        """The larger of bound and measurement, hop by hop."""
        return self._now

    @property
    def hops(self) -> tuple[HopTime, ...]:
        """Bound and measurement of every hop."""
        measured_s = self.measured_s
        return tuple(HopTime(hop, self.bounds_s[hop], measured_s.get(hop)) for hop in HOPS)

    @property
    def slow(self) -> tuple[str, ...]:
        """One sentence per hop that is slower than its bound."""
        return tuple(
            f"{hop} took {measured_s:.2f} s (99.9th percentile), the site file promises"
            f" {self.bounds_s[hop]:.2f} s"
            for hop in HOPS
            if (measured_s := self.measured_s.get(hop)) is not None
            and measured_s > self.bounds_s[hop]
        )


SLOW_NODES_RATIO: Final = 0.05
SLOW_NODES_MIN: Final = 2
SLOW_S: Final = 600.0
"""One node that is slow, or says so, is its own matter: what it may do is within the room for
nodes that ignore their locks. Only what so many nodes show within ten minutes is the site's."""


class HopWatch:
    """Times the hops of a running control loop from what the cycle sees anyway."""

    def __init__(self, control: ControlConfig, meter: ReactionMeter, *, nodes_count: int) -> None:
        self._stale_s = control.stale_s
        self._longest_s = control.lease_s
        self._meter = meter
        slow_min = max(SLOW_NODES_MIN, math.ceil(SLOW_NODES_RATIO * nodes_count))
        self._slow_min = min(slow_min, nodes_count)
        self._slow_s: dict[Hop, dict[str, float]] = {hop: {} for hop in HOPS}
        self._frames: dict[str, tuple[str, int, float]] = {}
        self._leases: dict[str, tuple[int, float]] = {}
        self._took_s = 0.0

    def look(self, snapshot: Snapshot) -> None:
        """Time every frame and every acknowledgement that is new in this cycle."""
        ages_s: list[float] = []
        seen: dict[Hop, list[tuple[str, float]]] = {"report": [], "act": [], "expire": []}
        for name, view in snapshot.nodes.items():
            seen["act"] += [(name, seconds) for seconds in self._answered(name, view)]
            frame, at_s = view.telemetry, view.received_at_s
            if frame is None or at_s is None or view.missing:
                self._frames.pop(name, None)
                self._leases.pop(name, None)
                continue
            before = self._frames.get(name)
            if before is not None and before[:2] == (frame.session, frame.seq):
                continue
            self._frames[name] = (frame.session, frame.seq, at_s)
            ages_s.append(snapshot.now_s - at_s + self._took_s)
            seen["expire"].append((name, frame.late_s))
            # A node that was silent for longer was missing, and counted at its worst case.
            if before is not None and before[0] == frame.session:
                gap_s = at_s - before[2]
                seen["report"] += [(name, gap_s)] if gap_s <= self._stale_s else []
        self._meter.observe("decide", ages_s)
        for hop, pairs in seen.items():
            self._meter.observe(hop, self._believed(snapshot.now_s, hop, pairs))

    def _believed(
        self, now_s: float, hop: Hop, pairs: Sequence[tuple[str, float]]
    ) -> Sequence[float]:
        """Observations as they count: a few nodes alone do not slow the site, nor any by much."""
        bound_s = self._meter.bounds_s[hop]
        slow_s = self._slow_s[hop]
        slow_s |= {name: now_s for name, seconds in pairs if seconds > bound_s}
        for name in [name for name, at_s in slow_s.items() if now_s - at_s > SLOW_S]:
            del slow_s[name]
        most_s = self._longest_s if len(slow_s) >= self._slow_min else bound_s
        return [min(seconds, most_s) for _, seconds in pairs]

    def _answered(self, name: str, view: NodeView) -> list[float]:
        if view.applied is None or view.applied_at_s is None or name not in self._leases:
            return []
        sequence, left_at_s = self._leases[name]
        if view.applied.sequence < sequence or view.applied_at_s < left_at_s:
            return []
        del self._leases[name]
        return [view.applied_at_s - left_at_s]

    def leased(self, leases: Sequence[Lease], now_s: float) -> None:
        """Leases leave now. A node that has not answered its last one is timed from that one."""
        for lease in leases:
            self._leases.setdefault(lease.node, (lease.sequence, now_s))

    def took(self, seconds: float) -> None:
        """The last step took this long until its leases had left."""
        self._took_s = seconds
