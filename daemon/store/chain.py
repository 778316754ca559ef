"""The hash chain of the audit log: how records are linked, stored, and checked.

Each hash covers the hash before, so nobody can edit, remove or insert a record without changing all
that follow. What is recorded, and when, is not decided here.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from daemon.store.database import open_reader
from daemon.store.history import StoreError

PROBLEMS_MAX: Final = 100
"""`verify_audit` stops naming after so many: the file is beyond trust by then."""


class Record(Struct, frozen=True):
    """One fact. `at_s` is UTC, `body` JSON; `seq` and `hash` are given when it is written."""

    at_s: float
    kind: str
    subject: str
    decision_id: str
    body: str
    seq: int = 0
    hash: bytes = b""


class Head(Struct, frozen=True):
    """The last record's number and hash; number 0 is the random hash that the chain starts from."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What `verify_audit` found: no problems means that every record is there and unedited."""

    records_count: int
    head: Head
    problems: tuple[str, ...]


def digest(previous: bytes, record: Record, seq: int) -> bytes:
    """SHA-256 over the previous hash and every field, each with its length before it.

    Fields are packed, not printed: the hash must not depend on how a library writes a number.
    """
    packed = previous + struct.pack(">qd", seq, record.at_s)
    for text in (record.kind, record.subject, record.decision_id, record.body):
        data = text.encode()
        packed += struct.pack(">I", len(data)) + data
    return hashlib.sha256(packed).digest()


def chained(head: Head, records: Iterable[Record]) -> tuple[list[tuple[Any, ...]], Head]:
    """Rows that continue the chain after `head`, and the new head."""
    rows = []
    seq, previous = head.seq, head.hash
    for record in records:
        seq += 1
        previous = digest(previous, record, seq)
        fields = (record.at_s, record.kind, record.subject, record.decision_id, record.body)
        rows.append((seq, *fields, previous))
    return rows, Head(seq, previous)


def read_head(connection: sqlite3.Connection) -> Head:
    """The stored head. Raises sqlite3.Error."""
    row = connection.execute("SELECT seq, hash FROM head").fetchone()
    if row is None:
        gone = sqlite3.DatabaseError("the head of the chain is gone")
        gone.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise gone
    return Head(*row)


def write_records(connection: sqlite3.Connection, rows: list[tuple[Any, ...]], head: Head) -> None:
    """Append rows and move the head, inside the caller's transaction. Raises sqlite3.Error."""
    connection.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.execute("UPDATE head SET seq = ?, hash = ?", (head.seq, head.hash))


def read_records(
    connection: sqlite3.Connection, since_seq: int, *, limit: int, kind: str, subject: str
) -> Sequence[Record]:
    """Records from `since_seq`, oldest first; an empty text matches all. Raises sqlite3.Error."""
    rows = connection.execute(
        "SELECT at_s, kind, subject, decision_id, body, seq, hash FROM record WHERE seq >= ?"
        " AND ? IN ('', kind) AND ? IN ('', subject) ORDER BY seq LIMIT ?",
        (since_seq, kind, subject, limit),
    )
    return [Record(*row) for row in rows]


def verify_audit(path: Path, *, anchor: Head | None = None) -> AuditReport:
    """Check every number and hash of a log, which may be in use; one sentence per problem.

    `anchor` is a head that was noted elsewhere earlier: with it, a rebuilt chain is found as well.

    Raises:
        StoreError: the file is not there or is no audit log.
    """
    connection = open_reader(path)
    try:
        connection.execute("BEGIN")  # one view of records and head while the log grows
        head = read_head(connection)
        genesis = connection.execute("SELECT hash FROM genesis").fetchone()
        start = Head(0, genesis[0] if genesis else b"")
        checker = _Checker(start, anchor)
        rows = connection.execute(
            "SELECT at_s, kind, subject, decision_id, body, seq, hash FROM record ORDER BY seq"
        )
        for row in rows:
            checker.check(Record(*row))
        return checker.report(head)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be checked: {error}") from error
    finally:
        connection.close()


class _Checker:
    """Walks a chain; after a problem it goes on from what is stored, so that each is named once."""

    def __init__(self, start: Head, anchor: Head | None) -> None:
        self._last = start
        self._anchor = anchor
        self._count = 0
        self._problems: list[str] = []

    def check(self, record: Record) -> None:
        """The next record by number."""
        self._count += 1
        expected = self._last.seq + 1
        if record.seq > expected:
            self._found(f"records {expected} to {record.seq - 1} are missing")
        elif digest(self._last.hash, record, record.seq) != record.hash:
            self._found(f"record {record.seq} was edited, or does not follow the one before it")
        anchor = self._anchor
        if anchor is not None and anchor.seq == record.seq and anchor.hash != record.hash:
            self._found(f"record {record.seq} is not the one noted elsewhere: the chain is rebuilt")
        self._last = Head(record.seq, record.hash)

    def report(self, head: Head) -> AuditReport:
        """The end of the chain against the stored head and the anchor."""
        if self._last.seq < head.seq:
            self._found(f"records {self._last.seq + 1} to {head.seq} are missing at the end")
        elif self._last != head:
            self._found(f"the head says record {head.seq}, the last record is {self._last.seq}")
        if self._anchor is not None and self._anchor.seq > self._last.seq:
            self._found(f"record {self._anchor.seq}, noted elsewhere, is not there")
        return AuditReport(self._count, head, tuple(self._problems))

    def _found(self, problem: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(problem)
