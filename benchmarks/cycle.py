"""One controller for 1,250 nodes (10,000 GPUs) at 1 Hz, against half a core and 200 ms (DESIGN 8).

Two measurements. *Cycle alone*: inbox snapshot and decision, in this process, timed exactly: a
third of the nodes is under pressure, so that the policy has work. *Whole controller*: the real
`ampacity controller` over a real Mosquitto, with history and audit, fed by one client that speaks
for all nodes: a frame of eight GPUs with ten samples each per node and second, spread over the
second, and an acknowledgement of each lease. Its processor time and memory are read from outside;
its cycles are read off its own histogram, so that a percentile is the upper edge of a bucket.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks._granter import HOST
from benchmarks._table import Figure, at_most, machine, percentile, show
from benchmarks.agent import cpu_s, rss_mib
from controllers.cycle import ControlCycle
from controllers.inbox import Inbox
from facility.compiler import compile_site
from facility.config import BrokerConfig, HttpConfig, SiteConfig, StoreConfig
from facility.example import controller_config, controller_yaml, row_site, site_yaml
from facility.topics import Topics
from facility.topology import Site
from facility.wire import (
    Applied,
    Codec,
    GpuApplied,
    GpuIdentity,
    GpuReading,
    Lease,
    NodeInfo,
    NodeTelemetry,
    encode,
)
from tests.servers import Mosquitto, take_free_port
from tests.system.processes import Process, ampacity, wait_until

NODES_COUNT: Final = 1_250
CYCLES_COUNT: Final = 60
WARM_UP_CYCLES: Final = 10
MEASURED_S: Final = 60.0
WARM_UP_S: Final = 15.0
STEPS_PER_S: Final = 20
SAMPLES_COUNT: Final = 10
CORE_PERCENT_MAX: Final = 50.0
CYCLE_MS_MAX: Final = 200.0
QUEUES: Final = "max_queued_messages 10000\nmax_inflight_messages 100"
"""As in `deploy/mosquitto`: Mosquitto by default drops births beyond 1,000 nodes."""
SESSION: Final = "bench"
HISTOGRAM: Final = "ampacity_control_cycle_duration_seconds_bucket"
MISSED: Final = "ampacity_control_cycles_missed_total"


class Crowd:
    """All nodes of a site: what each would say, at the ceilings that it was granted."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.topics = Topics(site.name)
        self.seq = 0
        self.ceilings_mhz = {
            name: node.model.gpu.safe_ceiling_mhz for name, node in site.nodes.items()
        }

    def uuids(self, node: str) -> list[str]:
        """The GPUs of a node."""
        return [f"GPU-{node}-{index}" for index in range(self.site.nodes[node].model.gpu_count)]

    def birth(self, node: str) -> tuple[str, bytes]:
        """Topic and payload of its birth certificate."""
        gpu = self.site.nodes[node].model.gpu
        info = NodeInfo(
            node=node,
            session=SESSION,
            agent_version="bench",
            started_at_s=time.time(),
            gpus=tuple(
                GpuIdentity(uuid=uuid, index=index, model="H100")
                for index, uuid in enumerate(self.uuids(node))
            ),
            safe_ceiling_mhz=gpu.safe_ceiling_mhz,
            brake_ceiling_mhz=gpu.brake_ceiling_mhz,
            telemetry_s=1.0,
            can_actuate=True,
        )
        return self.topics.node(node, "info"), encode(info)

    def frame(self, node: str, place: int) -> tuple[str, bytes]:
        """Topic and payload of its frame of this second; each third node is nearly at its worst."""
        gpu, ceiling_mhz = self.site.nodes[node].model.gpu, self.ceilings_mhz[node]
        load_ratio = (0.95, 0.75, 0.6)[(place + self.seq // 7) % 3]
        power_w = gpu.idle_power_w + load_ratio * (gpu.power_w_at(ceiling_mhz) - gpu.idle_power_w)
        gpus = tuple(
            GpuReading(
                uuid=uuid,
                power_w=power_w,
                power_w_max=power_w + 9.0,
                power_samples_w=tuple(power_w + 0.9 * step for step in range(SAMPLES_COUNT)),
                sm_clock_mhz=ceiling_mhz,
                ceiling_mhz=ceiling_mhz,
                temperature_c=60.0,
                margin_c=27.0,
                memory_temperature_c=66.0,
                energy_j=1e6 + 500.0 * self.seq,
            )
            for uuid in self.uuids(node)
        )
        frame = NodeTelemetry(
            node=node,
            session=SESSION,
            seq=self.seq,
            sampled_at_s=time.time(),
            gpus=gpus,
            inlet_temperature_c=22.0,
        )
        return self.topics.node(node, "telemetry"), encode(frame)

    def obey(self, lease: Lease) -> tuple[str, bytes]:
        """Take a lease; topic and payload of its acknowledgement."""
        self.ceilings_mhz[lease.node] = min(lease.ceilings_mhz.values())
        applied = Applied(
            node=lease.node,
            session=SESSION,
            decision_id=lease.decision_id,
            epoch=lease.epoch,
            sequence=lease.sequence,
            reason="lease",
            applied_at_s=time.time(),
            gpus={
                uuid: GpuApplied(requested_mhz=mhz, accepted_mhz=mhz, observed_mhz=mhz)
                for uuid, mhz in lease.ceilings_mhz.items()
            },
        )
        return self.topics.node(lease.node, "applied"), encode(applied)


def alone(site: Site) -> list[Figure]:
    """The cycle and nothing else."""
    crowd, inbox = Crowd(site), Inbox(site, codec=Codec())
    now_s = 100.0
    cycle = ControlCycle(site, epoch=1, started_at_s=now_s)
    for node in site.nodes:
        inbox.receive(now_s, time.time(), *crowd.birth(node))
    took_ms, received_us, shaved = [], [], 0
    for number in range(WARM_UP_CYCLES + CYCLES_COUNT):
        now_s += 1.0
        crowd.seq += 1
        frames = [crowd.frame(node, place) for place, node in enumerate(site.nodes)]
        begun_s = time.perf_counter()
        for topic, payload in frames:
            inbox.receive(now_s, time.time(), topic, payload)
        ready_s = time.perf_counter()
        decision = cycle.step(inbox.snapshot(now_s, time.time(), cycle.orders.active))
        ended_s = time.perf_counter()
        inbox.take_frames()
        for lease in decision.leases:
            crowd.obey(lease)
        if number >= WARM_UP_CYCLES:
            took_ms.append(1e3 * (ended_s - ready_s))
            received_us.append(1e6 * (ready_s - begun_s) / len(frames))
            shaved += any(state.mode.value != "normal" for state in decision.domains)
    return [
        Figure("cycle alone: p50", f"{percentile(took_ms, 0.5):.0f} ms"),
        at_most("cycle alone: p99", percentile(took_ms, 0.99), CYCLE_MS_MAX, "ms", digits=0),
        Figure("  cycles in which a domain was shaving", f"{shaved} of {CYCLES_COUNT}"),
        Figure("  a frame decoded and believed", f"{percentile(received_us, 0.5):.0f} us"),
    ]


class Voice:
    """One client that speaks for the crowd, evenly over each second, until it is stopped."""

    def __init__(self, crowd: Crowd, port: int) -> None:
        self._crowd = crowd
        self._port = port
        self._codec = Codec()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="crowd")
        self._client.max_queued_messages_set(0)
        self._client.on_connect = self._subscribe
        self._client.on_message = self._obey
        self.late_count = 0
        self.leases_count = 0
        self.leased: set[str] = set()

    def start(self) -> None:
        """Connect, tell who is there, and begin."""
        self._client.connect(HOST, self._port, keepalive=60)
        self._client.loop_start()
        for node in self._crowd.site.nodes:
            topic, payload = self._crowd.birth(node)
            self._client.publish(topic, payload, qos=1, retain=True)
        self._thread.start()

    def stop(self) -> None:
        """Fall silent."""
        self._done.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(self._crowd.topics.node("+", "lease"))

    def _obey(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        self.leases_count += 1
        lease = self._codec.decode(bytes(message.payload), Lease)
        self.leased.add(lease.node)
        topic, payload = self._crowd.obey(lease)
        client.publish(topic, payload, qos=1, retain=True)

    def _speak(self) -> None:
        nodes = list(enumerate(self._crowd.site.nodes))
        share = -(-len(nodes) // STEPS_PER_S)
        next_s = time.monotonic()
        while not self._done.is_set():
            self._crowd.seq += 1
            for first in range(0, len(nodes), share):
                for place, node in nodes[first : first + share]:
                    self._client.publish(*self._crowd.frame(node, place), qos=0)
                next_s += 1.0 / STEPS_PER_S
                self.late_count += next_s < time.monotonic()
                time.sleep(max(next_s - time.monotonic(), 0.0))


def histogram(text: str) -> dict[float, float]:
    """Cumulated counts of the controller's cycles, by the upper edge in seconds."""
    found = {}
    for line in text.splitlines():
        if line.startswith(HISTOGRAM):
            edge = line.partition('le="')[2].partition('"')[0]
            found[float(edge)] = float(line.rpartition(" ")[2])
    return found


def edge_ms(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """The upper edge of the bucket in which a percentile of the cycles between two reads lies."""
    counts = {edge_s: after[edge_s] - before[edge_s] for edge_s in sorted(after)}
    total = max(counts.values())
    return 1e3 * next(edge_s for edge_s, count in counts.items() if count >= share * total)


def whole(config: SiteConfig, site: Site) -> list[Figure]:
    """The real controller with everything around the cycle."""
    with (
        tempfile.TemporaryDirectory() as name,
        Mosquitto(Path(name) / "broker", extra=QUEUES) as broker,
    ):
        directory, port = Path(name), take_free_port()
        (directory / "site.yaml").write_text(site_yaml(config))
        path = directory / "controller.yaml"
        path.write_text(
            controller_yaml(
                controller_config(
                    site_file="site.yaml",
                    broker=BrokerConfig(port=broker.port),
                    store=StoreConfig(directory=str(directory / "store")),
                    http=HttpConfig(port=port),
                )
            )
        )
        voice = Voice(Crowd(site), broker.port)
        command = ampacity("controller", "--config", path)
        with Process("controller", command, directory, None) as controller:
            voice.start()
            try:
                return _watched(controller, voice, f"http://{HOST}:{port}/metrics")
            finally:
                voice.stop()


def _watched(controller: Process, voice: Voice, url: str) -> list[Figure]:
    def read() -> str:
        return httpx.get(url, timeout=30.0).text

    wait_until(
        lambda: len(voice.leased) == NODES_COUNT,
        "every node has a lease",
        timeout_s=60.0,
        but=controller.tail,
    )
    time.sleep(WARM_UP_S)
    before, begun_cpu_s, begun_s = read(), cpu_s(controller.pid), time.monotonic()
    late_before, leases_before = voice.late_count, voice.leases_count
    time.sleep(MEASURED_S)
    took_s, used_s = time.monotonic() - begun_s, cpu_s(controller.pid) - begun_cpu_s
    after = read()
    first, last = histogram(before), histogram(after)
    cycles = max(last.values()) - max(first.values())
    missed = _value(after, MISSED) - _value(before, MISSED)
    p99_ms = edge_ms(first, last, 0.99)
    return [
        at_most("controller, share of a core", 100.0 * used_s / took_s, CORE_PERCENT_MAX, "%"),
        Figure("controller, resident", f"{rss_mib(controller.pid):.0f} MiB"),
        Figure("its cycles: p50 below", f"{edge_ms(first, last, 0.5):.0f} ms"),
        Figure(
            "its cycles: p99 below", f"{p99_ms:.0f} ms", f"<= {CYCLE_MS_MAX:g} ms",
            within=p99_ms <= CYCLE_MS_MAX,
        ),
        Figure("cycles in the time, and missed", f"{cycles:.0f}, {missed:.0f}"),
        Figure("leases heard", f"{(voice.leases_count - leases_before) / took_s:.0f} /s"),
        Figure("steps in which the load itself was late", f"{voice.late_count - late_before}"),
    ]  # fmt: skip


def _value(text: str, name: str) -> float:
    lines = (line for line in text.splitlines() if line.startswith((name + " ", name + "{")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


PARTS: Final[tuple[Callable[[SiteConfig, Site], list[Figure]], ...]] = (
    lambda _config, site: alone(site),
    whole,
)


def main() -> None:
    """Print one line per figure with its budget."""
    print(machine())
    config = row_site(site="bench", nodes=NODES_COUNT)
    site = compile_site(config)
    show([figure for part in PARTS for figure in part(config, site)])
