"""The digital twin of a site: electrical, thermal, GPU and serving models in one step.

Agents and the controller reach it only through ports. Its own figures come from the true physics,
never from what a controller says, so they are an independent judgement.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facility.topology import Site
from simulator.bank import GpuBank
from simulator.doors import (
    ChassisView,
    NodeState,
    SimulatedHost,
    SimulatedRouter,
    SimulatedSensors,
    simulated_host,
)
from simulator.electrical import NodePower, PowerTree
from simulator.gpu import part_named
from simulator.latency import LatencyBook
from simulator.lifecycle import Lifecycle
from simulator.loads.blocks import Source
from simulator.loads.source import source_of
from simulator.readings import View
from simulator.serving import Engines
from simulator.settings import PRIORITIES, PlantSettings
from simulator.thermal import Heat, ZoneAir
from simulator.truth import (
    PlantTruth,
    PriorityTruth,
    ReportValue,
    Tally,
    domains_of,
    nodes_of,
    requests_report,
)

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

__all__ = ["PRIORITIES", "Plant", "PlantSettings"]


class Plant:
    """The twin of one site. `step` is the only way time passes."""

    def __init__(self, site: Site, settings: PlantSettings | None = None) -> None:
        """Build everything from the site and the seed; nothing runs before the first step.

        Raises:
            ValueError: an unknown GPU, a load of nothing, or a step outside (0, 0.25] s.
        """
        self.site = site
        self.settings = settings or PlantSettings()
        if not 0.0 < self.settings.dt_s <= 0.25:
            raise ValueError(f"dt_s is {self.settings.dt_s:g}; expected above 0 and at most 0.25")
        seeds = np.random.SeedSequence(self.settings.seed).spawn(5)
        boards, air, _, self._rng, meters = (np.random.default_rng(seed) for seed in seeds)
        self._nodes = tuple(site.nodes.values())
        self._places = {node.name: place for place, node in enumerate(self._nodes)}
        counts = np.array([node.model.gpu_count for node in self._nodes])
        self._node_of = np.repeat(np.arange(len(counts)), counts)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        node_parts = [part_named(node.model.gpu.name) for node in self._nodes]
        parts = [node_parts[place] for place in self._node_of.tolist()]
        self.bank = GpuBank(
            parts, self._node_of, boards, ignored_ratio=self.settings.lock_ignored_ratio
        )
        self.heat = Heat(parts, self._node_of, ZoneAir.of(site), air)
        self.tree = PowerTree(site)
        self._node_power = NodePower(site, self.settings.server)
        self.book = LatencyBook(len(PRIORITIES))
        self.engines = Engines(
            site,
            node_parts,
            engine=self.settings.engine,
            opaque_intensity=self.settings.opaque_intensity,
            book=self.book,
            priorities=PRIORITIES,
            packing=self.settings.packing,
        )
        self._load = self._source(seeds[2])
        spread = self.settings.meter_spread
        self._meter_gain = 1.0 + meters.uniform(-spread, spread, len(self._nodes))
        self._meter_follows = 1.0 - math.exp(-self.settings.dt_s / self.settings.meter_lag_s)
        self._set_up_nodes()

    def _source(self, seed: np.random.SeedSequence) -> Source | None:
        """The load, or None where no node serves anything."""
        serving = sum(node.service is not None for node in self._nodes)
        if not serving:
            return None
        rate = self.settings.mean_requests_per_s
        return source_of(
            self.settings.trace,
            rate_per_s=self.settings.requests_per_node_s * serving if rate is None else rate,
            seed=seed,
            priorities=PRIORITIES,
            start_s=-self.settings.warm_up_s,
            spread_s=self.settings.spread_s,
            begin_s=self.settings.load_begin_s,
        )

    def _set_up_nodes(self) -> None:
        count = len(self._nodes)
        self._tally = Tally()
        self._started = False
        self.now_s = 0.0
        self._begin_s = 0.0
        self._steps = 0
        self._life = Lifecycle(count, boot_s=self.settings.boot_s)
        self._is_lit = np.ones(count)
        self._heat_moved = True
        self.node_power_w = np.zeros(count)
        self._meter_w = np.zeros(count)
        self._chassis: ChassisView | None = None
        self._view: View | None = None
        self._states = [NodeState() for _ in self._nodes]
        self._hosts = {
            node.name: simulated_host(
                node.name,
                bank=self.bank,
                gpus=range(int(self._starts[place]), int(self._starts[place + 1])),
                node=self._states[place],
                view=self._gpu_view,
                clock=lambda: self.now_s,
            )
            for place, node in enumerate(self._nodes)
        }
        self._sensors = {
            node.name: SimulatedSensors(
                place,
                self._states[place],
                view=self._chassis_view,
                has_meter=self.settings.node_meter,
            )
            for place, node in enumerate(self._nodes)
        }
        self._router = SimulatedRouter(self.engines.dispatcher, lambda: self.now_s)

    def _gpu_view(self) -> View:
        if self._view is None:
            self._view = View.of(self.bank, self.heat)
        return self._view

    def _chassis_view(self) -> ChassisView:
        if self._chassis is None:
            self._chassis = ChassisView(
                np.rint(self._meter_w).tolist(), np.rint(self.heat.inlet_c).tolist()
            )
        return self._chassis

    def host(self, node: str) -> SimulatedHost:
        """The driver of one node, whose GPU ports act on this plant."""
        return self._hosts[self._known(node)]

    def sensors(self, node: str) -> SimulatedSensors:
        """The chassis of one node."""
        return self._sensors[self._known(node)]

    def router(self) -> SimulatedRouter:
        """The router in front of all services."""
        return self._router

    def _known(self, node: str) -> str:
        if node not in self._places:
            raise ValueError(f"the site has no node {node!r}")
        return node

    def start(self) -> None:
        """Warm up to time 0: engines filled, metal hot, nothing counted, no protection worn.

        The first step does this by itself; a reader of sensors before it calls this.
        """
        if self._started:
            return
        self._started = True
        self.heat.warm_up()
        self.now_s = self._begin_s = -self.settings.warm_up_s
        for _ in range(round(self.settings.warm_up_s / self.settings.dt_s)):
            self._run(counted=False)
        self.book.clear()
        self.engines.forget_counts()
        self.bank.forget_counts()
        self.now_s, self._begin_s, self._steps = 0.0, 0.0, 0
        self._tally = Tally()
        self._tally.feel(self.heat.die_c, self.heat.inlet_c)

    def hold(self, ceiling_mhz: FloatArray) -> None:
        """Lock every node's GPUs, (nodes,), at once and for sure: whoever calls models the path."""
        self.bank.hold(ceiling_mhz[self._node_of])

    def step(self) -> None:
        """Advance by `dt_s`."""
        self.start()
        self._run(counted=True)

    def _run(self, *, counted: bool) -> None:
        dt_s, at_s = self.settings.dt_s, self.now_s
        self.engines.dispatcher.expire(at_s)
        if self._load is not None:
            self.engines.admit(self._load.until(at_s + dt_s), self._rng)
        demand = self.engines.step(at_s=at_s, dt_s=dt_s, clock_mhz=self.bank.node_clock_mhz())
        self.bank.step(at_s=at_s, dt_s=dt_s, demand=demand, temperature_c=self.heat.die_c)
        self.node_power_w = self._node_power.at(
            gpu_power_w=self.bank.node_gpu_power_w(),
            fan_ratio=self.heat.fan_ratio,
            busy=self.engines.busy,
        )
        self.node_power_w *= self._is_lit
        self._meter_w += self._meter_follows * (
            self.node_power_w * self._meter_gain - self._meter_w
        )
        self._heat_moved = self.heat.step(
            dt_s=dt_s,
            gpu_power_w=self.bank.power_w,
            node_power_w=self.node_power_w,
            zone_ratio=self.tree.zone_ratio,
        )
        self._pass_time(dt_s)
        self._protect(dt_s, counted=counted)
        self._look_after_nodes()

    def _pass_time(self, dt_s: float) -> None:
        """Whole steps are counted: an hour of summed rounding would shift what happens when."""
        self._steps += 1
        self.now_s = self._begin_s + self._steps * dt_s
        self._chassis = self._view = None
        if self._steps % max(1, round(1.0 / dt_s)) == 0:
            self.book.close_second()

    def _protect(self, dt_s: float, *, counted: bool) -> None:
        trips = self.tree.step(
            at_s=self.now_s,
            dt_s=dt_s,
            node_power_w=self.node_power_w,
            armed=counted and self.settings.trips,
        )
        self._tally.add(dt_s=dt_s, tree=self.tree, power_w=float(self.node_power_w.sum()))
        if self._heat_moved:
            self._tally.feel(self.heat.die_c, self.heat.inlet_c)
        if trips:
            self._tally.trips.extend(trips)
            self._feed()

    def _feed(self) -> None:
        """Nodes that nothing feeds go dark; nodes that are fed again are back after a boot."""
        falling = self._life.feed(self.tree.fed, self.now_s)
        if falling.any():
            self.engines.take_down(falling)
            self.bank.forget_locks(falling[self._node_of])
        self._tell_nodes()

    def _look_after_nodes(self) -> None:
        """Boots that are over; and a tensor-parallel engine does not outlive any of its GPUs."""
        if np.count_nonzero(self._life.dark):
            up = self._life.booted(self.now_s)
            if up.any():
                self.bank.lost[up[self._node_of]] = False
                self.engines.bring_up(up)
                self._tell_nodes()
        if np.count_nonzero(self.bank.lost):
            crippled = np.logical_or.reduceat(self.bank.lost, self.bank.starts) & self.engines.up
            if crippled.any():
                self.engines.take_down(crippled)

    def _tell_nodes(self) -> None:
        self._is_lit = (~self._life.dark).astype(np.float64)
        self.bank.powered = self._is_lit[self._node_of]
        for state, dark in zip(self._states, self._life.dark.tolist(), strict=True):
            state.driver_up = not dark

    def begin(self, contingency: str) -> None:
        """A declared contingency happens, physically: loads move, cooling is lost.

        Raises:
            ValueError: the site declares no such contingency.
        """
        self.tree.set_active(self.tree.active | {contingency})
        self._feed()

    def end(self, contingency: str) -> None:
        """A contingency is over; what had gone dark boots. A tripped breaker stays open."""
        self.tree.set_active(self.tree.active - {contingency})
        self._feed()

    def _gpus_of(self, node: str) -> slice:
        place = self._places[self._known(node)]
        return slice(int(self._starts[place]), int(self._starts[place + 1]))

    def lose_gpu(self, node: str, gpu: int) -> None:
        """Fault: a GPU falls off the bus, and its node's engine with it, until the node reboots."""
        self.bank.lost[self._gpus_of(node)][gpu] = True

    def ignore_locks(self, node: str, *, on: bool = True) -> None:
        """Fault: the node's GPUs accept locks and do not honour new ones."""
        self.bank.ignores_locks[self._gpus_of(node)] = on

    def limit_power(self, node: str, limit_w: float | None) -> None:
        """Fault: a foreign power limit, as a BMC sets it; None lifts it."""
        gpus = self._gpus_of(node)
        self.bank.limit_w[gpus] = self.bank.limit_requested_w[gpus] if limit_w is None else limit_w

    def brake(self, node: str, *, on: bool = True) -> None:
        """The hardware power brake of a node, as its supplies or its BMC assert it."""
        self.bank.braked[self._gpus_of(node)] = on

    def freeze_sensors(self, node: str, *, on: bool = True) -> None:
        """Fault: GPU and chassis sensors go on answering with what they read now."""
        for gpu in self._hosts[self._known(node)].gpus:
            gpu.freeze(on=on)
        state = self._states[self._places[node]]
        state.sensors_frozen = None
        state.sensors_frozen = self._sensors[node].read() if on else None

    def darken(self, node: str, *, on: bool = True) -> None:
        """Fault: a node loses power whatever feeds it; off again, it boots."""
        self._life.cut[self._places[self._known(node)]] = on
        self._feed()

    def truth(self) -> PlantTruth:
        """Everything now, as it really is."""
        engines = self.engines
        queued = engines.queued()
        return PlantTruth(
            now_s=self.now_s,
            domains=domains_of(
                self.tree, {name: domain.kind for name, domain in self.site.domains.items()}
            ),
            nodes=nodes_of(
                self.site,
                power_w=self.node_power_w,
                bank=self.bank,
                heat=self.heat,
                dark=self._life.dark,
                batch=engines.batch,
                queued=queued,
            ),
            priorities={
                priority: PriorityTruth(
                    priority,
                    int(engines.served[rank]),
                    int(engines.lost[rank]),
                    self.book.last_minute(rank),
                    self.book.total(rank),
                )
                for rank, priority in enumerate(PRIORITIES)
            },
            contingencies=self.tree.active,
            requests_arrived=int(engines.arrived.sum()),
            requests_served=int(engines.served.sum()),
            requests_lost=int(engines.lost.sum()),
            requests_queued=int(queued.sum()),
            requests_in_flight=engines.requests.count - int(queued.sum()),
        )

    def report(self) -> dict[str, ReportValue]:
        """What happened since time 0; None for what was not measured."""
        return {
            **self._tally.report(),
            **requests_report(self.truth()),
            "throttle_events": self.bank.power_events + self.bank.thermal_events,
            "power_throttle_events": self.bank.power_events,
            "thermal_throttle_events": self.bank.thermal_events,
        }
