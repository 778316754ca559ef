"""Requests follow the power: a real HAProxy, steered by the real controller."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from facility.config import HaproxyConfig, SiteConfig
from facility.example import row_site
from tests.haproxy_server import Haproxy, running_haproxy
from tests.servers import Mosquitto, take_free_port
from tests.system.processes import answer, wait_until
from tests.system.rig import CONTROL, MILD_C, MILD_RATIO, Rig

pytestmark = pytest.mark.integration

HOT_C: Final = 45.0
FULL_WEIGHT: Final = 100
REQUESTS: Final = 40


def two_aisles() -> SiteConfig:
    """One node in each of two racks, each rack in an aisle of its own; both serve chat."""
    site = row_site(site="lab", nodes=2, oversubscription_ratio=MILD_RATIO, control=CONTROL)
    copies = {"rack-01": "rack-02", "aisle-1": "aisle-2"}
    domains = [
        msgspec.structs.replace(domain, name=copies[domain.name])
        for domain in site.domains
        if domain.name in copies
    ]
    first, second = site.nodes
    second = msgspec.structs.replace(
        second, parents=("rack-02",), zone="aisle-2", service=first.service
    )
    return msgspec.structs.replace(site, domains=(*site.domains, *domains), nodes=(first, second))


@pytest.fixture(scope="module")
def steered(
    tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[tuple[Rig, Haproxy]]:
    """A site whose controller steers an HAProxy in front of both nodes."""
    directory = tmp_path_factory.mktemp("steered")
    with (
        Mosquitto(directory / "broker") as broker,
        running_haproxy(directory, ("n01", "n02"), take_free_port) as haproxy,
        Rig(
            directory,
            broker,
            library,
            site=two_aisles(),
            haproxy=HaproxyConfig(socket=str(haproxy.socket), backends={"chat": "llm"}),
        ) as rig,
    ):
        yield rig.start(), haproxy


def weights(haproxy: Haproxy) -> dict[str, int]:
    """What HAProxy itself says of its servers: weights, 0 for one that drains."""
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(5.0)
        end.connect(str(haproxy.socket))
        end.sendall(b"show servers state llm\n")
        text = b"".join(iter(lambda: end.recv(65_536), b"")).decode()
    rows = [line.split() for line in text.splitlines() if " llm " in f" {line} "]
    drained = 0x08  # SRV_ADMF_FDRAIN: drained by an operator
    return {row[3]: 0 if int(row[6]) & drained else int(row[7]) for row in rows}


def even(haproxy: Haproxy) -> bool:
    return weights(haproxy) == {"n01": FULL_WEIGHT, "n02": FULL_WEIGHT}


def test_requests_leave_a_hot_aisle_and_come_back(steered: tuple[Rig, Haproxy]) -> None:
    rig, haproxy = steered
    wait_until(lambda: even(haproxy), "both weigh the same")
    rig.hosts["n01"].breathe(temperature_c=HOT_C)
    wait_until(
        lambda: weights(haproxy)["n01"] <= FULL_WEIGHT // 2,
        "the hot node weighs at most half",
        but=lambda: f"{rig.domain('aisle-1')} {rig.story()}",
    )
    assert weights(haproxy)["n02"] == FULL_WEIGHT
    assert rig.domain("aisle-1")["mode"] != "normal"
    assert max(rig.hosts["n01"].ceilings_mhz) < rig.top_mhz, "clocks were first"
    answers = haproxy.ask(REQUESTS)
    assert answers["n01"] < answers["n02"]
    rig.hosts["n01"].breathe(temperature_c=MILD_C)


def test_a_drained_node_gets_no_request_until_the_drain_is_lifted(
    steered: tuple[Rig, Haproxy],
) -> None:
    rig, haproxy = steered
    assert answer("drain", "n02", "--config", rig.controller_path).code == 0
    wait_until(lambda: weights(haproxy)["n02"] == 0, "it drains")
    assert haproxy.ask(REQUESTS) == {"n01": REQUESTS}
    assert answer("drain", "n02", "--off", "--config", rig.controller_path).code == 0
    wait_until(lambda: weights(haproxy)["n02"] > 0, "it is back")


def test_a_killed_agent_takes_its_node_out_until_it_is_heard_again(
    steered: tuple[Rig, Haproxy],
) -> None:
    rig, haproxy = steered
    rig.hosts["n02"].agent.kill()
    wait_until(lambda: weights(haproxy)["n02"] == 0, "its node drains", but=rig.story)
    assert haproxy.ask(REQUESTS) == {"n01": REQUESTS}
    rig.hosts["n02"].agent.start()
    wait_until(lambda: weights(haproxy)["n02"] > 0, "it is back", but=rig.story)
