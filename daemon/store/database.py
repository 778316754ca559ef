"""One SQLite file of ours: who may open it, what it must contain, and what to do when it is broken.

A file of a newer schema or of another program is refused and left alone. A damaged file is moved
aside, never deleted and never written to again. One process writes at a time, held by a lock that
the kernel drops when the process dies. What the tables mean is not known here.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from daemon.store.history import StoreError

BUSY_S: Final = 5.0
"""Longest wait for a foreign lock; only the writer thread waits."""

CHECK_S_MAX: Final = 2.0
"""How long a start may look for damage: large files are checked as far as this allows."""

ASIDE_MAX: Final = 20
"""Damaged files (and their logs) that are kept: a dying disk must not fill itself with them."""

WAL_BYTES_MAX: Final = 64 * 2**20
_CHECK_STEPS: Final = 10_000
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@dataclass(frozen=True, slots=True)
class Schema:
    """What makes a file ours. `application_id` and `version` are stored in its header."""

    what: str
    application_id: int
    version: int
    statements: tuple[str, ...]
    synchronous: Literal["normal", "full"]


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing: commit at the end, roll back on any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the error means damage in the file, not trouble with the disk below it."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _CORRUPT


class Database:
    """A file that one thread writes; readers open their own connections."""

    def __init__(self, path: Path, schema: Schema, *, wall_s: Callable[[], float]) -> None:
        """Nothing is opened until `start`."""
        self.path = path
        self._schema = schema
        self._wall_s = wall_s
        self._lock: IO[bytes] | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def start(self) -> str:
        """Take the lock and open the file; returns what was moved aside and why, or nothing.

        Raises:
            StoreError: no access, used by another process, newer, or of another program.
        """
        try:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._take_lock()
            return self._open_checked()
        except (OSError, sqlite3.Error) as error:
            self.stop()
            raise StoreError(
                f"{self.path}: cannot open the {self._schema.what}: {error}; make its directory "
                f"writable for user id {os.geteuid()} or set store.directory"
            ) from error
        except StoreError:
            self.stop()
            raise

    def stop(self) -> None:
        """Close the file and drop the lock."""
        self.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        """Close the file, keep the lock: after an error the next use opens it anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def connection(self) -> sqlite3.Connection:
        """The writer's connection, opened if need be. Raises sqlite3.Error, OSError, StoreError."""
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def vanished(self) -> bool:
        """Whether the open file is no longer the one at its path: deleted or replaced by hand.

        SQLite would go on writing into a file that nobody can find.
        """
        if self._connection is None:
            return False
        try:
            return _identity(self.path) != self._identity
        except FileNotFoundError:
            return True

    def move_aside(self) -> Path:
        """Rename the damaged file with its log, so that a new one can begin. Raises OSError."""
        self.close()
        if len(list(self.path.parent.glob(f"{self.path.name}.corrupt-*"))) >= ASIDE_MAX:
            raise OSError(f"{ASIDE_MAX} damaged files are kept already: is the disk failing?")
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._wall_s()))
        target = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        number = 0
        while target.exists():
            number += 1
            target = self.path.with_name(f"{self.path.name}.corrupt-{stamp}-{number}")
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                os.rename(f"{self.path}{suffix}", f"{target}{suffix}")
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}-shm")  # an index of the log, rebuilt by whoever opens it
        return target

    def _take_lock(self) -> None:
        lock = open(f"{self.path}.lock", "ab")  # noqa: SIM115 - held until stop
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StoreError(
                f"{self.path}: another process writes this {self._schema.what}; "
                "stop it, or give this one another store.directory"
            ) from None
        self._lock = lock

    def _open_checked(self) -> str:
        try:
            self._check(self.connection())
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            aside = self.move_aside()
            self.connection()
            return f"{self.path.name} was damaged ({error}) and is kept as {aside.name}"
        return ""

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
            self._identity = _identity(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        schema = self._schema
        version = _pragma(connection, "user_version")
        application_id = _pragma(connection, "application_id")
        tables_count = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application_id != schema.application_id and (application_id or tables_count):
            raise StoreError(f"{self.path}: this is not an Ampacity {schema.what}; move it away")
        if version > schema.version:
            raise StoreError(
                f"{self.path}: its schema is version {version}, this program knows {schema.version}"
                "; use the newer program, or move the file away to begin a new one"
            )
        if not tables_count:
            connection.execute("PRAGMA auto_vacuum = incremental")
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute(f"PRAGMA synchronous = {schema.synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        if not tables_count:
            self._create(connection)

    def _create(self, connection: sqlite3.Connection) -> None:
        with transaction(connection):
            for statement in self._schema.statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {self._schema.application_id}")
            connection.execute(f"PRAGMA user_version = {self._schema.version}")

    def _check(self, connection: sqlite3.Connection) -> None:
        """Look for damage for a bounded time. Raises sqlite3.DatabaseError."""
        deadline_s = time.monotonic() + CHECK_S_MAX
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline_s), _CHECK_STEPS)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            return
        finally:
            connection.set_progress_handler(None, 0)
        if found != "ok":
            damage = sqlite3.DatabaseError(found)
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. Raises StoreError when the file is not there."""
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S, isolation_level=None
        )
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    return connection


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
