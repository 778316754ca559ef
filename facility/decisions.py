"""What one control cycle decided: everything that leaves the controller, and the reasons.

A decision is a value. The shell publishes it, records it and shows it; nothing about it is decided
after it has been made.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct

from facility.wire import DomainState, Emergency, Event, Lease, Routing


class NodeDecision(Struct, frozen=True):
    """What was decided for one node, for people to read: the lease is what the node gets.

    `power_w` counts at the worst case when `missing`; `exposure_w` is the most the node could draw
    under any limit that may still be in force.
    """

    node: str
    ceiling_mhz: int
    contingency_ceilings_mhz: dict[str, int]
    power_w: float
    exposure_w: float
    missing: bool
    controllable: bool
    sentence: str


class HopTime(Struct, frozen=True):
    """One hop of the reaction: the bound of the site file, and the 99.9th percentile measured.

    `measured_s` is None until there are enough observations.
    """

    hop: str
    bound_s: float
    measured_s: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """One cycle. `at_s` is the controller's monotonic clock, `wall_s` the time of day."""

    decision_id: str
    at_s: float
    wall_s: float
    sentence: str
    domains: tuple[DomainState, ...]
    nodes: tuple[NodeDecision, ...]
    leases: tuple[Lease, ...]
    routing: tuple[Routing, ...]
    emergencies: tuple[Emergency, ...]
    events: tuple[Event, ...]
    hops: tuple[HopTime, ...] = ()
