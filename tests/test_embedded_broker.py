"""The embedded broker: starts on loopback, speaks MQTT, and never outlives its parent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from daemon.bus import Bus
from daemon.embedded_broker import BrokerStartError, EmbeddedBroker, find_server
from facility.config import BrokerConfig
from facility.topics import STATE
from tests.buses import QUICK, listening
from tests.servers import HOST, accepts, take_free_port, until


def runs(pid: int) -> bool:
    """Whether a process is there and not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def publish_state(port: int, payload: bytes) -> None:
    async with Bus(BrokerConfig(port=port), identifier="speaker", limits=QUICK) as bus:
        bus.publish("s/1", payload, STATE)
        await bus.wait_connected(timeout_s=10)
        assert await bus.flush(timeout_s=5)


async def test_it_keeps_retained_state_while_it_runs_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with EmbeddedBroker() as broker:
        pid, port = broker.pid, broker.port
        assert pid is not None
        await publish_state(port, b"kept")
        async with listening(BrokerConfig(port=port), "s/+") as heard:
            await until(lambda: heard.messages == [("s/1", b"kept", True)], "retained state")
    assert not runs(pid)
    assert not accepts(port)
    assert os.listdir(tmp_path) == []


def listeners(port: int) -> list[str]:
    """Where the kernel says that somebody listens on `port`: hexadecimal address and port."""
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    places = [line.split()[1] for line in table.splitlines() if " 0A " in line]
    return [place for place in places if place.endswith(f":{port:04X}")]


async def test_it_listens_on_loopback_only() -> None:
    async with EmbeddedBroker() as broker:
        assert listeners(broker.port) == [f"0100007F:{broker.port:04X}"]


async def test_a_taken_port_is_named() -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerStartError, match=f"{HOST}:{port}: the port is taken") as caught:
            await EmbeddedBroker(port=port).start()
    assert caught.value.exit_code == 69


async def test_a_store_that_cannot_be_used_is_named_and_the_child_is_gone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_text("a file where a directory should be")
    broker = EmbeddedBroker(store=store)
    with pytest.raises(BrokerStartError, match="did not start"):
        await broker.start()
    assert broker.pid is None


async def test_no_room_for_its_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(BrokerStartError, match=r"cannot be run: .*No such file"):
        await EmbeddedBroker().start()


@pytest.mark.parametrize(
    ("package", "said"), [("no-such-package", "not installed"), ("msgspec", "binary")]
)
def test_a_missing_binary_is_named(package: str, said: str) -> None:
    with pytest.raises(BrokerStartError, match=said):
        find_server(package)


async def test_it_starts_again_on_the_same_port_and_a_given_store_survives(tmp_path: Path) -> None:
    broker = EmbeddedBroker(port=take_free_port(), store=tmp_path / "store")
    async with broker:
        port = broker.port
        await publish_state(port, b"kept")
    async with broker:
        assert broker.port == port
        async with listening(BrokerConfig(port=port), "s/+") as heard:
            await until(lambda: heard.payloads == [b"kept"], "state from before")


async def test_a_death_of_its_own_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedBroker() as broker:
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        await until(lambda: "event=broker-died" in caplog.text, "the log line")
    assert [record.levelno for record in caplog.records if "died" in record.message] == [
        logging.ERROR
    ]


PARENT = """
import asyncio
from daemon.embedded_broker import EmbeddedBroker
async def main():
    async with EmbeddedBroker() as broker:
        print(broker.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 10))
    assert runs(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not runs(pid), "the broker to be gone")


async def test_a_cancelled_start_leaves_no_child() -> None:
    broker = EmbeddedBroker()
    starting = asyncio.create_task(broker.start())
    await until(lambda: broker.pid is not None, "the child")
    pid = broker.pid
    assert pid is not None
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert not runs(pid)
