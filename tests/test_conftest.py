"""The wall around the tests, and the ports that they get."""

from __future__ import annotations

import socket

import pytest

from tests.conftest import FreePort, is_local


@pytest.mark.parametrize(
    "address", [("127.0.0.1", 1), ("::1", 1, 0, 0), ("localhost", 1), "/run/a.sock", b"\0a", (0, 0)]
)
def test_this_machine_may_be_reached(address: object) -> None:
    assert is_local(address)


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("2001:db8::1", 80, 0, 0), ("a.test", 80)])
def test_another_machine_may_not(address: object) -> None:
    assert not is_local(address)


def test_a_connection_to_another_machine_is_refused_before_it_leaves() -> None:
    with socket.socket() as line, pytest.raises(OSError, match=r"only this machine"):
        line.connect(("192.0.2.1", 9))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line,
        pytest.raises(OSError, match=r"only this machine"),
    ):
        line.sendto(b"x", ("192.0.2.1", 9))


def test_free_ports_differ_and_can_be_bound(free_port: FreePort) -> None:
    ports = {free_port() for _ in range(20)}
    assert len(ports) == 20
    for port in ports:
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))
