"""Lowering ceilings until a load fits: the one search that policies and contingencies share.

Stages say who gives first and how far; within a stage everybody comes down to one common level,
the highest that fits. What cannot fit ends with every stage at its floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct

from controllers.fleet import BoolArray, Fleet, IntArray


class Stage(Struct, frozen=True):
    """Nodes that give together, and the lowest ceiling that this stage may ask of each, MHz."""

    nodes: BoolArray
    floor_mhz: IntArray


def stages_by_priority(fleet: Fleet, movable: BoolArray) -> list[Stage]:
    """Low priority to its safe ceiling, then high; only then low to the brake, then high."""
    low, high = movable & fleet.low_priority, movable & ~fleet.low_priority
    return [
        Stage(low, fleet.safe_ceiling_mhz),
        Stage(high, fleet.safe_ceiling_mhz),
        Stage(low, fleet.brake_ceiling_mhz),
        Stage(high, fleet.brake_ceiling_mhz),
    ]


def lowered_to_fit(
    fleet: Fleet,
    wanted_mhz: IntArray,
    stages: Sequence[Stage],
    *,
    below: BoolArray,
    load_w: Callable[[IntArray], float],
    limit_w: float,
) -> IntArray:
    """Return ceilings, none above `wanted_mhz`, under which `load_w` is within `limit_w`.

    Args:
        fleet: the site's constants.
        wanted_mhz: ceilings to start from, one per node.
        stages: who gives, in order.
        below: nodes that load the domain in question; no other is touched.
        load_w: the domain's load under given ceilings; must not fall when a ceiling rises.
        limit_w: what the load must fit.
    """
    if load_w(wanted_mhz) <= limit_w:
        return wanted_mhz
    for stage in stages:
        group = stage.nodes & below
        if not group.any():
            continue
        lowest = np.where(group, np.minimum(wanted_mhz, stage.floor_mhz), wanted_mhz)
        if load_w(lowest) <= limit_w:
            return _highest_level(fleet, wanted_mhz, lowest, load_w, limit_w)
        wanted_mhz = lowest
    return wanted_mhz


def _highest_level(
    fleet: Fleet,
    wanted_mhz: IntArray,
    lowest_mhz: IntArray,
    load_w: Callable[[IntArray], float],
    limit_w: float,
) -> IntArray:
    """Bisect on the clock between `lowest_mhz`, which fits, and `wanted_mhz`, which does not."""
    comes_down = lowest_mhz < wanted_mhz
    low, high = int(lowest_mhz[comes_down].min()), int(wanted_mhz[comes_down].max()) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if load_w(np.maximum(np.minimum(wanted_mhz, middle), lowest_mhz)) <= limit_w:
            low = middle
        else:
            high = middle - 1
    level: IntArray = np.maximum(np.minimum(wanted_mhz, low), lowest_mhz)
    # A ceiling that nobody lowered keeps its own value, on the grid or not.
    return np.where(level < wanted_mhz, np.maximum(fleet.snap_mhz(level), lowest_mhz), wanted_mhz)
