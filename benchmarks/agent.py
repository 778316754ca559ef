"""The agent against its budget (DESIGN 8), beside an exporter on the same GPUs in the same run.

Real processes: `ampacity agent` (actuator and I/O), Mosquitto, `nvitop-exporter` scraped once a
second, and the C library of the tests instead of NVIDIA's, with eight GPUs whose physics stands
still, so that nobody is charged for it. The agent reads power and clocks ten times a second and
temperatures twice, sends a frame a second and gets a lease for each. Then: how long a start takes
until its first frame has arrived, and how long after the end of a lease the last of eight GPUs is
locked at the safe ceiling, by the library's own stamps; writes take no time in the library, on
hardware each takes 10-20 ms more.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec

from benchmarks._granter import HOST, Granter, Grants
from benchmarks._table import Figure, at_most, machine, percentile, show
from facility.compiler import compile_site
from facility.config import BrokerConfig
from facility.example import agent_config, agent_yaml, row_site
from tests.libnvml.handle import FakeNvml, build
from tests.servers import Mosquitto, take_free_port
from tests.system.processes import Process, ampacity, children_of, wait_until

MEASURED_S: Final = 30.0
SETTLE_S: Final = 5.0
STARTS_COUNT: Final = 10
EXPIRIES_COUNT: Final = 40
SHORT_LEASE_S: Final = 0.6
SHORT_FRAME_S: Final = 0.25
CEILING_MHZ: Final = 1_500
CORE_PERCENT_MAX: Final = 1.5
IO_MIB_MAX: Final = 32.0
ACTUATOR_MIB_MAX: Final = 20.0
START_S_MAX: Final = 1.0
EXPIRY_MS_MAX: Final = 100.0
NODE: Final = "n01"


@dataclass(frozen=True, slots=True)
class Use:
    """What one process used."""

    core_percent: float
    rss_mib: float


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, in user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(pids: dict[str, int], seconds: float) -> dict[str, Use]:
    """What processes use over some time; memory is that at the end."""
    before_s = {name: cpu_s(pid) for name, pid in pids.items()}
    begun_s = time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - begun_s
    return {
        name: Use(100.0 * (cpu_s(pid) - before_s[name]) / took_s, rss_mib(pid))
        for name, pid in pids.items()
    }


class Bench:
    """A broker, eight GPUs, and an agent's file."""

    def __init__(self, directory: Path, broker: Mosquitto) -> None:
        self.directory = directory
        self.broker = broker
        self.site = compile_site(row_site(site="bench", nodes=1))
        self.fake = FakeNvml.create(
            directory / "gpus", build(directory), write_s=0.0, settle_s=0.0, frozen=True
        )
        self.fake.load(None, a=0.4, m=0.3, c=1.0)
        self.fake.elapse(1.0)
        self.safe_mhz = self.site.nodes[NODE].model.gpu.safe_ceiling_mhz

    def agent(self, *, telemetry_s: float = 1.0) -> Process:
        """An agent that is not started yet."""
        config = agent_config(self.site, NODE, broker=BrokerConfig(port=self.broker.port))
        state = str(self.directory / "state")
        config = msgspec.structs.replace(
            config, state_dir=state, telemetry_s=telemetry_s, ramp_ratio_per_s=1.0
        )
        path = self.directory / "agent.yaml"
        path.write_text(agent_yaml(config))
        command = ampacity("agent", "--config", path)
        return Process("agent", command, self.directory, self.fake.environment())

    def all_at(self, ceiling_mhz: int) -> bool:
        """Whether every GPU is locked at a ceiling."""
        return all(truth.ceiling_mhz == ceiling_mhz for truth in self.fake.truths())

    def granter(self, grants: Grants) -> Granter:
        """Somebody who grants, who is not connected yet."""
        return Granter(self.broker.port, self.site.name, grants)


@contextlib.contextmanager
def scraped_exporter(bench: Bench) -> Iterator[int]:
    """`nvitop-exporter` on the same GPUs, scraped once a second; yields its process id."""
    port = take_free_port()
    program = Path(sys.executable).with_name("nvitop-exporter")
    command = [str(program), "--hostname", "bench", "--port", str(port), "--interval", "1.0"]
    exporter = subprocess.Popen(
        command,
        env=os.environ | bench.fake.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    done = threading.Event()
    url = f"http://{HOST}:{port}/metrics"

    def scrape() -> None:
        with httpx.Client() as client:
            while not done.wait(1.0):
                if "nvitop" not in client.get(url).text:
                    raise RuntimeError("the exporter shows nothing")

    try:
        wait_until(lambda: _answers(url), "the exporter answers")
        scraper = threading.Thread(target=scrape, daemon=True)
        scraper.start()
        yield exporter.pid
        done.set()
        scraper.join()
    finally:
        exporter.kill()
        exporter.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code == 200
    return False


def steady(bench: Bench) -> list[Figure]:
    """Processor and memory of both processes of the agent, beside the exporter."""
    granter = bench.granter(Grants(CEILING_MHZ, 4.0))
    granter.start()
    try:
        with bench.agent() as agent, scraped_exporter(bench) as exporter_pid:
            wait_until(lambda: NODE in granter.frames, "a first frame", but=agent.tail)
            time.sleep(SETTLE_S)
            pids = {"actuator": agent.pid, "io": children_of(agent.pid)[0]}
            reads_before = bench.fake.calls_count("nvmlDeviceGetFieldValues")
            used = measure({**pids, "exporter": exporter_pid}, MEASURED_S)
            reads_hz = (
                bench.fake.calls_count("nvmlDeviceGetFieldValues") - reads_before
            ) / MEASURED_S
    finally:
        granter.stop()
    both = used["actuator"].core_percent + used["io"].core_percent
    theirs = used["exporter"]
    return [
        at_most("agent, share of a core", both, CORE_PERCENT_MAX, "%", digits=2),
        Figure("  actuator", f"{used['actuator'].core_percent:.2f} %"),
        Figure("  I/O", f"{used['io'].core_percent:.2f} %"),
        at_most("actuator, resident", used["actuator"].rss_mib, ACTUATOR_MIB_MAX, "MiB"),
        at_most("I/O, resident", used["io"].rss_mib, IO_MIB_MAX, "MiB"),
        Figure("field reads of all clients", f"{reads_hz:.0f} /s"),
        Figure("nvitop-exporter at 1 Hz, share of a core", f"{theirs.core_percent:.2f} %"),
        Figure("nvitop-exporter, resident", f"{theirs.rss_mib:.1f} MiB"),
        Figure("agent over exporter, processor", f"{both / theirs.core_percent:.2f} x"),
    ]


def starts(bench: Bench) -> list[Figure]:
    """From the start of the command to the arrival of its first frame."""
    granter = bench.granter(Grants(CEILING_MHZ, 4.0, on=False))
    granter.start()
    took_s = []
    try:
        for _ in range(STARTS_COUNT):
            granter.frames.clear()
            begun_s = time.monotonic()
            with bench.agent() as agent:
                wait_until(lambda: NODE in granter.frames, "a first frame", but=agent.tail)
                took_s.append(granter.frames[NODE][0] - begun_s)
                agent.terminate()
    finally:
        granter.stop()
    worst = at_most(f"start to first frame, worst of {STARTS_COUNT}", max(took_s), START_S_MAX, "s",
                    digits=2)  # fmt: skip
    return [Figure("start to first frame, median", f"{percentile(took_s, 0.5):.2f} s"), worst]


def expiries(bench: Bench) -> list[Figure]:
    """From the end of a lease to the last of eight locks at the safe ceiling."""
    grants = Grants(CEILING_MHZ, SHORT_LEASE_S)
    granter = bench.granter(grants)
    granter.start()
    late_ms = []
    try:
        with bench.agent(telemetry_s=SHORT_FRAME_S) as agent:
            for _ in range(EXPIRIES_COUNT):
                grants.on = True
                wait_until(lambda: bench.all_at(CEILING_MHZ), "raised", but=agent.tail)
                grants.on = False
                wait_until(lambda: bench.all_at(bench.safe_mhz), "safe", but=agent.tail)
                last_ns = max(truth.last_write_ns for truth in bench.fake.truths())
                ends_ns = _monotonic_ns(granter.expiry_wall_s[NODE])
                late_ms.append((last_ns - ends_ns) / 1e6)
    finally:
        granter.stop()
    name = f"lease over to safe ceiling, worst of {EXPIRIES_COUNT}"
    return [
        Figure("lease over to safe ceiling, median", f"{percentile(late_ms, 0.5):.1f} ms"),
        at_most(name, max(late_ms), EXPIRY_MS_MAX, "ms"),
    ]


def _monotonic_ns(wall_s: float) -> int:
    """A time of day on the clock of the library's stamps."""
    return time.monotonic_ns() + int((wall_s - time.time()) * 1e9)


PARTS: Final[tuple[Callable[[Bench], list[Figure]], ...]] = (steady, starts, expiries)


def main() -> None:
    """Print one line per figure with its budget."""
    print(machine())
    with tempfile.TemporaryDirectory() as name, Mosquitto(Path(name) / "broker") as broker:
        bench = Bench(Path(name), broker)
        show([figure for part in PARTS for figure in part(bench)])
