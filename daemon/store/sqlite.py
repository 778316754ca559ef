"""History in one SQLite file: the default store.

Events, changed sentences and roll-ups are rows, raw samples are blocks (`daemon.store.blocks`).
One thread writes, one transaction a second. After `kill -9` the file opens as it is; at most the
last second is lost, and the last 10 s of raw samples. A power cut may also take what the system
had not yet written to the disk, but never damages the file. Roll-ups are merged by the database
itself, so neither a restart nor a late message makes them wrong. History never keeps the audit
log, and leaves `free_bytes_min` of the disk to it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from daemon.store.blocks import BlockError, joined
from daemon.store.database import Database, open_reader
from daemon.store.health import RETRY_S_MIN, Health
from daemon.store.history import (
    BUCKETS_PER_READ_MAX,
    EVENTS_PER_READ_MAX,
    EventFilter,
    GpuMinute,
    Sentence,
    StoreError,
)
from daemon.store.rollups import DomainRollup, NodeRollup, Period
from daemon.store.sqlite_sink import SqliteSink
from daemon.store.tables import (
    HISTORY,
    READ_DOMAIN_ROLLUPS,
    READ_EVENTS,
    READ_NODE_ROLLUPS,
    READ_RAW,
    READ_SENTENCES,
    domain_rollup,
    node_rollup,
)
from daemon.store.writer import WriterThread
from facility.config import StoreConfig
from facility.decisions import Decision
from facility.wire import Event, NodeTelemetry

DAY_S: Final = 86_400.0
COMMIT_S: Final = 1.0
INBOX_MAX: Final = {"telemetry": 8_192, "decision": 256, "event": 8_192}
"""What may wait for the writer: 6 s of 1,250 nodes, 4 minutes of decisions."""

FREE_BYTES_MIN: Final = 256 * 2**20
"""History stops writing here, so that a full disk does not stop the audit log too."""


class SqliteHistory:
    """The `History` port on a file. Reading uses connections of its own that cannot write."""

    def __init__(
        self,
        path: Path,
        *,
        retention_s: float = 30 * DAY_S,
        fine_retention_s: float = 7 * DAY_S,
        free_bytes_min: int = FREE_BYTES_MIN,
        retry_s_min: float = RETRY_S_MIN,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raw samples and 1 s roll-ups are kept for the shorter of the two retentions."""
        health = Health(
            store="history",
            severity="warning",
            wall_s=wall_s,
            monotonic_s=monotonic_s,
            retry_s_min=retry_s_min,
        )
        self._health = health
        self._database = Database(path, HISTORY, wall_s=wall_s)
        self._sink = SqliteSink(
            self._database,
            health,
            retention_s=(retention_s, min(retention_s, fine_retention_s)),
            free_bytes_min=free_bytes_min,
            wall_s=wall_s,
            monotonic_s=monotonic_s,
        )
        self._writer = WriterThread(
            self._sink, name="history-writer", limits=INBOX_MAX, period_s=COMMIT_S
        )

    @classmethod
    def from_config(
        cls,
        config: StoreConfig,
        *,
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
    ) -> SqliteHistory:
        """Build the store that the configuration describes; nothing is opened."""
        return cls(
            Path(config.directory) / "history.db",
            retention_s=config.retention_days * DAY_S,
            fine_retention_s=config.fine_retention_days * DAY_S,
            wall_s=wall_s,
            monotonic_s=monotonic_s,
        )

    def start(self) -> None:
        """Open or create the file and begin to write. Raises StoreError."""
        damage = self._database.start()
        if damage:
            self._health.alarm("corrupt", "critical", f"{damage}; a new one begins.")
        self._writer.start()

    def record_telemetry(self, frame: NodeTelemetry) -> None:
        """Keep one frame: raw samples and node roll-ups."""
        self._writer.inbox.put("telemetry", frame)

    def record_decision(self, decision: Decision) -> None:
        """Keep one cycle: domain roll-ups, changed sentences, and the events it carries."""
        self._writer.inbox.put("decision", decision)

    def record_event(self, event: Event) -> None:
        """Keep one event that no decision carries."""
        self._writer.inbox.put("event", event)

    def domain_rollups(
        self, domain: str, *, since_s: float, until_s: float, period_s: Period = 1
    ) -> Sequence[DomainRollup]:
        """Roll-ups of one domain, oldest first. Raises StoreError."""
        bounds = _bounds(since_s, until_s, period_s)
        rows = self._read(READ_DOMAIN_ROLLUPS, {**bounds, "name": domain})
        return [domain_rollup(domain, period_s, row) for row in rows]

    def node_rollups(
        self, node: str, *, since_s: float, until_s: float, period_s: Period = 1
    ) -> Sequence[NodeRollup]:
        """Roll-ups of one node, oldest first. Raises StoreError."""
        bounds = _bounds(since_s, until_s, period_s)
        rows = self._read(READ_NODE_ROLLUPS, {**bounds, "name": node})
        return [node_rollup(node, period_s, row) for row in rows]

    def events(self, wanted: EventFilter) -> Sequence[Event]:
        """Events, newest first. Raises StoreError."""
        parameters = {
            "since_s": wanted.since_s,
            "until_s": wanted.until_s,
            "severity": wanted.severity or "",
            "event": wanted.event,
            "subject": wanted.subject,
            "source": wanted.source,
            "limit": max(0, min(wanted.limit, EVENTS_PER_READ_MAX)),
        }
        rows = self._read(READ_EVENTS, parameters)
        return [
            Event(
                at_s=at_s,
                event=event,
                severity=severity,
                source=source,
                subject=subject,
                sentence=sentence,
                decision_id=decision_id,
            )
            for at_s, event, severity, source, subject, sentence, decision_id in rows
        ]

    def sentences(self, subject: str, *, limit: int = 100) -> Sequence[Sentence]:
        """What was decided about a domain or a node, newest first. Raises StoreError."""
        limit = max(0, min(limit, EVENTS_PER_READ_MAX))
        rows = self._read(READ_SENTENCES, {"subject": subject, "limit": limit})
        return [Sentence(*row) for row in rows]

    def gpu_minute(self, gpu: str, *, minute_s: int) -> GpuMinute | None:
        """Raw samples of one GPU in one minute. Raises StoreError."""
        parts = self._read(READ_RAW, {"gpu": gpu, "minute_s": minute_s})
        try:
            return joined(gpu, minute_s, parts)
        except BlockError as error:
            raise StoreError(f"{self._database.path}: {gpu} at {minute_s}: {error}") from error

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
        counters["deleted_count"] = self._sink.deleted_count
        return counters

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until all that was recorded before is stored; False when it could not be."""
        return self._writer.flush(timeout_s=timeout_s)

    def close(self) -> None:
        """Store what is queued and let go of the file. Never raises."""
        self._writer.stop()

    def _read(self, query: str, parameters: dict[str, Any]) -> list[Any]:
        connection = open_reader(self._database.path)
        try:
            return connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._database.path}: cannot be read: {error}") from error
        finally:
            connection.close()


def _bounds(since_s: float, until_s: float, period_s: Period) -> dict[str, int]:
    """Whole buckets that touch the interval; the oldest are cut when there are too many."""
    last = int(until_s // period_s) * period_s
    first = int(since_s // period_s) * period_s
    first = max(first, last - (BUCKETS_PER_READ_MAX - 1) * period_s)
    return {"first": first, "last": last, "period_s": period_s}
