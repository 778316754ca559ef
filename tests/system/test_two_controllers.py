"""Two controllers of one site over etcd: one voice, handed over before any lease ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controllers.leadership import takeover
from facility.wire import Response
from tests.clusters import Cluster
from tests.servers import Mosquitto
from tests.system.pair import CONTROL, TTL_S, Pair
from tests.system.processes import monotonic_ns, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("etcd"), "etcd") as running:
        yield running


@pytest.fixture(scope="module")
def shared_pair(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    with (
        Mosquitto(directory / "broker") as broker,
        Pair(directory, broker, library, cluster) as pair,
    ):
        pair.start()
        yield pair


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    shared_pair.heal()
    return shared_pair


def check_no_lease_ended(pair: Pair, since_ns: int) -> None:
    """No agent went to its safe ceiling, as the hardware tells."""
    for host in pair.hosts.values():
        assert pair.safe_mhz not in host.written_mhz(since_ns=since_ns), host.name


def test_one_speaks_and_the_other_is_silent(pair: Pair) -> None:
    begun_ns = monotonic_ns()
    before = len(pair.listener.read(Response, "drain"))
    pair.ask("drain", node="n01")
    wait_until(lambda: len(pair.listener.read(Response, "drain")) > before, "an answer")
    time.sleep(1.0)
    assert len(pair.listener.read(Response, "drain")) == before + 1
    assert {lease.epoch for lease in pair.leases(since_ns=begun_ns)} == {
        pair.status(pair.leader).epoch  # type: ignore[union-attr]
    }


def test_a_killed_leader_is_followed_before_any_lease_ends_and_its_orders_stand(
    pair: Pair,
) -> None:
    assert takeover(CONTROL, TTL_S).in_time
    cap_w = round(0.95 * pair.site.domains["rack-01"].capacity_w)
    pair.ask("cap", domain="rack-01", cap_w=cap_w)
    wait_until(lambda: pair.domain("rack-01").get("capacity_w") == cap_w, "the cap holds")
    dead, heir = pair.leader, pair.standby
    old = pair.status(dead)
    killed_ns = pair.controllers[dead].kill()
    wait_until(lambda: pair.leader == heir, "the standby leads", but=pair.story)
    wait_until(lambda: all(map(pair.leased, pair.hosts)), "leases are held", but=pair.story)
    time.sleep(CONTROL.lease_s)
    check_no_lease_ended(pair, killed_ns)
    new = pair.status(heir)
    assert old is not None
    assert new is not None
    assert new.epoch > old.epoch
    assert pair.domain("rack-01")["capacity_w"] == cap_w


def test_a_stopped_leader_that_goes_on_says_nothing_that_an_agent_accepts(pair: Pair) -> None:
    hung, heir = pair.leader, pair.standby
    stopped_ns = monotonic_ns()
    pair.controllers[hung].signal(signal.SIGSTOP)
    wait_until(
        lambda: (heard := pair.status(heir)) is not None and heard.leader,
        "the standby leads",
        but=pair.story,
    )
    epoch = pair.status(heir).epoch  # type: ignore[union-attr]
    wait_until(
        lambda: (
            {lease.node for lease in pair.leases(since_ns=stopped_ns) if lease.epoch == epoch}
            == set(pair.hosts)
        ),
        "every node has a lease of the new leader",
    )
    pair.controllers[hung].signal(signal.SIGCONT)
    go_ns = monotonic_ns()
    wait_until(lambda: pair.leader == heir, "the old leader stands by", but=pair.story)
    time.sleep(CONTROL.lease_s)
    assert {lease.epoch for lease in pair.leases(since_ns=go_ns)} == {epoch}
    check_no_lease_ended(pair, stopped_ns)


def test_without_the_store_the_leader_is_silent_and_nodes_are_safe(
    pair: Pair, cluster: Cluster
) -> None:
    epoch = pair.status(pair.leader).epoch  # type: ignore[union-attr]
    for node in cluster.nodes:
        node.kill()
    lost_ns = monotonic_ns()
    pair.wait_safe()
    last_ns = max(one.at_ns for one in pair.listener.messages("lease"))
    assert (last_ns - lost_ns) / 1e9 <= TTL_S
    assert not pair.leader
    for node in cluster.nodes:
        node.start()
    pair.heal()
    assert pair.status(pair.leader).epoch >= epoch  # type: ignore[union-attr]


def test_a_leader_that_is_told_to_stop_hands_over_at_once(pair: Pair) -> None:
    old, heir = pair.leader, pair.standby
    begun_ns = monotonic_ns()
    assert pair.controllers[old].terminate() == 0
    wait_until(lambda: pair.leader == heir, "the standby leads", but=pair.story)
    assert (monotonic_ns() - begun_ns) / 1e9 < CONTROL.lease_s
    time.sleep(CONTROL.lease_s)
    check_no_lease_ended(pair, begun_ns)
