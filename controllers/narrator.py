"""One sentence per domain and node: what was decided and why, in the order a reader asks."""

from __future__ import annotations

import numpy as np

from controllers.fleet import BoolArray, IntArray
from controllers.policy import Situation
from facility.wire import Mode


def kilowatts(power_w: float) -> str:
    """Power as people say it."""
    return f"{power_w / 1000.0:.1f} kW"


def domain_sentence(
    situation: Situation,
    domain: int,
    *,
    mode: Mode,
    ceiling_mhz: IntArray,
    bound: BoolArray,
    held_by: tuple[str, ...],
    causes: tuple[str, ...],
) -> str:
    """Why `domain` is in `mode`.

    Args:
        situation: what was known.
        domain: place of the domain in site order.
        mode: what is being done to it.
        ceiling_mhz: what was decided per node.
        bound: nodes that this domain holds below their highest clock.
        held_by: other domains that hold nodes of this one.
        causes: contingencies, orders, heat or missing nodes that bear on it.
    """
    capacity_w = float(situation.capacity_w[domain])
    power_w = float(situation.domain_power_w[domain])
    forecast_w = float(situation.forecast_w[domain])
    why = f" ({'; '.join(causes)})" if causes else ""
    if not situation.alive[domain]:
        return f"lost: carries nothing{why}"
    backed = situation.from_history
    if not isinstance(backed, bool):
        backed = bool(backed[domain])
    forecast = "forecast" if backed else "forecast (short history)"
    facts = f"{forecast} {kilowatts(forecast_w)} of {kilowatts(capacity_w)}"
    if mode is Mode.BRAKE:
        level = _levels(situation, ceiling_mhz, situation.shares[domain] > 0.0)
        return f"braking {level}: {kilowatts(power_w)} of {kilowatts(capacity_w)}{why}"
    if np.count_nonzero(bound):
        return f"slowed {_levels(situation, ceiling_mhz, bound)}: {facts}{why}"
    held = f"slowed for {', '.join(held_by)}" if held_by else "nothing held back"
    return f"{kilowatts(power_w)} now, {facts}: {held}{why}"


def _levels(situation: Situation, ceiling_mhz: IntArray, nodes: BoolArray) -> str:
    """`16 low to 1410 MHz and 24 high to 1755-1800 MHz`."""
    low = situation.fleet.low_priority
    parts = []
    for word, group in (("low", nodes & low), ("high", nodes & ~low)):
        if group.any():
            least, most = int(ceiling_mhz[group].min()), int(ceiling_mhz[group].max())
            span = f"{least}" if least == most else f"{least}-{most}"
            parts.append(f"{int(np.count_nonzero(group))} {word} to {span} MHz")
    return " and ".join(parts) or "nobody"
