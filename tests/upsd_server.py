"""A real `upsd` with `dummy-ups` drivers, whose UPSs say what a test tells them to.

Both are Debian's programs, started on a free port with files of their own and ended with the test.
"""

from __future__ import annotations

import getpass
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from daemon.embedded_broker import dies_with_parent
from tests.servers import HOST, POLL_S, START_TIMEOUT_S, Server, ServerFailed, find_program

DRIVER_PATHS: Final = "/lib/nut:/usr/lib/nut:/usr/libexec/nut"
USER: Final = "ampacity"
PASSWORD: Final = "not-a-secret"


def nut_program(name: str) -> str:
    """A program of NUT that is on nobody's path: Debian's `upsd` there is a switched-off script."""
    found = shutil.which(name, path=DRIVER_PATHS)
    return found or find_program(name, "nut-server")


class Upsd(Server):
    """`upsd` on `port`, and one driver for each of its UPSs."""

    def __init__(
        self, directory: Path, *, ups: Mapping[str, Mapping[str, str]], port: int | None = None
    ) -> None:
        """`ups` maps the name of each UPS to its variables."""
        super().__init__(directory, port=port)
        self._ups = {name: dict(variables) for name, variables in ups.items()}
        self._drivers: dict[str, subprocess.Popen[bytes]] = {}

    def command(self) -> Sequence[str]:
        """Write the files, and start the drivers that do not run."""
        self._write("upsd.conf", f"LISTEN {HOST} {self.port}\nMAXAGE 3\nSTATEPATH {self.directory}")
        self._write("upsd.users", f"[{USER}]\n  password = {PASSWORD}\n  actions = SET\n")
        sections = [
            f"[{name}]\n  driver = dummy-ups\n  port = {name}.dev\n  mode = dummy-once\n"
            "  pollinterval = 1\n"
            for name in self._ups
        ]
        self._write("ups.conf", "\n".join(sections))
        for name in self._ups:
            if name not in self._drivers:
                self.start_driver(name)
        return [*self._environment(), nut_program("upsd"), "-F", "-u", getpass.getuser()]

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(f"{text}\n")
        path.chmod(0o600)

    def _environment(self) -> list[str]:
        places = ("NUT_CONFPATH", "NUT_STATEPATH", "NUT_ALTPIDPATH")
        return [find_program("env", "coreutils"), *(f"{key}={self.directory}" for key in places)]

    def start_driver(self, name: str) -> None:
        """Start one UPS's driver and wait until it listens."""
        lines = [f"{key}: {value}" for key, value in self._ups[name].items()]
        self._write(f"{name}.dev", "\n".join(lines))
        command = [nut_program("dummy-ups"), "-a", name, "-F", "-u", getpass.getuser()]
        self._drivers[name] = subprocess.Popen(
            dies_with_parent([*self._environment(), *command]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
        )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        # Not by connecting: this driver dies of a listener that leaves (fd_set out of range).
        while not (self.directory / f"dummy-ups-{name}").exists():
            if time.monotonic() > deadline_s:
                raise ServerFailed(f"dummy-ups for {name} does not listen in {self.directory}")
            time.sleep(POLL_S)

    def start(self) -> Self:
        """Start upsd and return once it has what every driver tells."""
        super().start()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not all(self._knows(name) for name in self._drivers):
            if time.monotonic() > deadline_s:
                raise ServerFailed(f"upsd hears no driver:\n{self.log[-2_000:]}")
            time.sleep(POLL_S)
        return self

    def kill_driver(self, name: str) -> None:
        """Kill one UPS's driver: upsd goes on and says that it has no data."""
        driver = self._drivers.pop(name)
        driver.kill()
        driver.wait()
        (self.directory / f"dummy-ups-{name}").unlink(missing_ok=True)

    def say(self, name: str, variable: str, value: str) -> None:
        """What an operator does with `upsrw`: from now on the UPS tells this."""
        self._ups[name][variable] = value
        subprocess.run(
            [find_program("upsrw", "nut-client"), "-s", f"{variable}={value}", "-u", USER, "-p",
             PASSWORD, f"{name}@{HOST}:{self.port}"],
            check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=START_TIMEOUT_S,
        )  # fmt: skip

    def source(self, name: str) -> str:
        """The address of a UPS, as configuration writes it."""
        return f"{name}@{HOST}:{self.port}"

    def _end(self, number: signal.Signals) -> None:
        super()._end(number)
        # A driver whose upsd is gone dies of its next word anyway; a new one tells the same.
        for name in list(self._drivers):
            self.kill_driver(name)

    def _knows(self, name: str) -> bool:
        """Whether upsd has what the driver tells."""
        with socket.create_connection((HOST, self.port), timeout=1.0) as link:
            link.sendall(f"GET VAR {name} ups.status\n".encode())
            answer = link.recv(256)
        return answer.startswith(b"VAR") and b'"WAIT"' not in answer
