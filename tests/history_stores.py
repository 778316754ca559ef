"""Stores for tests: a clock that the test sets, a started history, and a look into its file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from daemon.store.sqlite import SqliteHistory
from tests.history_values import NOW_S


class Clock:
    """A time of day that the test sets."""

    def __init__(self) -> None:
        """Begin at the tests' now."""
        self.now_s = NOW_S

    def __call__(self) -> float:
        """The time of day."""
        return self.now_s


def started(path: Path, clock: Clock) -> SqliteHistory:
    """A history that uses the last byte of the disk, because the test's disk may be small."""
    store = SqliteHistory(path, wall_s=clock, free_bytes_min=0)
    store.start()
    return store


def flushed(store: SqliteHistory) -> SqliteHistory:
    """The same, once all that was recorded is stored."""
    assert store.flush(timeout_s=10.0), store.counters()
    return store


def pragma(path: Path, name: str) -> str:
    """What SQLite says about a file."""
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute(f"PRAGMA {name}").fetchone()[0])
    finally:
        connection.close()


def integrity(path: Path) -> str:
    """`ok` for a whole file."""
    return pragma(path, "integrity_check")
