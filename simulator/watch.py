"""What a run is judged by: true physics of the twin, and counts of what agents and leases did.

It reads and counts. Nothing that it sees reaches a controller or an agent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from facility.decisions import Decision
from facility.wire import Event
from simulator.plant import Plant
from simulator.truth import ReportValue

SETTLED_S = 2.0
"""An overload is over when it has stayed away this long."""


@dataclass
class Watch:
    """Watches one run. Times are simulated seconds of the plant."""

    plant: Plant
    leases_granted: int = 0
    leases_expired: int = 0
    brakes: int = 0
    failed_at_s: float | None = None
    locked_at_s: float | None = None
    over_last_s: float | None = None
    _unlocked_mhz: dict[str, int] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Note where each node's GPUs are in the plant."""
        self._places = {name: place for place, name in enumerate(self.plant.site.nodes)}

    def decided(self, decision: Decision) -> None:
        """Count what a cycle granted."""
        self.leases_granted += len(decision.leases)
        self.brakes += sum(
            event.event == "mode" and ": brake:" in event.sentence for event in decision.events
        )

    def heard(self, event: Event) -> None:
        """Count what an agent says of itself."""
        self.leases_expired += event.event == "lease-expired"

    def failed(self, armed_mhz: dict[str, int]) -> None:
        """The UPS fails now; `armed_mhz` are the ceilings that nodes hold for it."""
        self.failed_at_s = self.plant.now_s
        self._unlocked_mhz = dict(armed_mhz)

    def look(self) -> None:
        """Look at the plant after one of its steps."""
        if self.failed_at_s is None:
            return
        tree = self.plant.tree
        if tree.any_over:
            self.over_last_s = self.plant.now_s
        if self._unlocked_mhz:
            self._see_locks()

    def _see_locks(self) -> None:
        """Strike off nodes whose GPUs really are at or under their ceilings."""
        starts = [*self.plant.bank.starts.tolist(), self.plant.bank.count]
        for name, ceiling_mhz in list(self._unlocked_mhz.items()):
            place = self._places[name]
            gpus = range(starts[place], starts[place + 1])
            if all(self.plant.bank.ceiling_mhz(gpu) <= ceiling_mhz for gpu in gpus):
                del self._unlocked_mhz[name]
                self.locked_at_s = self.plant.now_s

    @property
    def emergency_reaction_s(self) -> float | None:
        """From the failure to the last overload after it; None if one was still too recent."""
        if self.failed_at_s is None or self.plant.tree.tripped:
            return None
        if self.over_last_s is None:
            return 0.0
        if self.plant.now_s - self.over_last_s < SETTLED_S:
            return None
        return round(self.over_last_s - self.failed_at_s, 3)

    @property
    def emergency_locked_s(self) -> float | None:
        """From the failure until the last armed node was locked; None if never, or none armed."""
        if self.failed_at_s is None or self.locked_at_s is None or self._unlocked_mhz:
            return None
        return round(self.locked_at_s - self.failed_at_s, 3)

    def report(self) -> dict[str, ReportValue]:
        """The plant's own report and the counts of this watch."""
        return {
            **self.plant.report(),
            "leases_granted": self.leases_granted,
            "leases_expired": self.leases_expired,
            "brakes": self.brakes,
            "emergency_reaction_s": self.emergency_reaction_s,
            "emergency_locked_s": self.emergency_locked_s,
        }


def verdict(report: dict[str, ReportValue]) -> str:
    """One run in words, from its report alone."""
    ratio = report.get("row_power_ratio_max")
    peak = f"peak {100 * ratio:.1f} % of capacity" if isinstance(ratio, float) else "no peak seen"
    trips = report.get("tripped_domains")
    if report.get("tripped") and isinstance(trips, list) and trips:
        first = trips[0]
        return (
            f"TRIPPED: {first['domain']} opened after {first['at_s']:.0f} s"
            f" ({peak}); {report['requests_lost']} requests were lost"
        )
    expired = report.get("leases_expired")
    if isinstance(expired, int) and expired > 0:
        return (
            f"HELD, but {expired} leases ran out and their nodes went to the safe ceiling:"
            f" no breaker tripped, {peak}; {report['requests_served']} requests served"
        )
    reaction_s = report.get("emergency_reaction_s")
    after = (
        f"; the failure was absorbed in {reaction_s:.1f} s"
        if isinstance(reaction_s, float)
        else "; no failure was absorbed"
    )
    return f"HELD: no breaker tripped, {peak}{after}; {report['requests_served']} requests served"
