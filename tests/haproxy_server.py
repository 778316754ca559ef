"""A real HAProxy on loopback, with real HTTP backends that count what reaches them.

Everything it starts it also stops, and nothing else. HAProxy comes from Debian; where it is not in
the path of an ordinary user, /usr/sbin is looked into as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

START_S: Final = 10.0
START_TRIES_MAX: Final = 5
"""A free port can be taken by somebody else before HAProxy binds it."""


class Backend:
    """One HTTP server that answers every GET with its name, while its door is open."""

    def __init__(self, name: str) -> None:
        """Listen on a free port of 127.0.0.1."""
        self.name = name
        self.door = door = threading.Event()
        """Requests that have come wait here; open at first."""
        self.held = held = set[int]()
        """Requests that have come and are not answered, by thread."""
        door.set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                held.add(threading.get_ident())
                door.wait(START_S)
                held.discard(threading.get_ident())
                body = name.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  base's name
                """Stay silent: tests read answers, not logs."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; whoever waits is let go."""
        self.door.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Haproxy:
    """One HAProxy process with one frontend and one backend, and its runtime socket."""

    def __init__(
        self,
        directory: Path,
        servers: Mapping[str, int],
        free_port: Callable[[], int],
        *,
        backend: str = "llm",
        weight: int = 100,
        level: str = "admin",
    ) -> None:
        """Remember what to run; nothing starts before `start`.

        `servers` maps a server's name in `backend` to its port. `level` is what the runtime socket
        allows: admin, operator or user.
        """
        self.socket = directory / "haproxy.sock"
        self._config = directory / "haproxy.cfg"
        self._log = directory / "haproxy.log"
        self._servers, self._free_port = dict(servers), free_port
        self._backend, self._weight, self._level = backend, weight, level
        self.port = 0
        self.backends: tuple[Backend, ...] = ()
        """What serves behind it, where `running_haproxy` started that too."""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once the frontend and the socket answer."""
        for _ in range(START_TRIES_MAX):
            self.port = self._free_port()
            self._config.write_text(self._text())
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [_program(), "-db", "-f", str(self._config)], stdout=log, stderr=log
                )
            if self._answers():
                return
            self.stop()
        raise AssertionError(f"HAProxy does not start: {self._log.read_text()}")

    def stop(self) -> None:
        """End the process that `start` started; its socket file goes with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def restart(self) -> None:
        """A new process with the weights of the configuration, as after a crash."""
        self.stop()
        self.start()

    def ask(self, requests: int) -> Counter[str]:
        """Send GETs through the frontend, each on its own connection; who answered, how often."""
        answers: Counter[str] = Counter()
        for _ in range(requests):
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
            ) as connection:
                connection.request("GET", "/")
                response = connection.getresponse()
                answers[response.read().decode() if response.status == 200 else "error"] += 1
        return answers

    def _answers(self) -> bool:
        """Whether the process comes up within its time."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            assert self._process is not None
            if self._process.poll() is not None:
                return False
            with contextlib.suppress(OSError):
                if self.socket.exists() and self.ask(1):
                    return True
            time.sleep(0.01)
        return False

    def _text(self) -> str:
        servers = "\n".join(
            f"  server {name} 127.0.0.1:{port} weight {self._weight}"
            for name, port in self._servers.items()
        )
        return f"""global
  stats socket {self.socket} mode 600 level {self._level}
  stats timeout 5s
defaults
  mode http
  timeout connect 1s
  timeout queue 10s
  timeout client 5s
  timeout server 5s
frontend in
  bind 127.0.0.1:{self.port}
  default_backend {self._backend}
backend {self._backend}
  balance roundrobin
{servers}
"""


@contextlib.contextmanager
def running_haproxy(
    directory: Path,
    names: tuple[str, ...],
    free_port: Callable[[], int],
    *,
    weight: int = 100,
    level: str = "admin",
) -> Iterator[Haproxy]:
    """An HAProxy before one HTTP backend for each of `names`; all are stopped at the end."""
    backends = [Backend(name) for name in names]
    ports = {backend.name: backend.port for backend in backends}
    haproxy = Haproxy(directory, ports, free_port, weight=weight, level=level)
    try:
        haproxy.backends = tuple(backends)
        haproxy.start()
        yield haproxy
    finally:
        haproxy.stop()
        for backend in backends:
            backend.stop()


async def command(haproxy: Haproxy, text: str) -> str:
    """What an operator types at HAProxy's own socket."""
    reader, writer = await asyncio.open_unix_connection(str(haproxy.socket))
    writer.write(text.encode() + b"\n")
    answer = await reader.read()
    writer.close()
    return answer.decode()


@contextlib.asynccontextmanager
async def wiretap(haproxy: Haproxy, path: Path) -> AsyncIterator[list[str]]:
    """A socket before HAProxy's own that hands everything on and notes each line sent."""
    lines: list[str] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        lines.append(line.decode().rstrip("\n"))
        writer.write((await command(haproxy, lines[-1])).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(relay, path)
    async with server:
        yield lines


def _program() -> str:
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert found, "this test needs HAProxy: apt-get install haproxy"
    return found
