"""Faults of servers: agents, hosts, drivers, locks, sensors, clocks, disks and load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from simulator.faults.gpu import FaultyGpu
from simulator.faults.hosts import NodeHost
from simulator.faults.world import World

Heal = Callable[[], None]

CLOG_STEPS: Final = 12
"""Seconds in which a heat sink clogs."""
SPIKE_RATES_PER_S: Final = (0.375 / 2.0, 0.375 / 2.0, 5.0)
"""The physical limit of a row is 37.5 % of its power within 2 s. A few servers that begin one job
together are faster, and the proof does not count on any limit."""


def _host(world: World) -> NodeHost | None:
    """A server that runs with an agent and that no other fault has loosened."""
    hosts = [
        host
        for name, host in world.nodes.items()
        if host.powered and host.life is not None and name not in world.suspects
    ]
    return world.rng.choice(hosts) if hosts else None


def _gpu(world: World) -> FaultyGpu | None:
    host = _host(world)
    return world.rng.choice(host.chassis.gpus) if host is not None else None


def _suspect(world: World, host: NodeHost, why: str, heal: Heal) -> Heal:
    world.suspects[host.name] = why

    def healed() -> None:
        heal()
        # Its agent needs a moment to lock it again.
        world.timeline.after(3.0, lambda: world.acquit(host.name))

    return healed


def agent_restart(world: World) -> Heal | None:
    """The agent dies and is there again before its lease could end."""
    host = _host(world)
    if host is None:
        return None
    host.crash_agent()
    return host.start


def agent_crash(world: World) -> Heal | None:
    """The agent dies; its supervisor takes a while."""
    host = _host(world)
    if host is None:
        return None
    if host.life is not None and host.life.brain.lease is not None:
        world.counts["state:crash-under-lease"] += 1
    host.crash_agent()
    return _suspect(world, host, "crash", host.start)


def agent_hang(world: World) -> Heal | None:
    """The agent stands still, its lease timer too; then it goes on, or its watchdog kills it."""
    host = _host(world)
    if host is None:
        return None
    host.stop_agent()

    def heal() -> None:
        if world.rng.random() < 0.5:
            host.crash_agent()
            host.start()
        else:
            host.resume_agent()

    return _suspect(world, host, "hang", heal)


def io_crash(world: World) -> Heal | None:
    """The I/O process dies; the actuator goes on by itself."""
    host = _host(world)
    if host is None:
        return None
    host.crash_io(world.rng.uniform(0.5, 6.0))
    return lambda: None


def node_reboot(world: World) -> Heal | None:
    """Power cycle: it comes back without locks and without work."""
    host = _host(world)
    if host is None:
        return None
    host.power_off()
    world.suspects[host.name] = "off"

    def heal() -> None:
        world.suspects.pop(host.name, None)
        if world.plant.fed(host.chassis.place):
            host.power_on(world.rng.uniform(3.0, 6.0))

    return heal


def node_removed(world: World) -> Heal | None:
    """A server is taken out of the rack, and one is put there later."""
    heal = node_reboot(world)
    if heal is not None:
        world.counts["state:node-added"] += 1
    return heal


def nvml_hang(world: World) -> Heal | None:
    """Calls into one GPU do not come back."""
    host = _host(world)
    if host is None:
        return None
    gpus = host.chassis.gpus if world.rng.random() < 0.3 else (world.rng.choice(host.chassis.gpus),)
    for gpu in gpus:
        gpu.hung = True

    def heal() -> None:
        for gpu in gpus:
            gpu.hung = False

    return _suspect(world, host, "nvml-hang", heal)


def lock_ignored(world: World) -> Heal | None:
    """Locks are accepted and change nothing; sometimes the clock jumps up at once."""
    host = _host(world)
    if host is None:
        return None
    gpus = host.chassis.gpus if world.rng.random() < 0.5 else (world.rng.choice(host.chassis.gpus),)
    up = world.rng.random() < 0.6
    for gpu in gpus:
        if up:
            host.chassis.unlock(gpu)
        gpu.ignores = True

    def heal() -> None:
        for gpu in gpus:
            gpu.ignores = False

    return _suspect(world, host, "lock-ignored", heal)


def foreign_unlock(world: World) -> Heal | None:
    """Somebody resets the clocks of a server by hand."""
    host = _host(world)
    if host is None:
        return None
    for gpu in host.chassis.gpus:
        host.chassis.unlock(gpu)
    return _suspect(world, host, "foreign-unlock", lambda: None)


def foreign_limit(world: World) -> Heal | None:
    """A BMC lowers the power limit of a GPU."""
    gpu = _gpu(world)
    if gpu is None:
        return None
    limit_w = world.rng.uniform(150.0, 500.0)
    gpu.foreign_limit_w = limit_w
    world.plant.limit_w[gpu.index] = limit_w

    def heal() -> None:
        gpu.foreign_limit_w = float("inf")
        world.plant.limit_w[gpu.index] = float("inf")

    return heal


def driver_reload(world: World) -> Heal | None:
    """The driver goes away with every lock, and comes back without."""
    host = _host(world)
    if host is None:
        return None
    host.chassis.driver_gone = True
    host.chassis.forget_locks()

    def heal() -> None:
        host.chassis.driver_gone = False

    return _suspect(world, host, "driver-reload", heal)


def gpu_lost(world: World) -> Heal | None:
    """A GPU falls off the bus, and comes back after a reset, without its lock."""
    host = _host(world)
    if host is None:
        return None
    gpu = world.rng.choice(host.chassis.gpus)
    gpu.lost = True
    world.plant.working[gpu.index] = False

    def heal() -> None:
        gpu.lost = False
        host.chassis.unlock(gpu)
        if host.powered:
            world.timeline.after(2.0, lambda: _work(world, gpu, host))

    return _suspect(world, host, "gpu-lost", heal)


def _work(world: World, gpu: FaultyGpu, host: NodeHost) -> None:
    if host.powered and not gpu.lost:
        world.plant.working[gpu.index] = True


def power_stuck(world: World) -> Heal | None:
    """A GPU's readings stand still, all of them."""
    gpu = _gpu(world)
    if gpu is None:
        return None
    gpu.stick()

    def heal() -> None:
        gpu.stuck = None

    return heal


def power_nan(world: World) -> Heal | None:
    """Readings that are no numbers."""
    gpu = _gpu(world)
    if gpu is None:
        return None
    gpu.garbage = True

    def heal() -> None:
        gpu.garbage = False

    return heal


def _false_power(world: World, factor: float) -> Heal | None:
    gpu = _gpu(world)
    if gpu is None:
        return None
    gpu.power_factor = factor

    def heal() -> None:
        gpu.power_factor = 1.0

    return heal


def power_drift(world: World) -> Heal | None:
    """A power sensor that is a little wrong."""
    return _false_power(world, world.rng.uniform(0.9, 1.1))


def power_lie(world: World) -> Heal | None:
    """A power sensor that shows half or less, or far too much."""
    return _false_power(world, world.rng.choice((0.0, 0.3, 0.6, 1.5, 3.0)))


def thermometer_stuck(world: World) -> Heal | None:
    """A GPU's thermometer shows what it showed, or always something cool."""
    gpu = _gpu(world)
    if gpu is None:
        return None
    now_c = float(world.plant.die_c[gpu.index])
    gpu.thermometer_stuck_c = now_c if world.rng.random() < 0.5 else 40.0

    def heal() -> None:
        gpu.thermometer_stuck_c = None

    return heal


def inlet_lost(world: World) -> Heal | None:
    """A server's inlet thermometer is gone."""
    host = _host(world)
    if host is None:
        return None
    host.chassis.inlet_gone = True

    def heal() -> None:
        host.chassis.inlet_gone = False

    return heal


def heatsink_clogged(world: World) -> Heal | None:
    """One GPU is cooled badly: it must slow down by itself."""
    gpu = _gpu(world)
    if gpu is None or gpu.thermometer_stuck_c is not None or gpu.garbage or gpu.stuck:
        return None
    worst = world.rng.uniform(3.0, 4.5)
    clogged = [True]

    def clog(step: int) -> None:
        if clogged[0]:
            share = min(step / CLOG_STEPS, 1.0)
            world.plant.clog[gpu.index] = 1.0 + share * (worst - 1.0)
            world.plant.goal[gpu.index] = 1.0
            world.timeline.after(1.0, lambda: clog(step + 1))

    clog(1)

    def heal() -> None:
        clogged[0] = False
        world.plant.clog[gpu.index] = 1.0

    return heal


def meter_lost(world: World) -> Heal | None:
    """The PDU is gone: every server behind it is without its meter."""
    hosts = [host for host in world.nodes.values() if not host.chassis.meter_gone]
    chosen = hosts if world.rng.random() < 0.5 else hosts[: (len(hosts) + 1) // 2]
    for host in chosen:
        host.chassis.meter_gone = True

    def heal() -> None:
        for host in chosen:
            host.chassis.meter_gone = False

    return heal if chosen else None


def meter_lie(world: World) -> Heal | None:
    """A server's meter shows too little or too much."""
    host = _host(world)
    if host is None:
        return None
    host.chassis.meter_factor = world.rng.choice((0.0, 0.5, 0.8, 1.3, 2.0))

    def heal() -> None:
        host.chassis.meter_factor = 1.0

    return heal


def disk_full(world: World) -> Heal | None:
    """A server's disk takes nothing more."""
    host = _host(world)
    if host is None:
        return None
    host.disk.full = True

    def heal() -> None:
        host.disk.full = False

    return heal


def clock_jump(world: World) -> Heal | None:
    """The time of day jumps on one host, forwards or back; the monotonic clock does not."""
    clocks = [host.clock for host in world.nodes.values()]
    clocks += [host.clock for host in world.controllers]
    clock = world.rng.choice(clocks)
    clock.wall_offset_s = world.rng.choice((-3600.0, -30.0, -5.0, 1.5, 5.0, 30.0, 86400.0))

    def heal() -> None:
        clock.wall_offset_s = 0.0

    return heal


def load_spike(world: World) -> Heal | None:
    """All work rises at the physical limit, by 37.5 % or to everything there is."""
    plant = world.plant
    # Work is a share of the dynamic power, which is about all of a GPU's.
    rise = 0.375 if world.rng.random() < 0.4 else 1.0
    plant.rate[:] = world.rng.choice(SPIKE_RATES_PER_S)
    plant.goal[:] = (plant.work + rise).clip(0.0, 1.0)
    if world.contingencies:
        world.counts["state:spike-in-contingency"] += 1
    if world.leader is None:
        world.counts["state:spike-without-controller"] += 1

    def heal() -> None:
        plant.rate[:] = 0.5
        plant.goal[:] = world.rng.uniform(0.3, 0.7)

    return heal


def load_drop(world: World) -> Heal | None:
    """Much of the work ends at once: ceilings rise, for the next spike to find them high."""
    plant = world.plant
    plant.rate[:] = 1.0
    plant.goal[:] = world.rng.uniform(0.05, 0.4)
    return lambda: None
