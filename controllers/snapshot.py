"""What the controller knows at one instant: immutable, and honest about what it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from facility.topology import Node
from facility.wire import Applied, NodeInfo, NodeTelemetry


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as last heard.

    `received_at_s` is the controller's monotonic time of the last frame, None when there was none
    in this session. `missing` means too old, lost or never heard: the node counts at worst case.
    """

    node: Node
    info: NodeInfo | None
    telemetry: NodeTelemetry | None
    received_at_s: float | None
    applied: Applied | None
    missing: bool
    why_missing: str = ""

    @property
    def controllable(self) -> bool:
        """Whether a lease can change anything: the agent may write, and its writes take hold."""
        return self.info is not None and self.info.can_actuate and not self.deviates

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

    @property
    def missing_ratio(self) -> float:
        """Share of the site's nodes that are missing."""
        return sum(view.missing for view in self.nodes.values()) / max(len(self.nodes), 1)


def reported_ceiling_mhz(view: NodeView) -> int:
    """The highest ceiling that the node's agent says it has asked for; 0 when it says nothing."""
    if view.telemetry is None:
        return 0
    return max((gpu.ceiling_mhz for gpu in view.telemetry.gpus), default=0)
