"""Buses over real brokers, as the tests use them: one that speaks, one that keeps all it hears."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from daemon.bus import Bus, BusLimits, Handler, LastWords
from facility.config import BrokerConfig
from tests.servers import HOST, Mosquitto, Nats, Server, find_program

QUICK: Final = BusLimits(backoff_s_min=0.02, backoff_s_max=0.1)
BrokerKind = type[Mosquitto] | type[Nats]
both_brokers: Final = pytest.mark.parametrize("kind", [Mosquitto, Nats], ids=["mosquitto", "nats"])
STATUS: Final = "ampacity/v1/lab/node/n1/status"
WORDS: Final = LastWords(STATUS, lost=b"lost", disconnected=b"disconnected")


@pytest.fixture(params=[Mosquitto, Nats], ids=["mosquitto", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Each broker in turn, running."""
    kind: BrokerKind = request.param
    with kind(tmp_path) as server:
        yield server


def keeping(into: list[bytes]) -> Handler:
    """A handler that keeps payloads."""

    def keep(_topic: str, payload: bytes, _retained: bool) -> None:
        into.append(payload)

    return keep


class Heard:
    """A bus that keeps all it hears."""

    def __init__(self, config: BrokerConfig, *topics: str, identifier: str = "listener") -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.bus = Bus(config, identifier=identifier, limits=QUICK)
        for topic in topics:
            self.bus.subscribe(topic, self._keep)

    def _keep(self, topic: str, payload: bytes, retained: bool) -> None:
        self.messages.append((topic, payload, retained))

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload, _ in self.messages]


@asynccontextmanager
async def listening(
    config: BrokerConfig, *topics: str, identifier: str = "listener"
) -> AsyncIterator[Heard]:
    heard = Heard(config, *topics, identifier=identifier)
    async with heard.bus:
        await heard.bus.wait_connected(timeout_s=10)
        yield heard


@asynccontextmanager
async def speaking(
    config: BrokerConfig, *, limits: BusLimits = QUICK, identifier: str = "agent"
) -> AsyncIterator[Bus]:
    async with Bus(config, identifier=identifier, last_words=WORDS, limits=limits) as bus:
        await bus.wait_connected(timeout_s=10)
        yield bus


def at(server: Server, **keys: Any) -> BrokerConfig:
    return BrokerConfig(port=server.port, **keys)


def account(
    server: Server, directory: Path, password: str, *, username: str = "agent", **keys: Any
) -> BrokerConfig:
    """The configuration of a client with an account; the password lies in a file."""
    path = directory / f"{username}.password"
    path.write_text(f"{password}\n")
    path.chmod(0o600)
    return at(server, username=username, password_file=str(path), **keys)


def make_certificate(directory: Path) -> None:
    """A self-signed certificate for loopback: `ca.pem` is also the server's own."""
    subprocess.run(
        [
            find_program("openssl", "openssl"), "req", "-x509", "-newkey", "ec",
            "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=lab", "-addext", f"subjectAltName=IP:{HOST}",
            "-keyout", directory / "key.pem", "-out", directory / "ca.pem",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
