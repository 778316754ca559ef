"""The HAProxy router against a real HAProxy: traffic moves, comes back, and refusals are said."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from actuators.haproxy import COMMAND_BYTES_MAX, HaproxyRouter
from actuators.null import NullRouter
from facility.config import HaproxyConfig
from facility.ports import RouterPort
from facility.wire import EndpointRoute, Routing
from tests.conftest import FreePort
from tests.haproxy_server import Haproxy, command, running_haproxy, wiretap

NOBODY = 65534
REQUESTS = 40


@pytest.fixture
def haproxy(tmp_path: Path, free_port: FreePort) -> Iterator[Haproxy]:
    with running_haproxy(tmp_path, ("n01", "n02"), free_port) as server:
        yield server


def router_for(
    socket: Path | str, *, backend: str = "llm", timeout_s: float = 5.0
) -> HaproxyRouter:
    config = HaproxyConfig(socket=str(socket), backends={"chat": backend})
    return HaproxyRouter(config, timeout_s=timeout_s)


def routing_of(
    weights: Mapping[str, float],
    *,
    at_s: float = 100.0,
    valid_s: float = 10.0,
    drain: tuple[str, ...] = (),
) -> Routing:
    endpoints = [
        EndpointRoute(endpoint=name, weight_ratio=ratio, drain=name in drain)
        for name, ratio in weights.items()
    ]
    return Routing(
        service="chat", decision_id="d1", at_s=at_s, valid_s=valid_s, endpoints=tuple(endpoints)
    )


def routing(*, at_s: float = 100.0, drain: tuple[str, ...] = (), **weights: float) -> Routing:
    return routing_of(weights, at_s=at_s, drain=drain)


async def share_of_n01(haproxy: Haproxy) -> float:
    """Which part of forty requests reaches n01; none of them may fail."""
    answers = await asyncio.to_thread(haproxy.ask, REQUESTS)
    assert answers.keys() <= {"n01", "n02"}
    return answers["n01"] / REQUESTS


EVEN = pytest.approx(0.5, abs=0.1)
A_FIFTH = pytest.approx(0.2, abs=0.1)


async def test_weights_move_traffic_and_equal_weights_bring_it_back(haproxy: Haproxy) -> None:
    router = router_for(haproxy.socket)

    assert await share_of_n01(haproxy) == EVEN
    assert list(await router.apply(routing(n01=0.25, n02=1.0))) == []
    assert await share_of_n01(haproxy) == A_FIFTH
    assert list(await router.apply(routing(n01=1.0, n02=1.0))) == []
    assert await share_of_n01(haproxy) == EVEN


async def test_weight_zero_and_drain_both_end_new_requests(haproxy: Haproxy) -> None:
    router = router_for(haproxy.socket)

    assert list(await router.apply(routing(n01=0.0, n02=1.0))) == []
    assert await share_of_n01(haproxy) == 0.0
    assert list(await router.apply(routing(n01=1.0, n02=1.0, drain=("n02",)))) == []
    assert await share_of_n01(haproxy) == 1.0
    assert list(await router.apply(routing(n01=1.0, n02=1.0))) == []
    assert await share_of_n01(haproxy) == EVEN


async def test_only_what_differs_is_sent(haproxy: Haproxy, tmp_path: Path) -> None:
    async with wiretap(haproxy, tmp_path / "tap.sock") as lines:
        router = router_for(tmp_path / "tap.sock")
        await router.apply(routing(n01=0.5, n02=1.0))
        await router.apply(routing(n01=0.5, n02=1.0))
        await router.apply(routing(n01=0.5, n02=0.3, drain=("n01",)))

    read = "show servers state llm"
    assert lines == [
        read,
        "set server llm/n01 weight 50%",
        read,
        read,
        "set server llm/n01 state drain;set server llm/n02 weight 30%",
    ]


async def test_a_restarted_haproxy_is_corrected_by_the_next_call(haproxy: Haproxy) -> None:
    router = router_for(haproxy.socket)
    steered = routing(n01=0.0, n02=1.0)

    await router.apply(steered)
    haproxy.restart()
    assert await share_of_n01(haproxy) == EVEN
    assert list(await router.apply(steered)) == []
    assert await share_of_n01(haproxy) == 0.0


async def test_a_new_router_corrects_what_a_dead_one_left(haproxy: Haproxy) -> None:
    await router_for(haproxy.socket).apply(routing(n01=0.0, n02=1.0, drain=("n02",)))

    assert list(await router_for(haproxy.socket).apply(routing(n01=1.0, n02=1.0))) == []
    assert await share_of_n01(haproxy) == EVEN


async def test_steering_decays_to_equal_weights_when_nobody_renews_it(haproxy: Haproxy) -> None:
    router = router_for(haproxy.socket)
    await router.apply(routing(at_s=100.0, n01=0.0, n02=1.0, drain=("n01",)))

    assert list(await router.expire(109.9)) == []
    assert await share_of_n01(haproxy) == 0.0
    assert list(await router.expire(110.0)) == []
    assert await share_of_n01(haproxy) == EVEN


async def test_a_renewed_routing_does_not_decay(haproxy: Haproxy) -> None:
    router = router_for(haproxy.socket)
    await router.apply(routing(at_s=100.0, n01=0.0, n02=1.0))
    await router.apply(routing(at_s=105.0, n01=0.0, n02=1.0))

    await router.expire(110.0)
    assert await share_of_n01(haproxy) == 0.0


async def test_a_decay_that_fails_is_tried_again(haproxy: Haproxy) -> None:
    router = router_for(haproxy.socket)
    await router.apply(routing(n01=0.0, n02=1.0))
    away = haproxy.socket.with_suffix(".away")
    haproxy.socket.rename(away)

    assert "is not there" in "".join(await router.expire(200.0))
    away.rename(haproxy.socket)
    assert list(await router.expire(201.0)) == []
    assert await share_of_n01(haproxy) == EVEN


async def test_an_operators_maintenance_is_never_undone(haproxy: Haproxy) -> None:
    router = router_for(haproxy.socket)
    await command(haproxy, "set server llm/n01 state maint")

    assert list(await router.apply(routing(n01=1.0, n02=1.0, drain=("n01",)))) == []
    assert list(await router.apply(routing(n01=1.0, n02=1.0))) == []
    assert list(await router.expire(1e9)) == []
    assert await share_of_n01(haproxy) == 0.0


async def test_servers_that_the_routing_does_not_name_are_left_alone(haproxy: Haproxy) -> None:
    await command(haproxy, "set server llm/n02 weight 0%")

    assert list(await router_for(haproxy.socket).apply(routing(n01=0.5))) == []
    assert await share_of_n01(haproxy) == 1.0


async def test_a_service_without_a_backend_is_left_to_other_routers(tmp_path: Path) -> None:
    router = router_for(tmp_path / "nobody-listens.sock")
    other = Routing(service="batch", decision_id="d", at_s=0.0, valid_s=1.0, endpoints=())

    assert list(await router.apply(other)) == []


async def test_an_unknown_server_is_named_and_the_others_are_steered(haproxy: Haproxy) -> None:
    router = router_for(haproxy.socket)

    assert list(await router.apply(routing(n01=0.0, n011=0.5))) == [
        "HAProxy's backend 'llm' has no server 'n011'; did you mean 'n01'?"
    ]
    assert await share_of_n01(haproxy) == 0.0


async def test_an_unknown_backend_is_named(haproxy: Haproxy) -> None:
    router = router_for(haproxy.socket, backend="embed")

    assert list(await router.apply(routing(n01=0.5))) == [
        "HAProxy does not show backend 'embed'; it says: Can't find backend."
    ]


@pytest.mark.parametrize("backend", ["llm; shutdown sessions server llm/n01", "llm\n", "", "a b"])
async def test_a_name_cannot_smuggle_in_a_command(haproxy: Haproxy, backend: str) -> None:
    (said,) = await router_for(haproxy.socket, backend=backend).apply(routing(n01=0.0))

    assert said == f"backend {backend!r} is no HAProxy name, so nothing was sent"


async def test_an_endpoint_cannot_smuggle_in_a_command(haproxy: Haproxy) -> None:
    evil = routing_of({"n01 weight 0%;set server llm/n02": 1.0})

    (said,) = await router_for(haproxy.socket).apply(evil)

    assert "has no server" in said
    assert await share_of_n01(haproxy) == EVEN


async def test_a_weight_too_coarse_to_share_out_is_said_and_never_ends_traffic(
    tmp_path: Path, free_port: FreePort
) -> None:
    with running_haproxy(tmp_path, ("n01", "n02"), free_port, weight=1) as haproxy:
        (said,) = await router_for(haproxy.socket).apply(routing(n01=0.25, n02=1.0))

        assert said == (
            "llm/n01 has weight 1 in HAProxy's configuration, so 25% became 100%:"
            " give it weight 100"
        )
        assert await share_of_n01(haproxy) == EVEN


async def test_a_socket_without_admin_rights_is_a_sentence_per_refused_command(
    tmp_path: Path, free_port: FreePort
) -> None:
    with running_haproxy(tmp_path, ("n01", "n02"), free_port, level="user") as haproxy:
        said = await router_for(haproxy.socket).apply(routing(n01=0.0, n02=0.5))

    assert list(said) == [
        "HAProxy refuses 'set server llm/n01 weight 0%' for llm/n01: Permission denied",
        "HAProxy refuses 'set server llm/n02 weight 50%' for llm/n02: Permission denied",
    ]


async def test_a_socket_that_may_not_be_opened_is_a_sentence(haproxy: Haproxy) -> None:
    """Root may open anything, so the test steps down for one call where it runs as root."""
    steps_down = os.geteuid() == 0
    if steps_down:
        os.seteuid(NOBODY)
    else:
        haproxy.socket.chmod(0)
    try:
        said = await router_for(haproxy.socket).apply(routing(n01=0.0))
    finally:
        if steps_down:
            os.seteuid(0)

    assert list(said) == [f"no permission to open HAProxy's socket {haproxy.socket}"]


async def test_a_missing_socket_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"

    assert list(await router_for(path).apply(routing(n01=0.0))) == [
        f"HAProxy's socket {path} is not there: is HAProxy running?"
    ]


async def test_a_stopped_haproxy_whose_socket_file_is_left_is_a_sentence(
    haproxy: Haproxy, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.sock"
    os.link(haproxy.socket, kept)
    haproxy.stop()

    (said,) = await router_for(kept).apply(routing(n01=0.0))
    assert said.startswith(f"HAProxy's socket {kept} failed: ")


async def test_a_socket_that_never_answers_is_a_sentence_after_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "mute.sock"
    gone = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_unix_server(mute, path)
    async with server:
        said = await router_for(path, timeout_s=0.05).apply(routing(n01=0.0))
        await asyncio.wait_for(gone.wait(), timeout=5.0)

    assert list(said) == [f"HAProxy's socket {path} did not answer within 0.05 s"]


@pytest.mark.parametrize("answer", [b"", b"\xff\xfe\n", b"1\n# srv_name\n1 llm\n\n", b"1\n"])
async def test_an_answer_that_is_no_state_is_a_sentence(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "odd.sock"

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(odd, path):
        (said,) = await router_for(path).apply(routing(n01=0.0))

    assert "'llm'" in said


async def test_many_servers_are_steered_in_lines_that_haproxy_can_read(
    tmp_path: Path, free_port: FreePort
) -> None:
    names = tuple(f"n{place:03d}" for place in range(400))
    with running_haproxy(tmp_path, names[:1], free_port) as small:
        port = small.port  # any port will do: only weights are looked at
        many = Haproxy(_folder(tmp_path), dict.fromkeys(names, port), free_port)
        many.start()
        try:
            async with wiretap(many, tmp_path / "tap.sock") as lines:
                router = router_for(tmp_path / "tap.sock")
                wanted = routing_of(dict.fromkeys(names, 0.5))
                assert list(await router.apply(wanted)) == []
                assert list(await router.apply(wanted)) == []
        finally:
            many.stop()

    sent = [line for line in lines if line.startswith("set")]
    assert len(sent) > 1
    assert max(map(len, sent)) <= COMMAND_BYTES_MAX
    assert ";".join(sent).count("weight 50%") == len(names)


def _folder(parent: Path) -> Path:
    folder = parent / "many"
    folder.mkdir()
    return folder


async def test_the_null_router_takes_everything_and_refuses_nothing() -> None:
    router: RouterPort = NullRouter()

    assert list(await router.apply(routing(n01=0.0))) == []
    assert list(await NullRouter().expire(1e9)) == []
    await router.close()


async def test_the_router_fits_the_port_and_closes(haproxy: Haproxy) -> None:
    router: RouterPort = router_for(haproxy.socket)

    await router.apply(routing(n01=0.5, n02=1.0))
    await router.close()
