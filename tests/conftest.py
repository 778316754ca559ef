"""What every test gets: free ports, bounded hypothesis runs, and a wall around the machine.

Nothing here knows about a broker or a GPU; the helpers that start real servers live beside the
tests that need them.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

import hypothesis
import pytest

FreePort = Callable[[], int]

PORT_TRIES_MAX: Final = 100

hypothesis.settings.register_profile(
    "ampacity", deadline=None, derandomize=True, max_examples=100, print_blob=True
)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=2_000, print_blob=True)
# Whoever starts the tests in the background ignores Ctrl-C for them, and they start what must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ampacity"))


def is_local(address: object) -> bool:
    """Whether a socket address stays on this machine: a Unix path, loopback, or no IP at all."""
    if not isinstance(address, tuple) or not address or not isinstance(address[0], str):
        return True
    host = address[0].partition("%")[0]
    if host in ("", "localhost"):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return ip.is_loopback or ip.is_unspecified


def stay_local(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook that refuses to talk to any other machine: tests must not need one."""
    if event in ("socket.connect", "socket.sendto") and not is_local(arguments[1]):
        raise OSError(f"a test tried to reach {arguments[1]}: only this machine is allowed")


def pytest_configure() -> None:
    """Build the wall before the first test is imported."""
    sys.addaudithook(stay_local)


@pytest.fixture
def free_port() -> FreePort:
    """A function that returns a TCP port of 127.0.0.1 nobody listens on, another one each call.

    A port can be taken between the call and its use: a server's helper tries again when its server
    says so.
    """
    given: set[int] = set()

    def take() -> int:
        for _ in range(PORT_TRIES_MAX):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port not in given:
                given.add(port)
                return port
        raise AssertionError(f"no free port in {PORT_TRIES_MAX} tries")

    return take
