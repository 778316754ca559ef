"""Faults of controllers and of the people who ask them for things."""

from __future__ import annotations

from collections.abc import Callable

from simulator.faults.world import World

Heal = Callable[[], None]


def _note_loss(world: World) -> None:
    if world.contingencies:
        world.counts["state:controller-lost-in-contingency"] += 1


def controller_crash(world: World) -> Heal | None:
    """The leader is killed; a standby takes over, if there is one; its supervisor restarts it."""
    host = world.leader
    if host is None:
        return None
    host.crash()
    _note_loss(world)
    return host.start


def standby_crash(world: World) -> Heal | None:
    """The controller that stands by is killed."""
    hosts = [host for host in world.controllers if host.life is not None and not host.leads]
    if not hosts:
        return None
    hosts[0].crash()
    return hosts[0].start


def controller_hang(world: World) -> Heal | None:
    """The leader stands still, perhaps until its standby leads, and goes on with what it had."""
    host = world.leader
    if host is None or host.stopped:
        return None
    host.stop()
    _note_loss(world)
    if world.pair and any(line_is_cut(world, name) for name in world.nodes):
        world.counts["state:leader-hangs-in-partition"] += 1
    return host.resume


def store_lost(world: World) -> Heal | None:
    """The consensus store answers nobody, or not one of the two, or takes writes without a word."""
    if not world.pair:
        return None
    names = [host.name for host in world.controllers]
    chosen = names if world.rng.random() < 0.4 else [world.rng.choice(names)]
    world.store.unreachable.update(chosen)

    def heal() -> None:
        world.store.unreachable.difference_update(chosen)

    return heal


def line_is_cut(world: World, name: str) -> bool:
    """Whether a node cannot be reached, or cannot reach anybody."""
    line = world.nodes[name].line
    return line is not None and line.is_cut


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
