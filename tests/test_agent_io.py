"""The agent's I/O process over real brokers: it carries frames both ways and decides nothing."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.agent.pipe import PipeClosed, PipeEnd
from facility.topics import STATE, Topics
from facility.wire import MESSAGE_BYTES_MAX, GpuReading, NodeStatus, NodeTelemetry, encode
from tests.buses import at, broker, listening
from tests.servers import HOST, Mosquitto, Server, rss_bytes, take_free_port, until

__all__ = ["broker"]  # a fixture is found by its name

TOPICS = Topics("lab")
EVERYTHING = "ampacity/v1/lab/#"
READY = NodeStatus(node="n1", session="s1", state="ready")
LOST = encode(msgspec.structs.replace(READY, state="lost"))
DISCONNECTED = encode(msgspec.structs.replace(READY, state="disconnected"))
RSS_BYTES_MAX = 32 * 2**20


def agent_file(directory: Path, port: int, **keys: Any) -> Path:
    """An agent's configuration as an operator would write it."""
    lines = [
        "version: 1",
        "site: lab",
        "node: n1",
        f"domains: [{', '.join(keys.pop('domains', ['ups-a', 'row-1']))}]",
        "safe_ceiling_mhz: 900",
        "brake_ceiling_mhz: 345",
        *(f"{key}: {value}" for key, value in keys.items()),
        "broker:",
        f"  port: {port}",
        "  keepalive_s: 1",
    ]
    path = directory / "agent.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Server]:
    """One broker, where the other could not make a difference."""
    with Mosquitto(tmp_path) as server:
        yield server


class Child:
    """The I/O process, and the actuator's end of its pipe."""

    def __init__(self, process: asyncio.subprocess.Process, end: PipeEnd) -> None:
        self.process = process
        self.end = end
        self._frames: list[tuple[str, bytes]] = []

    @property
    def frames(self) -> list[tuple[str, bytes]]:
        """All that has come from the child."""
        self._frames += self.end.receive()
        return self._frames

    def payloads(self, kind: str) -> list[bytes]:
        return [payload for name, payload in self.frames if name == kind]

    @property
    def connected(self) -> bool:
        """What the last heartbeat says."""
        beats = self.payloads("heartbeat")
        return bool(beats) and bool(msgspec.json.decode(beats[-1])["connected"])

    async def until_connected(self) -> None:
        await until(lambda: self.connected, "a heartbeat that says connected", timeout_s=10)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 10)


@asynccontextmanager
async def child(config: Path, *, introduce: bool = True) -> AsyncIterator[Child]:
    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon.agent.io",
        "--config", str(config), "--fd", str(theirs.fileno()),
        pass_fds=[theirs.fileno()], stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    theirs.close()
    end = PipeEnd(ours)
    try:
        if introduce:
            end.send("status", encode(READY))
        yield Child(process, end)
    finally:
        end.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


def telemetry() -> bytes:
    gpu = GpuReading(
        uuid="GPU-1",
        power_w=312.5,
        power_w_max=350.0,
        energy_j=1e6,
        sm_clock_mhz=1_410,
        ceiling_mhz=1_500,
        temperature_c=61.0,
    )
    return encode(NodeTelemetry(node="n1", session="s1", seq=7, sampled_at_s=1.0, gpus=(gpu,)))


# --- frames ---------------------------------------------------------------------------------------


async def test_frames_of_the_actuator_go_to_their_topics_unchanged(
    broker: Server, tmp_path: Path
) -> None:
    async with (
        listening(at(broker), EVERYTHING) as heard,
        child(agent_file(tmp_path, broker.port)) as io,
    ):
        await io.until_connected()
        for kind in ("info", "telemetry", "applied", "event"):
            io.end.send(kind, b"<%s>" % kind.encode())
        await until(lambda: len(heard.messages) == 5, "five messages")
        assert {topic: payload for topic, payload, _ in heard.messages} == {
            TOPICS.node("n1", "status"): encode(READY),
            TOPICS.node("n1", "info"): b"<info>",
            TOPICS.node("n1", "telemetry"): b"<telemetry>",
            TOPICS.node("n1", "applied"): b"<applied>",
            TOPICS.event: b"<event>",
        }
        async with listening(at(broker), EVERYTHING, identifier="late") as late:
            await until(lambda: len(late.messages) == 3, "status, info and applied, retained")
            assert all(retained for _, _, retained in late.messages)


async def test_the_first_frame_of_a_start_is_sent_though_it_came_before_the_connection(
    broker: Server, tmp_path: Path
) -> None:
    async with (
        listening(at(broker), TOPICS.node("n1", "telemetry")) as heard,
        child(agent_file(tmp_path, broker.port, telemetry_s=60.0), introduce=False) as io,
    ):
        io.end.send("status", encode(READY))
        io.end.send("telemetry", b"<first>")
        await until(lambda: heard.payloads == [b"<first>"], "the first frame", timeout_s=10)


async def test_leases_and_emergencies_reach_the_actuator_as_the_bytes_they_are(
    broker: Server, tmp_path: Path
) -> None:
    async with (
        listening(at(broker)) as controller,
        child(agent_file(tmp_path, broker.port)) as io,
    ):
        say = controller.bus.publish
        say(TOPICS.node("n1", "lease"), b"\xffnot a lease", STATE)
        await io.until_connected()
        say(TOPICS.domain("other", "emergency"), b"not ours", STATE)
        say(TOPICS.node("n2", "lease"), b"not ours", STATE)
        say(TOPICS.domain("row-1", "emergency"), b"row", STATE)
        say(TOPICS.domain("ups-a", "emergency"), b"feed", STATE)
        say(TOPICS.node("n1", "lease"), b"", STATE)
        say(TOPICS.node("n1", "lease"), b"x" * MESSAGE_BYTES_MAX, STATE)
        await until(lambda: len(io.payloads("lease")) == 2, "two leases")
        assert io.payloads("lease") == [b"\xffnot a lease", b"x" * MESSAGE_BYTES_MAX]
        await until(lambda: len(io.payloads("emergency")) == 2, "two emergencies")
        assert sorted(io.payloads("emergency")) == [b"feed", b"row"]


async def test_it_waits_for_a_broker_that_comes_later_and_says_so(
    mosquitto: Server, tmp_path: Path
) -> None:
    mosquitto.kill()
    async with child(agent_file(tmp_path, mosquitto.port)) as io:
        await until(lambda: len(io.payloads("heartbeat")) >= 2, "two heartbeats", timeout_s=10)
        beat = msgspec.json.decode(io.payloads("heartbeat")[-1])
        assert beat["connected"] is False
        assert f"{HOST}:{mosquitto.port} cannot be reached: Connection refused" in beat["detail"]
        mosquitto.start()
        await io.until_connected()
        async with listening(at(mosquitto), EVERYTHING) as heard:
            await until(lambda: heard.payloads == [encode(READY)], "the birth")


# --- ends -----------------------------------------------------------------------------------------


async def test_kill_9_leaves_a_will_with_the_session(broker: Server, tmp_path: Path) -> None:
    async with (
        listening(at(broker), TOPICS.node("+", "status")) as heard,
        child(agent_file(tmp_path, broker.port)) as io,
    ):
        await until(lambda: heard.payloads == [encode(READY)], "the birth", timeout_s=10)
        io.process.kill()
        await until(lambda: heard.payloads[-1] == LOST, "the will")
        await until(lambda: raises_closed(io), "the actuator to see the end")


def raises_closed(io: Child) -> bool:
    try:
        io.end.receive()
    except PipeClosed:
        return True
    return False


@pytest.mark.parametrize(
    ("farewell", "said"), [(None, LOST), (DISCONNECTED, DISCONNECTED)], ids=["death", "goodbye"]
)
async def test_it_ends_with_the_pipe_and_tells_a_goodbye_from_a_death(
    mosquitto: Server, tmp_path: Path, farewell: bytes | None, said: bytes
) -> None:
    async with (
        listening(at(mosquitto), TOPICS.node("+", "status")) as heard,
        child(agent_file(tmp_path, mosquitto.port)) as io,
    ):
        await io.until_connected()
        if farewell is not None:
            io.end.send("status", farewell)
        io.end.close()
        assert await io.ended() == 0
        await until(lambda: heard.payloads[-1] == said, "the last words")


async def test_sigterm_is_a_clean_stop(mosquitto: Server, tmp_path: Path) -> None:
    async with (
        listening(at(mosquitto), TOPICS.node("+", "status")) as heard,
        child(agent_file(tmp_path, mosquitto.port)) as io,
    ):
        await io.until_connected()
        io.process.send_signal(signal.SIGTERM)
        assert await io.ended() == 0
        await until(lambda: heard.payloads[-1] == DISCONNECTED, "the last words")


async def test_it_ends_with_a_pipe_that_closes_before_any_status(tmp_path: Path) -> None:
    async with child(agent_file(tmp_path, take_free_port()), introduce=False) as io:
        io.end.close()
        assert await io.ended() == 0


@pytest.mark.parametrize("kind", ["status", "lease"])
async def test_nonsense_on_the_pipe_ends_it_as_a_bug(kind: str, tmp_path: Path) -> None:
    async with child(agent_file(tmp_path, take_free_port())) as io:
        await until(lambda: io.frames, "a heartbeat", timeout_s=10)
        io.end.send(kind, b"nonsense")
        assert await io.ended() == 70


async def test_a_bad_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = agent_file(tmp_path, 1, actuate="maybe")
    async with child(path) as io:
        assert await io.ended() == 78
        assert io.process.stderr is not None
        said = (await io.process.stderr.read()).decode()
    assert re.search(rf"{path}:\d+: actuate", said)


# --- reload and metrics ---------------------------------------------------------------------------


async def test_a_reload_takes_new_domains_and_ignores_a_broken_file(
    mosquitto: Server, tmp_path: Path
) -> None:
    path = agent_file(tmp_path, mosquitto.port)
    async with listening(at(mosquitto), EVERYTHING) as world, child(path) as io:
        await io.until_connected()
        io.end.send("info", b"birth")
        emergency = TOPICS.domain("row-2", "emergency")
        world.bus.publish(emergency, b"on", STATE)
        await until(lambda: b"on" in world.payloads, "the emergency to be out")

        path.write_text("version: 1\nsite: ]")
        io.end.send("reload", b"")
        agent_file(tmp_path, mosquitto.port, domains=["row-2"])
        io.end.send("reload", b"")
        await until(lambda: io.payloads("emergency") == [b"on"], "the emergency", timeout_s=10)
        async with listening(at(mosquitto), TOPICS.node("n1", "+"), identifier="late") as late:
            await until(
                lambda: set(late.payloads) == {encode(READY), b"birth"}, "what was known before"
            )


async def scrape(port: int, path: str = "/metrics") -> str:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    text = (await asyncio.wait_for(reader.read(), 5)).decode()
    writer.close()
    return text


async def test_metrics_are_in_base_units_and_a_missing_reading_is_no_zero(
    mosquitto: Server, tmp_path: Path
) -> None:
    port = take_free_port()
    async with (
        listening(at(mosquitto), TOPICS.node("+", "telemetry")) as heard,
        child(agent_file(tmp_path, mosquitto.port, metrics_port=port)) as io,
    ):
        await io.until_connected()
        io.end.send("telemetry", telemetry())
        await until(lambda: heard.messages, "the frame")
        text = await scrape(port)
        assert "404" in (await scrape(port, "/secret")).splitlines()[0]
    labels = '{node="n1",uuid="GPU-1"}'
    assert text.splitlines()[0] == "HTTP/1.1 200 OK"
    assert f"ampacity_gpu_power_watts{labels} 312.5" in text
    assert f"ampacity_gpu_sm_clock_hertz{labels} 1410000000" in text
    assert f"ampacity_gpu_clock_limit_hertz{labels} 1500000000" in text
    assert f"ampacity_gpu_energy_joules_total{labels} 1000000" in text
    assert "ampacity_agent_bus_connected 1" in text
    assert 'ampacity_agent_frames_total{kind="telemetry",to="broker"} 1' in text
    assert "ampacity_node_power_watts" not in text
    assert "memory_temperature" not in text


async def test_a_metrics_port_that_is_taken_does_not_stop_the_agent(
    mosquitto: Server, tmp_path: Path
) -> None:
    async with child(agent_file(tmp_path, mosquitto.port, metrics_port=mosquitto.port)) as io:
        await io.until_connected()


def reached(messages: list[tuple[str, bytes, bool]], count: int) -> bool:
    return len(messages) >= count


async def test_it_stays_small(mosquitto: Server, tmp_path: Path) -> None:
    port = take_free_port()
    async with (
        listening(at(mosquitto), TOPICS.node("+", "telemetry")) as heard,
        child(agent_file(tmp_path, mosquitto.port, metrics_port=port)) as io,
    ):
        await io.until_connected()
        for count in range(1, 101):
            io.end.send("telemetry", telemetry())
            heard.bus.publish(TOPICS.node("n1", "lease"), b"x" * 1_000, STATE)
            await until(partial(reached, heard.messages, count), "each frame")
        await scrape(port)
        size = rss_bytes(io.process.pid)
        print(f"I/O process: {size / 2**20:.1f} MiB resident")
        assert size <= RSS_BYTES_MAX
