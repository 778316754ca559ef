"""What one run of the demo is: how long, how fast, under which policy, with which failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from facility.config import PolicyName
from simulator.loads.trace import Trace
from simulator.loads.workload import Workload

FAILURE_RATIO: Final = 0.6
"""At this share of the run a UPS fails."""
DURATION_S_MIN: Final = 20.0
"""Shorter runs end before the policies have left their ramps."""
DURATION_S_MAX: Final = 86_400.0
SPEED_MAX: Final = 50.0


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """One run. `duration_s` is simulated; `speed` is simulated over real seconds, at most.

    On a machine that cannot keep up the run takes longer; simulated time stays consistent.
    """

    duration_s: float = 300.0
    speed: float = 6.0
    policy: PolicyName = "ampacity"
    port: int = 8080
    seed: int = 1
    contingency: str = "ups-a-lost"
    trace: Trace | Workload | None = None
    linger_s: float = 0.0

    @property
    def failure_at_s(self) -> float:
        """When the UPS fails."""
        return FAILURE_RATIO * self.duration_s
