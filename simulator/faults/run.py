"""One seed from its draw to its verdict.

Calm, storm, and healing: after the storm every fault is undone, operators lift what they ordered,
and the site must come back to full service. The verdict is made of what truly happened.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from controllers.reaction import reaction_bounds
from simulator.faults.assumptions import LOOK_S, Watch
from simulator.faults.dice import dice
from simulator.faults.document import FaultsScenario
from simulator.faults.kinds import KINDS
from simulator.faults.kinds_control import lift_everything
from simulator.faults.liveness import (
    FORGET_S,
    Service,
    calm_service,
    shortfalls,
    waits_for_forecast,
)
from simulator.faults.parts import Parts
from simulator.faults.plan import Plan, Planned, draw_plan
from simulator.faults.plant import STEP_S
from simulator.faults.sites import RAISE_RATIO_PER_S, draw_site
from simulator.faults.witness import AuditCheck, Witness
from simulator.faults.world import World

HEALING_LOAD_MAX: Final = 0.2
"""Little work while the site heals: after a storm the forecast expects storms, rightly, and more
work than this would be shaved for it."""
FORGET_STEP_S: Final = 10.0
BRAKE_PIN_S: Final = 3.0


@dataclass(slots=True)
class SeedResult:
    """What one seed gave. `outside` names the assumptions that did not hold, and since when."""

    seed: int
    wild: bool = False
    outside: dict[str, float] = field(default_factory=dict)
    trips: list[str] = field(default_factory=list)
    thermal_shutdowns: list[str] = field(default_factory=list)
    lost_audit_records: list[str] = field(default_factory=list)
    liveness_failures: list[str] = field(default_factory=list)
    unleased_ceilings: list[str] = field(default_factory=list)
    unramped_rises: list[str] = field(default_factory=list)
    unheeded_emergencies: list[str] = field(default_factory=list)
    failed_cycles: int = 0
    late_alarms: tuple[str, ...] = ()
    untellable: tuple[str, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)
    sim_seconds: float = 0.0
    load_ratio_max: float = 0.0
    digest: str = ""

    @property
    def problems(self) -> list[str]:
        """Everything that must not happen inside the assumptions, a sentence each."""
        found = [*self.trips, *self.thermal_shutdowns, *self.lost_audit_records]
        found += [*self.liveness_failures, *self.unleased_ceilings]
        found += [*self.unramped_rises, *self.unheeded_emergencies]
        if self.failed_cycles:
            found.append(f"{self.failed_cycles} cycles ended in an exception")
        return found

    @property
    def failed(self) -> bool:
        """Whether anything happened inside the assumptions that must not."""
        return bool(self.problems) and not self.outside


def run_seed(seed: int, scenario: FaultsScenario, parts: Parts) -> SeedResult:
    """Run one seed; the same arguments give the same result to the last bit."""
    return _Run(seed, scenario, parts).run()


class _Run:
    """The state of one run."""

    def __init__(self, seed: int, scenario: FaultsScenario, parts: Parts) -> None:
        self.scenario = scenario
        self.result = SeedResult(seed)
        self.rng = dice(f"ampacity-faults-{seed}")
        drawn = draw_site(dice(self.rng.random()), nodes_max=scenario.nodes_max)
        self.world = World(
            drawn,
            rng=dice(self.rng.random()),
            parts=parts,
            ledger=scenario.ledger,
            lease_factor=scenario.lease_factor,
        )
        self.reaction = reaction_bounds(drawn.site.control)
        self.watch = Watch(self.world, self.reaction)
        self.witness = Witness(self.world, lease_factor=scenario.lease_factor)
        self.plan: Plan = draw_plan(self.world, scenario, self.reaction, dice(self.rng.random()))
        self._hash = hashlib.sha256()
        self._calm: Service | None = None
        self._steps = 0
        self._look_s = LOOK_S

    def run(self) -> SeedResult:
        """Calm, storm, healing, verdict."""
        scenario, world = self.scenario, self.world
        world.begin()
        self._spread_load()
        storm_s, heal_s = scenario.calm_s, scenario.calm_s + scenario.storm_s
        end_s = heal_s + scenario.heal_s
        self._schedule()
        world.timeline.at(storm_s - 0.01, self._remember_calm)
        world.timeline.at(heal_s + 0.05, self._heal_everything)
        self._go_on_until(end_s)
        waited = self._waits_for_forecast()
        world.counts["state:waited-for-forecast"] += waited
        while self._waits_for_forecast() and world.timeline.now_s < end_s + FORGET_S:
            self._go_on_until(world.timeline.now_s + FORGET_STEP_S)
        if waited:
            self._go_on_until(world.timeline.now_s + 1.0 / RAISE_RATIO_PER_S)  # a whole ramp
        self._judge(ended=not world.plant.trips)
        return self.result

    def _go_on_until(self, end_s: float) -> None:
        world = self.world
        while self._steps < round(end_s / STEP_S) and not world.plant.trips:
            self._steps += 1
            now_s = self._steps * STEP_S
            world.step(now_s)
            self.watch.look_at_wear()
            if now_s >= self._look_s:
                self._look_s += LOOK_S
                self.watch.look()
                self.witness.look()
                self._fold()
        if world.plant.trips:  # the lights are out: nothing that follows says anything
            self.watch.look()  # a failure at full load trips between two looks

    def _waits_for_forecast(self) -> bool:
        """Whether nothing but the forecast's memory of the storm keeps clocks low."""
        world, calm = self.world, self._calm
        if world.plant.trips or self.watch.broken or calm is None:
            return False
        return waits_for_forecast(world, calm_service(world), calm)

    def _spread_load(self) -> None:
        rng, plant = self.rng, self.world.plant
        level = rng.choice((0.15, 0.3, 0.6, 0.9))
        plant.goal[:] = [min(max(rng.gauss(level, 0.15), 0.02), 1.0) for _ in plant.goal]
        plant.rate[:] = 0.2

    def _schedule(self) -> None:
        world = self.world
        for fault in self.plan.faults:
            world.timeline.at(fault.at_s, lambda fault=fault: self._begin(fault))  # type: ignore[misc]
        for failure in self.plan.contingencies:
            world.timeline.at(failure.at_s, lambda item=failure: self._strike(item))  # type: ignore[misc]

    def _begin(self, fault: Planned) -> None:
        world, kind = self.world, KINDS[fault.kind]
        tame = not self.plan.wild
        if tame and kind.loosens and not self._has_margin():
            return
        heal = kind.begin(world)
        if heal is None:
            return
        world.counts[fault.kind] += 1
        if world.contingencies:
            world.counts["state:fault-in-contingency"] += 1
        healed = [False]

        def once() -> None:
            if not healed[0]:
                healed[0] = True
                heal()

        world.timeline.after(fault.duration_s, once)

    def _has_margin(self) -> bool:
        """Whether one more node may be loosened without leaving what the proof assumes."""
        loosened = [name for name, why in self.world.suspects.items() if why != "off"]
        return len(loosened) < self.world.site.control.ignored_locks_max

    def _strike(self, failure: Planned) -> None:
        world, name = self.world, failure.kind
        if name in world.contingencies:
            return
        contingency = world.site.contingencies[name]
        kinds = ("air-handler-lost", "flow-lost")
        what = next((kind for kind in kinds if name.endswith(kind)), "ups-lost")
        world.counts[f"contingency:{what}"] += 1
        world.strike(name)
        rng, timeline = self.rng, world.timeline
        if contingency.local_trigger:
            self._pull_pins(name, rng.uniform(0.0, contingency.detect_s))
        survives = contingency.broker_survives or contingency.local_trigger
        if not survives and world.broker.up and rng.random() < 0.5:
            world.broker.stop(keep_retained=rng.random() < 0.5)
            timeline.after(rng.uniform(2.0, 6.0), world.broker.start)
            world.counts["state:broker-lost-with-feed"] += 1
        seen_s = rng.uniform(0.1, 1.0) * contingency.detect_s
        timeline.after(seen_s, lambda: world.operators.see(name, on=True))
        timeline.after(seen_s + failure.duration_s, lambda: self._mend(name))

    def _pull_pins(self, name: str, after_s: float) -> None:
        """The chassis of every node that it concerns pulls its brake pin."""
        world = self.world
        concerned = [host for host in world.nodes.values() if world.site.touches(name, host.name)]

        def pull() -> None:
            for host in concerned:
                host.chassis.braked = True
                host.chassis.brake_s += 0.1

        def let_go() -> None:
            for host in concerned:
                host.chassis.braked = False

        world.timeline.after(after_s, pull)
        world.timeline.after(after_s + BRAKE_PIN_S, let_go)

    def _mend(self, name: str) -> None:
        world = self.world
        if name in world.contingencies:
            world.mend(name)
            world.operators.see(name, on=False)

    def _remember_calm(self) -> None:
        self._calm = calm_service(self.world)

    def _heal_everything(self) -> None:
        """The storm is over: whatever is still wrong is put right, and people look at alarms."""
        world = self.world
        for name in list(world.contingencies):
            self._mend(name)
        world.operators.mends = True
        for wait_s in (0.0, 8.0, 16.0):
            world.timeline.after(wait_s, world.operators.say_all_again)
        if world.counts["operator-mistake"] or world.counts["operator-garbage"]:
            lift_everything(world)
        world.broker.thaw()
        if not world.broker.up:
            world.broker.start()
        world.weather.extra_s_max = world.weather.loss_ratio = 0.0
        for host in world.nodes.values():
            if host.line is not None:
                host.line.heal()
        world.plant.clog[:] = 1.0
        world.plant.rate[:] = 0.2
        world.plant.goal[:] = world.plant.goal.clip(0.0, HEALING_LOAD_MAX)
        world.store.unreachable.clear()

    def _fold(self) -> None:
        """What the run looks like now, into its digest."""
        plant = self.world.plant
        self.result.load_ratio_max = max(
            self.result.load_ratio_max, float(plant.tree.load_ratio.max())
        )
        self._hash.update(plant.node_w.tobytes())
        self._hash.update(struct.pack(f">{len(plant.lock_mhz)}I", *plant.lock_mhz))

    def _judge(self, *, ended: bool) -> None:
        world, result, scenario = self.world, self.result, self.scenario
        now_s = world.timeline.now_s
        service = calm_service(world) if ended else None
        result.wild, result.sim_seconds = self.plan.wild, now_s
        result.trips = [
            f"{trip.domain} trips at {trip.at_s:.1f} s, load {trip.load_ratio:.3f}"
            for trip in world.plant.trips
        ]
        result.thermal_shutdowns = [
            f"GPU {item.gpu_index} of {item.node} shuts down at {item.at_s:.1f} s"
            for item in world.plant.shutdowns
        ]
        result.unleased_ceilings = [
            f"{name} runs above its safe ceiling without a lease at {at_s:.1f} s"
            for at_s, name in self.witness.unleased
        ]
        result.unramped_rises = [
            f"{name} is granted more than a step of its ramp at {at_s:.1f} s"
            for at_s, name in self.witness.unramped
        ]
        result.unheeded_emergencies = [
            f"{name} has not acted on an emergency that it heard at {at_s:.1f} s"
            for at_s, name in self.witness.unheeded
        ]
        for host in world.controllers:
            result.failed_cycles += host.failures_count
            if host.life is not None:
                result.failed_cycles += host.life.failures_count
                host.quit()
        audit = AuditCheck(world)
        audit.run(self.witness.acted)
        result.lost_audit_records = [
            f"nothing in the audit of {item.kind} {' '.join(item.key)} at {item.at_s:.1f} s"
            for item in audit.lost
        ] + audit.problems
        if service is not None and self._calm is not None:
            result.liveness_failures = shortfalls(service, self._calm)
        result.outside = dict(self.watch.broken)
        result.late_alarms = self.watch.late_alarms(scenario.alarm_s)
        result.untellable = self.watch.untellable(scenario.alarm_s)
        world.counts["state:takeover"] += world.store.takes_count
        result.counts = world.counts
        result.digest = self._hash.hexdigest()[:16]
