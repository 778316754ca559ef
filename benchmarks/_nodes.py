"""Many real agents in few processes, over GPUs that only remember when they were locked.

Each node is the real actuator, the real bus link and a connection of its own to the broker. What is
left out is the pipe between an agent's two processes and its writer threads, which would cost 128
processes here. Stamps lie in shared memory, so that looking at them disturbs nobody.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import mmap
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event as EventType
from typing import Any, Final

from actuators.clocks import ClockActuator
from daemon.agent.actuator import Actuator
from daemon.agent.link import AgentLink, agent_bus
from daemon.agent.state import MemoryKeeper
from daemon.bus import Bus
from facility.config import AgentConfig
from facility.ports import FastReading, GpuPort, MediumReading, SlowReading
from facility.wire import GpuIdentity, NodeStatus
from simulator.hands import InlineHands

GPUS_PER_NODE: Final = 8
CLOCKS_MHZ: Final = tuple(range(345, 1_981, 15))
POWER_W: Final = 150.0
CONNECT_S: Final = 30.0


class Stamps:
    """Per GPU of all nodes: the ceiling now, and when it first came down to a limit."""

    def __init__(self, nodes_count: int) -> None:
        count = nodes_count * GPUS_PER_NODE
        self.ceilings_mhz = memoryview(mmap.mmap(-1, 8 * count)).cast("q")
        self.limit_mhz = memoryview(mmap.mmap(-1, 8)).cast("q")
        self.first_ns = memoryview(mmap.mmap(-1, 8 * count)).cast("q")

    def wrote(self, place: int, ceiling_mhz: int) -> None:
        """A GPU was locked, now."""
        if self.first_ns[place] == 0 and ceiling_mhz <= self.limit_mhz[0]:
            self.first_ns[place] = time.monotonic_ns()
        self.ceilings_mhz[place] = ceiling_mhz

    def forget(self, limit_mhz: int) -> None:
        """From now on the next write at or below the limit is each GPU's first."""
        self.limit_mhz[0] = limit_mhz
        for place in range(len(self.first_ns)):
            self.first_ns[place] = 0


class StampedGpu:
    """A GPU that runs at its ceiling and remembers when it got it."""

    def __init__(self, stamps: Stamps, place: int, node: str, index: int) -> None:
        self._stamps = stamps
        self._place = place
        self._identity = GpuIdentity(
            uuid=f"GPU-{node}-{index}", index=index, model="stamped", clocks_mhz=CLOCKS_MHZ
        )
        self._clock_mhz = CLOCKS_MHZ[-1]

    def identity(self) -> GpuIdentity:
        """What it is."""
        return self._identity

    def read_fast(self) -> FastReading:
        """A constant power, and its ceiling as its clock."""
        return FastReading(power_w=POWER_W, sm_clock_mhz=self._clock_mhz)

    def read_medium(self) -> MediumReading:
        """Cool."""
        return MediumReading(temperature_c=50.0, margin_c=35.0)

    def read_slow(self) -> SlowReading:
        """Nothing to tell."""
        return SlowReading()

    def lock_clocks(self, *, clock_mhz_min: int, ceiling_mhz: int) -> None:
        """Take the lock at once, and note when."""
        del clock_mhz_min
        self._clock_mhz = ceiling_mhz
        self._stamps.wrote(self._place, ceiling_mhz)

    def reset_clocks(self) -> None:
        """Lift the lock."""
        self.lock_clocks(clock_mhz_min=CLOCKS_MHZ[0], ceiling_mhz=CLOCKS_MHZ[-1])


class StampedHost:
    """The driver of one node."""

    def __init__(self, stamps: Stamps, first_place: int, node: str) -> None:
        self._gpus = [
            StampedGpu(stamps, first_place + index, node, index) for index in range(GPUS_PER_NODE)
        ]

    def open(self) -> Sequence[GpuPort]:
        """Its GPUs."""
        return self._gpus

    def close(self) -> None:
        """Nothing to let go of."""


class Node:
    """One node's agent: actuator, link and connection."""

    def __init__(self, config: AgentConfig, host: StampedHost) -> None:
        session = f"bench-{config.node}-{time.monotonic_ns() % 1_000_000}"
        hands = InlineHands(host, sample_hz=config.sample_hz, make_writer=ClockActuator)
        self.actuator = Actuator(config, hands, MemoryKeeper(), session=session, version="bench")
        status = NodeStatus(node=config.node, session=session, state="ready")
        self.bus: Bus = agent_bus(config, status)
        self._link = AgentLink(self.bus, config, self._deliver)

    async def start(self) -> None:
        """Connect, and begin."""
        self._link.start()
        await self.bus.start()
        self.actuator.start()

    def _deliver(self, kind: str, payload: bytes) -> None:
        self.cycle(((kind, payload),))

    def cycle(self, incoming: Sequence[tuple[str, bytes]] = ()) -> None:
        """Run the actuator once and send what it has to say."""
        for kind, payload in self.actuator.cycle(time.monotonic(), time.time(), incoming):
            self._link.send(kind, payload)


async def _run(nodes: list[Node], ready: EventType, done: EventType) -> None:
    """Run every node at its own deadlines until `done`."""
    due: list[tuple[float, int]] = []
    for place, node in enumerate(nodes):
        await node.start()
        heapq.heappush(due, (time.monotonic() + place / len(nodes), place))
    for node in nodes:
        await node.bus.wait_connected(timeout_s=CONNECT_S)
    gc.collect()
    gc.freeze()  # one agent has a 32nd of these objects; its collector never takes long
    ready.set()
    while not done.is_set():
        at_s, place = heapq.heappop(due)
        await asyncio.sleep(max(at_s - time.monotonic(), 0.0))
        nodes[place].cycle()
        period_s = 1.0 / nodes[place].actuator.config.sample_hz
        next_s = min(nodes[place].actuator.next_deadline_s(), at_s + period_s)
        heapq.heappush(due, (max(next_s, time.monotonic() + 0.002), place))
    for node in nodes:
        await node.bus.stop()


def _work(
    configs: list[AgentConfig], first: int, stamps: Stamps, ready: EventType, done: EventType
) -> None:
    nodes = [
        Node(config, StampedHost(stamps, (first + place) * GPUS_PER_NODE, config.node))
        for place, config in enumerate(configs)
    ]
    asyncio.run(_run(nodes, ready, done))


@dataclass
class Worker:
    """One process with its share of the nodes."""

    process: Any
    ready: EventType


class Nodes:
    """All nodes, in `processes_count` processes. Use it as a context."""

    def __init__(self, configs: Sequence[AgentConfig], *, processes_count: int) -> None:
        self.stamps = Stamps(len(configs))
        context = multiprocessing.get_context("fork")
        self._done = context.Event()
        self._workers: list[Worker] = []
        share = -(-len(configs) // processes_count)
        for first in range(0, len(configs), share):
            ready = context.Event()
            mine = list(configs[first : first + share])
            arguments = (mine, first, self.stamps, ready, self._done)
            process = context.Process(target=_work, args=arguments, daemon=True)
            self._workers.append(Worker(process, ready))

    def __enter__(self) -> Nodes:
        for worker in self._workers:
            worker.process.start()
        for worker in self._workers:
            if not worker.ready.wait(CONNECT_S):
                raise RuntimeError("the nodes do not come up")
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for worker in self._workers:
            worker.process.join(5.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
