"""What the fault machine's judges take for a broken assumption, and what for a broken promise.

A small storm site in its calm, and one thing done to it by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import msgspec
import pytest

from controllers.node import NodeBrain
from controllers.reaction import reaction_bounds
from daemon.faults_parts import LiveParts
from facility.wire import Codec, DomainState, Emergency, Event, Lease, Mode, encode
from simulator.faults.assumptions import LOOK_S, Watch
from simulator.faults.dice import dice
from simulator.faults.hosts import NodeHost
from simulator.faults.liveness import Service, calm_service, waits_for_forecast
from simulator.faults.plant import STEP_S
from simulator.faults.sites import ROW, DrawnSite, draw_site
from simulator.faults.witness import Witness
from simulator.faults.world import DEPOSED, World

CALM_S: Final = 8.0
HEARING_S: Final = 6.0
"""Longer than a node may take to hear of an emergency and to be told of."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Storm:
    """A world with its judges, looking as a run does."""

    def __init__(self, *, ignored_locks_max: int) -> None:
        drawn = _site(ignored_locks_max)
        self.world = World(drawn, rng=dice(1), parts=LiveParts(), ledger=True, lease_factor=1.0)
        self.watch = Watch(self.world, reaction_bounds(drawn.site.control))
        self.witness = Witness(self.world, lease_factor=1.0)
        self._step = 0
        self.world.begin()
        self.world.plant.goal[:] = 0.05
        self.run(CALM_S)

    def run(self, for_s: float) -> None:
        for _ in range(round(for_s / STEP_S)):
            self._step += 1
            self.world.step(self._step * STEP_S)
            if self._step % round(LOOK_S / STEP_S) == 0:
                self.watch.look()
                self.witness.look()

    def lift(self, name: str) -> None:
        host = self.world.nodes[name]
        for gpu in host.chassis.gpus:
            host.chassis.unlock(gpu)


def brain_of(host: NodeHost) -> NodeBrain:
    assert host.life is not None
    return host.life.brain


def _site(ignored_locks_max: int) -> DrawnSite:
    """The first site with a row that has so many locks to spare."""
    for seed in range(1, 200):
        drawn = draw_site(dice(seed), nodes_max=4)
        if ROW in drawn.site.domains and drawn.site.control.ignored_locks_max == ignored_locks_max:
            return drawn
    raise AssertionError("no such site")


def test_a_lifted_lock_breaks_the_assumption_at_once_where_the_proof_has_none_to_spare() -> None:
    storm = Storm(ignored_locks_max=0)
    assert not storm.watch.broken
    storm.lift("n1")
    storm.watch.look()
    assert list(storm.watch.broken) == ["locks"]


def test_a_lifted_lock_breaks_nothing_where_the_proof_has_one_to_spare() -> None:
    storm = Storm(ignored_locks_max=1)
    storm.lift("n1")
    storm.watch.look()
    assert not storm.watch.broken


def test_a_lock_that_its_agent_has_asked_for_may_take_its_time() -> None:
    storm = Storm(ignored_locks_max=0)
    for domain in storm.world.site.nodes["n1"].ancestors:
        storm.world.request("brake", domain=domain)
    storm.run(HEARING_S)
    brake_mhz = storm.world.nodes["n1"].config.brake_ceiling_mhz
    assert set(brain_of(storm.world.nodes["n1"]).ceilings_mhz.values()) == {brake_mhz}
    assert not storm.watch.broken


class Braked:
    """A row that was braked while one of its nodes was away."""

    def __init__(self) -> None:
        self.storm = Storm(ignored_locks_max=0)
        self.world = self.storm.world
        self.late = self.world.nodes["n1"]
        self.late.crash_agent()
        self.world.request("brake", domain=ROW)
        self.storm.run(2.0)

    def cut_the_controller_off(self) -> None:
        host = self.world.leader
        assert host is not None
        assert host.line is not None
        host.line.cut(up=True, down=True)

    def replace_what_the_broker_keeps(self) -> None:
        message = Emergency(
            domain=ROW, active=(), epoch=1, sequence=10**6, issued_at_s=0.0, by=DEPOSED
        )
        topic = self.world.topics.domain(ROW, "emergency")
        self.world.inject(topic, encode(message), retain=True)

    def deafen(self) -> None:
        """The late node hears leases, and no emergency."""
        self.late.start()
        line = self.late.line
        assert line is not None
        line.subscriptions[:] = [
            item for item in line.subscriptions if not item.topic_filter.endswith("/emergency")
        ]
        self.world.broker.reroute()


def test_a_node_that_comes_late_need_not_know_what_nobody_keeps_and_nobody_can_say() -> None:
    case = Braked()
    case.cut_the_controller_off()
    case.replace_what_the_broker_keeps()
    case.late.start()
    case.storm.run(HEARING_S)
    assert not brain_of(case.late).contingencies.active
    assert not case.storm.witness.unheeded


def test_a_node_that_comes_late_must_know_what_the_broker_keeps() -> None:
    case = Braked()
    case.cut_the_controller_off()
    case.deafen()
    case.storm.run(HEARING_S)
    assert [name for _, name in case.storm.witness.unheeded] == ["n1"]


def test_a_node_that_comes_late_hears_from_a_leader_what_a_deposed_one_has_replaced() -> None:
    case = Braked()
    case.replace_what_the_broker_keeps()
    case.late.start()
    case.storm.run(HEARING_S)
    assert brain_of(case.late).contingencies.active == ("brake",)
    assert not case.storm.witness.unheeded


def test_who_is_killed_while_standing_still_has_written_nothing_since_it_stood() -> None:
    storm = Storm(ignored_locks_max=0)
    host = storm.world.leader
    assert host is not None
    host.stop()
    stood_s = storm.world.timeline.now_s
    storm.run(3.0)
    host.crash()
    assert host.ends_s == [stood_s]


def test_a_message_that_waited_in_a_broker_left_when_it_came_there() -> None:
    storm = Storm(ignored_locks_max=0)
    broker, said = storm.world.broker, []
    broker.taps.append(lambda topic, _: said.append((topic, broker.arrived_s)))
    broker.freeze()
    came_s = storm.world.timeline.now_s
    broker.take("here", b"", retain=False, qos=0)
    storm.run(2.0)
    broker.thaw()
    broker.take("there", b"", retain=False, qos=0)
    assert ("here", came_s) in said
    assert ("there", storm.world.timeline.now_s) in said


@pytest.mark.parametrize(("newer", "unheeded"), [(0, False), (1, True)])
def test_only_the_newest_emergency_that_was_said_must_be_heeded(newer: int, unheeded: bool) -> None:
    """A late copy of an emergency that is over; and the same words once more, as new ones."""
    storm = Storm(ignored_locks_max=0)
    world = storm.world
    said: list[Emergency] = []
    world.broker.taps.append(lambda topic, payload: _note(said, topic, payload))
    world.request("brake", domain=ROW)
    storm.run(2.0)
    world.request("release", domain=ROW)
    storm.run(30.0)
    braked = next(item for item in said if item.active)
    last = max(item.sequence for item in said)
    again = msgspec.structs.replace(braked, sequence=last + newer if newer else braked.sequence)
    storm.witness._tap(world.topics.domain(ROW, "emergency"), encode(again))
    storm.run(HEARING_S)
    assert bool(storm.witness.unheeded) is unheeded


def _note(said: list[Emergency], topic: str, payload: bytes) -> None:
    if topic.endswith(f"/{ROW}/emergency"):
        said.append(msgspec.json.decode(payload, type=Emergency))


@pytest.mark.parametrize(
    ("lease_s", "above_safe_mhz", "unramped"),
    [(9.0, 150, True), (9.0, -100, False), (0.001, 150, False), (0.001, 190, True)],
)
def test_a_ceiling_rises_from_the_lease_in_force_or_from_the_safe_ceiling(
    lease_s: float, above_safe_mhz: int, unramped: bool
) -> None:
    """The ramp is 158 MHz a cycle; a lease of 100 MHz below the safe ceiling goes before."""
    storm = Storm(ignored_locks_max=0)
    world = storm.world
    safe_mhz = world.nodes["n1"].config.safe_ceiling_mhz
    session, seq = world.frames["n1"]
    for number, mhz in ((1, safe_mhz - 100), (2, safe_mhz + above_safe_mhz)):
        lease = Lease(
            node="n1",
            session=session,
            basis_seq=seq,
            epoch=5,
            sequence=number,
            decision_id=f"5-{number}",
            lease_s=lease_s,
            ceilings_mhz={"GPU-n1-0": mhz},
        )
        world.broker.take(world.topics.node("n1", "lease"), encode(lease), retain=False, qos=1)
    assert [name for _, name in storm.witness.unramped] == ["n1"] * unramped


class Calm:
    """A site in its calm, some of its service then taken away, and its domains made to shave."""

    def __init__(self) -> None:
        self.world = Storm(ignored_locks_max=0).world
        self.calm = calm_service(self.world)

    def shave(self) -> None:
        topic = self.world.topics.domain(ROW, "state")
        state = Codec().decode(self.world.broker.retained[topic], DomainState)
        shaving = msgspec.structs.replace(state, mode=Mode.SHAVING)
        self.world.broker.retained[topic] = encode(shaving)

    def waits_at(
        self, share: float, *, leased: bool = True, below_safe_mhz: int | None = None
    ) -> bool:
        nodes = {
            name: replace(
                node,
                worst_w=share * node.worst_w,
                leased=leased,
                ceiling_mhz=node.ceiling_mhz
                if below_safe_mhz is None
                else node.safe_ceiling_mhz - below_safe_mhz,
            )
            for name, node in self.calm.nodes.items()
        }
        return waits_for_forecast(self.world, Service(nodes, leading=True), self.calm)


def test_a_forecast_may_hold_clocks_for_a_while_where_a_domain_says_that_it_shaves() -> None:
    case = Calm()
    assert not case.waits_at(0.96)
    case.shave()
    assert case.waits_at(0.96)
    assert not case.waits_at(0.98)


def test_no_forecast_excuses_a_node_without_a_lease() -> None:
    case = Calm()
    case.shave()
    assert not case.waits_at(0.96, leased=False)


@pytest.mark.parametrize(("below_safe_mhz", "waits"), [(1, True), (0, False)])
def test_a_forecast_may_hold_a_node_below_its_safe_ceiling(
    below_safe_mhz: int, waits: bool
) -> None:
    case = Calm()
    assert not case.waits_at(1.0, below_safe_mhz=below_safe_mhz)
    case.shave()
    assert case.waits_at(1.0, below_safe_mhz=below_safe_mhz) is waits


class Lie:
    """A busy node whose sensors show a part of what it draws, and whose meter works or does not."""

    def __init__(self, *, meter: bool, shows_ratio: float) -> None:
        self.storm = Storm(ignored_locks_max=0)
        self.watch, self.world = self.storm.watch, self.storm.world
        chassis = self.world.nodes["n1"].chassis
        chassis.meter_gone = not meter
        self.world.plant.goal[:] = 0.8
        self.storm.run(10.0)
        for gpu in chassis.gpus:
            gpu.power_factor = shows_ratio
        self.storm.run(20.0)

    def told_of(self, node: str) -> None:
        """One alarm, and no other."""
        event = Event(
            event="readings-differ", severity="warning", at_s=0.0, source="controller",
            subject=node, sentence="",
        )  # fmt: skip
        self.world.events[:] = [(self.watch.broken["readings"], event)]


@pytest.mark.parametrize(("meter", "shows_ratio"), [(True, 0.3), (True, 0.0), (False, 0.0)])
def test_a_lie_that_a_meter_contradicts_or_that_cannot_be_is_told(
    meter: bool, shows_ratio: float
) -> None:
    case = Lie(meter=meter, shows_ratio=shows_ratio)
    assert "readings" in case.watch.broken
    assert not case.watch.late_alarms(30.0)
    assert not case.watch.untellable(30.0)


def test_a_lie_that_nothing_contradicts_is_counted_apart() -> None:
    case = Lie(meter=False, shows_ratio=0.6)
    assert not case.watch.late_alarms(30.0)
    assert case.watch.untellable(30.0) == ("readings",)


def test_a_lie_must_be_told_of_the_node_that_lies() -> None:
    case = Lie(meter=True, shows_ratio=0.3)
    case.told_of("n2")
    assert case.watch.late_alarms(30.0) == ("readings",)
    case.told_of("n1")
    assert not case.watch.late_alarms(30.0)
