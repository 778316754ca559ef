"""The audit log: every changed decision, acknowledgement, refusal and operator command, forever.

It is an SQLite file of its own, not a file of JSON lines: a batch is there wholly or not at all, so
a power cut leaves no torn line; it can be read and searched while it grows; and triggers refuse to
change or delete a record. `synchronous=full`: once committed, at most 0.5 s after it was recorded,
a record survives a power cut. Records are numbered without gaps and each carries the hash of the
one before, so `verify_audit` finds what was removed or edited. Who can rewrite the whole file can
also rebuild the chain: the head (number and hash) is exported in `counters`, and a copy of it kept
elsewhere settles that too. While the disk is full, records wait in memory, in order, up to a
maximum; what did not fit is counted and leaves a `gap` record that says how much is missing. It
never blocks control, and nothing in it is ever deleted by us.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from daemon.store.chain import Head, Record, chained, read_head, read_records, write_records
from daemon.store.changes import ChangeLog
from daemon.store.database import Database, Schema, is_corrupt, open_reader, transaction
from daemon.store.health import RETRY_S_MIN, Health
from daemon.store.history import StoreError
from daemon.store.writer import WriterThread
from facility.config import StoreConfig
from facility.decisions import Decision
from facility.wire import Applied, Emergency, Event, Request, Response

COMMIT_S: Final = 0.5
INBOX_MAX: Final = {"decision": 256, "applied": 16_384, "record": 16_384}
"""What may wait for the writer thread, which takes all of it twice a second."""

RECORDS_MAX: Final = 50_000
BYTES_MAX: Final = 64 * 2**20
"""What may wait in memory for the disk: whichever is reached first."""

READ_MAX: Final = 10_000

AUDIT: Final = Schema(
    what="audit log",
    application_id=0x416D7041,  # "AmpA"
    version=1,
    statements=(
        """CREATE TABLE record (
            seq INTEGER PRIMARY KEY, at_s REAL NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
            decision_id TEXT NOT NULL, body TEXT NOT NULL, hash BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX record_at ON record (at_s)",
        "CREATE INDEX record_subject ON record (subject, seq)",
        "CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL,"
        " hash BLOB NOT NULL) STRICT",
        "INSERT INTO head VALUES (1, 0, randomblob(32))",
        "CREATE TABLE genesis AS SELECT hash FROM head",
        "CREATE TRIGGER record_kept BEFORE DELETE ON record"
        " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
        "CREATE TRIGGER record_unchanged BEFORE UPDATE ON record"
        " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
    ),
    synchronous="full",
)


class Audit:
    """The audit log of one controller. Recording may be called from any thread, never blocks.

    Every `record_*` returns True when the record is on its way to a disk that works; False when the
    disk fails (the record waits in memory) or the record is lost (counted; a gap record will say
    so). The controller treats False as an alarm, not as a reason to stop.
    """

    def __init__(
        self,
        path: Path,
        *,
        records_max: int = RECORDS_MAX,
        bytes_max: int = BYTES_MAX,
        retry_s_min: float = RETRY_S_MIN,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is opened until `start`."""
        self._wall_s = wall_s
        self._health = Health(
            store="audit",
            severity="critical",
            wall_s=wall_s,
            monotonic_s=monotonic_s,
            retry_s_min=retry_s_min,
        )
        self._database = Database(path, AUDIT, wall_s=wall_s)
        self._sink = AuditSink(
            self._database,
            self._health,
            records_max=records_max,
            bytes_max=bytes_max,
            wall_s=wall_s,
        )
        self._writer = WriterThread(
            self._sink, name="audit-writer", limits=INBOX_MAX, period_s=COMMIT_S
        )

    def start(self) -> None:
        """Open or create the file and begin to write. Raises StoreError."""
        damage = self._database.start()
        self._sink.begin(damage)
        self._writer.start()

    def record_decision(self, decision: Decision) -> bool:
        """Keep what this decision changes, and the events it carries; nothing if nothing."""
        return self._put("decision", decision)

    def record_applied(self, applied: Applied) -> bool:
        """Keep an agent's acknowledgement: asked for, accepted, observed."""
        return self._put("applied", applied)

    def record_event(self, event: Event) -> bool:
        """Keep an event that no decision carries."""
        return self._put("record", event)

    def record_request(self, request: Request, *, at_s: float) -> bool:
        """Keep an operator's command as it came in, before it is judged."""
        return self._put_struct("request", request.verb, request, at_s=at_s)

    def record_response(self, response: Response, *, at_s: float) -> bool:
        """Keep the answer to an operator's command."""
        return self._put_struct("response", response.verb, response, at_s=at_s)

    def record_emergency(self, emergency: Emergency, *, at_s: float) -> bool:
        """Keep an emergency that left between two decisions, on an operator's command."""
        return self._put_struct("emergency", emergency.domain, emergency, at_s=at_s)

    def record_refusal(self, *, at_s: float, subject: str, what: str, because: str) -> bool:
        """Keep that something was refused: whose, what, and why."""
        body = _text({"what": what, "because": because})
        return self._put("record", Record(at_s, "refusal", subject, "", body))

    def records(
        self, *, since_seq: int = 1, limit: int = 1_000, kind: str = "", subject: str = ""
    ) -> Sequence[Record]:
        """Committed records from `since_seq`, oldest first. Raises StoreError."""
        connection = open_reader(self._database.path)
        try:
            limit = max(0, min(limit, READ_MAX))
            return read_records(connection, since_seq, limit=limit, kind=kind, subject=subject)
        except sqlite3.Error as error:
            raise StoreError(f"{self._database.path}: cannot be read: {error}") from error
        finally:
            connection.close()

    @property
    def failing(self) -> bool:
        """Whether records wait in memory because the file cannot be written."""
        return self._health.failing

    def take_events(self) -> Sequence[Event]:
        """The log's own alarms since the last call, to be alerted on.

        They are recorded here already, and not twice when they come back by `record_event`.
        """
        return self._health.take_events()

    def counters(self) -> dict[str, Any]:
        """Counts since start, queue depth, last error, and the head of the chain."""
        counters = self._health.counters()
        for kind, count in self._writer.inbox.refused().items():
            counters["dropped"][kind] = counters["dropped"].get(kind, 0) + count
        counters["queue_depth"] = self._writer.inbox.depth
        counters["pending_count"] = self._sink.pending_count
        head = self._sink.head
        counters["head_seq"] = head.seq
        counters["head_hash"] = head.hash.hex()
        return counters

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until all that was recorded before is on disk; False when it could not be."""
        return self._writer.flush(timeout_s=timeout_s)

    def close(self) -> None:
        """Write what is queued and let go of the file. Never raises."""
        self._writer.stop()

    def _put_struct(self, kind: str, subject: str, body: msgspec.Struct, *, at_s: float) -> bool:
        return self._put("record", Record(at_s, kind, subject, "", _text(body)))

    def _put(self, kind: str, item: object) -> bool:
        return self._writer.inbox.put(kind, item) and not self._health.failing


class AuditSink:
    """What the writer thread does; used by that thread only, but for what says otherwise.

    The fault machine runs it without a thread.
    """

    def __init__(
        self,
        database: Database,
        health: Health,
        *,
        records_max: int,
        bytes_max: int,
        wall_s: Callable[[], float],
    ) -> None:
        """The bounds are those of memory while the disk fails."""
        self._database = database
        self._health = health
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._wall_s = wall_s
        self._changes = ChangeLog()
        self._epoch = ""
        self._pending: deque[Record] = deque()
        self._pending_bytes = 0
        self._gap: Counter[str] = Counter()
        self._gap_because = ""
        self._gap_since_s = 0.0
        self.head = Head(0, b"")

    @property
    def pending_count(self) -> int:
        """Records that wait to be written; from any thread."""
        return len(self._pending)

    def begin(self, damage: str) -> None:
        """Take up the chain where it ended; called before the thread starts. Raises StoreError."""
        try:
            try:
                last = self._read_end()
            except sqlite3.DatabaseError as error:
                if not is_corrupt(error):
                    raise
                damage = f"{self._database.move_aside().name} is kept: it was damaged ({error})"
                last = self._read_end()
        except (sqlite3.Error, OSError) as error:
            self._database.stop()
            raise StoreError(f"{self._database.path}: cannot be used: {error}") from error
        if damage:
            self._health.alarm("corrupt", "critical", f"{damage}; a new chain begins.")
        if last != self.head.seq:
            sentence = f"The audit log ends at record {last}, but {self.head.seq} were written."
            self._health.alarm("tampered", "critical", sentence)

    def _read_end(self) -> int:
        connection = self._database.connection()
        self.head = read_head(connection)
        return connection.execute("SELECT max(seq) FROM record").fetchone()[0] or 0

    def accept(self, kind: str, item: object) -> None:
        """Turn one value into records."""
        match item:
            case Record():
                self._append(item)
            case Event():
                if not self._health.is_own(item):
                    self._append(_event_record(item))
            case Applied():
                at_s, node = item.applied_at_s, item.node
                self._append(Record(at_s, "applied", node, item.decision_id, _text(item)))
            case Decision():
                self._accept_decision(item)
            case _:
                raise TypeError(f"the audit log keeps no {type(item).__name__} as {kind}")

    def lost(self, kind: str, count: int, why: str) -> None:
        """Count what never came through; a gap record will tell."""
        if not self._gap:
            self._gap_since_s = self._wall_s()
            self._gap_because = why
        self._gap[kind] += count
        self._health.drop(kind, count, why)

    def commit(self, *, everything: bool) -> bool:
        """Write all that waits in one transaction."""
        # Alarms are few, and the record of the trouble must not be its first victim.
        self._pending += map(_event_record, self._health.take_own())
        if (self._pending or self._gap) and (everything or self._health.may_try()):
            self._try_to_write()
        return not self._pending and not self._gap

    def close(self) -> None:
        """Let go of the file; what could not be written is counted as lost."""
        if self._pending:
            self._health.drop("record", len(self._pending), "the audit log was closed")
        self._database.stop()

    def _accept_decision(self, decision: Decision) -> None:
        epoch, dash, _ = decision.decision_id.partition("-")
        if dash and epoch != self._epoch:
            # Another may have led meanwhile: a leadership begins with everything that holds.
            self._epoch, self._changes = epoch, ChangeLog()
        changes = self._changes.changes(decision)
        if changes:
            record_id, at_s = decision.decision_id, decision.wall_s
            body = _text({"changes": changes})
            self._append(Record(at_s, "decision", "", record_id, body))
        for event in decision.events:
            self._append(_event_record(event))

    def _append(self, record: Record) -> None:
        full = len(self._pending) >= self._records_max
        if full or self._pending_bytes + len(record.body) > self._bytes_max:
            self.lost(record.kind, 1, f"memory was full: {self._health.last_error}")
            return
        self._pending.append(record)
        self._pending_bytes += len(record.body)

    def _try_to_write(self) -> None:
        try:
            if self._database.vanished():
                self._database.close()
                self._health.alarm(
                    "lost",
                    "critical",
                    f"{self._database.path} was removed after record {self.head.seq}, hash "
                    f"{self.head.hash.hex()}; a new chain begins.",
                )
            self._write()
        except sqlite3.DatabaseError as error:
            self._failed(error)
        except (OSError, StoreError) as error:
            self._database.close()
            self._health.failed(str(error))
        else:
            self._health.worked()

    def _failed(self, error: sqlite3.DatabaseError) -> None:
        """Let go of the file; if it is damaged, keep it aside and begin a new chain."""
        self._database.close()
        if is_corrupt(error):
            head = self.head
            try:
                aside = self._database.move_aside()
            except OSError as trouble:
                self._health.failed(f"{error}, and it cannot be moved aside: {trouble}")
                return
            self._health.alarm(
                "corrupt",
                "critical",
                f"The log was damaged ({error}) and is kept as {aside.name} up to record "
                f"{head.seq}, hash {head.hash.hex()}; a new chain begins.",
            )
        self._health.failed(str(error))

    def _write(self) -> None:
        connection = self._database.connection()
        records = list(self._pending)
        if self._gap:
            records.append(self._gap_record())
        with transaction(connection):
            # The head in the file, not the one in memory: it rules after a failed or new file.
            head = read_head(connection)
            links, head = chained(head, records)
            write_records(connection, links, head)
        self.head = head
        for record in records:
            self._health.written[record.kind] += 1
        self._pending.clear()
        self._pending_bytes = 0
        self._gap.clear()

    def _gap_record(self) -> Record:
        now_s = self._wall_s()
        body = {
            "lost": dict(self._gap),
            "since_s": self._gap_since_s,
            "until_s": now_s,
            "because": self._gap_because,
        }
        return Record(now_s, "gap", "audit", "", _text(body))


def open_audit(
    config: StoreConfig,
    *,
    wall_s: Callable[[], float] = time.time,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> Audit:
    """Return the audit log in the configured directory, started. Raises StoreError."""
    path = Path(config.directory) / "audit.db"
    audit = Audit(path, wall_s=wall_s, monotonic_s=monotonic_s)
    audit.start()
    return audit


def _text(body: object) -> str:
    return msgspec.json.encode(body).decode()


def _event_record(event: Event) -> Record:
    return Record(event.at_s, "event", event.subject, event.decision_id, _text(event))
