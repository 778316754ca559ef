"""One client that floods a real broker costs the node whose name it uses, and no other."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from facility.example import row_site
from tests.servers import HOST, Mosquitto, rss_bytes
from tests.system.processes import wait_until
from tests.system.rig import CONTROL, LEASE_S, Rig

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RATE_PER_S: Final = 2_000.0
BATCH: Final = 50
FLOOD_S: Final = 4.0
GROWTH_BYTES_MAX: Final = 48 * 1024 * 1024
BRAKE_MHZ: Final = 345
JUNK: Final = b'{"type":"telemetry","node":"n01","session":"x","seq":1,"gpus":[]}'


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Rig]:
    """A site with room for every node at the top, so that only a lost lease lowers one."""
    directory = tmp_path_factory.mktemp("site")
    site = row_site(site="lab", nodes=3, oversubscription_ratio=0.6, control=CONTROL)
    with (
        Mosquitto(directory / "broker") as broker,
        Rig(directory, broker, library, site=site) as rig,
    ):
        yield rig.start()


def pour(port: int, topics: list[str], stop: Flag, sent: Any) -> None:
    """Publish to the topics in turn, at most RATE_PER_S, until told to stop."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="flooder")
    client.connect(HOST, port)
    client.loop_start()
    began_s = time.monotonic()
    while not stop.is_set():
        for number in range(BATCH):
            client.publish(topics[number % len(topics)], JUNK, qos=0).wait_for_publish(5.0)
        sent.value += BATCH
        ahead_s = sent.value / RATE_PER_S - (time.monotonic() - began_s)
        stop.wait(max(ahead_s, 0.0))
    client.loop_stop()


@contextmanager
def flood(rig: Rig, *topics: str) -> Iterator[Any]:
    """A process of its own that floods some topics; yields how many messages it has sent."""
    context = multiprocessing.get_context("spawn")
    stop, sent = context.Event(), context.Value("q", 0)
    flooder = context.Process(target=pour, args=(rig.broker.port, list(topics), stop, sent))
    flooder.start()
    try:
        wait_until(lambda: sent.value > 0, "the flood has begun")
        yield sent
    finally:
        stop.set()
        flooder.join(10.0)
        if flooder.is_alive():
            flooder.kill()


def expired(rig: Rig, name: str, *, since: int) -> list[str]:
    """What a node told of leases that ran out, after so many messages."""
    told = rig.listener.messages("event")[since:]
    return [
        message.payload.decode()
        for message in told
        if b'"lease-expired"' in message.payload and f'"node/{name}"'.encode() in message.payload
    ]


def test_a_flood_in_one_nodes_name_costs_no_other_its_lease(rig: Rig) -> None:
    others = [name for name in rig.hosts if name != "n01"]
    before = len(rig.listener.messages("event"))
    resident_bytes = rss_bytes(rig.controller.pid)
    with flood(rig, rig.topics.node("n01", "telemetry")) as sent:
        ends_s = time.monotonic() + FLOOD_S
        while time.monotonic() < ends_s:
            assert all(rig.leased(name) for name in others), rig.story()
            time.sleep(LEASE_S / 4)
        assert sent.value > FLOOD_S * RATE_PER_S / 4, "that was no flood"
    assert rss_bytes(rig.controller.pid) - resident_bytes < GROWTH_BYTES_MAX
    assert not [line for name in others for line in expired(rig, name, since=before)]
    alarms = [
        message
        for message in rig.listener.messages("event")[before:]
        if b'"rate-limited"' in message.payload and b'"node/n01"' in message.payload
    ]
    assert len(alarms) == 1
    rig.heal()


def test_a_flood_of_leases_and_emergencies_keeps_no_actuator_from_its_work(rig: Rig) -> None:
    host = rig.hosts["n01"]
    resident_bytes = rss_bytes(host.io_pid)
    with flood(rig, rig.topics.node("n01", "lease"), rig.topics.domain("row-1", "emergency")):
        time.sleep(FLOOD_S / 2)
        rig.ask("brake", domain="row-1")
        rig.wait_ceilings(lambda mhz: mhz == BRAKE_MHZ, "all brake, the flooded one too")
    assert rss_bytes(host.io_pid) - resident_bytes < GROWTH_BYTES_MAX
    rig.ask("release", domain="row-1")
