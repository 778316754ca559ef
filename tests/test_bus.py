"""The bus over real brokers, Mosquitto and NATS: what arrives, what is refused, how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from daemon.bus import Bus, BusLimits, BusUnavailable, SecretsError
from facility.config import BrokerConfig
from facility.topics import COMMAND, SAMPLE, STATE
from facility.wire import MESSAGE_BYTES_MAX
from tests.buses import (
    QUICK,
    STATUS,
    BrokerKind,
    account,
    at,
    both_brokers,
    broker,
    keeping,
    listening,
    make_certificate,
    speaking,
)
from tests.servers import HOST, Mosquitto, Nats, Server, find_program, take_free_port, until

__all__ = ["broker"]  # a fixture is found by its name

# --- delivery -------------------------------------------------------------------------------------


async def test_retained_state_reaches_a_late_subscriber_and_is_marked(broker: Server) -> None:
    config = at(broker)
    async with speaking(config) as bus:
        bus.publish("lease/n1", b"first", STATE)
        bus.publish("lease/n1", b"granted", STATE)
        assert await bus.flush(timeout_s=5)
        async with listening(config, "lease/+") as late:
            await until(lambda: late.messages, "the lease")
            assert late.messages == [("lease/n1", b"granted", True)]
            bus.publish("lease/n1", b"renewed", STATE)
            await until(lambda: len(late.messages) == 2, "the renewal")
            assert late.messages[1] == ("lease/n1", b"renewed", False)


async def test_a_command_is_not_kept_for_a_late_subscriber(broker: Server) -> None:
    config = at(broker)
    async with speaking(config) as bus:
        bus.publish("x/command", b"once", COMMAND)
        bus.publish("x/marker", b"kept", STATE)
        assert await bus.flush(timeout_s=5)
        async with listening(config, "x/#") as late:
            await until(lambda: late.messages, "the marker")
            assert late.payloads == [b"kept"]


@pytest.mark.parametrize("payload", [b"\xff\xfe\x00{", b"{" * 5_000, b"null", bytes(range(256))])
async def test_garbage_passes_as_the_bytes_that_it_is(broker: Server, payload: bytes) -> None:
    config = at(broker)
    async with listening(config, "g/+") as heard, speaking(config) as bus:
        bus.publish("g/1", payload, SAMPLE)
        await until(lambda: heard.messages, "the garbage")
        assert heard.messages == [("g/1", payload, False)]


async def test_a_handler_that_fails_is_counted_and_the_connection_lives(broker: Server) -> None:
    config = at(broker)

    def fail(_topic: str, _payload: bytes, _retained: bool) -> None:
        raise ZeroDivisionError

    async with listening(config, "h/good") as heard:
        heard.bus.subscribe("h/bad", fail)
        heard.bus.publish("h/bad", b"x", SAMPLE)
        heard.bus.publish("h/good", b"y", SAMPLE)
        await until(lambda: heard.payloads == [b"y"], "the good one")
        heard.bus.publish("h/bad", b"x", SAMPLE)
        await until(lambda: heard.bus.counters.handler_errors >= 1, "the error to be counted")
        assert heard.bus.counters.disconnects == 0


async def test_a_message_above_the_limit_is_counted_and_not_handed_over(broker: Server) -> None:
    config = at(broker)
    program = f"""
import asyncio, aiomqtt
async def main():
    async with aiomqtt.Client("{HOST}", {broker.port}) as client:
        await client.publish("big/1", b"x" * {MESSAGE_BYTES_MAX + 1}, qos=1)
        await client.publish("big/1", b"small", qos=1)
asyncio.run(main())
"""
    async with listening(config, "big/+") as heard:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
        assert await process.wait() == 0
        await until(lambda: heard.messages, "the small one")
        assert heard.payloads == [b"small"]
        assert heard.bus.counters.oversized == 1


async def test_a_later_handler_of_the_same_filter_gets_retained_state_too(broker: Server) -> None:
    config = at(broker)
    async with listening(config, "d/row/emergency") as heard:
        heard.bus.publish("d/row/emergency", b"on", STATE)
        await until(lambda: heard.messages, "the first handler's")
        late: list[bytes] = []
        heard.bus.subscribe("d/row/emergency", keeping(late))
        await until(lambda: late == [b"on"], "the second handler's")


# --- last words -----------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from daemon.bus import Bus, LastWords
from facility.config import BrokerConfig
from facility.topics import STATE
async def main():
    words = LastWords(sys.argv[2], lost=b"lost", disconnected=b"disconnected")
    config = BrokerConfig(port=int(sys.argv[1]))
    async with Bus(config, identifier="child", last_words=words) as bus:
        bus.publish(sys.argv[2], b"ready", STATE)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_the_broker_says_lost_when_a_process_is_killed(broker: Server) -> None:
    config = at(broker)
    async with listening(config, STATUS) as heard:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, str(broker.port), STATUS
        )
        try:
            await until(lambda: heard.payloads == [b"ready"], "the child to be ready", timeout_s=10)
        finally:
            child.send_signal(signal.SIGKILL)
            await child.wait()
        await until(lambda: heard.payloads[-1] == b"lost", "the will")
    async with listening(config, STATUS, identifier="late") as late:
        await until(lambda: late.messages, "the retained will")
        assert late.messages == [(STATUS, b"lost", True)]


@pytest.mark.parametrize(("clean", "said"), [(True, b"disconnected"), (False, b"lost")])
async def test_a_stop_says_what_it_is(broker: Server, clean: bool, said: bytes) -> None:
    config = at(broker)
    async with listening(config, STATUS) as heard:
        async with speaking(config) as bus:
            bus.publish(STATUS, b"ready", STATE)
            await until(lambda: heard.payloads == [b"ready"], "the birth")
            await bus.stop(clean=clean)
        await until(lambda: heard.payloads[-1:] == [said], "the last words")
        heard.bus.publish("marker", b"", SAMPLE)
        assert await heard.bus.flush(timeout_s=5)
        assert heard.payloads == [b"ready", said], "the will must not follow a clean stop"
        assert not bus.publish(STATUS, b"ready", STATE), "a stopped bus takes nothing"


# --- refusals -------------------------------------------------------------------------------------


async def test_a_broker_that_is_not_there_is_named_with_the_reason() -> None:
    port = take_free_port()
    async with Bus(BrokerConfig(port=port), identifier="once", limits=QUICK) as bus:
        with pytest.raises(BusUnavailable) as caught:
            await bus.wait_connected(timeout_s=30, attempts_max=1)
    assert caught.value.exit_code == 69
    assert f"{HOST}:{port}" in str(caught.value)
    assert "Connection refused" in str(caught.value)


async def test_a_broker_that_never_answers_is_given_up_at_the_deadline(broker: Server) -> None:
    broker.pause()
    async with Bus(at(broker), identifier="once", limits=QUICK) as bus:
        with pytest.raises(BusUnavailable, match="no answer"):
            await bus.wait_connected(timeout_s=0.2)


def locked(kind: BrokerKind, directory: Path) -> Server:
    """A broker with one account that may not subscribe under `secret/`."""
    if kind is Nats:
        user = {
            "user": "agent",
            "password": "right",
            "permissions": {"subscribe": {"deny": "secret.>"}},
        }
        return Nats(directory, extra={"authorization": {"users": [user]}})
    password = directory / "passwords"
    subprocess.run(
        [find_program("mosquitto_passwd", "mosquitto"), "-c", "-b", password, "agent", "right"],
        check=True,
    )
    return Mosquitto(directory, extra=f"allow_anonymous false\npassword_file {password}")


@both_brokers
async def test_a_password_comes_from_a_file_and_a_wrong_one_is_refused_in_words(
    kind: BrokerKind, tmp_path: Path
) -> None:
    with locked(kind, tmp_path) as server:
        async with speaking(account(server, tmp_path, "right")):
            pass
        config = account(server, tmp_path, "wrong")
        async with Bus(config, identifier="agent", limits=QUICK) as bus:
            with pytest.raises(BusUnavailable, match="refuses us: Not authorized"):
                await bus.wait_connected(timeout_s=10, attempts_max=1)
            assert bus.state == "refused"


DYNAMIC_SECURITY = {
    "defaultACLAccess": {
        "publishClientSend": True,
        "publishClientReceive": True,
        "subscribe": True,
        "unsubscribe": True,
    },
    "groups": [{"groupname": "all", "roles": [{"rolename": "agent"}]}],
    "anonymousGroup": "all",
    "roles": [
        {
            "rolename": "agent",
            "acls": [{"acltype": "subscribePattern", "topic": "secret/#", "allow": False}],
        }
    ],
}


def guarded(kind: BrokerKind, directory: Path) -> tuple[Server, BrokerConfig]:
    """A broker that denies subscriptions under `secret/`, and how to log in.

    Mosquitto 2.0 grants every subscription when it has only an `acl_file`, and filters in silence;
    its dynamic security plug-in says no.
    """
    if kind is Nats:
        server = locked(kind, directory)
        return server, account(server, directory, "right")
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    rules = directory / "rules.json"
    rules.write_text(json.dumps(DYNAMIC_SECURITY))
    server = Mosquitto(directory, extra=f"plugin {plugin}\nplugin_opt_config_file {rules}")
    return server, at(server)


@both_brokers
async def test_a_refused_subscription_is_loud_once_counted_and_asked_for_again(
    kind: BrokerKind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, config = guarded(kind, tmp_path)
    limits = BusLimits(backoff_s_min=0.02, backoff_s_max=0.1, resubscribe_s=0.05)
    with server:
        heard: list[bytes] = []
        bus = Bus(config, identifier="agent", limits=limits)
        bus.subscribe("secret/1", keeping(heard))
        bus.subscribe("open/1", keeping(heard))
        async with bus:
            await bus.wait_connected(timeout_s=10)
            assert list(bus.refusals) == ["secret/1"]
            assert "refuses secret/1" in bus.detail
            await until(lambda: bus.counters.refused >= 3, "to be asked again")
            bus.publish("secret/1", b"hidden", SAMPLE)
            bus.publish("open/1", b"seen", SAMPLE)
            await until(lambda: heard, "what was granted")
            assert heard == [b"seen"]
            assert bus.counters.disconnects == 0
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "event=subscription-refused client=agent topic=secret/1" in errors[0].getMessage()


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"username": "a", "password_file": "/nowhere/password"}, "/nowhere/password"),
        ({"password_file": "/dev/null"}, "username"),
        ({"ca_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"ca_file": "/dev/null"}, "/dev/null"),
        ({"certificate_file": "/nowhere/cert.pem"}, "ca_file"),
    ],
)
async def test_a_secret_that_cannot_be_read_is_named_before_anything_starts(
    keys: dict[str, str], named: str
) -> None:
    config = msgspec.convert(keys, BrokerConfig)
    bus = Bus(config, identifier="agent")
    with pytest.raises(SecretsError, match=named) as caught:
        await bus.start()
    assert caught.value.exit_code == 78


# --- TLS and MQTT 5 (Mosquitto only) --------------------------------------------------------------


async def test_tls_trusts_the_named_authority_and_no_other(tmp_path: Path) -> None:
    for name in ("server", "other"):
        (tmp_path / name).mkdir()
        make_certificate(tmp_path / name)
    files = tmp_path / "server"
    extra = f"certfile {files}/ca.pem\nkeyfile {files}/key.pem"
    with Mosquitto(tmp_path, extra=extra) as server:
        async with speaking(at(server, ca_file=f"{files}/ca.pem")) as bus:
            bus.publish("s/1", b"x", STATE)
            assert await bus.flush(timeout_s=5)
        stranger = at(server, ca_file=str(tmp_path / "other" / "ca.pem"))
        async with Bus(stranger, identifier="agent", limits=QUICK) as bus:
            with pytest.raises(BusUnavailable, match="certificate"):
                await bus.wait_connected(timeout_s=10, attempts_max=1)


async def test_with_mqtt_5_the_broker_forgets_a_lease_that_has_expired(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as server:
        config = at(server, protocol="5")
        async with speaking(config) as bus:
            bus.publish("lease/short", b"1", STATE, 1.0)
            bus.publish("lease/long", b"2", STATE, 60.0)
            assert await bus.flush(timeout_s=5)
            deadline_s = time.monotonic() + 10.0
            seen: set[bytes] = {b"1", b"2"}
            while seen != {b"2"}:
                assert time.monotonic() < deadline_s, f"still there: {seen}"
                async with listening(config, "lease/+") as heard:
                    await until(lambda: b"2" in heard.payloads, "the long lease")
                    heard.bus.publish("lease/marker", b"", SAMPLE)
                    await until(lambda: b"" in heard.payloads, "the marker")
                    seen = set(heard.payloads) - {b""}
            assert bus.connected


async def test_a_broker_without_mqtt_5_refuses_it_in_words(tmp_path: Path) -> None:
    with Nats(tmp_path) as server:
        async with Bus(at(server, protocol="5"), identifier="agent", limits=QUICK) as bus:
            with pytest.raises(BusUnavailable, match=f"{HOST}:{server.port} "):
                await bus.wait_connected(timeout_s=10, attempts_max=1)
