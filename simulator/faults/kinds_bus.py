"""Faults of the network and the broker, and messages that somebody sends again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from facility.wire import Emergency, Lease, encode
from simulator.faults.hosts import NodeHost
from simulator.faults.network import Line
from simulator.faults.world import DEPOSED, World

Heal = Callable[[], None]

REPEAT_S: Final = 0.7
"""Between two messages of an injector."""


def _broker_down(world: World, *, keep: bool) -> Heal | None:
    broker = world.broker
    if not broker.up or broker.frozen:
        return None
    broker.stop(keep_retained=keep)
    if world.contingencies:
        world.counts["state:broker-lost-in-contingency"] += 1
    return broker.start


def broker_restart(world: World) -> Heal | None:
    """The broker dies and comes back with what was retained."""
    return _broker_down(world, keep=True)


def broker_amnesia(world: World) -> Heal | None:
    """The broker comes back and remembers nothing."""
    return _broker_down(world, keep=False)


def broker_rollback(world: World) -> Heal | None:
    """The broker comes back with the retained state of some time ago."""
    old = dict(world.broker.retained)
    broker = world.broker
    if not broker.up or broker.frozen:
        return None

    def down() -> None:
        if broker.up and not broker.frozen:
            broker.stop(keep_retained=False)
            broker.retained.update(old)

    world.timeline.after(world.rng.uniform(1.0, 10.0), down)

    def heal() -> None:
        world.timeline.after(10.0 + world.rng.random(), broker.start)

    return heal


def broker_hang(world: World) -> Heal | None:
    """The broker stands still and then delivers everything at once."""
    broker = world.broker
    if not broker.up or broker.frozen:
        return None
    broker.freeze()
    return broker.thaw


def _partition(world: World, lines: list[Line]) -> Heal | None:
    if not lines:
        return None
    up, down = world.rng.choice(((True, False), (False, True), (True, True)))
    for line in lines:
        line.cut(up=up, down=down)

    def heal() -> None:
        for line in lines:
            line.heal()

    return heal


def partition_node(world: World) -> Heal | None:
    """Some nodes are cut off, one way or both."""
    lines = [host.line for host in world.nodes.values() if host.line is not None]
    if not lines:
        return None
    count = world.rng.randint(1, len(lines))
    return _partition(world, world.rng.sample(lines, count))


def partition_controller(world: World) -> Heal | None:
    """The controller is cut off, one way or both."""
    host = world.leader
    return _partition(world, [host.line] if host is not None and host.line is not None else [])


def delay(world: World) -> Heal:
    """Every message takes long."""
    weather = world.weather
    weather.extra_s_max = world.rng.choice((0.2, 0.5, 1.5, 3.0))

    def heal() -> None:
        weather.extra_s_max = 0.0

    return heal


def loss(world: World) -> Heal:
    """Messages are lost: samples for good, the rest until they are sent again."""
    weather = world.weather
    weather.loss_ratio = world.rng.choice((0.05, 0.2, 0.5, 0.8))

    def heal() -> None:
        weather.loss_ratio = 0.0

    return heal


def duplicates(world: World) -> Heal:
    """Messages arrive twice."""
    weather = world.weather
    weather.duplicate_ratio = world.rng.choice((0.1, 0.5, 1.0))

    def heal() -> None:
        weather.duplicate_ratio = 0.0

    return heal


def reorder(world: World) -> Heal:
    """Messages overtake each other."""
    weather = world.weather
    weather.reorder_ratio = world.rng.choice((0.2, 1.0))
    weather.extra_s_max = max(weather.extra_s_max, 0.3)

    def heal() -> None:
        weather.reorder_ratio = weather.extra_s_max = 0.0

    return heal


def _again_and_again(world: World, send: Callable[[], None]) -> Heal:
    running = [True]

    def act() -> None:
        if running[0]:
            send()
            world.timeline.after(REPEAT_S * (0.5 + world.rng.random()), act)

    act()

    def heal() -> None:
        running[0] = False

    return heal


def replay(world: World) -> Heal:
    """Recorded messages are sent again, to where they came from and with their retain flag."""
    broker, rng = world.broker, world.rng

    def send() -> None:
        if broker.recorded:
            topic, payload, retain = rng.choice(broker.recorded)
            world.inject(topic, payload, retain=retain)

    return _again_and_again(world, send)


def old_epoch(world: World) -> Heal:
    """A deposed leader that is well informed: its leases answer the newest frames."""
    rng, topics = world.rng, world.topics

    def send() -> None:
        # Below what each node has obeyed: above it would be a leader that there never was.
        lowest = min((world.epochs.get(name, 0) for name in world.nodes), default=0) - 1
        if lowest > 0 and rng.random() < 0.25:
            domain = rng.choice(list(world.site.domains))
            message = Emergency(
                domain=domain,
                active=(),
                epoch=lowest,
                sequence=10**6,
                issued_at_s=0.0,
                by=DEPOSED,
            )
            world.inject(topics.domain(domain, "emergency"), encode(message), retain=True)
        for name, host in world.nodes.items():
            epoch = world.epochs.get(name, 0) - 1
            if host.life is not None and epoch > 0:
                lease = _forged(world, name, host, epoch)
                world.inject(topics.node(name, "lease"), encode(lease), retain=True)

    return _again_and_again(world, send)


def _forged(world: World, name: str, host: NodeHost, epoch: int) -> Lease:
    """A lease for everything, in answer to the node's newest frame."""
    session, seq = world.frames.get(name, ("none", 1))
    highest_mhz = world.site.nodes[name].model.gpu.clock_mhz_max
    return Lease(
        node=name,
        session=session,
        basis_seq=seq,
        epoch=epoch,
        sequence=10**6 + int(world.timeline.now_s * 10),
        decision_id=DEPOSED,
        lease_s=60.0,
        ceilings_mhz={gpu.uuid: highest_mhz for gpu in host.chassis.gpus},
    )


def flood(world: World) -> Heal:
    """Garbage on every topic."""
    broker, rng, topics = world.broker, world.rng, world.topics
    for _ in range(rng.randint(5, 60)):
        node = rng.choice([*world.nodes, "nobody"])
        what = rng.choice(("lease", "telemetry", "info", "status", "applied"))
        payload = rng.choice((b"", b"{", b"[]", b'{"node": "n1"}', b"\xff" * 40))
        broker.take(topics.node(node, what), payload, retain=False, qos=0)
    return lambda: None
