"""History in InfluxDB (or VictoriaMetrics), through the official client's write API.

Lines wait in a bounded buffer for a writer thread that sends them in batches. While the server is
away, attempts back off up to 30 s and the buffer fills; then the oldest raw samples go first, then
the oldest of everything else, counted by kind. A batch that the server calls malformed is dropped
and counted, so that it cannot stop what follows. Whole history is read in InfluxDB itself; here
only a short window of it is kept in memory for the page: events, sentences and domains' roll-ups.
The controller never waits for the server, and the token comes from a file only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from daemon.store.changes import ChangeLog
from daemon.store.health import RETRY_S_MIN, Health
from daemon.store.history import EventFilter, GpuMinute, Sentence, StoreError
from daemon.store.lineprotocol import Lines
from daemon.store.recent import Recent
from daemon.store.rollups import DomainRollup, NodeRollup, Period
from daemon.store.writer import WriterThread
from facility.config import StoreConfig
from facility.decisions import Decision
from facility.wire import Event, NodeTelemetry

COMMIT_S: Final = 1.0
FIGURES_S: Final = 10.0
BATCH_LINES_MAX: Final = 5_000
TIMEOUT_S: Final = 5.0
"""Longest wait for one batch: frames queue for so long while a server hangs."""

INBOX_MAX: Final = {"telemetry": 16_384, "decision": 256, "event": 8_192}
"""What may wait for the writer thread: 13 s of 1,250 nodes, so longer than one hanging write."""

CLOSE_S_MAX: Final = TIMEOUT_S + 2.0

REFUSED_STATUS: Final = frozenset({400, 413, 422})
"""The server says that the batch itself is wrong: sending it again cannot help."""


class WriteError(Exception):
    """A batch was not taken; `refused` when it never will be."""

    def __init__(self, text: str, *, refused: bool) -> None:
        super().__init__(text)
        self.refused = refused


class LineServer(Protocol):
    """Where batches go."""

    def write(self, lines: str) -> None:
        """Send lines, precision microseconds. Raises WriteError."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class InfluxServer:
    """The official client, one request per batch: it neither buffers nor retries, we do."""

    def __init__(self, *, url: str, org: str, bucket: str, token: str) -> None:
        """No connection is made until the first write."""
        from influxdb_client.client.influxdb_client import InfluxDBClient
        from influxdb_client.client.write_api import SYNCHRONOUS

        self._bucket = bucket
        self._org = org
        self._client = InfluxDBClient(
            url=url, token=token, org=org, timeout=int(TIMEOUT_S * 1_000), retries=False
        )
        self._api = self._client.write_api(write_options=SYNCHRONOUS)

    def write(self, lines: str) -> None:
        """Send lines, precision microseconds. Raises WriteError."""
        from influxdb_client.domain.write_precision import WritePrecision
        from influxdb_client.rest import ApiException
        from urllib3.exceptions import HTTPError

        try:
            self._api.write(
                self._bucket,
                self._org,
                lines,
                write_precision=WritePrecision.US,  # type: ignore[arg-type]
            )
        except ApiException as error:
            text = f"status {error.status}: {_first_line(error.body or error.reason)}"
            raise WriteError(text, refused=error.status in REFUSED_STATUS) from error
        except (HTTPError, OSError) as error:
            raise WriteError(_first_line(error), refused=False) from error

    def close(self) -> None:
        """Let go of connections."""
        self._api.close()  # type: ignore[no-untyped-call]
        self._client.close()  # type: ignore[no-untyped-call]


class InfluxHistory:
    """The `History` port on a server that takes InfluxDB v2 writes."""

    def __init__(
        self,
        server: LineServer,
        *,
        site: str,
        lines_max: int,
        where: str = "InfluxDB",
        retry_s_min: float = RETRY_S_MIN,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`where` is the server's address, for messages."""
        self._where = where
        self._health = Health(
            store="history",
            severity="warning",
            wall_s=wall_s,
            monotonic_s=monotonic_s,
            retry_s_min=retry_s_min,
        )
        self._recent = Recent()
        self._sink = _Sink(server, self._health, self._recent, site=site, lines_max=lines_max)
        self._writer = WriterThread(
            self._sink, name="influx-writer", limits=INBOX_MAX, period_s=COMMIT_S
        )

    @classmethod
    def from_config(
        cls,
        config: StoreConfig,
        *,
        site: str,
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
    ) -> InfluxHistory:
        """Build the store that the configuration describes. Raises StoreError."""
        if not config.url or not config.url.startswith(("http://", "https://")):
            raise StoreError(
                f"store.url: {config.url!r} is no server's address: use http://HOST:PORT or https://"
            )
        token = read_token(Path(config.token_file)) if config.token_file else ""
        server = InfluxServer(url=config.url, org=config.org, bucket=config.bucket, token=token)
        return cls(
            server,
            site=site,
            lines_max=config.buffer_lines_max,
            where=config.url,
            wall_s=wall_s,
            monotonic_s=monotonic_s,
        )

    def start(self) -> None:
        """Begin to write; a server that is away is no error."""
        self._writer.start()

    def record_telemetry(self, frame: NodeTelemetry) -> None:
        """Keep one frame: raw samples, GPUs and node."""
        self._writer.inbox.put("telemetry", frame)

    def record_decision(self, decision: Decision) -> None:
        """Keep one cycle: domains, changed sentences, and the events it carries."""
        self._writer.inbox.put("decision", decision)

    def record_event(self, event: Event) -> None:
        """Keep one event that no decision carries."""
        self._writer.inbox.put("event", event)

    def domain_rollups(
        self, domain: str, *, since_s: float, until_s: float, period_s: Period = 1
    ) -> Sequence[DomainRollup]:
        """Roll-ups of one domain, oldest first, as far back as the window in memory goes."""
        return self._recent.domain_rollups(
            domain, since_s=since_s, until_s=until_s, period_s=period_s
        )

    def node_rollups(
        self, node: str, *, since_s: float, until_s: float, period_s: Period = 1
    ) -> Sequence[NodeRollup]:
        """Raises StoreError: nodes' history is in InfluxDB."""
        del since_s, until_s, period_s
        raise StoreError(f"the history of node {node} is in {self._where}: read it there")

    def events(self, wanted: EventFilter) -> Sequence[Event]:
        """Events, newest first, as far back as the window in memory goes."""
        return self._recent.events(wanted)

    def sentences(self, subject: str, *, limit: int = 100) -> Sequence[Sentence]:
        """What was decided about a subject, newest first, as far back as the window goes."""
        return self._recent.sentences(subject, limit=limit)

    def gpu_minute(self, gpu: str, *, minute_s: int) -> GpuMinute | None:
        """Raises StoreError: raw samples are in InfluxDB."""
        del minute_s
        raise StoreError(f"the raw samples of {gpu} are in {self._where}: read them there")

    def take_events(self) -> Sequence[Event]:
        """The store's own alarms since the last call."""
        return self._health.take_events()

    def counters(self) -> dict[str, Any]:
        """Counts since start: `written` and `dropped` by kind, queue depth, last error."""
        counters = self._health.counters()
        for kind, count in self._writer.inbox.refused().items():
            counters["dropped"][kind] = counters["dropped"].get(kind, 0) + count
        counters["queue_depth"] = self._writer.inbox.depth
        counters["pending_count"] = self._sink.pending_count
        return counters

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until the server has all that was recorded before; False when it has not."""
        return self._writer.flush(timeout_s=timeout_s)

    def close(self) -> None:
        """Send what is queued, with one last attempt, and let go. Never raises."""
        self._writer.stop(timeout_s=CLOSE_S_MAX)


class _Sink:
    """What the writer thread does: values to lines, lines to the server."""

    def __init__(
        self, server: LineServer, health: Health, recent: Recent, *, site: str, lines_max: int
    ) -> None:
        self._server = server
        self._health = health
        self._recent = recent
        self._lines_max = lines_max
        self._lines = Lines(site=site)
        self._changes = ChangeLog(figures_s=FIGURES_S)
        # Raw samples apart from the rest: they are nine in ten, and the first to go.
        self._waiting: dict[str, deque[str]] = {"sample": deque(), "line": deque()}

    @property
    def pending_count(self) -> int:
        """Lines that wait to be sent; from any thread."""
        return sum(map(len, self._waiting.values()))

    def accept(self, kind: str, item: object) -> None:
        """Turn one value into lines."""
        match item:
            case NodeTelemetry():
                self._waiting["line"] += self._lines.telemetry(item)
                self._waiting["sample"] += self._lines.gpu_samples(item)
            case Decision():
                changes = [c for c in self._changes.changes(item) if c.sentence]
                self._waiting["line"] += self._lines.domains(item)
                self._waiting["line"] += self._lines.changes(item, changes)
                self._recent.add_decision(item, changes)
                for event in item.events:
                    self._add_event(event)
            case Event():
                if not self._health.is_own(item):
                    self._add_event(item)
            case _:
                raise TypeError(f"history keeps no {type(item).__name__} as {kind}")
        self._trim()

    def lost(self, kind: str, count: int, why: str) -> None:
        """Count what never came through."""
        self._health.drop(kind, count, why)

    def commit(self, *, everything: bool) -> bool:
        """Send batches until nothing waits or the server does not take one."""
        for event in self._health.take_own():
            self._add_event(event)
        self._trim()
        if everything or self._health.may_try():
            while self.pending_count and self._send_batch():
                pass
        return not self.pending_count

    def close(self) -> None:
        """Count what could not be sent, and let go of the server."""
        for kind, waiting in self._waiting.items():
            if waiting:
                self._health.drop(kind, len(waiting), "the store was closed")
        self._server.close()

    def _add_event(self, event: Event) -> None:
        self._waiting["line"].append(self._lines.event(event))
        self._recent.add_event(event)

    def _trim(self) -> None:
        """Drop the oldest beyond the maximum, raw samples before all else."""
        excess = self.pending_count - self._lines_max
        for kind, waiting in self._waiting.items():
            count = min(excess, len(waiting))
            if count > 0:
                for _ in range(count):
                    waiting.popleft()
                excess -= count
                self._health.drop(kind, count, f"the buffer was full: {self._health.last_error}")

    def _send_batch(self) -> bool:
        """Send one batch of one kind; False when it is time to wait."""
        kind = "line" if self._waiting["line"] else "sample"
        waiting = self._waiting[kind]
        batch = list(islice(waiting, BATCH_LINES_MAX))
        try:
            self._server.write("\n".join(batch))
        except WriteError as error:
            if not error.refused:
                self._health.failed(str(error))
                return False
            self._health.last_error = str(error)
            self._health.drop(f"refused_{kind}", len(batch), str(error))
        else:
            self._health.worked()
            self._health.written[kind] += len(batch)
        for _ in batch:
            waiting.popleft()
        return True


def read_token(path: Path) -> str:
    """The token in a file, without the line break at its end. Raises StoreError."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"store.token_file: {path}: cannot be read: {error}") from error
    if not token or not token.isprintable() or " " in token:
        raise StoreError(f"store.token_file: {path}: must hold one token and nothing else")
    return token


def _first_line(error: object) -> str:
    text = error.decode("utf-8", "replace") if isinstance(error, bytes) else str(error)
    return (text.strip().splitlines() or ["no reason given"])[0][:300]
