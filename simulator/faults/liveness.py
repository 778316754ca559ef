"""Full service: what a site must have come back to once every fault is healed.

Compared with the same site before its storm: leases, clocks, modes, orders. It reads the agents
and the last decision's messages, which is what an operator would look at.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from facility.wire import Codec, DomainState, Mode, WireError
from simulator.faults.world import World

BACK_RATIO: Final = 0.97
"""A site serves as before when its ceilings allow at least this share of what they did.

Of the whole site, because who gets how much of it follows from the load, which has changed."""
FORGET_S: Final = 1_900.0
"""After so long no forecast may hold clocks for the storm any more. Until then it must, if its
quantile says so: a P99 with a reaction of 3 s forgets a spike after 1,800 s (docs/policies.md)."""


@dataclass(frozen=True, slots=True)
class NodeService:
    """One node: whether it holds a lease, its ceiling, why, and what it may be excused by."""

    leased: bool
    ceiling_mhz: int
    reason: str
    hot: bool
    contingencies: tuple[str, ...]
    safe_ceiling_mhz: int
    worst_w: float


@dataclass(frozen=True, slots=True)
class Service:
    """A site at one moment."""

    nodes: dict[str, NodeService]
    leading: bool

    @property
    def worst_w(self) -> float:
        """What all ceilings together allow."""
        return sum(node.worst_w for node in self.nodes.values())


def calm_service(world: World) -> Service:
    """How the site serves now."""
    nodes = {}
    for name, host in world.nodes.items():
        if host.life is None:
            nodes[name] = NodeService(False, 0, "no agent", False, (), 0, 0.0)
            continue
        brain = host.life.brain
        ceiling_mhz = min(brain.ceilings_mhz.values(), default=0)
        nodes[name] = NodeService(
            leased=brain.lease is not None,
            ceiling_mhz=ceiling_mhz,
            reason=brain.reason,
            hot=any(gpu.heat.ceiling_mhz is not None for gpu in brain.view.gpus.values()),
            contingencies=brain.contingencies.active,
            safe_ceiling_mhz=host.config.safe_ceiling_mhz,
            worst_w=world.site.nodes[name].model.worst_case_w(ceiling_mhz),
        )
    leader = world.leader
    return Service(nodes, leading=leader is not None and not leader.stopped)


def shortfalls(now: Service, calm: Service) -> list[str]:
    """What is missing for full service, a sentence each."""
    found = _unserved(now) + _below_safe(now)
    if not found and _is_slower(now, calm):
        found.append(f"clocks allow {now.worst_w:.0f} W, before the storm {calm.worst_w:.0f} W")
    return found


def _is_slower(now: Service, calm: Service) -> bool:
    """Whether ceilings are lower than before the storm, and heat is not why."""
    hot = any(node.hot for node in now.nodes.values())
    return not hot and now.worst_w < BACK_RATIO * calm.worst_w


def _unserved(now: Service) -> list[str]:
    """What nobody may be without, whatever the load does."""
    found = [] if now.leading else ["no controller leads"]
    for name, node in now.nodes.items():
        if not node.leased:
            found.append(f"{name} holds no lease: {node.reason}")
        elif node.contingencies:
            found.append(f"{name} still holds {', '.join(node.contingencies)}")
    return found


def _below_safe(now: Service) -> list[str]:
    """Who has less than anybody may have without a lease, and heat is not why."""
    return [
        f"{name} is at {node.ceiling_mhz} MHz, below its safe ceiling"
        for name, node in now.nodes.items()
        if node.leased and not node.hot and node.ceiling_mhz < node.safe_ceiling_mhz
    ]


def waits_for_forecast(world: World, now: Service, calm: Service) -> bool:
    """Whether all that is missing is what shaving domains say they hold for what may come."""
    return (
        not _unserved(now)
        and (bool(_below_safe(now)) or _is_slower(now, calm))
        and any(_is_shaving(world, name) for name in world.site.domains)
    )


def _is_shaving(world: World, domain: str) -> bool:
    kept = world.broker.retained.get(world.topics.domain(domain, "state"), b"")
    with contextlib.suppress(WireError):
        return Codec().decode(kept, DomainState).mode is Mode.SHAVING
    return False
