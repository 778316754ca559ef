"""Cooling zones as power domains: a hot zone gets a smaller budget, in the same watts.

The heat that a zone may take is what its air handlers remove, and less while the air that enters
its servers is too warm or its GPUs are close to slowing themselves down. Where temperatures are
missing, nothing is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from controllers.snapshot import NodeView, Snapshot
from facility.topology import Domain, Site
from facility.wire import Quality

CUT_RATIO_PER_C_S: Final = 0.01
"""Heat given up each second for each degree of excess: a 5 degree excess halves heat in 14 s."""
EXCESS_C_MAX: Final = 5.0
RECOVER_RATIO_PER_S: Final = 0.005
"""Budgets come back slowly: metal and air take minutes (physics C.6)."""
HYSTERESIS_C: Final = 2.0
BUDGET_RATIO_MIN: Final = 0.05


@dataclass(frozen=True, slots=True)
class ZoneHeat:
    """One zone: the warmest inlet, the margin that counts, and by how much a limit is passed.

    `excess_c` is negative with room, None when nothing in the zone reports a temperature.
    `seen_ratio` is the share of the zone's nodes that report one, `warmest` the node with the
    warmest inlet.
    """

    inlet_temperature_c: float | None
    margin_c: float | None
    excess_c: float | None
    seen_ratio: float = 1.0
    warmest: str = ""


def zone_heat(zone: Domain, snapshot: Snapshot) -> ZoneHeat:
    """Read a zone's temperatures off its fresh nodes.

    The second smallest node margin counts: one clogged heat sink is a matter for its own node,
    which lowers itself, and not for the whole aisle.
    """
    fresh = [snapshot.nodes[name] for name in zone.nodes if not snapshot.nodes[name].missing]
    inlets = {
        view.node.name: view.telemetry.inlet_temperature_c
        for view in fresh
        if view.telemetry is not None and view.telemetry.inlet_temperature_c is not None
    }
    margins = {
        view.node.name: margin for view in fresh if (margin := node_margin_c(view)) is not None
    }
    ranked = sorted(margins.values())
    inlet_c = max(inlets.values(), default=None)
    margin_c = ranked[min(1, len(ranked) - 1)] if ranked else None
    excesses = []
    if inlet_c is not None:
        excesses.append(inlet_c - zone.inlet_temperature_c_max)
    if margin_c is not None:
        excesses.append(zone.margin_c_min - margin_c)
    return ZoneHeat(
        inlet_c,
        margin_c,
        max(excesses, default=None),
        len(inlets.keys() | margins.keys()) / max(len(zone.nodes), 1),
        max(inlets, key=lambda name: inlets[name], default=""),
    )


def node_margin_c(view: NodeView) -> float | None:
    """The smallest margin of a node's GPUs and their memory, None when none is known."""
    if view.telemetry is None:
        return None
    return min(
        (
            margin
            for gpu in view.telemetry.gpus
            if gpu.quality is not Quality.MISSING
            for margin in (gpu.margin_c, gpu.memory_margin_c)
            if margin is not None
        ),
        default=None,
    )


class ZoneBudgets:
    """Remembers each zone's budget as a share of its capacity, and moves it by temperature."""

    def __init__(self, site: Site) -> None:
        self._zones = [domain for domain in site.domains.values() if domain.is_zone]
        self.names = tuple(zone.name for zone in self._zones)
        self._ratio = dict.fromkeys(self.names, 1.0)
        self._hot: dict[str, str] = {}
        """Zones that were too hot, and the node that was warmest then."""
        self._seen_ratio_min = 1.0 - site.control.missing_ratio_max

    def step(
        self, snapshot: Snapshot, *, elapsed_s: float, heat_ratio: dict[str, float]
    ) -> dict[str, ZoneHeat]:
        """Move the budgets and return what was read.

        Args:
            snapshot: this cycle's snapshot.
            elapsed_s: seconds since the last step.
            heat_ratio: per zone its present heat over its capacity; the first cut starts from
                there, because a budget above what a hot zone draws would change nothing.
        """
        readings = {}
        fresh = frozenset(name for name, view in snapshot.nodes.items() if not view.missing)
        for zone in self._zones:
            heat = readings[zone.name] = zone_heat(zone, snapshot)
            self._move(zone.name, heat, elapsed_s, heat_ratio.get(zone.name, 1.0), fresh)
        return readings

    def _move(
        self,
        name: str,
        heat: ZoneHeat,
        elapsed_s: float,
        heat_ratio: float,
        fresh: frozenset[str],
    ) -> None:
        ratio = self._ratio[name]
        if heat.excess_c is None:
            return  # Unknown is not cool: the budget stays, and the cycle raises nothing here.
        if heat.excess_c > 0.0:
            # Only at the onset: power follows the budget down, so that a budget which followed
            # power in turn would run to nothing over a tenth of a degree.
            start = ratio if name in self._hot else min(ratio, heat_ratio)
            cut = CUT_RATIO_PER_C_S * min(heat.excess_c, EXCESS_C_MAX) * elapsed_s
            self._ratio[name] = max(start * (1.0 - cut), BUDGET_RATIO_MIN)
            self._hot[name] = heat.warmest
        elif heat.excess_c < -HYSTERESIS_C and self._may_recover(name, heat, fresh):
            self._ratio[name] = min(ratio + RECOVER_RATIO_PER_S * elapsed_s, 1.0)
            self._hot.pop(name, None)

    def _may_recover(self, name: str, heat: ZoneHeat, fresh: frozenset[str]) -> bool:
        """Whether enough of a zone is seen to call it cool: the one that was hot above all."""
        hottest = self._hot.get(name, "")
        return heat.seen_ratio >= self._seen_ratio_min and (not hottest or hottest in fresh)

    def ratio(self, zone: str) -> float:
        """Share of its capacity that `zone` may use now."""
        return self._ratio[zone]
