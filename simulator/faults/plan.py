"""What a seed draws to happen, and when: swarm style, so that seeds differ in which faults exist.

A tame plan stays within what the proof assumes; a wild one does not care. Which of the two a seed
has decides nothing about how it is judged: that follows from what really coincided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from controllers.reaction import Reaction
from facility.topology import Contingency
from simulator.faults.document import FaultsScenario
from simulator.faults.kinds import KINDS, Kind
from simulator.faults.world import World

FAULTS_MAX: Final = 16
EXISTS_RATIO: Final = 0.4
"""Share of the kinds that exist in a seed."""
AMBUSHES_MAX: Final = 4
RECOVERY_S: Final = 6.0
"""After a loss of control ends, until every node has been heard and leased again."""
BLINDING: Final = frozenset({"power-stuck", "nvml-hang", "gpu-lost", "driver-reload"})
"""What keeps an agent from seeing the brake pin."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: its kind, when it begins and how long it lasts."""

    at_s: float
    kind: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to happen in one run."""

    wild: bool
    faults: tuple[Planned, ...]
    contingencies: tuple[Planned, ...]


def draw_plan(world: World, scenario: FaultsScenario, reaction: Reaction, rng: Random) -> Plan:
    """Draw which kinds exist, how many faults there are, and when each begins."""
    wild = rng.random() < scenario.outside_ratio
    begin_s, end_s = scenario.calm_s, scenario.calm_s + scenario.storm_s
    failures = _contingencies(world, rng, begin_s, end_s, wild=wild)
    names = [name for name in KINDS if not scenario.only or name in scenario.only]
    exist = [name for name in names if scenario.only or rng.random() < EXISTS_RATIO] or names[:1]
    weights = [KINDS[name].weight for name in exist]
    faults = []
    for name in rng.choices(exist, weights, k=rng.randint(3, FAULTS_MAX)):
        at_s = rng.uniform(begin_s, end_s - 2.0)
        low_s, high_s = KINDS[name].duration_s
        planned = Planned(at_s, name, min(rng.uniform(low_s, high_s), end_s - at_s))
        if wild or not _meets(planned, failures, world, reaction):
            faults.append(planned)
    faults += _ambushes(faults, failures, rng, begin_s, end_s)
    return Plan(wild, tuple(sorted(faults, key=lambda item: item.at_s)), failures)


def _ambushes(
    faults: Sequence[Planned],
    failures: Sequence[Planned],
    rng: Random,
    begin_s: float,
    end_s: float,
) -> list[Planned]:
    """Load that rises just when control is lost or a feed fails, after a lull raised the clocks."""
    moments = [item.at_s for item in faults if KINDS[item.kind].deafens]
    chosen = rng.sample(moments, min(len(moments), rng.randint(1, AMBUSHES_MAX)))
    found = []
    for at_s in (*(item.at_s for item in failures), *chosen):
        spike_s = at_s + rng.uniform(-2.0, 0.5)
        if begin_s < spike_s < end_s - 4.0:
            lasts_s = min(rng.uniform(6.0, 15.0), end_s - spike_s)
            found.append(Planned(spike_s, "load-spike", lasts_s))
            lull_s = max(spike_s - rng.uniform(6.0, 14.0), begin_s - 6.0)
            found.append(Planned(lull_s, "load-drop", 1.0))
    return found


def _contingencies(
    world: World, rng: Random, begin_s: float, end_s: float, *, wild: bool
) -> tuple[Planned, ...]:
    """At most one declared failure, or, in a wild plan, several that may overlap."""
    names = list(world.site.contingencies)
    if not names or rng.random() < 0.35:
        return ()
    count = rng.randint(1, 3) if wild else 1
    return tuple(
        Planned(rng.uniform(begin_s + 2.0, end_s - 12.0), rng.choice(names), rng.uniform(6.0, 20.0))
        for _ in range(count)
    )


def relies_on_control(contingency: Contingency) -> bool:
    """Whether the proof counts on the broker and the controller when this failure comes."""
    return contingency.broker_survives and not contingency.local_trigger


def _meets(fault: Planned, failures: Sequence[Planned], world: World, reaction: Reaction) -> bool:
    """Whether a fault comes so close to a failure that its proof would not hold."""
    kind: Kind = KINDS[fault.kind]
    for failure in failures:
        contingency = world.site.contingencies[failure.kind]
        matters = (relies_on_control(contingency) and kind.deafens) or (
            contingency.local_trigger and (kind.loosens or fault.kind in BLINDING or kind.deafens)
        )
        starts_s = failure.at_s - reaction.without_control_s
        ends_s = failure.at_s + reaction.contingency_s(contingency) + 1.0
        lasts_s = fault.at_s + fault.duration_s + RECOVERY_S
        if fault.kind == "broker-rollback":
            lasts_s += 15.0
        if matters and fault.at_s < ends_s and lasts_s > starts_s:
            return True
    return False
