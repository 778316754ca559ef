"""A small site that runs for the tests of the operators' commands, and the commands themselves.

A real Mosquitto, a controller as a child process, and the real actuators of two nodes over GPUs
that a test can read, in one thread. A command runs in this process, or as a child where it needs a
terminal or a signal.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import pytest
from msgspec.structs import replace

from actuators.clocks import ClockActuator
from daemon.agent.actuator import Actuator
from daemon.agent.link import AgentLink, agent_bus
from daemon.agent.state import MemoryKeeper
from daemon.main import main
from facility.compiler import compile_site
from facility.config import AgentConfig, BrokerConfig, HttpConfig, StoreConfig
from facility.example import (
    agent_config,
    agent_yaml,
    controller_config,
    controller_yaml,
    row_site,
    site_yaml,
)
from facility.ports import NodeSensors
from facility.wire import NodeStatus
from simulator.hands import InlineHands
from tests.node_fakes import FakeHost
from tests.servers import HOST, Mosquitto, take_free_port

SITE: Final = "lab"
NODES: Final = ("n01", "n02")
CYCLE_S: Final = 0.05
DEADLINE_S: Final = 10.0

SITE_CONFIG: Final = row_site(site=SITE, nodes=len(NODES))


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds, at most `DEADLINE_S`."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)


class Inlet:
    """A chassis with a thermometer."""

    def read(self) -> NodeSensors:
        return NodeSensors(inlet_temperature_c=22.0)


class Agents:
    """The agents of all nodes, on one event loop in a thread of their own."""

    def __init__(self, port: int) -> None:
        self.hosts = {node: FakeHost(8) for node in NODES}
        for host in self.hosts.values():
            for gpu in host.gpus:
                gpu.demand_mhz = 1_005  # a light load: nothing needs to be held back
        self._port = port
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(DEADLINE_S)

    def ceilings_mhz(self, node: str) -> set[int | None]:
        """What the GPUs of a node are locked to."""
        return {gpu.ceiling_mhz for gpu in self.hosts[node].gpus}

    async def _run(self) -> None:
        await asyncio.gather(*(self._agent(node) for node in NODES))

    async def _agent(self, node: str) -> None:
        config = node_config(node, self._port)
        hands = InlineHands(self.hosts[node], make_writer=ClockActuator, sensors=Inlet())
        actuator = Actuator(config, hands, MemoryKeeper(), session=f"s-{node}", version="test")
        bus = agent_bus(config, NodeStatus(node=node, session=f"s-{node}", state="ready"))

        def turn(*incoming: tuple[str, bytes]) -> None:
            for kind, payload in actuator.cycle(time.monotonic(), time.time(), incoming):
                link.send(kind, payload)

        link = AgentLink(bus, config, lambda kind, payload: turn((kind, payload)))
        link.start()
        async with bus:
            actuator.start()
            while not self._stopping.is_set():
                turn()
                await asyncio.sleep(CYCLE_S)
            actuator.close()


def node_config(node: str, port: int, **changes: Any) -> AgentConfig:
    """The agent's file of one node."""
    broker = BrokerConfig(port=port)
    config = agent_config(compile_site(SITE_CONFIG), node, broker=broker)
    # Nobody waits for a ramp here: what is over is over when the next test begins.
    return replace(config, ramp_ratio_per_s=1.0, **changes)


class LiveSite:
    """Broker, controller and agents, from entering to leaving."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broker = Mosquitto(directory / "broker")
        self.config = directory / "controller.yaml"
        self.agents: Agents | None = None
        self._controller: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.broker.start()
        write_files(self.directory, self.broker.port)
        with (self.directory / "controller.log").open("wb") as log:
            self._controller = subprocess.Popen(
                [sys.executable, "-m", "daemon.main", "controller", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.agents = Agents(self.broker.port)
        self.agents.start()
        return self

    def __exit__(self, *_error: object) -> None:
        assert self.agents is not None
        assert self._controller is not None
        self.agents.stop()
        self._controller.kill()
        self._controller.wait()
        self.broker.kill()

    @property
    def where(self) -> tuple[str, ...]:
        """Only the broker is known."""
        return at_broker(self.broker.port)

    @property
    def file(self) -> tuple[str, ...]:
        """The controller's file is at hand."""
        return ("--config", str(self.config))


def write_files(directory: Path, port: int) -> None:
    """The site's, the controller's and an agent's file."""
    (directory / "site.yaml").write_text(site_yaml(SITE_CONFIG))
    controller = controller_config(
        site_file="site.yaml",
        broker=BrokerConfig(port=port),
        store=StoreConfig(directory=str(directory / "store")),
        http=HttpConfig(port=take_free_port()),
    )
    (directory / "controller.yaml").write_text(controller_yaml(controller))
    agent = node_config(NODES[0], port, state_dir=str(directory / "var"))
    (directory / "agent.yaml").write_text(agent_yaml(agent))


def at_broker(port: int) -> tuple[str, ...]:
    """Arguments that name the broker and the site, and nothing else."""
    return ("--site", SITE, "--broker", f"{HOST}:{port}")


class Answer:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """Stdout as the one JSON document that it must be."""
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Answer:
        self._capsys.readouterr()
        try:
            code = main(words)
        except SystemExit as error:  # argparse ends a process itself
            code = int(error.code or 0)
        captured = self._capsys.readouterr()
        return Answer(code, captured.out, captured.err)


class Terminal:
    """A command as a child on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self._ours, theirs = os.openpty()
        self.seen = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "daemon.main", *words],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "50"},
        )  # fmt: skip
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, text: str) -> None:
        """Wait until `text` was on the screen."""
        wait_until(lambda: text in self.seen, f"{text!r} in {self.seen!r}")

    def type(self, text: str) -> None:
        """Type at the terminal."""
        os.write(self._ours, text.encode())

    def signal(self, number: int) -> None:
        """Send the child a signal."""
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end; returns the exit code."""
        try:
            code = self._process.wait(DEADLINE_S)
        finally:
            self._process.kill()
            self._reader.join(DEADLINE_S)
            os.close(self._ours)
        return code

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65_536)
            except OSError:  # the child has closed its side
                return
            if not data:
                return
            self.seen += data.decode(errors="replace")
