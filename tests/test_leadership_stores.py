"""Leadership through real clusters of three nodes: one voice at a time, whatever dies or hangs."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
import pytest
from msgspec.structs import replace

from controllers.leadership import MARGIN_RATIO, RENEW_RATIO
from controllers.operator import OrdersState
from daemon.leadership import Campaign, open_store
from facility.config import LeadershipConfig
from facility.ports import Kept, LockRefused, LockStoreLost
from tests.clusters import Cluster
from tests.leader_child import make_campaign
from tests.servers import until
from tests.system.processes import Process

pytestmark = pytest.mark.integration

TTL_S: Final = 1.0
BUSY_S: Final = 1.5
"""What a machine that does much else may add."""
ELECTION_S: Final = 30.0
TRIES_MAX: Final = 10


@pytest.fixture(scope="module", params=["nats", "etcd"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp(request.param), request.param) as running:
        yield running


only_etcd = pytest.mark.parametrize("cluster", ["etcd"], indirect=True)
"""For what is the same with either store, and takes long."""

_numbers = count()


@pytest.fixture
def config(cluster: Cluster) -> LeadershipConfig:
    """A bucket of its own for every test."""
    return cluster.config(bucket=f"test-{next(_numbers)}", ttl_s=TTL_S)


@asynccontextmanager
async def standing(config: LeadershipConfig, name: str, path: Path) -> AsyncIterator[Campaign]:
    campaign = make_campaign(config, name, path / name)
    campaign.start()
    try:
        yield campaign
    finally:
        await campaign.stop()


@asynccontextmanager
async def leading(config: LeadershipConfig, name: str, path: Path) -> AsyncIterator[Campaign]:
    async with standing(config, name, path) as campaign:
        await until(campaign.may_speak, f"{name} leads", timeout_s=ELECTION_S)
        yield campaign


def child(config: LeadershipConfig, path: Path) -> Process:
    text = msgspec.json.encode(config).decode()
    command = [sys.executable, "-m", "tests.leader_child", text, str(path / "child")]
    return Process("child", command, path, None)


def words(process: Process) -> list[tuple[bool, int, float]]:
    """What a child has printed: speaks, epoch, when."""
    lines = [line.split() for line in process.out_path.read_text().splitlines()]
    return [(flag == "1", int(epoch), float(at_s)) for flag, epoch, at_s in lines]


async def test_only_the_revision_that_was_named_is_replaced(config: LeadershipConfig) -> None:
    store = open_store(replace(config, ttl_s=10.0), "lab")
    try:
        for _ in range(TRIES_MAX):  # a server that has just come up may not know whom to ask
            with suppress(LockStoreLost):
                await store.read()
                break
        assert await store.read() == Kept(b"", 0)
        first = await store.write(b"one", revision=0)
        assert await store.read() == Kept(b"one", first)
        with pytest.raises(LockRefused):
            await store.write(b"two", revision=0)
        second = await store.write(b"two", revision=first)
        assert second > first
        with pytest.raises(LockRefused):
            await store.write(b"three", revision=first)
        assert await store.read() == Kept(b"two", second)
    finally:
        await store.close()


async def test_a_killed_leader_is_followed_in_time_and_above_its_epoch(
    config: LeadershipConfig, tmp_path: Path
) -> None:
    with child(config, tmp_path) as leader:
        await until(lambda: words(leader), "the child leads", timeout_s=ELECTION_S)
        async with standing(config, "b", tmp_path) as standby:
            await until(lambda: standby.record is not None, "the standby has looked")
            await asyncio.sleep(TTL_S)
            assert not standby.may_speak()
            leader.kill()
            killed_s = time.monotonic()
            await until(standby.may_speak, "the standby leads")
            took_s = time.monotonic() - killed_s
            bound_s = (1.0 + RENEW_RATIO) * TTL_S
            assert (1.0 - RENEW_RATIO) * TTL_S - 0.1 < took_s < bound_s + BUSY_S
            assert standby.epoch > words(leader)[-1][1]


async def test_a_stopped_leader_says_nothing_after_it_goes_on(
    config: LeadershipConfig, tmp_path: Path
) -> None:
    with child(config, tmp_path) as leader:
        await until(lambda: words(leader), "the child leads", timeout_s=ELECTION_S)
        async with standing(config, "b", tmp_path) as standby:
            await until(lambda: standby.record is not None, "the standby has looked")
            leader.signal(signal.SIGSTOP)
            await until(standby.may_speak, "the standby leads")
            leader.signal(signal.SIGCONT)
            await until(lambda: not words(leader)[-1][0], "the child is silent")
            await asyncio.sleep(TTL_S)
            assert standby.may_speak()
            assert [speaks for speaks, _, _ in words(leader)] == [True, False]


async def test_without_a_majority_the_leader_is_silent_in_time_and_goes_on_after_it(
    cluster: Cluster, config: LeadershipConfig, tmp_path: Path
) -> None:
    async with leading(config, "a", tmp_path) as leader:
        epoch = leader.epoch
        lost_s = time.monotonic()
        for node in cluster.nodes[:2]:
            node.kill()
        await until(lambda: not leader.may_speak(), "the leader is silent")
        assert time.monotonic() - lost_s <= (1.0 - MARGIN_RATIO) * TTL_S + 0.1
        await until(lambda: leader.trouble, "it says why")
        for node in cluster.nodes[:2]:
            node.start()
        await until(leader.may_speak, "the leader goes on", timeout_s=ELECTION_S)
        assert leader.epoch == epoch
        await until(lambda: not leader.trouble, "nothing is wrong any more")


@only_etcd
async def test_a_hanging_node_does_not_end_a_leadership_for_good(
    cluster: Cluster, config: LeadershipConfig, tmp_path: Path
) -> None:
    """Whichever node it talks to, and whichever leads the store."""
    async with leading(config, "a", tmp_path) as leader:
        epoch = leader.epoch
        for node in cluster.nodes:
            node.pause()
            try:
                await asyncio.sleep(TTL_S)
                await until(leader.may_speak, "it leads on two nodes", timeout_s=ELECTION_S)
            finally:
                node.resume()
            await until(leader.may_speak, "it leads", timeout_s=ELECTION_S)
        assert leader.epoch == epoch


async def test_standing_orders_are_handed_over(config: LeadershipConfig, tmp_path: Path) -> None:
    orders = OrdersState(caps_w={"row-1": 9_000.0})
    async with leading(config, "a", tmp_path) as leader:
        standby = make_campaign(config, "b", tmp_path / "b")
        standby.start()
        try:
            leader.keep_orders(orders)
            await until(
                lambda: standby.record is not None and standby.record.orders == orders,
                "the standby knows the orders",
            )
            await leader.stop()
            await until(standby.may_speak, "the standby leads")
            assert standby.record is not None
            assert standby.record.orders == orders
        finally:
            await standby.stop()


@only_etcd
async def test_a_leader_that_nobody_can_hear_leaves_its_place_to_one_that_is_heard(
    config: LeadershipConfig, tmp_path: Path
) -> None:
    heard = [True]
    deaf = make_campaign(config, "a", tmp_path / "a", able=lambda: heard[0])
    deaf.start()
    try:
        await until(deaf.may_speak, "it leads", timeout_s=ELECTION_S)
        async with standing(config, "b", tmp_path) as standby:
            heard[0] = False
            await until(standby.may_speak, "the other leads")
            assert not deaf.may_speak()
            await asyncio.sleep(0.5 * TTL_S)
            assert standby.may_speak()
    finally:
        await deaf.stop()


async def test_a_store_that_lost_everything_leads_to_a_higher_epoch(
    cluster: Cluster, config: LeadershipConfig, tmp_path: Path
) -> None:
    async with leading(config, "a", tmp_path) as leader:
        epoch = leader.epoch
        cluster.wipe()
        await until(lambda: leader.epoch > epoch, "it leads above", timeout_s=ELECTION_S)
        assert leader.may_speak()


async def test_a_server_that_is_not_there_is_named() -> None:
    for kind, url in (("nats", "nats://127.0.0.1:1"), ("etcd", "http://127.0.0.1:1")):
        config = msgspec.convert({"kind": kind, "servers": [url]}, LeadershipConfig)
        store = open_store(config, "lab")
        with pytest.raises(LockStoreLost, match=url):
            await store.read()
        await store.close()
