"""The unprivileged half of the agent: it carries frames between the actuator's pipe and MQTT.

It owns the connection, the heartbeat, the metrics and the client of the node's own UPSs. It decides
no ceiling: leases and emergencies pass as bytes to the actuator, which judges them; if this process
dies or lies, the worst it can do is withhold them. It ends when the pipe does.

    python -m daemon.agent.io --config PATH --fd N
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from daemon.agent import metrics
from daemon.agent.link import AgentLink, agent_bus
from daemon.agent.pipe import FrameDecoder, PipeError, encode_frame
from daemon.agent.supplies import LocalSupplies
from daemon.bus import Bus, SecretsError
from facility.config import AgentConfig
from facility.loader import ConfigError, load_agent
from facility.wire import Codec, NodeStatus, NodeTelemetry, WireError

LOG = logging.getLogger(__name__)

EXIT_OK: Final = 0
EXIT_BUG: Final = 70
EXIT_CONFIG: Final = 78

HEARTBEAT_S: Final = 1.0
GOODBYE_S: Final = 0.4
"""Longest wait for a broker to take the last words; twice that is still less than a heartbeat."""
WAITING_FRAMES_MAX: Final = 64
"""Emergencies kept for an actuator that does not read; of leases and heartbeats only the last."""

Frames = Callable[[str, bytes], None]


class Pipe(asyncio.Protocol):
    """This end of the pipe: frames in by a callback, frames out without ever waiting."""

    def __init__(self, take: Frames) -> None:
        """Remember who takes frames; `ended` is done when the other side is gone."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with PipeError when the other side sends what is no frame."""
        self.dropped_count = 0
        self._take = take
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._full = False
        self._latest: dict[str, bytes] = {}
        self._emergencies: deque[bytes] = deque()

    def send(self, kind: str, payload: bytes) -> None:
        """Send a frame, or keep it while the actuator does not read."""
        if self._transport is None or self._transport.is_closing():
            return
        if not self._full:
            self._transport.write(encode_frame(kind, payload))
        elif kind != "emergency":
            self.dropped_count += kind in self._latest
            self._latest[kind] = payload
        else:
            if len(self._emergencies) == WAITING_FRAMES_MAX:
                self._emergencies.popleft()
                self.dropped_count += 1
            self._emergencies.append(payload)

    def close(self) -> None:
        """Let go of the pipe."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (called by asyncio)."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand complete frames on (called by asyncio)."""
        if self.ended.done():
            return
        try:
            for kind, payload in self._decoder.feed(data):
                self._take(kind, payload)
        except (PipeError, ValueError) as error:
            self.ended.set_exception(PipeError(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        """End (called by asyncio)."""
        if not self.ended.done():
            LOG.info("event=pipe-closed reason=%r", str(exc or "end of file"))
            self.ended.set_result(None)

    def pause_writing(self) -> None:
        """Keep what is sent from now on (called by asyncio)."""
        self._full = True

    def resume_writing(self) -> None:
        """Send what was kept, emergencies first (called by asyncio)."""
        self._full = False
        kept = [("emergency", payload) for payload in self._emergencies]
        kept += self._latest.items()
        self._emergencies.clear()
        self._latest.clear()
        for kind, payload in kept:
            self.send(kind, payload)


class IoProcess:
    """The process: waits for the first status, connects, carries frames until the pipe ends."""

    def __init__(self, config_path: Path, config: AgentConfig, end: socket.socket) -> None:
        """Remember what to work with; `run` does the work."""
        self._config_path = config_path
        self._config = config
        self._end = end
        self._codec = Codec()
        self._status: NodeStatus | None = None
        self._latest: dict[str, bytes] = {}
        self._refused: dict[str, int] = {}
        self._telemetry_at_s = 0.0
        self._bus: Bus | None = None
        self._link: AgentLink | None = None
        self._pipe: Pipe | None = None
        self._metrics: metrics.MetricsServer | None = None
        self._supplies: LocalSupplies | None = None
        self._stopping = asyncio.Event()
        self._reload = asyncio.Event()
        self._introduced = asyncio.Event()

    async def run(self) -> int:
        """Run until the pipe ends or a signal says stop; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        _, self._pipe = await loop.create_connection(lambda: Pipe(self._take), sock=self._end)
        self._watch_supplies()  # needs no broker, so it does not wait for one
        stopping = asyncio.create_task(self._stopping.wait())
        working = asyncio.create_task(self._work())
        ends: set[asyncio.Future[Any]] = {self._pipe.ended, stopping, working}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()  # it only ends by failing
            if self._pipe.ended.done():
                self._pipe.ended.result()
        except PipeError as error:
            LOG.error("event=pipe-broken reason=%r", str(error))
            return EXIT_BUG
        finally:
            working.cancel()
            stopping.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
            if self._supplies is not None:
                await self._supplies.stop()
            await self._close(clean=self._stopping.is_set() or self._said_goodbye())
            self._pipe.close()
        return EXIT_OK

    def _watch_supplies(self) -> None:
        """Look at the UPSs of the file; a bug there ends the process, which is then restarted."""
        assert self._pipe is not None
        send, failed = self._pipe.send, self._stopping.set
        self._supplies = LocalSupplies(self._config, send, self._say, failed)
        self._supplies.start()

    def _say(self, event: bytes) -> None:
        """Publish an event of our own, if there is anybody to publish to."""
        if self._link is not None:
            self._link.send("event", event)

    def _take(self, kind: str, payload: bytes) -> None:
        """Take one frame of the actuator; before the bus is there the last of each kind is kept."""
        if kind == "reload":
            self._reload.set()
            return
        if kind == "refused":
            self._refused = msgspec.json.decode(payload, type=dict[str, int])
            return
        if kind == "status":
            self._note_status(payload)
        if kind == "telemetry":
            self._telemetry_at_s = time.monotonic()
        if kind != "event":
            self._latest[kind] = payload
        if self._link is not None:
            self._link.send(kind, payload)

    def _note_status(self, payload: bytes) -> None:
        try:
            self._status = self._codec.decode(payload, NodeStatus)
        except WireError as error:
            raise PipeError(f"a status that does not validate: {error}") from error
        self._introduced.set()

    def _said_goodbye(self) -> bool:
        return self._status is not None and self._status.state == "disconnected"

    async def _work(self) -> None:
        """Connect once the actuator has introduced itself; then heartbeats, and reloads."""
        assert self._pipe is not None
        await self._introduced.wait()
        await self._open()
        while True:
            assert self._bus is not None
            assert self._link is not None
            self._link.beat()
            news = [
                asyncio.create_task(self._reload.wait()),
                asyncio.create_task(self._bus.wait_changed()),
            ]
            try:
                await asyncio.wait(news, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in news:
                    task.cancel()
            if self._reload.is_set():
                self._reload.clear()
                await self._reread()

    async def _open(self) -> None:
        """Begin to connect, subscribe, publish what is known, listen for scrapes."""
        assert self._status is not None
        assert self._pipe is not None
        self._bus = agent_bus(self._config, self._status)
        self._link = AgentLink(self._bus, self._config, self._pipe.send)
        self._link.start()
        age_s = time.monotonic() - self._telemetry_at_s
        for kind, payload in self._latest.items():
            # The first frame of a start is news; an old one is not, and the next comes soon.
            if kind != "telemetry" or age_s <= self._config.telemetry_s:
                self._link.send(kind, payload)
        await self._bus.start()
        if self._config.metrics_port is not None:
            self._metrics = metrics.MetricsServer(self._config.metrics_port, self._render)
            await self._metrics.start()

    async def _close(self, *, clean: bool) -> None:
        if self._metrics is not None:
            await self._metrics.stop()
            self._metrics = None
        if self._bus is not None:
            await self._bus.stop(clean=clean, timeout_s=GOODBYE_S)

    async def _reread(self) -> None:
        """Read the file again; a file that does not load changes nothing."""
        try:
            config = read_config(self._config_path)
        except (ConfigError, OSError) as error:
            LOG.error("event=reload-refused reason=%r", str(error))
            return
        if config == self._config:
            LOG.info("event=reloaded changed=no")
            return
        await self._close(clean=True)
        if self._supplies is not None:
            await self._supplies.stop()
        self._config = config
        self._watch_supplies()
        await self._open()
        LOG.info("event=reloaded changed=yes")

    def _render(self) -> str:
        """Return the metrics as they are now."""
        assert self._bus is not None
        assert self._link is not None
        lines = metrics.bus_lines(self._bus)
        link = self._link
        lines += metrics.frame_lines(link.frames_sent, link.frames_delivered, link.frames_dropped)
        if self._supplies is not None:
            lines += self._supplies.metric_lines()
        lines += metrics.refused_lines(self._refused)
        payload = self._latest.get("telemetry")
        if payload is not None:
            age_s = time.monotonic() - self._telemetry_at_s
            try:
                telemetry = self._codec.decode(payload, NodeTelemetry)
                lines += metrics.telemetry_lines(telemetry, age_s=age_s)
            except WireError as error:
                LOG.debug("event=telemetry-invalid reason=%r", str(error))
        return "\n".join(lines) + "\n"


def read_config(path: Path) -> AgentConfig:
    """Read the agent's file. Raises OSError, or ConfigError with every problem in it."""
    try:
        return load_agent(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise OSError(f"{path}: not UTF-8: {error}") from error


async def _run(path: Path, config: AgentConfig, fd: int) -> int:
    return await IoProcess(path, config, socket.socket(fileno=fd)).run()


def main(arguments: Sequence[str]) -> int:
    """Run the I/O process; returns the exit code."""
    parser = argparse.ArgumentParser(prog="daemon.agent.io", description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, type=Path, help="the agent's file")
    parser.add_argument("--fd", required=True, type=int, help="this end of the pipe")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        return asyncio.run(_run(options.config, read_config(options.config), options.fd))
    except (ConfigError, SecretsError) as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    except OSError as error:
        print(f"{options.config} or pipe {options.fd}: {error}", file=sys.stderr)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
