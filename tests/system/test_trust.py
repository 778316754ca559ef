"""A whole site with certificates and signatures: what it refuses, and how its keys are changed.

Real agents over the fake driver, a real controller, a real Mosquitto with TLS and the written
access list. Whoever attacks here has got onto the broker with the controller's own certificate, so
that nothing but the signature stands between them and the clocks.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from facility.compiler import compile_site
from facility.example import operator_config, operator_yaml, row_site
from facility.wire import Emergency, Event, Request, Response, encode
from tests.secured import SecuredMosquitto
from tests.signatures import STRANGER
from tests.system.processes import answer, children_of, monotonic_ns, wait_until
from tests.system.rig import CONTROL, NodeHost
from tests.system.secured_rig import CODEC, SecuredRig


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[SecuredRig]:
    directory = tmp_path_factory.mktemp("secured")
    site = compile_site(row_site(site="lab", nodes=3, control=CONTROL))
    with SecuredMosquitto(directory / "broker", site) as broker:
        rig = SecuredRig(directory, broker, library)
        with rig:
            yield rig.start()


@pytest.fixture
def site(secured: SecuredRig) -> SecuredRig:
    secured.heal()
    return secured


def refuses(site: SecuredRig, topic: str, payload: bytes, reason: str, event: str) -> None:
    """Publish something with the controller's certificate; n01 counts, tells and does nothing."""
    before, since_ns = site.refused(reason), monotonic_ns()
    site.attacker.say(topic, payload)
    wait_until(lambda: site.refused(reason) > before, f"n01 counts {reason}", but=site.story)
    wait_until(
        lambda: site.told(event, reason, since_ns=since_ns) or _told_lately(site, event, reason),
        f"n01 tells of {reason}",
        but=site.story,
    )
    assert min(site.hosts["n01"].ceilings_mhz) > site.safe_mhz
    assert site.safe_mhz not in site.hosts["n01"].written_mhz(since_ns=since_ns)


def _told_lately(site: SecuredRig, event: str, reason: str) -> bool:
    """Told within the ten seconds in which the same is not told again."""
    return bool(site.told(event, reason, since_ns=monotonic_ns() - 11 * 10**9))


def test_every_lease_and_emergency_on_the_wire_is_signed(site: SecuredRig) -> None:
    assert site.leased("n01")
    for message in site.listener.messages("lease"):
        assert json.loads(message.payload)["key"] == site.controller_signer.trusted.key


def test_a_forged_lease_moves_no_clock(site: SecuredRig) -> None:
    topic = site.topics.node("n01", "lease")
    lease = site.last_lease("n01")
    low = msgspec.structs.replace(
        lease,
        sequence=lease.sequence + 10_000,
        ceilings_mhz=dict.fromkeys(lease.ceilings_mhz, site.safe_mhz),
    )
    refuses(site, topic, encode(low), "unsigned", "lease-refused")
    refuses(site, topic, STRANGER.seal(topic, encode(low)), "unknown-key", "lease-refused")
    refuses(site, topic, site.operator.seal(topic, encode(low)), "wrong-role", "lease-refused")
    other = site.topics.node("n02", "lease")
    forged = site.controller_signer.seal(other, encode(low))
    refuses(site, topic, forged, "bad-signature", "lease-refused")


def test_a_lease_of_another_node_or_an_old_leader_or_a_second_time_is_refused(
    site: SecuredRig,
) -> None:
    """All of them soundly signed: the controller's key once said each of these."""
    topic, sign = site.topics.node("n01", "lease"), site.controller_signer
    foreign = site.listener.messages("lease", node="n02")[-1].payload
    refuses(site, topic, foreign, "wrong-node", "lease-refused")
    lease = site.last_lease("n01")
    old = msgspec.structs.replace(lease, epoch=lease.epoch - 1, sequence=10**9)
    refuses(site, topic, sign.seal(topic, encode(old)), "old-epoch", "lease-refused")
    recorded = site.listener.messages("lease", node="n01")[-2].payload
    refuses(site, topic, recorded, "replayed", "lease-refused")


def test_a_restarted_agent_still_refuses_the_past(site: SecuredRig) -> None:
    topic, host = site.topics.node("n01", "lease"), site.hosts["n01"]
    recorded = site.listener.messages("lease", node="n01")[-1].payload
    host.agent.kill()
    host.agent.start()
    wait_until(lambda: site.leased("n01"), "n01 holds a lease again", but=site.story)
    refuses(site, topic, recorded, "other-session", "lease-refused")
    lease = site.last_lease("n01")
    old = msgspec.structs.replace(lease, epoch=lease.epoch - 1, sequence=10**9)
    forged = site.controller_signer.seal(topic, encode(old))
    refuses(site, topic, forged, "old-epoch", "lease-refused")


def test_nobody_brakes_the_row_without_a_key(site: SecuredRig) -> None:
    topic = site.topics.domain("row-1", "emergency")
    brake = encode(
        Emergency(
            domain="row-1", active=("brake",), epoch=2**40, sequence=1, issued_at_s=time.time()
        )
    )
    refuses(site, topic, brake, "unsigned", "emergency-refused")
    refuses(site, topic, STRANGER.seal(topic, brake), "unknown-key", "emergency-refused")
    assert not site.api("/api/v1/decision")["contingencies"]
    assert site.metric("ampacity_messages_refused_unsigned_total") >= 1
    assert site.metric("ampacity_messages_refused_unknown_key_total") >= 1


def answers(site: SecuredRig, transaction: str) -> list[Response]:
    """What came back for a transaction."""
    found = site.listener.read(Response, "response")
    return [one for one in found if one.transaction == transaction]


def await_refusal(site: SecuredRig, transaction: str) -> None:
    """A request is answered with an error."""
    wait_until(lambda: answers(site, transaction), "the refusal", but=site.story)
    assert answers(site, transaction)[0].status == "error"


def reload(host: NodeHost) -> None:
    """Have an agent read its files again."""
    line = "event=reloaded needs_restart"
    before = host.agent.log.count(line)
    os.kill(host.agent.pid, signal.SIGHUP)
    wait_until(lambda: host.agent.log.count(line) > before, f"{host.name} has reloaded")


def key_of(site: SecuredRig, node: str) -> str:
    """Whose signature the last lease of a node has."""
    return str(json.loads(site.listener.messages("lease", node=node)[-1].payload)["key"])


def test_a_request_counts_once_and_only_with_an_operators_key(site: SecuredRig) -> None:
    topic = site.topics.request("cap")
    request = Request(
        verb="cap",
        transaction="cap-1",
        issued_at_s=time.time(),
        args={"domain": "row-1", "cap_w": 1_000.0},
        dry_run=True,
    )
    sealed = site.operator.seal(topic, encode(request))
    site.listener.say(topic, sealed)
    wait_until(lambda: len(answers(site, "cap-1")) == 1, "the answer", but=site.story)
    assert answers(site, "cap-1")[0].status == "ok"
    site.listener.say(topic, sealed)
    wait_until(lambda: len(answers(site, "cap-1")) == 2, "the refusal", but=site.story)
    assert "replayed" in answers(site, "cap-1")[1].error
    for number, payload in enumerate(
        (
            encode(msgspec.structs.replace(request, transaction="cap-2")),
            STRANGER.seal(topic, encode(msgspec.structs.replace(request, transaction="cap-3"))),
        ),
        2,
    ):
        site.listener.say(topic, payload)
        await_refusal(site, f"cap-{number}")


def operator_file(site: SecuredRig, *, key: bool = True) -> Path:
    """The operator's own file."""
    path = site.directory / f"operator-{key}.yaml"
    config = operator_config(
        site=site.site.name,
        signing_key_file=site.broker.signing_key["operator"] if key else None,
        broker=site.broker.broker("operators/operator"),
    )
    path.write_text(operator_yaml(config))
    return path


def test_the_operators_commands_sign_what_they_ask(site: SecuredRig) -> None:
    words = ("cap", "row-1", "1000", "--dry-run", "--json")
    asked = answer(*words, "--config", operator_file(site))
    assert (asked.code, json.loads(asked.out)["status"]) == (0, "ok")
    unsigned = answer(*words, "--config", operator_file(site, key=False))
    assert unsigned.code == 1
    assert "this controller wants signed requests" in unsigned.err
    key = site.broker.signing_key["operator"]
    asked = answer(*words, "--config", operator_file(site, key=False), "--key-file", key)
    assert asked.code == 0
    readable = site.directory / "readable.key"
    readable.write_bytes(Path(key).read_bytes())
    refused = answer(*words, "--config", operator_file(site), "--key-file", readable)
    assert refused.code == 78
    assert "others may read it" in refused.err


def test_an_operator_brakes_the_row_when_there_is_no_controller(site: SecuredRig) -> None:
    node = next(iter(site.site.nodes.values()))
    site.controller.kill()
    told = answer("brake", "row-1", "--direct", "--yes", "--config", operator_file(site))
    assert told.code == 0
    assert "nobody has told of it" not in told.out
    site.wait_ceilings(lambda mhz: mhz == node.model.gpu.brake_ceiling_mhz, "at the brake ceiling")
    site.controller.start()
    wait_until(
        lambda: site.domain("row-1").get("mode") == "brake", "the brake is known", but=site.story
    )
    released = answer("release", "row-1", "--config", operator_file(site))
    assert released.code == 0
    site.heal()


def test_a_direct_brake_needs_a_key_and_a_name_that_can_be_one(site: SecuredRig) -> None:
    for words, file, expected in (
        (("row-1",), operator_file(site, key=False), "needs a signing key"),
        (("row-1", "--dry-run"), operator_file(site), "has no --dry-run"),
        (("row/#",), operator_file(site), "is no topic level"),
    ):
        refused = answer("brake", *words, "--direct", "--yes", "--config", file)
        assert refused.code == 2
        assert expected in refused.err


def test_keys_are_changed_without_one_lease_that_ends(site: SecuredRig) -> None:
    folder, since_ns = site.broker.folder, monotonic_ns()
    old = site.controller_signer
    new_path = folder.add_signing_key("controller", "site")
    for host in site.hosts.values():
        reload(host)
    site.use_key(new_path)
    os.kill(site.controller.pid, signal.SIGHUP)
    new = site.controller_signer.trusted.key
    assert new != old.trusted.key
    wait_until(
        lambda: {key_of(site, name) for name in site.hosts} == {new},
        "leases under the new key",
        but=site.story,
    )
    folder.retire(old.trusted.key)
    for host in site.hosts.values():
        reload(host)
    wait_until(lambda: all(site.leased(name) for name in site.hosts), "all hold leases")
    heard = [one for one in site.listener.messages("event") if one.at_ns > since_ns]
    events = {CODEC.decode(one.payload, Event).event for one in heard}
    assert not events & {"lease-expired", "lease-refused"}
    for host in site.hosts.values():
        assert site.safe_mhz not in host.written_mhz(since_ns=since_ns)
    topic = site.topics.node("n01", "lease")
    stolen = old.seal(topic, encode(site.last_lease("n01")))
    refuses(site, topic, stolen, "unknown-key", "lease-refused")


def test_an_agent_whose_certificate_has_expired_says_so_and_stays_safe(site: SecuredRig) -> None:
    host = site.hosts["n03"]
    site.rewrite_agent("n03", broker=site.broker.ending("n03", days=-1), metrics_port=None)
    host.agent.kill()
    host.agent.start()
    wait_until(lambda: "TLS alert: certificate expired" in host.agent.log, "said", but=site.story)
    assert "event=broker-refused" in host.agent.log
    site.wait_safe("n03")
    host.agent.kill()
    site.rewrite_agent("n03")
    site.heal()


def test_a_trust_file_that_cannot_be_used_means_nobody_and_the_safe_ceiling(
    site: SecuredRig,
) -> None:
    host, since_ns = site.hosts["n02"], monotonic_ns()
    broken = site.directory / "broken.json"
    broken.write_text("{}")
    site.rewrite_agent("n02", trust_file=str(broken))
    host.agent.kill()
    host.agent.start()
    wait_until(lambda: site.told("trust-nobody", "", since_ns=since_ns), "said", but=site.story)
    site.wait_safe("n02")
    host.agent.kill()
    site.rewrite_agent("n02")
    site.heal()


def test_no_secret_is_in_a_log_a_message_or_an_argument(site: SecuredRig) -> None:
    found = set()
    for path in site.broker.keys.rglob("*.key"):
        text = path.read_text()
        if text.startswith("{"):
            found.add(json.loads(text)["seed"])
        else:
            found.update(line for line in text.splitlines() if not line.startswith("-"))
    shown = [message.payload.decode() for message in site.listener.messages()]
    for process in site.processes:
        shown.append(process.log)
        for pid in (process.pid, *children_of(process.pid)):
            shown.append(Path(f"/proc/{pid}/cmdline").read_text())
            shown.append(Path(f"/proc/{pid}/environ").read_text())
    assert len(found) > 10
    for secret in found:
        assert not [text for text in shown if secret in text]
