"""The agent's main process over the fake driver: the promise with real clocks and real kills."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent_child import CEILING_MHZ, LEASE_S
from tests.libnvml import FakeNvml
from tests.node_fakes import SAFE_MHZ

pytest_plugins = ["tests.libnvml.fixtures"]

ROOT = Path(__file__).parent.parent
PATIENCE_S = 15.0
EXPIRY_S_MAX = 0.1
"""From the end of a lease to the safe ceiling on the hardware (DESIGN 8)."""

WITH_OUR_CHILD = """
import logging, subprocess, sys
from pathlib import Path
from daemon.agent.configure import read_config
from daemon.agent.supervisor import Agent

logging.basicConfig(level=logging.INFO)
path, log = Path(sys.argv[1]), sys.argv[2]

def launch(fd):
    command = [sys.executable, "-m", "tests.agent_child", str(fd), log]
    return subprocess.Popen(command, pass_fds=(fd,))

sys.exit(Agent(path, read_config(path), launch=launch).run())
"""
AS_A_SERVICE = """
import logging, sys
from pathlib import Path
from daemon.agent.supervisor import run_agent

logging.basicConfig(level=logging.INFO)
sys.exit(run_agent(Path(sys.argv[1]), version="1.2.3"))
"""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for another process, with a deadline."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"in time: {what}"
        time.sleep(0.005)


class AgentProcess:
    """An agent as a process of its own, over a fake driver in real time."""

    def __init__(self, directory: Path, library: Path) -> None:
        self.directory = directory
        self.driver = FakeNvml.create(directory / "driver", library, write_s=0.005)
        self.driver.load(None, a=0.8, m=0.3, c=1.0)
        self.config = directory / "agent.yaml"
        self.leases = directory / "leases.log"
        self.stderr = directory / "stderr.log"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(directory / "notify"))
        self.notify.settimeout(PATIENCE_S)
        self.process: subprocess.Popen[bytes] | None = None
        self.configure()

    def configure(self, more: str = "", *, safe_mhz: int = SAFE_MHZ) -> None:
        """Write the agent's file."""
        self.config.write_text(
            "version: 1\nsite: lab\nnode: n1\ndomains: [ups-a, r1]\n"
            f"safe_ceiling_mhz: {safe_mhz}\nbrake_ceiling_mhz: 405\ntelemetry_s: 0.5\n"
            f"state_dir: {self.directory / 'state'}\nbroker: {{port: 1}}\n{more}"
        )

    def start(self, script: str) -> None:
        """Start the agent with `script`."""
        environment = os.environ | self.driver.environment()
        environment |= {"NOTIFY_SOCKET": str(self.directory / "notify"), "WATCHDOG_USEC": "2000000"}
        with self.stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script, str(self.config), str(self.leases)],
                env=environment,
                cwd=ROOT,
                stderr=stderr,
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> int:
        """Ask for a clean stop and return the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def ceilings(self) -> list[int]:
        return [truth.ceiling_mhz for truth in self.driver.truths()]

    def children(self) -> list[int]:
        """The I/O processes of this agent."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def said(self, word: str) -> bool:
        return word in self.stderr.read_text()

    def close(self) -> None:
        """End what is still running, and nothing else."""
        if self.process is not None and self.process.poll() is None:
            for child in self.children():
                os.kill(child, signal.SIGKILL)
            self.process.kill()
            self.process.wait(PATIENCE_S)
        self.notify.close()


@pytest.fixture
def agent(tmp_path: Path, nvml_library: Path) -> Iterator[AgentProcess]:
    made = AgentProcess(tmp_path, nvml_library)
    yield made
    made.close()


@pytest.fixture
def leased(agent: AgentProcess) -> AgentProcess:
    """An agent that runs under leases of a child that answers each frame."""
    agent.start(WITH_OUR_CHILD)
    until(lambda: agent.ceilings() == [CEILING_MHZ] * 8, "under a lease")
    return agent


def assert_safe_within_the_lease(agent: AgentProcess) -> None:
    """Each GPU got the safe ceiling no later than the lease and 100 ms after the last one sent."""
    until(lambda: agent.ceilings() == [SAFE_MHZ] * 8, "back at the safe ceiling")
    sent_s = float(agent.leases.read_text().split()[-1])
    for index in range(8):
        last = agent.driver.writes(index)[-1]
        assert last.ceiling_mhz == SAFE_MHZ
        assert last.at_ns / 1e9 <= sent_s + LEASE_S + EXPIRY_S_MAX


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_io_process_that_dies_or_stops_means_the_safe_ceiling_in_time(
    leased: AgentProcess, number: int
) -> None:
    # Its successor must not renew the lease before the old one has run out.
    leased.leases.with_suffix(".halt").touch()
    os.kill(leased.children()[0], number)
    assert_safe_within_the_lease(leased)


def test_an_io_process_that_was_taken_over_can_only_withhold_leases(leased: AgentProcess) -> None:
    leased.leases.with_suffix(".flood").touch()
    assert_safe_within_the_lease(leased)
    assert leased.end() == 0


def test_leases_resume_with_the_next_io_process(leased: AgentProcess) -> None:
    first = leased.children()[0]
    os.kill(first, signal.SIGKILL)
    until(lambda: leased.children() not in ([], [first]), "another child")
    sent_count = len(leased.leases.read_text().split())
    until(lambda: len(leased.leases.read_text().split()) > sent_count, "another lease")
    until(lambda: leased.ceilings() == [CEILING_MHZ] * 8, "under a lease again")


def test_the_agent_starts_at_the_safe_ceiling_after_it_was_killed(leased: AgentProcess) -> None:
    children = leased.children()
    leased.signal(signal.SIGKILL)
    assert leased.process is not None
    leased.process.wait(PATIENCE_S)
    assert leased.ceilings() == [CEILING_MHZ] * 8  # locks outlive whoever wrote them
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "child gone")
    leased.start(AS_A_SERVICE)
    until(lambda: leased.ceilings() == [SAFE_MHZ] * 8, "safe after a restart")
    state = json.loads((leased.directory / "state" / "agent.json").read_bytes())
    assert state["memory"]["epoch"] == 1
    assert leased.end() == 0


def test_a_service_tells_systemd_when_it_is_ready_and_that_it_lives(agent: AgentProcess) -> None:
    agent.start(AS_A_SERVICE)
    seen: list[str] = []
    while not {"READY=1", "WATCHDOG=1"} <= set(seen):
        seen += agent.notify.recv(4_096).decode().splitlines()
    assert agent.ceilings() == [SAFE_MHZ] * 8
    while not any(line.startswith("STATUS=8 GPUs, ceiling 1200 MHz") for line in seen):
        seen += agent.notify.recv(4_096).decode().splitlines()
    assert agent.end() == 0
    while "STOPPING=1" not in seen:
        seen += agent.notify.recv(4_096).decode().splitlines()


def test_a_stop_restores_what_was_there_when_told_to(agent: AgentProcess) -> None:
    agent.configure("on_exit: restore\n")
    agent.start(AS_A_SERVICE)
    until(lambda: agent.ceilings() == [SAFE_MHZ] * 8, "safe")
    until(lambda: agent.said("event=ready"), "ready")
    assert agent.end() == 0
    last = [agent.driver.writes(index)[-1] for index in range(8)]
    assert [(write.clock_mhz_min, write.ceiling_mhz) for write in last] == [(0, 0)] * 8


def test_a_reload_takes_a_sound_file_and_refuses_a_bad_one(agent: AgentProcess) -> None:
    agent.start(AS_A_SERVICE)
    until(lambda: agent.said("event=ready"), "ready")
    agent.configure("safe_celling_mhz: 900\n")
    agent.signal(signal.SIGHUP)
    until(lambda: agent.said("event=reload-refused"), "refused")
    assert agent.said("safe_celling_mhz")
    assert agent.ceilings() == [SAFE_MHZ] * 8
    agent.configure("sample_hz: 5\n", safe_mhz=900)
    agent.signal(signal.SIGHUP)
    until(lambda: agent.ceilings() == [900] * 8, "the new safe ceiling")
    until(lambda: agent.said("needs_restart=sample_hz"), "what needs a restart is said")
    assert agent.end() == 0


def test_a_second_agent_with_the_same_state_is_refused(agent: AgentProcess) -> None:
    agent.start(AS_A_SERVICE)
    until(lambda: agent.said("event=ready"), "ready")
    second = subprocess.run(
        [sys.executable, "-c", AS_A_SERVICE, str(agent.config)],
        env=os.environ | agent.driver.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert second.returncode == 1
    assert "another agent is running" in second.stderr
    assert agent.end() == 0


def test_a_bad_file_ends_with_78_and_every_problem(agent: AgentProcess) -> None:
    agent.configure("on_exit: explode\nsurprise: 1\n")
    agent.start(AS_A_SERVICE)
    assert agent.process is not None
    assert agent.process.wait(PATIENCE_S) == 78
    assert agent.said("surprise")
    assert agent.said("on_exit")
    assert agent.said(f"{agent.config}:")
    assert agent.driver.truth(0).writes_count == 0


def test_a_state_directory_that_cannot_be_used_is_said_and_survived(agent: AgentProcess) -> None:
    (agent.directory / "state").write_text("a file, not a directory")
    agent.start(AS_A_SERVICE)
    until(lambda: agent.ceilings() == [SAFE_MHZ] * 8, "safe without a disk")
    until(lambda: agent.said("event=state-unusable"), "said")
    assert agent.end() == 0


def test_the_actuator_process_never_loads_what_speaks_to_networks() -> None:
    script = (
        "import sys, daemon.agent.supervisor as s; "
        "print(*sorted({'asyncio','numpy','aiomqtt','paho','ssl','yaml'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
