"""A small site with everything in it: broker, controller, and agents over fake drivers.

Owns the files, the processes and their end. Three nodes of eight GPUs, cycles of a quarter of a
second and leases of one second: everything that happens at a real site happens here four times as
fast. It decides nothing and patches nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import httpx
import msgspec

from facility.compiler import compile_site
from facility.config import (
    BrokerConfig,
    ControlConfig,
    HaproxyConfig,
    HttpConfig,
    SensorsConfig,
    SiteConfig,
    StoreConfig,
)
from facility.example import (
    agent_config,
    agent_yaml,
    controller_config,
    controller_yaml,
    row_site,
    site_yaml,
)
from facility.topics import Topics
from facility.wire import Request, encode
from tests.libnvml.handle import FakeNvml
from tests.servers import HOST, Server, take_free_port
from tests.system.listener import Listener
from tests.system.processes import Process, ampacity, children_of, wait_until

LEASE_S: Final = 1.0
APPLY_S: Final = 0.1
"""The promise: a lease that is over leads to the safe ceiling within this."""
CONTROL: Final = ControlConfig(
    cycle_s=0.25,
    telemetry_s=0.25,
    lease_s=LEASE_S,
    stale_s=1.0,
    raise_ratio_per_s=0.5,
    missing_ratio_max=0.4,  # of three nodes one may be missing before nothing is raised
)
MILD_RATIO: Final = 1.15
"""Sold so far beyond its capacity that a lost feed is an emergency and full clocks are leased."""
MILD_C: Final = 24.0
CALL_TIMEOUT_S: Final = 0.5
LIGHT_INTENSITY: Final = 0.15
"""A load under which nothing is slowed, even with one feed fewer."""
HEALTHY_S: Final = 40.0
"""Longest wait for a site to be well again: an I/O process is restarted with growing patience."""


class NodeHost:
    """One GPU host: a fake driver, and the real agent over it."""

    def __init__(self, name: str, fake: FakeNvml, config_path: Path, directory: Path) -> None:
        self.name = name
        self.fake = fake
        self.config_path = config_path
        self.agent = Process(
            f"agent-{name}",
            ampacity("agent", "--config", config_path),
            directory,
            fake.environment(),
        )
        self._inlet_path = directory / f"{name}.inlet"
        self.breathe(temperature_c=MILD_C)

    def breathe(self, *, temperature_c: float) -> None:
        """Set the air at the inlet, as the chassis sensor shows it."""
        part = self._inlet_path.with_suffix(".part")
        part.write_text(f"{round(temperature_c * 1_000)}\n")
        part.replace(self._inlet_path)

    @property
    def io_pid(self) -> int:
        """The agent's I/O process; fails when there is none."""
        pids = children_of(self.agent.pid)
        assert len(pids) == 1, f"{self.name} has the children {pids}, one was expected"
        return pids[0]

    @property
    def ceilings_mhz(self) -> set[int]:
        """The locks that the hardware really has."""
        return {truth.ceiling_mhz for truth in self.fake.truths()}

    def written_mhz(self, *, since_ns: int) -> set[int]:
        """Every ceiling that was written after `since_ns`, of the last 64; 0 lifted a lock."""
        return {
            write.ceiling_mhz
            for gpu in range(self.fake.gpu_count)
            for write in self.fake.writes(gpu)
            if write.at_ns > since_ns
        }

    def reached_ns(self, ceiling_mhz: int, *, since_ns: int) -> int:
        """When the last GPU was at or below a ceiling, after `since_ns`, to stay there."""
        latest_ns = since_ns
        for gpu in range(self.fake.gpu_count):
            writes = self.fake.writes(gpu)
            above = [w for w in writes if w.ceiling_mhz > ceiling_mhz or w.ceiling_mhz == 0]
            last_above_ns = max((w.at_ns for w in above), default=0)
            after = [w.at_ns for w in writes if w.at_ns > last_above_ns]
            assert after, f"{self.name} GPU {gpu} was never at {ceiling_mhz} MHz: {writes[-3:]}"
            latest_ns = max(latest_ns, min(after))
        return latest_ns


class Rig:
    """One site on this machine. Use it as a context: what it started is ended with it."""

    def __init__(
        self,
        directory: Path,
        broker: Server,
        library: Path,
        *,
        site: SiteConfig | None = None,
        haproxy: HaproxyConfig | None = None,
    ) -> None:
        """Write the files of `site`, three nodes in one rack unless told otherwise."""
        self.directory = directory
        self.broker = broker
        self.site_config = site or row_site(
            site="lab", nodes=3, oversubscription_ratio=MILD_RATIO, control=CONTROL
        )
        self.site = compile_site(self.site_config)
        self.topics = Topics(self.site.name)
        self.safe_mhz = next(iter(self.site.nodes.values())).model.gpu.safe_ceiling_mhz
        self.top_mhz = next(iter(self.site.nodes.values())).model.gpu.clock_mhz_max
        self.store = directory / "store"
        self.http_port = take_free_port()
        self.controller_path = directory / "controller.yaml"
        self._haproxy = haproxy
        self._library = library
        directory.mkdir(parents=True, exist_ok=True)
        self.rewrite_controller()
        self.hosts = {name: self._host(name) for name in self.site.nodes}
        self.controller = Process(
            "controller", ampacity("controller", "--config", self.controller_path), directory, None
        )
        self.listener = self.make_listener()
        self._api = httpx.Client(base_url=f"http://{HOST}:{self.http_port}", timeout=5.0)

    def rewrite_controller(self, **keys: Any) -> None:
        """Write the controller's file anew, with other values for some keys; nobody is told."""
        (self.directory / "site.yaml").write_text(site_yaml(self.site_config))
        config = controller_config(
            site_file="site.yaml",
            broker=self.broker_config("controllers/controller"),
            store=StoreConfig(directory=str(self.store)),
            http=HttpConfig(port=self.http_port),
            haproxy=self._haproxy,
        )
        config = msgspec.structs.replace(config, **(self.controller_keys() | keys))
        self.controller_path.write_text(controller_yaml(config))

    def broker_config(self, holder: str) -> BrokerConfig:
        """How `nodes/<name>` or `controllers/<name>` reaches the broker: here like everybody."""
        del holder
        return BrokerConfig(port=self.broker.port)

    def controller_keys(self) -> dict[str, Any]:
        """Other values for keys of the controller's file."""
        return {}

    def agent_keys(self) -> dict[str, Any]:
        """Other values for keys of every agent's file."""
        return {}

    def make_listener(self) -> Listener:
        """Somebody who hears everything."""
        return Listener(self.broker.port, self.topics)

    def rewrite_agent(self, name: str, **keys: Any) -> None:
        """Write a node's file anew, with other values for some keys; nobody is told."""
        config = agent_config(self.site, name, broker=self.broker_config(f"nodes/{name}"))
        mine = {
            "state_dir": str(self.directory / f"{name}.state"),
            "sensors": SensorsConfig(inlet_temperature_file=str(self.directory / f"{name}.inlet")),
            "call_timeout_s": CALL_TIMEOUT_S,
        }
        config = msgspec.structs.replace(config, **(mine | self.agent_keys() | keys))
        (self.directory / f"{name}.yaml").write_text(agent_yaml(config))

    def _host(self, name: str) -> NodeHost:
        fake = FakeNvml.create(self.directory / f"{name}.gpus", self._library)
        fake.load(None, a=LIGHT_INTENSITY, m=0.2, c=1.0)
        self.rewrite_agent(name)
        return NodeHost(name, fake, self.directory / f"{name}.yaml", self.directory)

    # --- starting and ending ------------------------------------------------------------------

    def start(self) -> Self:
        """Start agents and controller, and wait until leases are held."""
        self.listener.start()
        for host in self.hosts.values():
            host.agent.start()
        self.controller.start()
        self.heal()
        return self

    def heal(self) -> None:
        """Start what does not run, and wait until every node holds a lease and is at the top."""
        for process in self.processes:
            if not process.runs:
                process.start()
        for host in self.hosts.values():
            host.fake.heal()
            host.fake.load(None, a=LIGHT_INTENSITY)
        wait_until(
            lambda: all(self.leased(name) for name in self.hosts),
            "every node holds a lease",
            timeout_s=HEALTHY_S,
            but=self.story,
        )
        self.wait_ceilings(lambda mhz: mhz == self.top_mhz, f"all are at {self.top_mhz} MHz")

    def calm(self) -> None:
        """Lift every order that a test left behind, and heal."""
        for name in (self.api("/api/v1/decision") or {}).get("contingencies", ()):
            self.ask("contingency", contingency=name, on=False)
        self.heal()

    def ask(self, verb: str, *, by: str = "test", **args: str | float | bool) -> None:
        """Send an operator's request, as any program may."""
        request = Request(verb=verb, transaction=secrets.token_hex(8), by=by, args=args)
        self.listener.say(self.topics.request(verb), encode(request))

    def end(self) -> None:
        """End everything that this rig started."""
        self.listener.stop()
        self._api.close()
        for process in self.processes:
            process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def processes(self) -> list[Process]:
        return [*(host.agent for host in self.hosts.values()), self.controller]

    def story(self) -> str:
        """The ends of all logs, for failures."""
        return "\n".join(process.tail() for process in self.processes)

    # --- looking ------------------------------------------------------------------------------

    def api(self, path: str) -> Any:
        """What the controller answers, None while it does not."""
        try:
            answer = self._api.get(path)
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == 200 else None

    def node(self, name: str) -> dict[str, Any]:
        """One node as the API shows it, empty while there is no answer."""
        return self.api(f"/api/v1/nodes/{name}") or {}

    def domain(self, name: str) -> dict[str, Any]:
        """One domain as the API shows it, empty while there is no answer."""
        return self.api(f"/api/v1/domains/{name}") or {}

    def metric(self, name: str) -> float:
        """The sum of one metric's samples."""
        lines = self._api.get("/metrics").text.splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert found, f"/metrics has no {name}"
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def leased(self, name: str) -> bool:
        """Whether a node's present agent says that it holds a lease which was granted."""
        node = self.node(name)
        if not node or node["missing"] or node["telemetry_age_s"] is None:
            return False
        alive_s = time.monotonic() - self.hosts[name].agent.started_s
        lease = node["lease"]
        held = lease["state"] == "valid" and lease["reason"] == "lease"
        return bool(held and node["telemetry_age_s"] < alive_s)

    def wait_ceilings(
        self,
        wanted: Callable[[int], bool],
        what: str,
        *,
        names: tuple[str, ...] = (),
        timeout_s: float = HEALTHY_S,
    ) -> None:
        """Wait until every lock of the named nodes, all by default, is as wanted."""
        hosts = [self.hosts[name] for name in names or self.hosts]
        wait_until(
            lambda: all(wanted(mhz) for host in hosts for mhz in host.ceilings_mhz),
            what,
            timeout_s=timeout_s,
            but=lambda: f"{ {h.name: h.ceilings_mhz for h in hosts} }\n{self.story()}",
        )

    def wait_safe(self, *names: str) -> None:
        """Wait until the named nodes, all by default, are at their safe ceiling."""
        self.wait_ceilings(lambda mhz: mhz == self.safe_mhz, f"at {self.safe_mhz} MHz", names=names)
