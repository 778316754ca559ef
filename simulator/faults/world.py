"""Everything of one run: site, plant, network, hosts, and the people and monitors around them.

It wires what a seed drew and knows how to do things to it. What happens when is the plan's.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from random import Random
from typing import Final

import msgspec

from controllers.leadership import Candidate
from facility.config import AgentConfig
from facility.example import agent_config
from facility.topics import COMMAND, Topics
from facility.topology import Site
from facility.wire import Codec, Event, Lease, Request, Response, WireError, encode
from simulator.faults.dice import dice
from simulator.faults.disk import Disk
from simulator.faults.election import Candidacy, ConsensusStore
from simulator.faults.gpu import Chassis
from simulator.faults.hosts import ControllerHost, NodeHost
from simulator.faults.network import Broker, Line, Weather
from simulator.faults.parts import ControllerSeat, Parts
from simulator.faults.plant import Plant
from simulator.faults.sites import RAISE_RATIO_PER_S, DrawnSite
from simulator.faults.timeline import WALL_START_S, HostClock, Timeline

DRIFT_RATIO_MAX: Final = 2e-4
ASK_AGAIN_S: Final = 1.0
CALL_TIMEOUT_S: Final = 2.0
DEPOSED: Final = "deposed"
"""How the forged words of a deposed leader are told apart."""


class World:
    """One run. `rng` decides everything that is left to chance."""

    def __init__(
        self, drawn: DrawnSite, *, rng: Random, parts: Parts, ledger: bool, lease_factor: float
    ) -> None:
        control = msgspec.structs.replace(drawn.site.control, ledger=ledger)
        self.drawn = drawn
        self.site = Site(
            drawn.site.name,
            control,
            drawn.site.domains,
            drawn.site.nodes,
            drawn.site.contingencies,
            drawn.site.services,
        )
        self.rng = rng
        self.parts = parts
        self.timeline = Timeline()
        self.weather = Weather()
        self.broker = Broker(self.timeline, dice(rng.random()), self.weather)
        self.plant = Plant(self.site, drawn.judged, drawn.thermal)
        self.topics = Topics(self.site.name)
        self.counts: Counter[str] = Counter()
        """What happened, by kind of fault and by interesting state."""
        self.suspects: dict[str, str] = {}
        """Nodes whose locks a fault of the plan has loosened, and the fault."""
        self.contingencies: dict[str, float] = {}
        """Those that are physically there, and since when."""
        self.events: list[tuple[float, Event]] = []
        self.injecting = False
        self.epochs: dict[str, int] = {}
        """The highest epoch that each node has obeyed, whatever it may have forgotten since."""
        self.frames: dict[str, tuple[str, int]] = {}
        """Session and number of each node's last frame, off the wire."""
        self._epochs = int(WALL_START_S)
        self.sample_hz = rng.choice((1.0, 1.0, 2.0))
        self.pair = rng.random() < 0.45
        self.store = ConsensusStore()
        self._ttl_s = rng.choice((1.0, 2.0, 3.0))
        self.nodes = {name: self._node(name) for name in self.site.nodes}
        self.controllers = [self._controller(name) for name in self._names()]
        self.operators = Operators(self)
        if lease_factor != 1.0:
            Stretcher(self.broker, lease_factor)
        self.broker.taps.append(self._tap)
        self._codec = Codec()
        self._event_topic = self.topics.event

    def _names(self) -> tuple[str, ...]:
        return ("first", "second") if self.pair else ("first",)

    def _clock(self) -> HostClock:
        drift = self.rng.uniform(-DRIFT_RATIO_MAX, DRIFT_RATIO_MAX)
        return HostClock(self.timeline, started_at_s=self.rng.uniform(10.0, 1e5), drift_ratio=drift)

    def _node(self, name: str) -> NodeHost:
        config: AgentConfig = msgspec.structs.replace(
            agent_config(self.site, name),
            sample_hz=self.sample_hz,
            call_timeout_s=CALL_TIMEOUT_S,
            ramp_ratio_per_s=RAISE_RATIO_PER_S,
        )
        rng = dice(self.rng.random())
        chassis = Chassis(
            self.plant,
            self.site.nodes[name],
            self.timeline,
            settle_s=lambda: rng.choice((0.02, 0.02, 0.02, 0.06, 0.25)),
            has_meter=self.rng.random() < 0.8,
        )
        return NodeHost(
            config,
            plant=self.plant,
            chassis=chassis,
            broker=self.broker,
            clock=self._clock(),
            disk=Disk(self.timeline, sync_s=self.rng.uniform(0.002, 0.05)),
            parts=self.parts,
            rng=dice(self.rng.random()),
        )

    def _controller(self, name: str) -> ControllerHost:
        return ControllerHost(
            name,
            broker=self.broker,
            clock=self._clock(),
            disk=Disk(self.timeline, sync_s=0.01),
            parts=self.parts,
            rng=dice(self.rng.random()),
            seat=self._seat,
        )

    def _seat(self, host: ControllerHost, line: Line, session: str) -> ControllerSeat:
        return ControllerSeat(
            site=self.site,
            name=host.name,
            session=session,
            disk=host.disk,
            line=line,
            clock=host.clock,
            candidacy=self._candidacy(host, session) if self.pair else None,
        )

    def _candidacy(self, host: ControllerHost, session: str) -> Candidacy:
        candidate = Candidate(
            holder=host.name,
            session=session,
            ttl_s=self._ttl_s,
            lease_s=self.site.control.lease_s,
        )
        return Candidacy(
            self.store,
            candidate,
            holder=host.name,
            clock=host.clock,
            timeline=self.timeline,
            rng=dice(self.rng.random()),
            fresh_epoch=self._next_epoch,
        )

    def _next_epoch(self, above: int) -> int:
        """An epoch of one's own disk is above the time of day, and above any that was heard of."""
        self._epochs = max(self._epochs + 1, above + 1)
        return self._epochs

    def _tap(self, topic: str, payload: bytes) -> None:
        if topic == self._event_topic:
            event = self._codec.decode(payload, Event)
            self.events.append((self.timeline.now_s, event))
            self.operators.hear(event)

    def acquit(self, name: str) -> None:
        """A node's locks can be relied on again."""
        self.suspects.pop(name, None)

    def inject(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """A message that nobody entitled sends now; witnesses pass it over."""
        self.injecting = True
        self.broker.take(topic, payload, retain=retain, qos=1)
        self.injecting = False

    @property
    def leader(self) -> ControllerHost | None:
        """The controller that may speak, if one may; one that stands still may lead, too."""
        leading = [host for host in self.controllers if host.leads]
        return leading[-1] if leading else None

    def begin(self) -> None:
        """Power is on, jobs run, agents and the first controller start."""
        for host in self.nodes.values():
            self.timeline.after(0.3 * self.rng.random(), host.start)
            self.timeline.after(0.5 + 1.5 * self.rng.random(), host.begin_work)
        for controller in self.controllers:
            self.timeline.after(0.3 * self.rng.random(), controller.start)
        self.operators.begin()

    def step(self, now_s: float) -> None:
        """Let everything happen up to `now_s`, then one step of physics."""
        self.timeline.run_until(now_s)
        self.plant.step(now_s)

    def strike(self, name: str) -> None:
        """A declared contingency happens."""
        self.contingencies[name] = self.timeline.now_s
        self._rewire()

    def mend(self, name: str) -> None:
        """It is over."""
        self.contingencies.pop(name, None)
        self._rewire()

    def _rewire(self) -> None:
        tree = self.plant.tree
        tree.set_active(frozenset(self.contingencies))
        for name, host in self.nodes.items():
            fed = self.plant.fed(host.chassis.place)
            if host.powered and not fed:
                host.power_off()
                self.counts["state:node-dark"] += 1
            elif not host.powered and fed and self.suspects.get(name) != "off":
                host.power_on(3.0 + 4.0 * self.rng.random())

    def request(self, verb: str, **args: str | float | bool) -> str:
        """Somebody asks the controller for something; returns the transaction."""
        return self.operators.ask(verb, args)


class Operators:
    """The people at the console and the monitor of the UPS: they ask, and ask again until told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._line = Line(world.broker, will=None)
        self._codec = Codec()
        self._number = 0
        self._open: dict[str, tuple[str, dict[str, str | float | bool]]] = {}
        self.answered: dict[str, str] = {}
        """Transactions and the status of their answer."""
        self.insists: dict[str, bool] = {}
        """Contingencies that the monitor has seen, and whether they are on."""
        self.mends = False
        """Whether the operators act on alarms: they do once the storm is over."""

    def begin(self) -> None:
        """Connect and listen to answers."""
        self._line.subscribe(self._world.topics.response("+"), self._answer)
        self._line.connect()

    def ask(self, verb: str, args: dict[str, str | float | bool], *, by: str = "operator") -> str:
        """Send a request once; the transaction tells its answer apart."""
        self._number += 1
        transaction = f"t{self._number}"
        request = Request(verb=verb, transaction=transaction, by=by, args=args)
        topic = self._world.topics.request(verb)
        self._line.publish(topic, encode(request), COMMAND, ASK_AGAIN_S)
        return transaction

    def see(self, name: str, *, on: bool) -> None:
        """The monitor has seen a contingency begin or end: it insists until it is told `ok`."""
        self.insists[name] = on
        self._insist(name, on)

    def say_all_again(self) -> None:
        """Once people look, the monitor is asked how everything that it ever saw stands."""
        for name, on in self.insists.items():
            self._insist(name, on)

    def _insist(self, name: str, on: bool, before: str = "") -> None:
        if self.insists.get(name) is not on or self.answered.get(before) == "ok":
            return
        transaction = self.ask("contingency", {"contingency": name, "on": on}, by="ups-monitor")
        self._world.timeline.after(ASK_AGAIN_S, lambda: self._insist(name, on, transaction))

    def _answer(self, _topic: str, payload: bytes, _retained: bool) -> None:
        try:
            response = self._codec.decode(payload, Response)
        except WireError:
            return
        self.answered[response.transaction] = response.status

    def hear(self, event: Event) -> None:
        """After the storm an alarm about a node that holds what nobody declared is acted on."""
        if not self.mends or event.event != "node-holds-contingency":
            return
        held = event.sentence.partition(" holds ")[2].partition(",")[0]
        if held == "brake":
            node = self._world.site.nodes.get(event.subject)
            for domain in node.ancestors if node is not None else ():
                self.ask("release", {"domain": domain})
        elif held in self._world.site.contingencies and not self.insists.get(held):
            self.ask("contingency", {"contingency": held, "on": False})


class Stretcher:
    """Makes every lease last longer on its way than its sender believes."""

    def __init__(self, broker: Broker, factor: float) -> None:
        self._factor = factor
        self._codec = Codec()
        self._take = broker.take
        broker.take = self.take  # type: ignore[method-assign]

    def take(self, topic: str, payload: bytes, *, retain: bool, qos: int) -> None:
        """Pass a message on, a lease with a longer end."""
        if topic.endswith("/lease"):
            with contextlib.suppress(WireError):
                lease = self._codec.decode(payload, Lease)
                longer_s = min(lease.lease_s * self._factor, 3_600.0)
                payload = encode(msgspec.structs.replace(lease, lease_s=longer_s))
        self._take(topic, payload, retain=retain, qos=qos)
