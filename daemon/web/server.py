"""The HTTP server, run inside the controller's own event loop.

It owns the listening socket and the server's task. It installs no signal handler, exits no process
and never keeps a stop waiting for a browser.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

STOP_S: Final = 0.8
"""A stop that is not done by then is forced."""
START_S: Final = 5.0
CONNECTIONS_MAX: Final = 64
BACKLOG: Final = 64
KEEP_ALIVE_S: Final = 5
HEAD_BYTES_MAX: Final = 16_384
"""Most of an unfinished request head that is kept; a browser sends about 1 kB."""
SWEEP_S: Final = 2.0
SWEEPS_MAX: Final = 5
"""A connection that makes no headway for so many sweeps is cut: it takes the place of another."""


class WebError(OSError):
    """The web server cannot listen where it was told to; the text says where and why.

    Commands exit with `exit_code`.
    """

    exit_code: Final = 69


class PortTaken(WebError):
    """Another process already listens there."""


class _Server(uvicorn.Server):
    """Leaves signals to the process, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none: the process that owns the loop decides what a signal means."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets=sockets)
        self.listening.set()


class WebServer:
    """Serves an app on a host and port until it is stopped; port 0 means any free one."""

    def __init__(self, app: FastAPI, host: str, port: int, *, sweep_s: float = SWEEP_S) -> None:
        self._app = app
        self._sweep_s = sweep_s
        self._sweeping: asyncio.Task[None] | None = None
        self.host = host
        self.port = port
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where a browser on this host finds it, once started."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def connections_count(self) -> int:
        """How many are connected."""
        return len(self._server.server_state.connections) if self._server is not None else 0

    async def start(self) -> None:
        """Listen and serve; `port` is the real one from here on.

        Raises:
            PortTaken: somebody else listens there.
            WebError: the host is not of this machine, or the port is not permitted.
        """
        assert self._task is None, "started twice"
        listener = await self._bind()
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            limit_concurrency=CONNECTIONS_MAX,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="web")
        async with asyncio.timeout(START_S):
            await self._server.listening.wait()
        self._sweeping = asyncio.create_task(self._sweep(self._server), name="web-sweep")

    async def _sweep(self, server: _Server) -> None:
        """Cut connections that neither finish a request nor take an answer.

        Uvicorn ends only those that are idle after an answer; CONNECTIONS_MAX others, that never
        ask or never read, would lock everybody out.
        """
        seen: dict[object, tuple[object, int]] = {}
        while True:
            await asyncio.sleep(self._sweep_s)
            before, seen = seen, {}
            for connection in list(server.server_state.connections):
                request = getattr(connection, "cycle", None)
                last, count = before.get(connection, (request, 0))
                count = count + 1 if last is request else 1
                seen[connection] = (request, count)
                if count > SWEEPS_MAX:
                    connection.transport.abort()

    async def stop(self) -> None:
        """Stop serving within a second, whoever is still connected."""
        if self._server is None or self._task is None:
            return
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._task}, timeout=STOP_S)
        if not done:
            self._server.force_exit = True
            self._cut()
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._server = self._task = None

    def _cut(self) -> None:
        """Drop those who neither finish their request nor take their answer."""
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    async def _bind(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except OSError as error:
            raise WebError(f"{self.host}:{self.port}: no such host: {error.strerror}") from error
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            # Two sockets may bind with SO_REUSEADDR, but only one may listen.
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise self._refusal(error) from error
        listener.setblocking(False)
        return listener

    def _refusal(self, error: OSError) -> WebError:
        where = f"{self.host}:{self.port}"
        if error.errno == errno.EADDRINUSE:
            return PortTaken(
                f"{where} is taken: another process listens there; choose another port"
            )
        return WebError(f"cannot listen on {where}: {error.strerror}")
