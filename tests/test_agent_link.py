"""One node's traffic on a bus, in the demo's process and behind a pipe that nobody reads."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from daemon.agent.io import Pipe
from daemon.agent.link import (
    COMMAND_COST_BYTES,
    COMMAND_RATE,
    AgentLink,
    Deliver,
    agent_bus,
)
from daemon.agent.pipe import FrameDecoder
from daemon.bus import Bus
from facility.config import AgentConfig
from facility.topics import STATE, Topics
from facility.wire import NodeStatus, encode
from tests.buses import QUICK, at, broker, listening
from tests.servers import Server, until

__all__ = ["broker"]  # a fixture is found by its name

TOPICS = Topics("lab")
READY = NodeStatus(node="n1", session="s1", state="ready")
DISCONNECTED = encode(msgspec.structs.replace(READY, state="disconnected"))


async def test_many_links_may_share_one_bus(broker: Server) -> None:
    delivered: list[tuple[str, str, bytes]] = []
    async with (
        listening(at(broker), TOPICS.node("+", "telemetry")) as heard,
        Bus(at(broker), identifier="demo", limits=QUICK) as bus,
    ):
        for node in ("n1", "n2", "n3"):
            link = AgentLink(bus, agent_config(broker.port, node), into(delivered, node))
            link.start()
            link.send("telemetry", node.encode())
        await until(lambda: len(heard.messages) == 3, "a frame of each")
        heard.bus.publish(TOPICS.node("n2", "lease"), b"granted", STATE)
        heard.bus.publish(TOPICS.domain("row-1", "emergency"), b"on", STATE)
        await until(lambda: len(delivered) == 4, "a lease for one, an emergency for all")
    assert sorted(delivered) == [
        ("n1", "emergency", b"on"),
        ("n2", "emergency", b"on"),
        ("n2", "lease", b"granted"),
        ("n3", "emergency", b"on"),
    ]


def into(delivered: list[tuple[str, str, bytes]], node: str) -> Deliver:
    def deliver(kind: str, payload: bytes) -> None:
        delivered.append((node, kind, payload))

    return deliver


def ignore(_kind: str, _payload: bytes) -> None:
    """Take a frame for nobody."""


async def test_an_agents_own_bus_leaves_its_will(broker: Server) -> None:
    async with listening(at(broker), TOPICS.node("+", "status")) as heard:
        bus = agent_bus(agent_config(broker.port, "n1"), READY)
        async with bus:
            link = AgentLink(bus, agent_config(broker.port, "n1"), ignore)
            link.send("status", encode(READY))
            await until(lambda: heard.payloads == [encode(READY)], "the birth")
        await until(lambda: heard.payloads[-1] == DISCONNECTED, "the goodbye")


def agent_config(port: int, node: str) -> AgentConfig:
    keys = {
        "version": 1,
        "site": "lab",
        "node": node,
        "domains": ["row-1"],
        "safe_ceiling_mhz": 900,
        "brake_ceiling_mhz": 345,
        "broker": {"port": port},
    }
    return msgspec.convert(keys, AgentConfig)


async def test_an_actuator_that_does_not_read_gets_all_emergencies_and_the_last_lease() -> None:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, pipe = await loop.create_connection(lambda: Pipe(ignore), sock=theirs)
    for number in range(2_000):
        pipe.send("lease", b"%04d" % number + b"x" * 1_000)
    for number in range(20):
        pipe.send("emergency", b"%d" % number)
    pipe.send("heartbeat", b"beat")
    assert pipe.dropped_count > 0

    ours.setblocking(False)
    decoder = FrameDecoder()
    frames: list[tuple[str, bytes]] = []
    while ("heartbeat", b"beat") not in frames:
        frames += decoder.feed(await asyncio.wait_for(loop.sock_recv(ours, 65_536), 5))
    leases = [payload for kind, payload in frames if kind == "lease"]
    assert leases[-1].startswith(b"1999")
    assert len(leases) + pipe.dropped_count == 2_000
    assert [payload for kind, payload in frames if kind == "emergency"] == [
        b"%d" % number for number in range(20)
    ]
    pipe.close()
    ours.close()


@pytest.mark.parametrize(("waited_s", "sent"), [(1.9, True), (2.0, False)])
async def test_telemetry_that_waited_two_periods_is_not_sent_after_an_outage(
    broker: Server, waited_s: float, sent: bool
) -> None:
    config = agent_config(broker.port, "n1")
    assert config.telemetry_s == 1.0
    now_s = [0.0]
    broker.kill()
    async with Bus(config.broker, identifier="a", limits=QUICK, clock=lambda: now_s[0]) as bus:
        link = AgentLink(bus, config, ignore)
        link.send("telemetry", b"old")
        link.send("applied", b"state")
        now_s[0] = waited_s
        broker.start()
        await bus.wait_connected(timeout_s=10)
        assert await bus.flush(timeout_s=5)
        assert bus.counters.published == 1 + sent
        assert bus.counters.expired == 1 - sent


def test_a_kind_that_is_not_published_is_an_error() -> None:
    config = agent_config(1, "n1")
    link = AgentLink(Bus(config.broker, identifier="agent"), config, ignore)
    with pytest.raises(ValueError, match="'lease'"):
        link.send("lease", b"")


class Flooded:
    """A link over a bus that is not connected, with handlers that a test calls as the bus does."""

    def __init__(self) -> None:
        self.config = agent_config(1, "n1")
        self.bus = Bus(self.config.broker, identifier="agent")
        self.given: list[tuple[str, bytes]] = []
        self.link = AgentLink(self.bus, self.config, lambda *frame: self.given.append(frame))
        self.link.start()

    def say(self, topic: str, payload: bytes) -> None:
        self.bus._inbound.receive(topic, payload, False)


async def test_of_a_flood_of_leases_a_bounded_number_passes_and_the_newest_at_last() -> None:
    flooded = Flooded()
    for number in range(20_000):
        flooded.say(TOPICS.node("n1", "lease"), b"%05d" % number)
    room = COMMAND_RATE.burst / COMMAND_COST_BYTES
    assert room / 2 < len(flooded.given) < room + COMMAND_RATE.per_s / COMMAND_COST_BYTES * 2
    await until(lambda: flooded.given[-1] == ("lease", b"19999"), "the newest lease")
    assert len(flooded.given) + flooded.link.frames_dropped["lease"] == 20_000


async def test_no_flood_of_leases_or_of_another_domain_holds_up_an_emergency() -> None:
    flooded = Flooded()
    for number in range(20_000):
        flooded.say(TOPICS.node("n1", "lease"), b"%d" % number)
    flooded.say(TOPICS.domain("row-1", "emergency"), b"on")
    assert flooded.given[-1] == ("emergency", b"on")


async def test_of_a_flood_of_emergencies_the_last_word_arrives() -> None:
    flooded = Flooded()
    for number in range(5_000):
        flooded.say(TOPICS.domain("row-1", "emergency"), b"%04d" % number)
    await until(lambda: flooded.given[-1] == ("emergency", b"4999"), "the last word")


async def test_a_flood_is_told_once_as_an_event_of_the_node() -> None:
    flooded = Flooded()
    for number in range(5_000):
        flooded.say(TOPICS.node("n1", "lease"), b"%d" % number)
    assert flooded.link.frames_sent["event"] == 1
