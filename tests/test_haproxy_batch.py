"""Batch limits at a real HAProxy: fewer requests at once, the rest waits, and all of it ends."""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actuators.haproxy import HaproxyRouter
from facility.config import HaproxyConfig
from facility.wire import EndpointRoute, Routing
from tests.conftest import FreePort
from tests.haproxy_server import Haproxy, command, running_haproxy, wiretap

LIMIT = 6


@pytest.fixture
def haproxy(tmp_path: Path, free_port: FreePort) -> Iterator[Haproxy]:
    with running_haproxy(tmp_path, ("n01", "n02"), free_port) as server:
        yield server


def limiting_router(socket: Path, *, requests_max: int = LIMIT) -> HaproxyRouter:
    config = HaproxyConfig(
        socket=str(socket), backends={"chat": "llm"}, requests_per_server_max={"chat": requests_max}
    )
    return HaproxyRouter(config, timeout_s=5.0)


def batch(ratio: float, *, at_s: float = 100.0) -> Routing:
    both = [
        EndpointRoute(endpoint=name, weight_ratio=1.0, batch_ratio=ratio) for name in ("n01", "n02")
    ]
    return Routing(service="chat", decision_id="d1", at_s=at_s, valid_s=10.0, endpoints=tuple(both))


async def limits(haproxy: Haproxy) -> list[int]:
    """`maxconn` of both servers, as HAProxy's own statistics show it; 0 is none."""
    rows = (await command(haproxy, "show stat llm 4 -1")).removeprefix("# ").splitlines()
    return [int(row["slim"] or 0) for row in csv.DictReader(rows)]


def held_at_last(haproxy: Haproxy, wanted: int) -> int:
    """How many requests the backends hold once it is as wanted, or after a deadline."""
    deadline_s = time.monotonic() + 4.0
    while True:
        held = sum(len(backend.held) for backend in haproxy.backends)
        if held == wanted or time.monotonic() > deadline_s:
            return held
        time.sleep(0.01)


async def held_of(haproxy: Haproxy, requests: int, *, wanted: int) -> int:
    """Ask so many at once behind closed doors: how many get in. All must be answered after."""
    for backend in haproxy.backends:
        backend.door.clear()
    asked = [asyncio.create_task(asyncio.to_thread(haproxy.ask, 1)) for _ in range(requests)]
    held = await asyncio.to_thread(held_at_last, haproxy, wanted)
    for backend in haproxy.backends:
        backend.door.set()
    answers = [answer for task in asked for answer in (await task)]
    assert len(answers) == requests
    assert "error" not in answers
    return held


async def test_a_smaller_batch_lets_fewer_requests_in_and_the_rest_wait(haproxy: Haproxy) -> None:
    router = limiting_router(haproxy.socket)

    assert list(await router.apply(batch(0.1))) == []
    assert await held_of(haproxy, 4, wanted=2) == 2  # one each; the other two wait at HAProxy
    assert list(await router.apply(batch(1.0))) == []
    assert await held_of(haproxy, 4, wanted=4) == 4


async def test_the_batch_is_sent_once_and_only_where_it_differs(
    haproxy: Haproxy, tmp_path: Path
) -> None:
    async with wiretap(haproxy, tmp_path / "tap.sock") as lines:
        router = limiting_router(tmp_path / "tap.sock")
        await router.apply(batch(0.5))
        await router.apply(batch(0.5))

    read = ["show servers state llm", "show stat llm 4 -1"]
    sent = "set maxconn server llm/n01 3;set maxconn server llm/n02 3"
    assert lines == [*read, sent, *read]


@pytest.mark.parametrize(("ratio", "wanted"), [(1.0, 6), (0.5, 3), (0.1, 1), (0.0, 1)])
async def test_a_batch_is_never_cut_to_none_which_would_be_no_limit(
    haproxy: Haproxy, ratio: float, wanted: int
) -> None:
    await limiting_router(haproxy.socket).apply(batch(ratio))

    assert await limits(haproxy) == [wanted, wanted]


async def test_a_full_batch_comes_back_when_nobody_renews_the_limit(haproxy: Haproxy) -> None:
    router = limiting_router(haproxy.socket)
    await router.apply(batch(0.5, at_s=100.0))

    assert list(await router.expire(109.9)) == []
    assert await limits(haproxy) == [3, 3]
    assert list(await router.expire(110.0)) == []
    assert await limits(haproxy) == [LIMIT, LIMIT]


async def test_a_clean_stop_leaves_full_batches(haproxy: Haproxy) -> None:
    router = limiting_router(haproxy.socket)
    await router.apply(batch(0.5))

    await router.expire(float("inf"))
    await router.close()
    assert await limits(haproxy) == [LIMIT, LIMIT]


async def test_a_new_router_lifts_the_limit_that_a_dead_one_left(haproxy: Haproxy) -> None:
    await limiting_router(haproxy.socket).apply(batch(0.5))

    assert list(await limiting_router(haproxy.socket).apply(batch(1.0))) == []
    assert await limits(haproxy) == [LIMIT, LIMIT]


async def test_without_a_declared_batch_the_limit_is_left_alone(haproxy: Haproxy) -> None:
    await command(haproxy, "set maxconn server llm/n01 17")

    config = HaproxyConfig(socket=str(haproxy.socket), backends={"chat": "llm"})
    assert list(await HaproxyRouter(config, timeout_s=5.0).apply(batch(0.5))) == []
    assert await limits(haproxy) == [17, 0]


async def test_statistics_that_cannot_be_read_are_a_sentence(
    haproxy: Haproxy, tmp_path: Path
) -> None:
    path = tmp_path / "half.sock"

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode().rstrip("\n")
        answer = "garbage\n" if line.startswith("show stat ") else await command(haproxy, line)
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(half, path):
        said = await limiting_router(path).apply(batch(0.5))

    assert list(said) == ["HAProxy's statistics of 'llm' are unreadable"]
