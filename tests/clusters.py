"""Three-node clusters of real consensus stores, for tests: NATS with JetStream, and etcd.

Each node is a `Server` of its own, to be killed, paused and restarted alone. Data lies in the
test's directory and survives a restart unless it is wiped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Self

import httpx
import msgspec

from daemon.embedded_broker import find_server
from facility.config import LeadershipConfig
from tests.servers import HOST, POLL_S, Server, find_program, take_free_port

NODES_COUNT: Final = 3
READY_S: Final = 30.0


class NatsNode(Server):
    """One server of a NATS cluster, without MQTT."""

    def __init__(self, directory: Path, name: str, routes: dict[str, int]) -> None:
        super().__init__(directory)
        self.name = name
        self._routes = routes

    def command(self) -> Sequence[str]:
        """Write `nats.conf`."""
        config = self.directory / "nats.conf"
        settings = {
            "server_name": self.name,
            "listen": f"{HOST}:{self.port}",
            "jetstream": {"store_dir": str(self.directory / "store")},
            "cluster": {
                "name": "test",
                "listen": f"{HOST}:{self._routes[self.name]}",
                "routes": [f"nats://{HOST}:{port}" for port in self._routes.values()],
            },
        }
        config.write_text(json.dumps(settings))
        return [str(find_server()), "-c", str(config)]

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{HOST}:{self.port}"


class EtcdNode(Server):
    """One member of an etcd cluster."""

    def __init__(self, directory: Path, name: str, peers: dict[str, int]) -> None:
        super().__init__(directory)
        self.name = name
        self._peers = peers

    def command(self) -> Sequence[str]:
        """Etcd needs no file."""
        peer = f"http://{HOST}:{self._peers[self.name]}"
        members = ",".join(f"{name}=http://{HOST}:{port}" for name, port in self._peers.items())
        return [
            find_program("etcd", "etcd-server"),
            "--name", self.name, "--data-dir", str(self.directory / "data"),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", members, "--initial-cluster-token", "test",
            "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h",
            "--logger", "zap",
        ]  # fmt: skip

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://{HOST}:{self.port}"


class Cluster:
    """Three nodes of one kind. Use it as a context: what it started is ended with it."""

    def __init__(self, directory: Path, kind: Literal["nats", "etcd"]) -> None:
        self.kind = kind
        self.directory = directory
        peers = {f"s{number}": take_free_port() for number in range(1, NODES_COUNT + 1)}
        make = NatsNode if kind == "nats" else EtcdNode
        self.nodes: list[NatsNode | EtcdNode] = [
            make(directory / name, name, peers) for name in peers
        ]

    def config(self, **changes: object) -> LeadershipConfig:
        """The section of a controller's file that names this cluster."""
        servers = tuple(node.url for node in self.nodes)
        return msgspec.structs.replace(LeadershipConfig(kind=self.kind, servers=servers), **changes)

    def start(self) -> Self:
        """Start every node and return once a majority has agreed on a leader."""
        for node in self.nodes:
            node.start()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait until the cluster answers."""
        deadline_s = time.monotonic() + READY_S
        while not self._answers():
            assert time.monotonic() < deadline_s, f"no {self.kind} cluster within {READY_S:g} s"
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        if self.kind == "nats":
            return any("JetStream cluster new metadata leader" in node.log for node in self.nodes)
        try:
            return all(
                httpx.post(f"{node.url}/v3/kv/range", content=b'{"key":"YQ=="}').status_code == 200
                for node in self.nodes
            )
        except httpx.HTTPError:
            return False

    def end(self) -> None:
        """Kill every node that runs."""
        for node in self.nodes:
            node.kill()

    def wipe(self) -> None:
        """Lose everything: all nodes die and come back empty."""
        self.end()
        for node in self.nodes:
            shutil.rmtree(node.directory)
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.end()


def stop_and_go(pid: int, *, go: bool) -> None:
    """SIGSTOP a process, or SIGCONT it."""
    os.kill(pid, signal.SIGCONT if go else signal.SIGSTOP)
