"""Whether clocks alone can keep a domain: what the steps after the lock are judged by.

Reads a finished cycle and decides nothing. A domain that clocks cannot bring under its capacity is
in need; so is one that has taken from high priority all that is above the safe ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from msgspec import Struct

from controllers.fleet import BoolArray, IntArray
from controllers.policy import Situation
from facility.wire import Mode

ROOM_SHARE: Final = 0.25
"""High priority must have this share of its clocks above the safe ceiling back before anything is
given back that could cost it again."""


class Need(Struct, frozen=True):
    """One domain now.

    `pressed`: it is shaving, in emergency or braking, or over its capacity all the same. `over`:
    its forecast is above its usable capacity although clocks have given what they can. `starved`:
    it holds high priority at or below its safe ceiling. `room`: clocks alone would do. `why` says
    what is wrong, empty when nothing is.
    """

    pressed: bool = False
    over: bool = False
    starved: bool = False
    room: bool = True
    why: str = ""


def needs(
    situation: Situation,
    *,
    ceiling_mhz: IntArray,
    bound_by: IntArray,
    modes: Mapping[str, Mode],
) -> dict[str, Need]:
    """The need of every domain, in site order.

    Args:
        situation: what was known.
        ceiling_mhz: what was decided, per node.
        bound_by: place of the domain that holds each node below its highest clock, or -1.
        modes: mode of each domain.
    """
    fleet = situation.fleet
    high = situation.movable & ~fleet.low_priority
    # Low priority counts as slowed only below its safe ceiling: it is meant to give first.
    spare_mhz = np.where(high, ROOM_SHARE * (fleet.clock_mhz_max - fleet.safe_ceiling_mhz), 0.0)
    hungry = high & (ceiling_mhz <= fleet.safe_ceiling_mhz)
    short = situation.movable & (ceiling_mhz < fleet.safe_ceiling_mhz + spare_mhz)
    over = situation.alive & (situation.forecast_w > situation.capacity_w)
    starved = _holds_any(hungry, bound_by, len(fleet.domains)) & situation.alive
    held = _holds_any(short, bound_by, len(fleet.domains))
    room = ~situation.alive | (~over & ~held)
    found = {}
    for place, name in enumerate(fleet.domains):
        is_over, is_starved = bool(over[place]), bool(starved[place])
        found[name] = Need(
            pressed=modes[name] is not Mode.NORMAL or is_over,
            over=is_over,
            starved=is_starved,
            room=bool(room[place]),
            why=_why(situation, place, is_over) if is_over or is_starved else "",
        )
    return found


def _holds_any(nodes: BoolArray, bound_by: IntArray, domain_count: int) -> BoolArray:
    """Per domain whether it holds any of `nodes`."""
    holds = np.zeros(domain_count, dtype=np.bool_)
    holders = bound_by[nodes]
    holds[holders[holders >= 0]] = True
    return holds


def _why(situation: Situation, place: int, over: bool) -> str:
    forecast_w, capacity_w = situation.forecast_w[place], situation.capacity_w[place]
    facts = f"forecast {forecast_w / 1000.0:.1f} kW of {capacity_w / 1000.0:.1f} kW"
    if over:
        return f"{facts} with the clocks that are left"
    return f"{facts} with high priority at its safe ceiling or below"
