"""The row's agents in one process: the real actuator and the real bus link of every node.

Nothing here is simulated but the GPUs and the clock. A message for a node is acted on as it
arrives; between messages every node runs at its own deadlines.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable

from actuators.clocks import ClockActuator
from daemon.agent.actuator import Actuator, Message
from daemon.agent.link import AgentLink, agent_bus
from daemon.agent.state import MemoryKeeper
from daemon.bus import Bus
from daemon.clock import Clock
from facility.config import AgentConfig
from facility.wire import NodeStatus
from simulator.hands import InlineHands
from simulator.plant import Plant

LOG = logging.getLogger(__name__)


class DemoAgent:
    """Both halves of one node's agent."""

    def __init__(self, config: AgentConfig, plant: Plant, clock: Clock) -> None:
        session = f"demo-{config.node}"
        hands = InlineHands(
            plant.host(config.node),
            sample_hz=config.sample_hz,
            make_writer=ClockActuator,
            sensors=plant.sensors(config.node),
        )
        self.node = config.node
        self.actuator = Actuator(config, hands, MemoryKeeper(), session=session, version="demo")
        self.bus: Bus = agent_bus(
            config, NodeStatus(node=config.node, session=session, state="ready")
        )
        self._link = AgentLink(self.bus, config, self._deliver)
        self._clock = clock
        self.leases_expired = 0

    async def start(self) -> None:
        """Connect and begin."""
        self._link.start()
        await self.bus.start()
        self.actuator.start()

    def _deliver(self, kind: str, payload: bytes) -> None:
        self.cycle(((kind, payload),))

    def cycle(self, incoming: tuple[Message, ...] = ()) -> None:
        """Run the actuator once and send what it has to say."""
        before = self.actuator.brain.reason
        now_s, wall_s = self._clock.now_s(), self._clock.wall_s()
        for kind, payload in self.actuator.cycle(now_s, wall_s, incoming):
            self._link.send(kind, payload)
        if self.actuator.brain.reason == "lease-expired" != before:
            self.leases_expired += 1

    async def stop(self) -> None:
        """Leave: the hardware keeps what it has, the row ends with the run."""
        self.actuator.close()
        await self.bus.stop()


class DemoAgents:
    """All agents of the row, each run when its own deadline comes."""

    def __init__(self, agents: list[DemoAgent]) -> None:
        self.agents = agents
        self._due: list[tuple[float, int]] = []

    async def start(self, stagger_s: Callable[[int], float]) -> None:
        """Connect everybody.

        First cycles are `stagger_s(place)` into the run, so that no two nodes sample in step.
        """
        for place, agent in enumerate(self.agents):
            await agent.start()
            heapq.heappush(self._due, (stagger_s(place), place))
        for agent in self.agents:
            await agent.bus.wait_connected(timeout_s=20.0)

    def run_due(self, now_s: float) -> None:
        """Run every agent whose deadline has come."""
        while self._due and self._due[0][0] <= now_s + 1e-9:
            _, place = heapq.heappop(self._due)
            agent = self.agents[place]
            agent.cycle()
            deadline_s = agent.actuator.next_deadline_s()
            heapq.heappush(self._due, (max(deadline_s, now_s + 0.05), place))

    async def stop(self) -> None:
        """Disconnect everybody."""
        await asyncio.gather(*(agent.stop() for agent in self.agents))

    @property
    def leases_expired(self) -> int:
        """How many leases have run out, by the nodes' own account and not by the bus's."""
        return sum(agent.leases_expired for agent in self.agents)
