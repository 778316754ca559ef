"""What one certificate may do, and may not, over a real Mosquitto, TLS and the written list."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon.bus import Bus, BusUnavailable, SecretsError
from daemon.keys import authority
from facility.config import BrokerConfig
from facility.topics import COMMAND, STATE, Topics
from tests.buses import QUICK, Heard, listening
from tests.row import site_of
from tests.secured import SecuredMosquitto, now
from tests.servers import until

SITE = site_of()
TOPICS = Topics(SITE.name)
EVERYTHING = f"{TOPICS.prefix}/#"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SecuredMosquitto]:
    with SecuredMosquitto(tmp_path / "broker", SITE) as server:
        yield server


@contextlib.asynccontextmanager
async def overheard(server: SecuredMosquitto) -> AsyncIterator[Heard]:
    """What really comes through: an operator may hear everything."""
    async with listening(server.broker("operators/operator"), EVERYTHING) as heard:
        yield heard


async def published(server: SecuredMosquitto, who: BrokerConfig, topic: str) -> bool:
    """Whether the broker passes a message on; a marker behind it tells that it would have come."""
    async with overheard(server) as heard, listening(who, identifier="speaker") as speaker:
        speaker.bus.publish(topic, b"said", COMMAND)
        mark = TOPICS.response("mark")
        async with listening(server.broker("controllers/controller"), identifier="mark") as marker:
            await speaker.bus.stop()  # whatever it said is with the broker now
            marker.bus.publish(mark, b"mark", COMMAND)
            await until(lambda: b"mark" in heard.payloads, "the marker")
        return b"said" in heard.payloads


async def reads(server: SecuredMosquitto, who: BrokerConfig, topic: str, listen_to: str) -> bool:
    """Whether somebody hears what a controller has published and publishes under `topic`."""
    controller = server.broker("controllers/controller")
    own = TOPICS.node("n01", "lease")
    async with listening(controller, identifier="boss") as boss:
        boss.bus.publish(topic, b"retained", STATE)
        await until(lambda: not boss.bus.unconfirmed_count, "taken")
        async with listening(who, *{listen_to, own}, identifier="reader") as reader:
            boss.bus.publish(topic, b"live", STATE)
            boss.bus.publish(own, b"mark", STATE)
            await until(lambda: b"mark" in reader.payloads, "what this account may hear")
            return bool({b"retained", b"live"} & set(reader.payloads))


@pytest.mark.parametrize("what", ["status", "info", "telemetry", "applied"])
async def test_a_node_speaks_for_itself_and_for_nobody_else(
    server: SecuredMosquitto, what: str
) -> None:
    node = server.broker("nodes/n01")
    assert await published(server, node, TOPICS.node("n01", what))
    assert not await published(server, node, TOPICS.node("n02", what))


@pytest.mark.parametrize(
    "topic",
    [
        TOPICS.node("n01", "lease"),
        TOPICS.node("n02", "lease"),
        TOPICS.domain("row-1", "emergency"),
        TOPICS.domain("row-1", "state"),
        TOPICS.request("brake"),
        TOPICS.response("brake"),
        TOPICS.controller_status("controller"),
        TOPICS.service_routing("chat"),
        "ampacity/v1/other/node/n01/status",
        f"{TOPICS.prefix}/anything",
    ],
)
async def test_a_node_commands_nobody(server: SecuredMosquitto, topic: str) -> None:
    """Not itself, no other node, not the row: no lease, no brake, no request."""
    assert not await published(server, server.broker("nodes/n01"), topic)


@pytest.mark.parametrize("listen_to", [TOPICS.node("n02", "lease"), TOPICS.node("+", "lease")])
async def test_a_node_cannot_read_the_lease_of_another(
    server: SecuredMosquitto, listen_to: str
) -> None:
    topic = TOPICS.node("n02", "lease")
    assert not await reads(server, server.broker("nodes/n01"), topic, listen_to)


async def test_a_node_hears_the_emergencies_of_its_own_domains_only(
    server: SecuredMosquitto,
) -> None:
    node = server.broker("nodes/n01")
    foreign = next(name for name, one in SITE.domains.items() if "n01" not in one.nodes)
    for domain, well in ((SITE.nodes["n01"].ancestors[0], True), (foreign, False)):
        topic = TOPICS.domain(domain, "emergency")
        assert await reads(server, node, topic, topic) is well


@pytest.mark.parametrize(
    "topic",
    [TOPICS.domain("row-1", "state"), TOPICS.service_routing("chat"), TOPICS.response("brake")],
)
async def test_a_node_hears_nothing_else(server: SecuredMosquitto, topic: str) -> None:
    assert not await reads(server, server.broker("nodes/n01"), topic, topic)


@pytest.mark.parametrize(
    ("topic", "well"),
    [
        (TOPICS.request("brake"), True),
        (TOPICS.domain("row-1", "emergency"), True),
        (TOPICS.node("n01", "lease"), False),
        (TOPICS.node("n01", "telemetry"), False),
        (TOPICS.controller_status("controller"), False),
        (TOPICS.event, False),
    ],
)
async def test_an_operator_asks_and_declares_and_grants_nothing(
    server: SecuredMosquitto, topic: str, well: bool
) -> None:
    assert await published(server, server.broker("operators/operator"), topic) is well


@pytest.mark.parametrize(
    ("topic", "well"),
    [
        (TOPICS.node("n01", "lease"), True),
        (TOPICS.domain("row-1", "emergency"), True),
        (TOPICS.domain("row-1", "state"), True),
        (TOPICS.service_routing("chat"), True),
        (TOPICS.response("brake"), True),
        (TOPICS.event, True),
        (TOPICS.node("n01", "telemetry"), False),
        (TOPICS.request("brake"), False),
    ],
)
async def test_a_controller_commands_and_speaks_for_no_node(
    server: SecuredMosquitto, topic: str, well: bool
) -> None:
    assert await published(server, server.broker("controllers/controller"), topic) is well


# --- who does not get in at all ------------------------------------------------------------------


async def refusal(who: BrokerConfig) -> Bus:
    """A bus that the broker has refused."""
    bus = Bus(who, identifier="outsider", limits=QUICK)
    async with bus:
        with pytest.raises(BusUnavailable):
            await bus.wait_connected(timeout_s=4.0, attempts_max=1)
        assert bus.state == "refused"
        return bus


async def test_an_expired_certificate_is_refused_said_and_counted(
    server: SecuredMosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    bus = await refusal(server.ending("n01", days=-1))
    assert bus.counters.failed_attempts >= 1
    assert "event=broker-refused" in caplog.text
    assert "TLS alert: certificate expired" in caplog.text
    async with listening(server.ending("n01", days=1), identifier="n01"):
        pass  # the same authority, the same name: only the date was wrong


async def test_somebody_without_a_certificate_is_refused(
    server: SecuredMosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    await refusal(server.with_files(None, None))
    assert "certificate required" in caplog.text


async def test_a_certificate_of_another_authority_is_refused(
    server: SecuredMosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    other = authority.make_authority(SITE.name, now=now())
    forged = authority.make_client(other, "controller.controller", now=now(), days=1)
    await refusal(server.keep("forged", forged))
    assert "TLS alert: unknown ca" in caplog.text


async def test_a_node_cannot_pose_as_the_broker(server: SecuredMosquitto, tmp_path: Path) -> None:
    """Its certificate is one for clients."""
    poser = SecuredMosquitto(tmp_path / "poser", SITE)
    for suffix in ("pem", "key"):
        stolen = (server.keys / f"nodes/n02.{suffix}").read_bytes()
        (poser.keys / f"broker.{suffix}").write_bytes(stolen)
    with poser:
        bus = Bus(
            BrokerConfig(
                host="127.0.0.1",
                port=poser.port,
                ca_file=str(server.keys / "ca.pem"),
            ),
            identifier="victim",
            limits=QUICK,
        )
        async with bus:
            with pytest.raises(BusUnavailable, match="certificate verify failed"):
                await bus.wait_connected(timeout_s=4.0, attempts_max=1)


async def test_a_private_key_that_everybody_may_read_is_not_used(
    server: SecuredMosquitto,
) -> None:
    key = server.keys / "nodes/n01.key"
    for mode, well in ((0o640, True), (0o644, False)):
        key.chmod(mode)
        bus = Bus(server.broker("nodes/n01"), identifier="n01", limits=QUICK)
        if well:
            async with bus:
                await bus.wait_connected(timeout_s=10.0)
            continue
        with pytest.raises(SecretsError, match=r"broker\.key_file .* mode 0644: everybody"):
            await bus.start()
