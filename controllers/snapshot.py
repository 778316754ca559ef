"""What the controller knows at one instant: immutable, and honest about what it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from msgspec import Struct

from facility.topology import Node
from facility.wire import Applied, NodeInfo, NodeTelemetry


class NodeView(Struct, frozen=True, dict=True):
    """One node as last heard.

    `received_at_s` is the controller's monotonic time of the last frame, None when there was none
    in this session; `applied_at_s` that of the first report that answers the lease of `applied`.
    `left` means that its agent said goodbye.
    `missing` means too old, lost or never heard: the node counts at worst case.
    """

    node: Node
    info: NodeInfo | None
    telemetry: NodeTelemetry | None
    received_at_s: float | None
    applied: Applied | None
    missing: bool
    why_missing: str = ""
    left: bool = False
    applied_at_s: float | None = None

    @property
    def controllable(self) -> bool:
        """Whether a lease can change anything, and its end takes the node where the site says."""
        return self.info is not None and not self.why_uncontrollable

    @cached_property
    def why_uncontrollable(self) -> str:
        """Why no lease may count on this node; empty when one may."""
        if self.info is None:
            return "never heard"
        if not self.info.can_actuate:
            return self.info.cannot_actuate_because or "its agent does not write"
        gpu, there = self.node.model.gpu, len(self.info.gpus)
        if there < self.node.model.gpu_count:
            return f"its driver shows {there} of {self.node.model.gpu_count} GPUs"
        if self.info.safe_ceiling_mhz > gpu.safe_ceiling_mhz:
            return (
                f"its agent's safe ceiling is {self.info.safe_ceiling_mhz} MHz,"
                f" above the site's {gpu.safe_ceiling_mhz} MHz"
            )
        if self.info.brake_ceiling_mhz > gpu.brake_ceiling_mhz:
            return (
                f"its agent's brake ceiling is {self.info.brake_ceiling_mhz} MHz,"
                f" above the site's {gpu.brake_ceiling_mhz} MHz"
            )
        return "a GPU does not follow its ceiling" if self.deviates else ""

    @property
    def deviates(self) -> bool:
        """Whether a GPU does not follow its ceiling, by the agent's own reading of the hardware."""
        if self.applied is None or self.info is None:
            return False
        if self.applied.session != self.info.session:
            return False
        return any(gpu.cause in _UNHELD for gpu in self.applied.gpus.values())


_UNHELD = frozenset({"no-permission", "silent-clamp", "hung", "unsupported", "driver", "invalid"})
"""Causes under which a GPU may run above its ceiling. A lost GPU or a lower limit cannot."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every node of the site at `now_s` (monotonic) and `wall_s` (time of day).

    `active` are the contingencies that are on.
    """

    now_s: float
    wall_s: float
    nodes: Mapping[str, NodeView]
    active: frozenset[str]

    def epoch_above(self, epoch: int, *, fresh_s: float) -> tuple[int, bool]:
        """The highest epoch above `epoch` that a node obeys, and whether its leader still leads.

        0 when there is none. A leader that leads renews leases, and a node acknowledges each, also
        while a contingency or heat holds it lower. One that has acknowledged nothing for `fresh_s`
        has been left.
        """
        heard = [
            (view.applied, view.applied_at_s)
            for view in self.nodes.values()
            if view.applied is not None
            and view.info is not None
            and view.applied.session == view.info.session
            and view.applied.epoch > epoch
        ]
        leads = any(
            applied.reason not in ("no-lease", "lease-expired")
            and at_s is not None
            and self.now_s - at_s < fresh_s
            for applied, at_s in heard
        )
        return max((applied.epoch for applied, _ in heard), default=0), leads

    @property
    def missing_ratio(self) -> float:
        """Share of the site's nodes that are missing."""
        return sum(view.missing for view in self.nodes.values()) / max(len(self.nodes), 1)


def reported_ceiling_mhz(view: NodeView) -> int:
    """The highest ceiling that the node's agent says it has asked for; 0 when it says nothing."""
    if view.telemetry is None:
        return 0
    return max((gpu.ceiling_mhz for gpu in view.telemetry.gpus), default=0)
