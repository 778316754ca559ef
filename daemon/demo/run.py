"""One run of the demo, from the embedded broker to the verdict.

The driver moves the plant and the simulated clock together; agents and controller live on that
clock and talk over a real broker. At a share of the run a UPS fails in the plant, and a monitor
says so on the bus, as a UPS daemon would.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from daemon.bus import Bus
from daemon.clock import SimulatedClock
from daemon.controller.service import ControllerService, Surroundings
from daemon.demo.agents import DemoAgent, DemoAgents
from daemon.demo.settings import DemoSettings
from daemon.embedded_broker import BrokerStartError, EmbeddedBroker
from daemon.store.audit import open_audit
from daemon.store.history import open_history
from daemon.version import VERSION
from daemon.web.api import make_app
from daemon.web.board import Board, PriorityTraffic, RunView, TrafficView
from daemon.web.server import WebServer
from facility.compiler import compile_site
from facility.config import BrokerConfig, StoreConfig
from facility.example import agent_config, row_site
from facility.topics import COMMAND, Topics
from facility.topology import Site
from facility.wire import Request, encode
from simulator.plant import Plant, PlantSettings
from simulator.watch import Watch, verdict

SAMPLE_HZ: Final = 2.0
"""A node's sampling in the demo. Real agents take ten; 320 GPUs in one process need not."""
BREATH_RATIO: Final = 0.3
"""After each step others get at least this share of its time, however far behind the run is."""
TRAFFIC_S: Final = 1.0

Progress = Callable[["Stage"], None]


class Stage:
    """Everything that one run consists of."""

    def __init__(self, settings: DemoSettings) -> None:
        self.settings = settings
        self.site = demo_site(settings)
        self.plant = Plant(self.site, PlantSettings(seed=settings.seed, trace=settings.trace))
        self.clock = SimulatedClock(wall_start_s=time.time())
        self.board = Board(self.site, clock=self.clock.now_s)
        self.watch = Watch(self.plant)
        self.url = ""
        self.interrupted = False
        self._leave = asyncio.Event()
        self._topics = Topics(self.site.name)
        self._arrived_before: dict[str, int] = {}
        self._embedded: EmbeddedBroker | None = None

    def leave(self) -> None:
        """Do not leave the verdict standing any longer."""
        self._leave.set()

    async def run(self, progress: Progress, stopping: asyncio.Event) -> dict[str, object]:
        """Run to the end, or until `stopping`; returns the report."""
        async with contextlib.AsyncExitStack() as stack:
            monitor, agents, service = await self._build(stack)
            control = asyncio.create_task(service.run(stopping), name="controller")
            drive = asyncio.create_task(
                self._drive(monitor, agents, progress, stopping), name="driver"
            )
            try:
                await asyncio.wait({control, drive}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.set()
                for task in (drive, control):
                    task.cancel()
                results = await asyncio.gather(drive, control, return_exceptions=True)
            self.interrupted = self.plant.now_s < self.settings.duration_s - 1e-9
            for result in results:
                if isinstance(result, Exception):
                    raise result
            report = self._report()
            await self._linger()
        return report

    async def _build(
        self, stack: contextlib.AsyncExitStack
    ) -> tuple[Bus, DemoAgents, ControllerService]:
        """Start broker, page, store, controller and agents; the stack ends them in reverse."""
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ampacity-demo-")))
        web = WebServer(
            make_app(self.board, readiness=dict, version=VERSION),
            "127.0.0.1",
            self.settings.port,
        )
        await web.start()
        stack.push_async_callback(web.stop)
        self.url = web.url
        embedded = self._embedded = await stack.enter_async_context(EmbeddedBroker())
        broker = BrokerConfig(host=embedded.host, port=embedded.port, keepalive_s=60)
        store = StoreConfig(directory=str(scratch))
        history = open_history(store, site=self.site.name, wall_s=self.clock.wall_s)
        stack.callback(history.close)
        audit = open_audit(store, wall_s=self.clock.wall_s)
        stack.callback(audit.close)
        bus = await self._bus(stack, broker, "ampacity-demo-controller")
        service = ControllerService(
            self.site,
            Surroundings(
                bus=bus,
                clock=self.clock,
                board=self.board,
                history=history,
                audit=audit,
                routers=(self.plant.router(),),
                after_cycle=self.watch.decided,
            ),
            name="demo",
            session="demo",
            epoch=1,
        )
        service.subscribe()
        monitor = await self._bus(stack, broker, "ampacity-demo-monitor")
        for connection in (bus, monitor):
            await connection.wait_connected(timeout_s=10.0)
        self.plant.start()
        agents = DemoAgents([self._agent(name, broker) for name in self.site.nodes])
        stack.push_async_callback(agents.stop)
        await agents.start(lambda place: place / len(self.site.nodes) / SAMPLE_HZ)
        return monitor, agents, service

    async def _bus(
        self, stack: contextlib.AsyncExitStack, broker: BrokerConfig, identifier: str
    ) -> Bus:
        bus = Bus(broker, identifier=identifier)
        await bus.start()
        stack.push_async_callback(bus.stop)
        return bus

    def _agent(self, node: str, broker: BrokerConfig) -> DemoAgent:
        config = agent_config(self.site, node, broker=broker)
        config = msgspec.structs.replace(config, sample_hz=SAMPLE_HZ)
        return DemoAgent(config, self.plant, self.clock)

    async def _drive(
        self, monitor: Bus, agents: DemoAgents, progress: Progress, stopping: asyncio.Event
    ) -> None:
        """Move the plant and the clock, at most at the speed asked for."""
        settings = self.settings
        started_real_s = time.monotonic()
        said_s = 0.0
        while self.plant.now_s < settings.duration_s - 1e-9 and not stopping.is_set():
            before_real_s = time.monotonic()
            if self.watch.failed_at_s is None and self.plant.now_s >= settings.failure_at_s - 1e-9:
                self._fail(monitor)
            self.plant.step()
            self.clock.advance_to(self.plant.now_s)
            self.watch.look()
            agents.run_due(self.plant.now_s)
            self.watch.leases_expired = agents.leases_expired
            if self._embedded is not None and self._embedded.died:
                raise BrokerStartError("the embedded broker died during the run")
            if self.plant.now_s - said_s >= TRAFFIC_S - 1e-9:
                said_s = self.plant.now_s
                self._show()
                progress(self)
            worked_s = time.monotonic() - before_real_s
            ahead_s = started_real_s + self.plant.now_s / settings.speed - time.monotonic()
            await asyncio.sleep(max(ahead_s, BREATH_RATIO * worked_s))

    def _fail(self, monitor: Bus) -> None:
        """The UPS fails, and whoever watches it says so."""
        name = self.settings.contingency
        leases = self.board.snapshot().leases
        self.watch.failed(
            {
                node: granted.lease.contingency_ceilings_mhz[name]
                for node, granted in leases.items()
                if name in granted.lease.contingency_ceilings_mhz
            }
        )
        self.plant.begin(name)
        request = Request(
            verb="contingency",
            transaction="demo-failure",
            by="ups-monitor",
            args={"contingency": name, "on": True},
        )
        monitor.publish(self._topics.request("contingency"), encode(request), COMMAND)

    def _show(self) -> None:
        """Tell the page what users get and where the run stands."""
        truth = self.plant.truth()
        rows = []
        for name, item in truth.priorities.items():
            served_before = self._arrived_before.get(name, 0)
            self._arrived_before[name] = item.served
            rows.append(
                PriorityTraffic(
                    priority=name,
                    rate_per_s=(item.served - served_before) / TRAFFIC_S,
                    served_count=item.served,
                    queued_count=sum(
                        node.queued
                        for node in truth.nodes.values()
                        if self.site.nodes[node.name].priority == name
                    ),
                    lost_count=item.lost,
                    ttft_p50_s=item.last_minute.ttft_p50_s,
                    ttft_p99_s=item.last_minute.ttft_p99_s,
                    tpot_p50_s=item.last_minute.tpot_p50_s,
                    tpot_p99_s=item.last_minute.tpot_p99_s,
                )
            )
        self.board.traffic(TrafficView(priorities=tuple(rows)))
        words = verdict(self.watch.report()) if self.plant.tree.tripped else None
        self.board.run(self._view(words))

    def _view(self, words: str | None = None) -> RunView:
        return RunView(
            policy=self.settings.policy,
            simulated_s=self.plant.now_s,
            duration_s=self.settings.duration_s,
            speed=self.settings.speed,
            failure=self.settings.contingency,
            failure_at_s=self.settings.failure_at_s,
            verdict=words,
            tripped=bool(self.plant.tree.tripped) if words is not None else None,
        )

    def _report(self) -> dict[str, object]:
        report = self.watch.report()
        words = verdict(report)
        if self.interrupted:
            words = f"INTERRUPTED after {self.plant.now_s:.0f} s of {self.settings.duration_s:.0f}"
        self.board.run(self._view(words))
        return {
            "verdict": words,
            "policy": self.settings.policy,
            "seed": self.settings.seed,
            "duration_s": self.settings.duration_s,
            **report,
        }

    async def _linger(self) -> None:
        """Leave the verdict on the page for a moment."""
        if not self.interrupted:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leave.wait(), self.settings.linger_s)


def demo_site(settings: DemoSettings) -> Site:
    """The example row under the policy asked for; others than ours as published, without ledger.

    Messages and computing take real time, and simulated time runs faster: the reaction is slower
    by the same factor, twice that because everything shares one process and one machine, and leases
    are held against it.
    """
    config = row_site()
    ours, real = settings.policy == "ampacity", config.control.reaction
    slower = 2.0 * settings.speed
    control = msgspec.structs.replace(
        config.control,
        policy=settings.policy,
        ledger=ours,
        reaction=msgspec.structs.replace(
            real,
            sample_s=real.sample_s * slower,
            transport_s=real.transport_s * slower,
            decide_s=real.decide_s * slower,
            apply_s=real.apply_s * slower,
        ),
    )
    return compile_site(msgspec.structs.replace(config, control=control))
