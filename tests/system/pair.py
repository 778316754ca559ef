"""Two controllers of one site over a consensus store: `Rig` with a second voice that is silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from facility.config import (
    BrokerConfig,
    ControlConfig,
    HttpConfig,
    SiteConfig,
    StoreConfig,
    UpsConfig,
)
from facility.example import controller_config, controller_yaml, row_site, site_yaml
from facility.wire import ControllerStatus, Lease
from tests.clusters import Cluster
from tests.servers import HOST, Mosquitto, take_free_port
from tests.system.processes import Process, ampacity, wait_until
from tests.system.rig import Rig

TTL_S: Final = 1.2
CONTROL: Final = ControlConfig(
    cycle_s=0.25,
    telemetry_s=0.25,
    lease_s=4.0,
    stale_s=1.0,
    raise_ratio_per_s=0.5,
    missing_ratio_max=0.4,
)


class Pair(Rig):
    """A site with two controllers, `a` and `b`."""

    def __init__(
        self,
        directory: Path,
        broker: Mosquitto,
        library: Path,
        cluster: Cluster,
        *,
        site: SiteConfig | None = None,
        ttl_s: float = TTL_S,
        ups: tuple[UpsConfig, ...] = (),
    ) -> None:
        """A lab of three nodes unless `site` says otherwise; `ups` is for the controllers."""
        self._leadership = cluster.config(ttl_s=ttl_s)
        self._ups = ups
        self.ports = {name: take_free_port() for name in "ab"}
        super().__init__(
            directory, broker, library, site=site or row_site(site="lab", nodes=3, control=CONTROL)
        )
        self.controllers = {
            name: Process(
                name,
                ampacity("controller", "--config", directory / f"controller-{name}.yaml"),
                directory,
                None,
            )
            for name in self.ports
        }

    def rewrite_controller(self, **keys: Any) -> None:
        """Write both controllers' files, with other values for some keys."""
        (self.directory / "site.yaml").write_text(site_yaml(self.site_config))
        for name, port in self.ports.items():
            config = controller_config(
                controller=name,
                site_file="site.yaml",
                broker=BrokerConfig(port=self.broker.port),
                store=StoreConfig(directory=str(self.directory / f"store-{name}")),
                http=HttpConfig(port=port),
                leadership=self._leadership,
            )
            config = msgspec.structs.replace(config, ups=self._ups, **keys)
            (self.directory / f"controller-{name}.yaml").write_text(controller_yaml(config))

    @property
    def processes(self) -> list[Process]:
        return [*(host.agent for host in self.hosts.values()), *self.controllers.values()]

    def api(self, path: str) -> Any:
        """What the leader answers, None while there is none."""
        leader = self.leader
        if not leader:
            return None
        try:
            answer = httpx.get(f"http://{HOST}:{self.ports[leader]}{path}", timeout=5.0)
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == 200 else None

    def status(self, name: str) -> ControllerStatus | None:
        """The last word of a controller about itself."""
        said = self.listener.read(ControllerStatus, "status", node=name)
        return said[-1] if said else None

    @property
    def leader(self) -> str:
        """Who says that it leads, empty for nobody."""
        for name, process in self.controllers.items():
            status = self.status(name)
            if process.runs and status is not None and status.leader:
                return name
        return ""

    @property
    def standby(self) -> str:
        return "b" if self.leader == "a" else "a"

    def ready(self) -> bool:
        """Whether one leads, the other stands by, and every node holds a lease."""
        standby = self.status(self.standby)
        return bool(
            self.leader
            and standby is not None
            and (standby.state, standby.leader) == ("ready", False)
            and all(self.leased(name) for name in self.hosts)
        )

    def heal(self) -> None:
        """Start what does not run, and wait until one leads and every node is above the floor."""
        for process in self.processes:
            if not process.runs:
                process.start()
        wait_until(self.ready, "one leads and one stands by", timeout_s=30.0, but=self.story)
        self.wait_ceilings(lambda mhz: mhz > self.safe_mhz, f"all are above {self.safe_mhz} MHz")

    def leases(self, *, since_ns: int) -> list[Lease]:
        """What was granted after `since_ns`."""
        heard = [one for one in self.listener.messages("lease") if one.at_ns > since_ns]
        return [msgspec.json.decode(one.payload, type=Lease) for one in heard]
