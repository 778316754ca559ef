"""A whole site without a network or a clock: the same controller, agents and codecs, in lock step.

Every node's real brain acts on simulated GPUs, the real cycle decides, and every message between
them is encoded and decoded as on the wire; only the bus is a list. The same settings give the same
run to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from controllers.cycle import ControlCycle
from controllers.inbox import Inbox
from controllers.node import NodeBrain
from controllers.node_hands import CeilingWriter
from controllers.node_lease import NodeMemory
from controllers.node_mail import NodeMail
from controllers.node_turn import take_turn
from facility.config import AgentConfig
from facility.decisions import Decision
from facility.example import agent_config
from facility.ports import GpuPort
from facility.signing import Verifier
from facility.topics import Topics
from facility.topology import Site
from facility.wire import Codec, Emergency, Event, GpuIdentity, Request, encode
from simulator.hands import InlineHands, PlainWriter
from simulator.plant import Plant, PlantSettings
from simulator.truth import ReportValue
from simulator.watch import Watch

MakeWriter = Callable[[GpuPort, GpuIdentity], CeilingWriter]
"""What writes a GPU's ceiling and checks that it holds; the live one is in `actuators`."""

WALL_START_S: Final = 1_700_000_000.0
"""The time of day at the start of a run; only messages show it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A declared contingency that happens at `at_s`; who watches it says so in the same step.

    It is over at `ends_at_s`, or never.
    """

    contingency: str
    at_s: float
    ends_at_s: float | None = None


class OfflineNode:
    """One node's brain on simulated GPUs. Messages reach it one step after they were sent."""

    def __init__(
        self,
        config: AgentConfig,
        plant: Plant,
        *,
        sample_hz: float,
        make_writer: MakeWriter,
        verifier: Verifier | None = None,
    ) -> None:
        self.config = config
        self.brain = NodeBrain(config, session=f"offline-{config.node}", memory=NodeMemory())
        self._hands = InlineHands(
            plant.host(config.node),
            sample_hz=sample_hz,
            make_writer=make_writer,
            sensors=plant.sensors(config.node),
        )
        self._mail = NodeMail(
            site=config.site, node=config.node, verifier=verifier or Verifier(None)
        )
        self._incoming: list[tuple[str, bytes]] = []

    def deliver_lease(self, payload: bytes) -> None:
        """A lease off the wire."""
        self._incoming.append(("lease", payload))

    def deliver_emergency(self, payload: bytes) -> None:
        """An emergency off the wire."""
        self._incoming.append(("emergency", payload))

    def step(self, now_s: float) -> tuple[list[tuple[str, bytes]], tuple[Event, ...]]:
        """Run the brain once: what it publishes by kind, and its events."""
        mail = self._mail.read(self._incoming)
        self._incoming = []
        turn = take_turn(
            self.brain,
            self._hands,
            self._hands.poll(now_s),
            now_s,
            WALL_START_S + now_s,
            leases=mail.leases,
            emergencies=mail.emergencies,
            orders=mail.orders,
            refusals=mail.refusals,
        )
        messages = [
            (kind, encode(message))
            for outputs in turn
            for kind, message in (
                ("info", outputs.info),
                ("telemetry", outputs.telemetry),
                ("applied", outputs.applied),
            )
            if message is not None
        ]
        return messages, tuple(event for outputs in turn for event in outputs.events)

    @property
    def next_s(self) -> float:
        """When the brain must run at the latest."""
        return self.brain.next_deadline_s()

    @property
    def has_mail(self) -> bool:
        """Whether something has been delivered since the last step."""
        return bool(self._incoming)


class OfflineRun:
    """One run of a site: plant, agents and controller under one clock."""

    def __init__(
        self,
        site: Site,
        settings: PlantSettings,
        *,
        failure: Failure | None = None,
        sample_hz: float = 2.0,
        make_writer: MakeWriter = PlainWriter,
        on_decision: Callable[[Decision], None] | None = None,
    ) -> None:
        self.site = site
        self._on_decision = on_decision
        self.plant = Plant(site, settings)
        self.watch = Watch(self.plant)
        self._failure = failure
        self._failing: Failure | None = None
        self._topics = Topics(site.name)
        self._inbox = Inbox(site, codec=Codec())
        self._cycle = ControlCycle(site, epoch=1, started_at_s=0.0)
        self._armed_mhz: dict[str, dict[str, int]] = {}
        self._nodes = [
            OfflineNode(
                msgspec.structs.replace(agent_config(site, name), sample_hz=sample_hz),
                self.plant,
                sample_hz=sample_hz,
                make_writer=make_writer,
            )
            for name in site.nodes
        ]
        self._due_s = [place / len(self._nodes) / sample_hz for place in range(len(self._nodes))]
        self._next_cycle_s = site.control.cycle_s

    def run(self, duration_s: float) -> dict[str, ReportValue]:
        """Run from time 0 and return the report."""
        self.plant.start()
        while self.plant.now_s < duration_s - 1e-9:
            self._have_failures()
            self.plant.step()
            self.watch.look()
            self._step_nodes()
            if self.plant.now_s >= self._next_cycle_s - 1e-9:
                self._next_cycle_s += self.site.control.cycle_s
                self._step_controller()
        return self.watch.report()

    def _have_failures(self) -> None:
        now_s = self.plant.now_s + 1e-9
        if self._failure is not None and now_s >= self._failure.at_s:
            self._fail(self._failure.contingency)
            self._failing, self._failure = self._failure, None
        if self._failing is not None and now_s >= (self._failing.ends_at_s or math.inf):
            self.plant.end(self._failing.contingency)
            self._say(self._failing.contingency, on=False)
            self._failing = None

    def _fail(self, name: str) -> None:
        self.watch.failed(
            {node: armed[name] for node, armed in self._armed_mhz.items() if name in armed}
        )
        self.plant.begin(name)
        self._say(name, on=True)

    def _say(self, name: str, *, on: bool) -> None:
        """The monitor's word."""
        request = Request(
            verb="contingency", by="ups-monitor", args={"contingency": name, "on": on}
        )
        wall_s = WALL_START_S + self.plant.now_s
        _, emergencies, _ = self._cycle.handle((request,), wall_s)
        self._announce(emergencies)

    def _announce(self, emergencies: tuple[Emergency, ...]) -> None:
        for emergency in emergencies:
            payload = encode(emergency)
            for node in self._nodes:
                if emergency.domain in node.config.domains:
                    node.deliver_emergency(payload)

    def _step_nodes(self) -> None:
        now_s = self.plant.now_s
        for place, node in enumerate(self._nodes):
            if self._due_s[place] > now_s + 1e-9 and not node.has_mail:
                continue
            messages, events = node.step(now_s)
            self._due_s[place] = max(node.next_s, now_s + self.plant.settings.dt_s / 2)
            for kind, payload in messages:
                topic = self._topics.node(node.config.node, kind)
                self._inbox.receive(now_s, WALL_START_S + now_s, topic, payload)
            for event in events:
                self.watch.heard(event)

    def _step_controller(self) -> None:
        now_s = self.plant.now_s
        snapshot = self._inbox.snapshot(now_s, WALL_START_S + now_s, self._cycle.orders.active)
        decision = self._cycle.step(snapshot)
        self.watch.decided(decision)
        if self._on_decision is not None:
            self._on_decision(decision)
        places = {node.config.node: node for node in self._nodes}
        for lease in decision.leases:
            self._armed_mhz[lease.node] = dict(lease.contingency_ceilings_mhz)
            places[lease.node].deliver_lease(encode(lease))
        self._announce(decision.emergencies)
        for routing in decision.routing:
            self.plant.router().steer(routing)
        # What nobody keeps here: the queues are bounded, and a run may be long.
        for take in (self._inbox.take_frames, self._inbox.take_applied, self._inbox.take_events):
            take()
