"""Faults of controllers and of the people who ask them for things."""

from __future__ import annotations

from collections.abc import Callable

from simulator.faults.hosts import TAKEOVER_S, ControllerHost
from simulator.faults.world import World

Heal = Callable[[], None]


def _note_loss(world: World) -> None:
    if world.contingencies:
        world.counts["state:controller-lost-in-contingency"] += 1


def controller_crash(world: World) -> Heal | None:
    """The controller is killed; its supervisor starts it again, or its standby takes over."""
    host = world.leader
    if host is None:
        return None
    host.crash()
    _note_loss(world)
    if world.pair and world.rng.random() < 0.7:
        _standby_takes_over(world, host)
        return lambda: None
    return host.start


def _standby_takes_over(world: World, host: ControllerHost) -> None:
    host.wanted = False
    other = next(item for item in world.controllers if item is not host)
    world.counts["state:takeover"] += 1
    world.timeline.after(TAKEOVER_S * (0.5 + world.rng.random()), other.start)


def controller_hang(world: World) -> Heal | None:
    """The controller stands still, and goes on with what it had."""
    host = world.leader
    if host is None or host.stopped:
        return None
    host.stop()
    _note_loss(world)
    return lambda: host.resume(deposed=False)


def takeover(world: World) -> Heal | None:
    """The leader stands still until its standby leads; then it goes on with its old epoch."""
    host = world.leader
    if host is None or not world.pair or host.stopped:
        return None
    host.stop()
    host.wanted = False
    _note_loss(world)
    if any(line_is_cut(world, name) for name in world.nodes):
        world.counts["state:takeover-in-partition"] += 1
    _standby_takes_over(world, host)
    world.timeline.after(TAKEOVER_S * 1.5 + world.rng.uniform(0.1, 6.0), lambda: _comes_back(host))
    return lambda: None


def line_is_cut(world: World, name: str) -> bool:
    """Whether a node cannot be reached, or cannot reach anybody."""
    line = world.nodes[name].line
    return line is not None and line.is_cut


def _comes_back(host: ControllerHost) -> None:
    host.resume(deposed=True)


def disk_full(world: World) -> Heal | None:
    """The controller's disk takes nothing more."""
    host = world.leader
    if host is None:
        return None
    host.disk.full = True

    def heal() -> None:
        host.disk.full = False

    return heal


def operator_mistake(world: World) -> Heal | None:
    """An order that nobody needed; lifted later, as people do."""
    rng, site = world.rng, world.site
    domain = rng.choice(list(site.domains))
    node = rng.choice(list(site.nodes))
    choice = rng.randrange(4)
    if choice == 0:
        world.request("brake", domain=domain)
        return lambda: _lift(world, "release", domain=domain)
    if choice == 1:
        cap_w = site.domains[domain].capacity_w * rng.uniform(0.05, 0.9)
        world.request("cap", domain=domain, cap_w=cap_w)
        return lambda: _lift(world, "cap", domain=domain, clear=True)
    if choice == 2:
        world.request("drain", node=node, on=True)
        return lambda: _lift(world, "drain", node=node, on=False)
    names = [name for name in site.contingencies if name not in world.contingencies]
    if not names:
        return None
    name = rng.choice(names)
    world.operators.see(name, on=True)
    return lambda: world.operators.see(name, on=name in world.contingencies)


def _lift(world: World, verb: str, **args: str | float | bool) -> None:
    """Ask until it is done: what an operator lifts, an operator waits for."""

    def again(before: str) -> None:
        if world.operators.answered.get(before) != "ok":
            transaction = world.request(verb, **args)
            world.timeline.after(1.0, lambda: again(transaction))

    again("")


def operator_garbage(world: World) -> Heal | None:
    """Requests that make no sense, from a script gone wild."""
    rng = world.rng
    nonsense: list[dict[str, str | float | bool]] = [
        {},
        {"domain": "nowhere"},
        {"domain": next(iter(world.site.domains)), "cap_w": -1.0},
        {"node": "n1", "on": "perhaps"},
        {"contingency": "brake", "on": True},
    ]
    for _ in range(rng.randint(1, 20)):
        verb = rng.choice(("cap", "brake", "release", "drain", "contingency", "dance"))
        args = rng.choice(nonsense)
        world.operators.ask(verb, args, by="script")
    return lambda: None


def lift_everything(world: World) -> None:
    """After the storm: every brake, cap and drain that somebody may have ordered."""
    for domain in world.site.domains:
        _lift(world, "release", domain=domain)
        _lift(world, "cap", domain=domain, clear=True)
    for node in world.site.nodes:
        _lift(world, "drain", node=node, on=False)
