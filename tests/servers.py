"""Real servers for integration tests: started on free loopback ports, and ended with the test.

`Server` starts a child, waits until it accepts connections and ends what it started, whatever
happens to the test; `Mosquitto` and `Nats` say which child. A missing program fails the test and
names the Debian package: it is never passed over.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from daemon.embedded_broker import dies_with_parent, find_server, server_config

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.01
PORT_TRIES_MAX: Final = 5
ADMIN_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian puts servers, and where ordinary users do not look."""


class ServerMissing(Exception):
    """A program that the tests need is not installed."""


class ServerFailed(Exception):
    """A server did not come up; the text has the end of its log."""


def find_program(name: str, package: str) -> str:
    """Return the path of a program; `package` is the Debian package that has it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{ADMIN_PATH}")
    if found is None:
        raise ServerMissing(f"{name} is not installed; run: apt-get install {package}")
    return found


def take_free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether something listens on `port`."""
    try:
        with socket.create_connection((HOST, port), timeout=0.5):
            return True
    except OSError:
        return False


async def until(condition: Callable[[], object], what: str, *, timeout_s: float = 5.0) -> None:
    """Wait until `condition` holds; fails with `what` when it does not within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(POLL_S)


def _is_stopped(task: Path) -> bool:
    """Whether a thread is stopped by a signal, or gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] in "TtZX"
    except FileNotFoundError:
        return True


class Server(ABC):
    """A child process that listens on `port`; a port of its own unless one is given."""

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        """Remember where to write configuration and log; `start` starts."""
        self.directory = directory
        self.port = port or take_free_port()
        self._port_is_ours = port is None
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Write the configuration for `self.port` and return the command line."""

    @property
    def pid(self) -> int:
        """The child's process number."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything that the server has written."""
        path = self._log_path
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Start the server and return once it accepts connections."""
        assert self._process is None, "already started"
        for attempt in range(1, PORT_TRIES_MAX + 1):
            if self._launch():
                return self
            taken = self._port_is_ours and "in use" in self.log
            if not taken or attempt == PORT_TRIES_MAX:
                break
            self.port = take_free_port()  # somebody was faster
        raise ServerFailed(f"{type(self).__name__} did not start:\n{self.log[-2_000:]}")

    def stop(self) -> None:
        """Ask the server to end; does nothing when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill the server and start it on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Hang the server: it keeps its connections and answers nothing from here on.

        The signal stops one thread after the other, and the last may still answer.
        """
        os.kill(self.pid, signal.SIGSTOP)
        deadline_s = time.monotonic() + 5.0
        while not all(_is_stopped(task) for task in Path(f"/proc/{self.pid}/task").iterdir()):
            assert time.monotonic() < deadline_s, "the server does not stop"
            time.sleep(0.001)

    def resume(self) -> None:
        """Let a hung server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def rss_bytes(self) -> int:
        """Resident memory of the child."""
        return rss_bytes(self.pid)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def _log_path(self) -> Path:
        return self.directory / f"{type(self).__name__.lower()}.log"

    def _launch(self) -> bool:
        """Start the child; False when it ended or did not listen in time."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = dies_with_parent(self.command())
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline_s:
            if accepts(self.port) and self._process.poll() is None:
                return True
            time.sleep(POLL_S)
        self.kill()
        return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # a paused child would not hear SIGTERM
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1_024
    raise AssertionError(f"process {pid} has no VmRSS")


class Mosquitto(Server):
    """Debian's Mosquitto; anybody may do anything unless `extra` says otherwise."""

    def __init__(
        self, directory: Path, *, port: int | None = None, persistent: bool = False, extra: str = ""
    ) -> None:
        """Add to the server: does it keep retained state on disk, and more configuration lines."""
        super().__init__(directory, port=port)
        self._persistent = persistent
        self._extra = extra

    def command(self) -> Sequence[str]:
        """Write `mosquitto.conf`."""
        lines = [
            f"listener {self.port} {HOST}",
            "set_tcp_nodelay true",
            "log_dest stderr",
            f"persistence {str(self._persistent).lower()}",
            f"persistence_location {self.directory}/",
            "autosave_on_changes true",
            "autosave_interval 1",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # or it could not read the test's directory
        if "allow_anonymous" not in self._extra:
            lines.append("allow_anonymous true")
        config = self.directory / "mosquitto.conf"
        config.write_text("\n".join(lines) + f"\n{self._extra}\n")
        return [find_program("mosquitto", "mosquitto"), "-c", str(config)]


class Nats(Server):
    """The embedded broker's server, as a child that a test can pause and kill."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        persistent: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Add to the server: does it keep retained state, and more configuration keys."""
        super().__init__(directory, port=port)
        self._persistent = persistent
        self._extra = dict(extra or {})

    def command(self) -> Sequence[str]:
        """Write `nats.conf`."""
        store = self.directory / "store"
        if not self._persistent:
            shutil.rmtree(store, ignore_errors=True)
        settings = json.loads(server_config(port=self.port, store=store)) | self._extra
        config = self.directory / "nats.conf"
        config.write_text(json.dumps(settings))
        return [str(find_server()), "-c", str(config)]
