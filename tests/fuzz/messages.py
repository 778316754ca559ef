"""What comes over the wire and through the pipe: codec, controller's inbox, actuator, pipe frames.

Each target feeds the production object as its process does, then checks what must hold whatever
was said: a refused message changes nothing, the next cycle decides, a node without a valid lease
stays at its safe ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, get_args

import msgspec
from msgspec.structs import replace

from controllers.inbox import Inbox
from controllers.snapshot import Snapshot
from daemon.agent.actuator import Actuator
from daemon.agent.pipe import (
    FRAME_BYTES_MAX,
    KINDS,
    LENGTH_BYTES,
    FrameDecoder,
    PipeError,
    encode_frame,
)
from daemon.agent.state import MemoryKeeper
from daemon.bus.limits import check_message
from facility.decisions import Decision
from facility.topology import Site
from facility.wire import (
    Applied,
    Codec,
    ControllerStatus,
    DomainState,
    Emergency,
    EndpointRoute,
    Event,
    GpuApplied,
    Lease,
    Message,
    Mode,
    NodeInfo,
    NodeStatus,
    NodeTelemetry,
    Request,
    Response,
    Routing,
    WireError,
    encode,
)
from simulator.hands import InlineHands
from tests.fuzz.target import ACCEPTED, Plain, through
from tests.node_fakes import SAFE_MHZ, FakeHost, FakeSensors, agent_config, emergency, lease
from tests.row import Row, site_of

WALL_S: Final = 1_700_000_000.0
NUMBER: Final = 990_001
"""Stands in a seed for the number of the input, which counters follow."""


def small_site() -> Site:
    """Two nodes of two GPUs, so that a frame is small and a cycle is quick."""
    from facility.example import row_site

    config = row_site(nodes=2)
    models = {name: replace(model, gpu_count=2) for name, model in config.node_models.items()}
    return site_of(config=replace(config, node_models=models))


def _telemetry(row: Row, node: str) -> NodeTelemetry:
    frame = replace(row.frame(node), seq=NUMBER, sampled_at_s=WALL_S, node_power_w=2_000.0)
    gpu = replace(frame.gpus[0], power_samples_w=(300.0, 310.5), temperature_c=61.0, energy_j=1e6)
    return replace(frame, gpus=(gpu, *frame.gpus[1:]))


def _info() -> NodeInfo:
    row = Row(small_site())
    view = row.inbox.snapshot(row.now_s, row.wall_s, frozenset()).nodes["n01"]
    assert view.info is not None
    return view.info


def _applied() -> Applied:
    return Applied(
        node="n01", session="s1", decision_id="7-1", epoch=7, sequence=3, reason="lease",
        applied_at_s=WALL_S,
        gpus={"GPU-n01-0": GpuApplied(requested_mhz=1005, accepted_mhz=1005, cause="hung")},
    )  # fmt: skip


EVENT: Final = Event(
    event="lease-expired", severity="warning", at_s=WALL_S, source="node/n01", sentence="so"
)
REQUESTS: Final = (
    Request(verb="contingency", args={"contingency": "ups-a-lost", "on": True}, by="fuzz"),
    Request(verb="contingency", args={"contingency": "ups-a-lost", "on": False}),
    Request(verb="brake", args={"domain": "row-1"}, transaction="t", dry_run=True),
    Request(verb="release", args={"domain": "row-1"}),
    Request(verb="cap", args={"domain": "row-1", "cap_w": 2_000.0}),
    Request(verb="cap", args={"domain": "row-1", "clear": True}),
    Request(verb="drain", args={"node": "n01", "on": True}),
)


class WireTarget(Plain):
    """Every kind of message through the codec: what is read can be written and read again."""

    def __init__(self) -> None:
        self._codec = Codec()
        self._kinds: tuple[type[msgspec.Struct], ...] = get_args(Message)

    def feed(self, data: bytes) -> str:
        kind = self._kinds[data[0] % len(self._kinds)]
        try:
            message = self._codec.decode(data[1:], kind)
        except WireError:
            return "garbage"
        again = encode(message)
        assert self._codec.decode(again, kind) == message, again
        return ACCEPTED


def wire_seeds() -> list[bytes]:
    """One good message of every kind, in the order of `Message`."""
    row = Row(small_site())
    good: dict[type, msgspec.Struct] = {
        NodeTelemetry: _telemetry(row, "n01"),
        NodeInfo: _info(),
        NodeStatus: NodeStatus(node="n01", session="s1", state="ready"),
        Lease: lease(),
        Applied: _applied(),
        Emergency: emergency(),
        DomainState: DomainState(
            domain="row-1", kind="row", decision_id="7-1", at_s=1.0, power_w=1.0, forecast_w=1.0,
            exposure_w=1.0, capacity_w=2.0, mode=Mode.SHAVING, sentence="x", nodes_count=2,
            nodes_missing_count=0,
        ),
        Routing: Routing(
            service="chat", decision_id="7-1", at_s=1.0, valid_s=5.0,
            endpoints=(EndpointRoute(endpoint="n01", weight_ratio=0.5),),
        ),
        ControllerStatus: ControllerStatus(
            controller="a", state="ready", leader=True, epoch=7, session="c-1"
        ),
        Request: REQUESTS[4],
        Response: Response(verb="cap", status="ok", data={"domain": "row-1", "dry_run": False}),
        Event: EVENT,
    }  # fmt: skip
    return [through(place, encode(good[kind])) for place, kind in enumerate(get_args(Message))]


DOORS: Final = (
    "node/n01/telemetry", "node/n01/info", "node/n01/status", "node/n01/applied",
    "node/n02/telemetry", "node/n99/telemetry", "domain/row-1/emergency", "event",
    "request/contingency", "request/brake", "request/release", "request/cap", "request/drain",
    "node/n01/lease", "node//telemetry", "",
)  # fmt: skip
STEP_S: Final = 0.05


class InboxTarget:
    """The controller: inbox, orders and cycle, with whatever anybody says on any of its topics."""

    def __init__(self) -> None:
        self._row = Row(small_site(), now_s=100.0)
        self._row.run(3)
        self._inbox: Inbox = self._row.inbox
        self._cycle = self._row.cycle
        self._now_s = self._row.now_s
        self._orders = self._cycle.orders
        self._was = self._look()
        self._drain()

    def fresh(self, seed: bytes, number: int) -> bytes:
        return seed.replace(b"%d" % NUMBER, b"%d" % (10 + number))

    def close(self) -> None:
        """Nothing is held."""

    def feed(self, data: bytes) -> str:
        self._now_s += STEP_S
        self._was = self._look()
        refused_before = sum(self._inbox.refused.values())
        topic = f"{self._row.topics.prefix}/{DOORS[data[0] % len(DOORS)]}"
        self._inbox.receive(self._now_s, WALL_S, topic, data[1:])
        refusals = sum(self._inbox.refused.values()) - refused_before
        requests = self._inbox.take_requests()
        emergencies = self._inbox.take_emergencies()
        frames, told = self._inbox.take_frames(), self._inbox.take_node_events()
        applied = self._inbox.take_applied()
        changed = self._look() != self._was
        for event in self._inbox.take_events():
            encode(event)
        if refusals:
            assert refusals == 1
            effects = (requests, emergencies, frames, told, applied, changed)
            assert not any(effects), effects
            return "refused"
        self._decide(requests, emergencies)
        return ACCEPTED if requests or emergencies or frames or told or applied or changed else "ok"

    def _drain(self) -> None:
        self._inbox.take_frames()
        self._inbox.take_events()
        self._inbox.take_applied()
        self._inbox.take_node_events()

    def _look(self) -> Snapshot:
        """What is known, at an instant that stays the same."""
        return self._inbox.snapshot(self._row.now_s, WALL_S, self._orders.active)

    def _decide(self, requests: Sequence[Request], emergencies: Sequence[Emergency]) -> None:
        """What the service does with it: orders, one cycle, and everything to be published."""
        for item in emergencies:
            self._orders.adopt(item)
        responses, announced, events = self._cycle.handle(requests, WALL_S)
        for response in responses:
            topic = self._row.topics.response(response.verb)
            check_message(topic, encode(response))
        snapshot = self._inbox.snapshot(self._now_s, WALL_S, self._orders.active)
        decision = self._cycle.step(snapshot)
        check_decision(decision)
        for message in (*announced, *events):
            encode(message)
        state = self._orders.state()
        assert msgspec.json.decode(msgspec.json.encode(state), type=type(state)) == state


def check_decision(decision: Decision) -> None:
    """A decision has finite figures, ceilings that a GPU has, and messages that can be read."""
    codec = Codec()
    for granted in decision.leases:
        assert codec.decode(encode(granted), Lease) == granted
        assert min(granted.ceilings_mhz.values(), default=1) > 0, granted
    for state in decision.domains:
        figures = (state.power_w, state.forecast_w, state.exposure_w, state.capacity_w)
        assert all(math.isfinite(figure) for figure in figures), state
        assert min(figures) >= 0.0, state
        encode(state)
    for route in decision.routing:
        assert codec.decode(encode(route), Routing) == route
    for message in (*decision.emergencies, *decision.events):
        assert codec.decode(encode(message), type(message)) == message


def inbox_seeds() -> list[bytes]:
    """What the two nodes and the operators of the small site say."""
    row = Row(small_site())
    status = NodeStatus(node="n01", session="s1", state="disconnected")
    seeds = [
        through(0, encode(_telemetry(row, "n01"))),
        through(0, encode(_telemetry(row, "n01"))),
        through(1, encode(_info())),
        through(2, encode(status)),
        through(2, encode(replace(status, state="ready"))),
        through(3, encode(_applied())),
        through(4, encode(_telemetry(row, "n02"))),
        through(5, encode(replace(_telemetry(row, "n02"), node="n99"))),
        through(6, encode(emergency(domain="row-1", epoch=6))),
        through(6, encode(emergency(False, domain="row-1", epoch=6))),
        through(7, encode(EVENT)),
        through(13, encode(lease(node="n01"))),
        through(14, encode(_telemetry(row, "n01"))),
        through(15, encode(status)),
    ]
    doors = {door: place for place, door in enumerate(DOORS)}
    return seeds + [through(doors[f"request/{item.verb}"], encode(item)) for item in REQUESTS]


class ActuatorTarget:
    """The agent's actuator: hostile leases and emergencies, in a node that samples and expires."""

    def __init__(self) -> None:
        self._config = agent_config()
        hands = InlineHands(FakeHost(), sample_hz=10.0, make_writer=_writer, sensors=FakeSensors())
        self._actuator = Actuator(self._config, hands, MemoryKeeper(), session="s1")
        self._codec = Codec()
        self._now_s = 0.0
        self._frames: dict[int, float] = {}
        self._leases: list[tuple[float, Lease]] = []
        self._actuator.start()
        self._cycle([])

    def fresh(self, seed: bytes, number: int) -> bytes:
        seq = max(self._frames, default=1)
        # Two numbers are to be kept current: which frame, and the sequence.
        head, _, tail = seed.partition(b"%d" % NUMBER)
        return (head + b"%d" % seq + tail if tail else head).replace(b"77001", b"%d" % (number + 2))

    def close(self) -> None:
        self._actuator.close()

    def feed(self, data: bytes) -> str:
        kind = ("lease", "emergency", "heartbeat")[data[0] % 3]
        before = (
            sum(self._actuator.undecodable.values()),
            sum(self._actuator.brain.refused.values()),
        )
        self._note(kind, data[1:])
        self._now_s += (0.1, 0.3, 1.0)[data[0] // 3 % 3]
        self._cycle([(kind, data[1:])])
        after = (
            sum(self._actuator.undecodable.values()),
            sum(self._actuator.brain.refused.values()),
        )
        if after[0] > before[0]:
            return "garbage"
        return "refused" if after[1] > before[1] else ACCEPTED

    def _note(self, kind: str, data: bytes) -> None:
        """Reckon, apart from the brain, until when a lease could be in force at all."""
        if kind != "lease":
            return
        try:
            offered = self._codec.decode(data, Lease)
        except WireError:
            return
        at_s = self._frames.get(offered.basis_seq)
        if (offered.node, offered.session) == ("n1", "s1") and at_s is not None:
            self._leases.append((at_s + offered.lease_s, offered))

    def _cycle(self, incoming: list[tuple[str, bytes]]) -> None:
        for kind, data in self._actuator.cycle(self._now_s, WALL_S, incoming):
            message: Any = self._codec.decode(data, _SAID[kind])
            if kind == "telemetry":
                self._frames[message.seq] = self._now_s
        self._leases = [item for item in self._leases if item[0] > self._now_s]
        for uuid, ceiling_mhz in self._actuator.brain.ceilings_mhz.items():
            granted = [offered.ceilings_mhz.get(uuid, 0) for _, offered in self._leases]
            assert ceiling_mhz > 0, f"{uuid} has no lock"
            assert ceiling_mhz <= max(SAFE_MHZ, *granted, 0), f"{uuid} at {ceiling_mhz} MHz"


_SAID: Final[dict[str, type[msgspec.Struct]]] = {
    "status": NodeStatus,
    "info": NodeInfo,
    "telemetry": NodeTelemetry,
    "applied": Applied,
    "event": Event,
}


def _writer(*arguments: Any) -> Any:
    from actuators.clocks import ClockActuator

    return ClockActuator(*arguments)


def actuator_seeds() -> list[bytes]:
    """Leases and emergencies for the node, each at three paces."""
    good = replace(lease(), basis_seq=NUMBER, sequence=77_001)
    seeds = []
    for pace in (0, 3, 6):
        seeds += [
            through(pace, encode(good)),
            through(pace, encode(replace(good, epoch=2))),
            through(pace + 1, encode(replace(emergency(), sequence=77_001))),
            through(pace + 1, encode(replace(emergency(False), sequence=77_001))),
        ]
    return [*seeds, through(2, b'{"connected": true, "detail": "x"}')]


class PipeTarget(Plain):
    """The framing between the agent's processes, cut into pieces as a socket cuts it."""

    def feed(self, data: bytes) -> str:
        decoder, size = FrameDecoder(), 1 + data[0]
        try:
            for start in range(1, len(data), size):
                for kind, payload in decoder.feed(data[start : start + size]):
                    assert kind in KINDS
                    assert len(payload) < FRAME_BYTES_MAX
                assert len(decoder._buffer) <= LENGTH_BYTES + FRAME_BYTES_MAX + size
        except PipeError:
            return "no-frame"
        return ACCEPTED


def pipe_seeds() -> list[bytes]:
    """Some frames of every kind, in one piece and in many."""
    stream = b"".join(encode_frame(kind, b'{"k":"%s"}' % kind.encode()) for kind in KINDS)
    one = encode_frame("lease", encode(lease()))
    return [through(size, data) for size in (0, 6, 255) for data in (stream, one, one + stream)]
