"""What true power does when something is lost, and how long recovery takes: a table.

Real processes: two controllers, Mosquitto, three nodes of etcd and then of NATS, `upsd` with
`dummy-ups`, and for every node an agent of two processes over the C library; the twin runs in real
time behind the drivers. Each is lost by kill -9 (and started again after a while), by SIGSTOP (and
goes on after a while) and by a restart; then some of them again with a UPS that fails meanwhile.

*peak*: the highest true power of any feed, row or rack over its capacity; the first row is the same
without any loss. *no lease for*: the longest time in which some node was sent no lease. *fell*:
nodes whose lease ended, which takes them to the safe ceiling. *back*: from the loss until the last
of them was above that again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import httpx
import msgspec
import nats

from benchmarks._live_twin import LiveTwin, Sample, meter_path
from benchmarks._table import machine
from controllers.leadership import takeover_sentence
from facility.config import ControlConfig, SensorsConfig, UpsConfig
from facility.example import row_site
from facility.wire import Applied
from tests.clusters import Cluster, stop_and_go
from tests.libnvml.handle import shared_library
from tests.servers import Mosquitto, Server
from tests.system.pair import Pair
from tests.system.processes import Process, is_alive
from tests.upsd_server import Upsd

NODES_COUNT: Final = 6
DOWN_S: Final = 8.0
"""How long what was killed or stopped stays so: longer than any lease."""
CALM_S: Final = 2.0
HEALTHY_S: Final = 90.0
LOOK_S: Final = 0.25
UPS_AFTER_S: Final = 1.0
TTL_S: Final = 1.0
SPENT_S: Final = 2.5
"""A lock at the safe ceiling so long after the last lease is the end of that lease."""
CONTINGENCY: Final = "ups-a-lost"
CONTROL: Final = ControlConfig(lease_s=5.0, raise_ratio_per_s=0.2)

How = Literal["kill -9", "SIGSTOP", "restart"]
HOWS: Final[tuple[How, ...]] = ("kill -9", "SIGSTOP", "restart")


@dataclass(frozen=True, slots=True)
class Part:
    """Something that can be lost: `lose` does it and returns what brings it back."""

    name: str
    lose: Callable[[How], Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    lost: str
    how: str
    peak: Sample
    tripped: int
    silence_s: float
    nodes_fell: int
    back_s: float
    note: str

    @property
    def cells(self) -> tuple[str, ...]:
        """For printing."""
        back = f"{self.back_s:.1f} s" if self.nodes_fell else "-"
        return (
            self.lost, self.how, f"{100.0 * self.peak.load_ratio:.0f} % {self.peak.domain}",
            "TRIPPED" if self.tripped else "no", f"{self.silence_s:.1f} s",
            f"{self.nodes_fell} of {NODES_COUNT}", back, self.note,
        )  # fmt: skip


HEAD: Final = ("lost", "how", "peak", "tripped", "no lease for", "fell", "back", "")


def of_server(name: str, find: Callable[[], Sequence[Server]]) -> Part:
    """Servers; which ones is found out when it happens."""

    def lose(how: How) -> Callable[[], object]:
        servers = find()
        if how == "SIGSTOP":
            for server in servers:
                server.pause()
            return lambda: deque(map(Server.resume, servers))
        for server in servers:
            server.kill() if how == "kill -9" else server.stop()
        if how == "restart":
            for server in servers:
                server.start()
            return lambda: None
        return lambda: deque(map(Server.start, servers))

    return Part(name, lose)


def of_process(name: str, find: Callable[[], Process]) -> Part:
    """A process of ours."""

    def lose(how: How) -> Callable[[], object]:
        process = find()
        if how == "SIGSTOP":
            process.signal(signal.SIGSTOP)
            return lambda: process.signal(signal.SIGCONT)
        if how == "restart":
            process.terminate()
            process.start()
            return lambda: None
        process.kill()
        return process.start

    return Part(name, lose)


def of_io(pair: Pair, node: str) -> Part:
    """The I/O process of an agent, which its supervisor replaces."""

    def lose(how: How) -> Callable[[], object]:
        pid = pair.hosts[node].io_pid
        number = {"kill -9": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}.get(how, signal.SIGTERM)
        os.kill(pid, number)

        def back() -> None:
            if how == "SIGSTOP" and is_alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    stop_and_go(pid, go=True)

        return back

    return Part(f"I/O process of {node}", lose)


def store_leader(cluster: Cluster) -> list[Server]:
    """The node of the store that leads, which is the one whose loss hurts."""
    if cluster.kind == "etcd":
        for node in cluster.nodes:
            url = f"{node.url}/v3/maintenance/status"
            said = httpx.post(url, content=b"{}").json()
            if said["leader"] == said["header"]["member_id"]:
                return [node]
        raise RuntimeError("etcd has no leader")
    name = asyncio.run(_stream_leader(cluster))
    return [node for node in cluster.nodes if node.name == name]


async def _stream_leader(cluster: Cluster) -> str:
    client = await nats.connect(servers=[node.url for node in cluster.nodes])
    try:
        info = await client.jetstream().stream_info("KV_ampacity")
        assert info.cluster is not None
        return info.cluster.leader or ""
    finally:
        await client.close()


class Stage:
    """One site that runs, and how a loss is watched."""

    def __init__(self, pair: Pair, twin: LiveTwin, upsd: Upsd) -> None:
        self.pair = pair
        self.twin = twin
        self.upsd = upsd

    def wait_healthy(self) -> None:
        """One leads, one stands by, and every node holds a lease, for a while."""
        deadline_s = time.monotonic() + HEALTHY_S
        well_since_s = math.inf
        while not time.monotonic() - well_since_s >= CALM_S:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the site does not recover\n{self.pair.story()}")
            time.sleep(LOOK_S)
            well_since_s = min(well_since_s, time.monotonic()) if self.pair.ready() else math.inf

    def run(self, part: Part, how: How, *, ups: bool = False) -> Row:
        """Lose one part, bring it back, and wait until all is well."""
        self.wait_healthy()
        epoch = self._epoch()
        begun_s = time.monotonic()
        back = part.lose(how)
        if ups:
            time.sleep(UPS_AFTER_S)
            self.twin.fail(CONTINGENCY, on=True)
            with contextlib.suppress(Exception):  # if it is upsd that is lost, nobody hears
                self.upsd.say("ups-a", "ups.status", "OB DISCHRG")
        time.sleep(DOWN_S)
        back()
        if ups:
            time.sleep(DOWN_S)
            self.twin.fail(CONTINGENCY, on=False)
            self.upsd.say("ups-a", "ups.status", "OL")
        self.wait_healthy()
        samples = self.twin.since(begun_s)
        fell, back_s = self._fallen(begun_s)
        return Row(
            lost=part.name,
            how=how + (", then UPS A fails" if ups else ""),
            peak=max(samples, key=lambda sample: sample.load_ratio),
            tripped=samples[-1].tripped,
            silence_s=self._silence_s(begun_s),
            nodes_fell=len(fell),
            back_s=back_s,
            note="new leader" if self._epoch() > epoch else "",
        )

    def _fallen(self, begun_s: float) -> tuple[set[str], float]:
        """Nodes whose lease ended since, and how long after that the last was above it again.

        By the agent's own word, or where that was lost with the broker by the hardware's: it was
        locked at the safe ceiling when no lease had been sent for long.
        """
        fell: dict[str, float] = {}
        for heard in self.pair.listener.messages("applied"):
            applied = msgspec.json.decode(heard.payload, type=Applied)
            at_s = heard.at_ns / 1e9
            if at_s > begun_s and applied.reason in ("lease-expired", "no-lease"):
                fell[applied.node] = at_s
        back_s = begun_s
        for name, host in self.pair.hosts.items():
            sent_s = self._leases_s(name, begun_s)
            writes = [(write.at_ns / 1e9, write.ceiling_mhz) for write in host.fake.writes(0)]
            for at_s, ceiling_mhz in writes:
                age_s = at_s - max((one for one in sent_s if one < at_s), default=begun_s)
                if at_s > begun_s and ceiling_mhz == self.pair.safe_mhz and age_s > SPENT_S:
                    fell.setdefault(name, at_s)
            above = [at_s for at_s, mhz in writes if name in fell and at_s > fell[name]
                     and mhz > self.pair.safe_mhz]  # fmt: skip
            back_s = max(back_s, min(above, default=begun_s))
        return set(fell), back_s - begun_s

    def _leases_s(self, node: str, begun_s: float) -> list[float]:
        """When leases were sent to a node, from a little before `begun_s` on."""
        heard = (one.at_ns / 1e9 for one in self.pair.listener.messages("lease", node=node))
        return [at_s for at_s in heard if at_s >= begun_s - CONTROL.cycle_s - 0.5]

    def _epoch(self) -> int:
        status = self.pair.status(self.pair.leader)
        return status.epoch if status is not None else 0

    def _silence_s(self, begun_s: float) -> float:
        """The longest time without a lease for some node, the last second before it included."""
        longest_s = 0.0
        for node in self.pair.hosts:
            sent_s = self._leases_s(node, begun_s)
            gaps = (after - before for before, after in pairwise(sent_s))
            longest_s = max(longest_s, max(gaps, default=float("inf")))
        return longest_s


@contextlib.contextmanager
def stage(directory: Path, kind: Literal["nats", "etcd"]) -> Iterator[tuple[Stage, Cluster]]:
    """Everything, running."""
    online = {"ups.status": "OL", "battery.charge": "100"}
    ups_names = ("ups-a", "ups-b")
    with (
        Cluster(directory / kind, kind) as cluster,
        Mosquitto(directory / "broker") as broker,
        Upsd(directory / "upsd", ups=dict.fromkeys(ups_names, online)) as upsd,
        Pair(
            directory / "site", broker, shared_library(), cluster,
            site=row_site(site="lab", nodes=NODES_COUNT, control=CONTROL), ttl_s=TTL_S,
            ups=tuple(
                UpsConfig(name=name, source=upsd.source(name), contingency=f"{name}-lost")
                for name in ups_names
            ),
        ) as pair,
    ):  # fmt: skip
        for name in pair.hosts:
            inlet = str(pair.directory / f"{name}.inlet")
            power = str(meter_path(pair.directory, name))
            pair.rewrite_agent(
                name,
                sensors=SensorsConfig(node_power_file=power, inlet_temperature_file=inlet),
            )
        twin = LiveTwin(pair)
        twin.start()
        try:
            pair.start()
            yield Stage(pair, twin, upsd), cluster
        finally:
            twin.stop()


def store_parts(cluster: Cluster) -> list[Part]:
    """One node of the store, the leading one, and all."""
    return [
        of_server(f"{cluster.kind}, its leader", lambda: store_leader(cluster)),
        of_server(f"{cluster.kind}, all nodes", lambda: cluster.nodes),
    ]


def parts_of(on: Stage) -> list[Part]:
    """What does not depend on the store."""
    pair = on.pair
    return [
        of_process("controller, leader", lambda: pair.controllers[pair.leader]),
        of_process("controller, standby", lambda: pair.controllers[pair.standby]),
        of_server("Mosquitto", lambda: [pair.broker]),
        of_server("upsd", lambda: [on.upsd]),
        of_io(pair, "n01"),
        of_process("actuator of n01", lambda: pair.hosts["n01"].agent),
    ]


def show(row: Row | None) -> None:
    """Print one line, or the head."""
    cells = HEAD if row is None else row.cells
    widths = (22, 26, 12, 7, 12, 6, 6, 10)
    line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    print(line.rstrip(), flush=True)


def main() -> None:
    """Print the table as it comes."""
    print(machine())
    print(f"{NODES_COUNT} nodes; {takeover_sentence(CONTROL, TTL_S)}")
    show(None)
    for kind in ("etcd", "nats"):
        with (
            tempfile.TemporaryDirectory() as name,
            stage(Path(name), kind) as (on, cluster),
        ):
            stores, others = store_parts(cluster), parts_of(on)
            if kind == "etcd":
                show(on.run(Part("nothing", lambda _how: lambda: None), "restart"))
            parts = [*others, *stores] if kind == "etcd" else [others[0], *stores]
            for part in parts:
                for how in HOWS:
                    show(on.run(part, how))
            for part in (others[0], others[2], others[3], stores[1]) if kind == "etcd" else ():
                show(on.run(part, "kill -9", ups=True))
            print(f"({kind}: the twin was at most {on.twin.late_s:.2f} s late)", flush=True)
