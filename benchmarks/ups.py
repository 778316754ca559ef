"""From a UPS on battery to the last of 64 nodes locked: real upsd, controller, Mosquitto, agents.

Two figures, apart. *Path*: from the moment at which the controller's client has read OB to the last
lock. *Polling*: from `upsrw` to that moment; it is what driver and `poll_s` make it: the simulated
driver tells its news once a second, which is also the shortest period that NUT's drivers know.

Two UPSs fail one after the other: the first takes the nodes to their armed ceilings, the second to
the brake. The 64 agents are those of `benchmarks.emergency`; a write takes no time here, on
hardware 10-20 ms, eight side by side.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks._nodes import Nodes, Stamps
from benchmarks._table import Figure, at_most, machine, percentile, show
from facility.compiler import compile_site
from facility.config import (
    BrokerConfig,
    ControlConfig,
    ControllerConfig,
    HttpConfig,
    SiteConfig,
    StoreConfig,
    UpsConfig,
)
from facility.example import agent_config, controller_yaml, row_site, site_yaml
from facility.topics import Topics
from facility.wire import Codec, Event
from tests.servers import HOST, Mosquitto, take_free_port
from tests.system.processes import Process, ampacity, wait_until
from tests.upsd_server import Upsd

NODES_COUNT: Final = 64
PROCESSES_COUNT: Final = 2
ROUNDS_COUNT: Final = 22
BUDGET_MS: Final = 50.0
POLL_S: Final = 0.02
QUIET_S: Final = 0.2
SEEN_S_MAX: Final = 5.0
LOOK_S: Final = 0.6
"""Nobody looks while the nodes work."""
RAISED_S_MAX: Final = 30.0
TOP_MHZ: Final = 1_980
BRAKE_MHZ: Final = 345
STEPS: Final = (("ups-a", TOP_MHZ - 1), ("ups-b", BRAKE_MHZ))
"""Which UPS fails, and where every node must be then."""


class Ear:
    """Hears when the controller has seen a UPS fail, by the controller's own stamp."""

    def __init__(self, port: int, site: str) -> None:
        self.seen_wall_s: dict[str, float] = {}
        self._codec = Codec()
        self._ready = threading.Event()
        self._topic = Topics(site).event
        self._port = port
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="ear")
        self._client.on_connect = self._connected
        self._client.on_message = self._heard

    def start(self) -> None:
        """Connect and listen."""
        self._client.connect(HOST, self._port, keepalive=30)
        self._client.loop_start()
        if not self._ready.wait(SEEN_S_MAX):
            raise RuntimeError("the broker does not answer")

    def stop(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(self._topic, qos=1)
        self._ready.set()

    def _heard(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        event = self._codec.decode(bytes(message.payload), Event)
        if event.event == "ups-alarm":
            self.seen_wall_s[event.subject] = event.at_s


def fail(upsd: Upsd, ear: Ear, stamps: Stamps, name: str, limit_mhz: int) -> tuple[float, float]:
    """One UPS goes on battery: how long until it was seen, and from then to the last lock, ms."""
    ear.seen_wall_s.pop(name, None)
    stamps.forget(limit_mhz)
    wall_less_monotonic_s = time.time() - time.monotonic()
    begun_wall_s = time.time()
    upsd.say(name, "ups.status", "OB DISCHRG")
    wait_until(lambda: name in ear.seen_wall_s, f"{name} is seen", timeout_s=SEEN_S_MAX)
    time.sleep(LOOK_S)
    # Who was that low already, because power is short for other reasons, has nothing to write.
    pairs = zip(stamps.first_ns, stamps.ceilings_mhz, strict=True)
    silent = sum(at_ns == 0 and mhz > limit_mhz for at_ns, mhz in pairs)
    if silent or not any(stamps.first_ns):
        raise RuntimeError(f"{silent} GPUs were not locked {LOOK_S:g} s after {name} was seen")
    seen_wall_s = ear.seen_wall_s[name]
    locked_wall_s = max(stamps.first_ns) / 1e9 + wall_less_monotonic_s
    return 1e3 * (seen_wall_s - begun_wall_s), 1e3 * (locked_wall_s - seen_wall_s)


def measure(upsd: Upsd, ear: Ear, stamps: Stamps, *, rest_s: float) -> tuple[list[float], ...]:
    """Both UPSs fail and come back, again and again: polling and path, ms."""
    polling_ms: list[float] = []
    path_ms: list[float] = []
    for number in range(ROUNDS_COUNT):
        wait_until(
            lambda: all(mhz == TOP_MHZ for mhz in stamps.ceilings_mhz),
            "all hold their leases",
            timeout_s=RAISED_S_MAX,
        )
        # not in step with anybody's second; and leases granted meanwhile hold what was decided then
        time.sleep(rest_s + 0.037 * (number % 7))
        for name, limit_mhz in STEPS:
            seen_ms, locked_ms = fail(upsd, ear, stamps, name, limit_mhz)
            polling_ms.append(seen_ms)
            path_ms.append(locked_ms)
        for name, _ in STEPS:
            upsd.say(name, "ups.status", "OL CHRG")
    return polling_ms, path_ms


def rows(polling_ms: Sequence[float], path_ms: Sequence[float]) -> list[Figure]:
    """The percentiles; the budget is for the path's 99th."""
    path = f"OB seen to last of {NODES_COUNT} nodes"
    return [
        Figure(f"{path}: p50 of {len(path_ms)}", f"{percentile(path_ms, 0.5):.1f} ms"),
        at_most(f"{path}: p99", percentile(path_ms, 0.99), BUDGET_MS, "ms"),
        Figure(f"{path}: worst", f"{max(path_ms):.1f} ms"),
        Figure("upsrw to OB seen: p50", f"{percentile(polling_ms, 0.5):.0f} ms"),
        Figure("upsrw to OB seen: worst", f"{max(polling_ms):.0f} ms"),
    ]


def write_files(config: SiteConfig, directory: Path, broker: BrokerConfig, upsd: Upsd) -> Path:
    """The site's and the controller's file; returns the latter."""
    (directory / "site.yaml").write_text(site_yaml(config))
    controller = ControllerConfig(
        version=1,
        site_file="site.yaml",
        broker=broker,
        store=StoreConfig(directory=str(directory / "store")),
        http=HttpConfig(port=take_free_port()),
        ups=tuple(
            UpsConfig(
                name=name,
                source=upsd.source(name),
                contingency=f"{name}-lost",
                poll_s=POLL_S,
                quiet_s=QUIET_S,
            )
            for name, _ in STEPS
        ),
    )
    path = directory / "controller.yaml"
    path.write_text(controller_yaml(controller))
    return path


def main() -> None:
    """Print one line per figure with its budget."""
    print(machine())
    config = row_site(
        site="bench",
        nodes=NODES_COUNT,
        # Little: full clocks are leased to everybody even while a busy machine reacts slowly.
        oversubscription_ratio=1.02,
        control=ControlConfig(raise_ratio_per_s=1.0),
    )
    site = compile_site(config)
    status = {name: {"ups.status": "OL"} for name, _ in STEPS}
    with (
        tempfile.TemporaryDirectory() as name,
        Mosquitto(Path(name) / "broker") as mosquitto,
        Upsd(Path(name) / "nut", ups=status) as upsd,
    ):
        directory = Path(name)
        broker = BrokerConfig(port=mosquitto.port)
        path = write_files(config, directory, broker, upsd)
        configs = [agent_config(site, node, broker=broker) for node in site.nodes]
        ear = Ear(mosquitto.port, site.name)
        command = ampacity("controller", "--config", path)
        with (
            Nodes(configs, processes_count=PROCESSES_COUNT) as nodes,
            Process("controller", command, directory, None) as controller,
        ):
            ear.start()
            try:
                rest_s = 1.5 * site.control.cycle_s
                figures = rows(*measure(upsd, ear, nodes.stamps, rest_s=rest_s))
            except (AssertionError, RuntimeError):
                print(controller.tail())
                raise
            finally:
                ear.stop()
    show(figures)
