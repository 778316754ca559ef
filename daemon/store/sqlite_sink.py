"""What the history's writer thread does: values to rows, rows to the file, old rows away.

Rows wait in memory until a transaction has taken them. While the file cannot be written they wait
up to a maximum per kind, then the oldest are dropped and counted. A damaged file is moved aside and
a new one begun. Nothing here is called from the controller's side.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final

from daemon.store.blocks import RawSamples
from daemon.store.changes import ChangeLog
from daemon.store.database import Database, is_corrupt, transaction
from daemon.store.health import Health
from daemon.store.history import StoreError
from daemon.store.rollups import DomainRollup, NodeRollup, domain_rollups, node_rollups
from daemon.store.tables import (
    RETENTION,
    ROWS_MAX,
    WRITES,
    domain_rollup_row,
    event_row,
    node_rollup_row,
)
from facility.decisions import Decision
from facility.wire import Event, NodeTelemetry

FIGURES_S: Final = 10.0
"""A sentence whose figures alone move is kept this often."""

DELETES_MAX: Final = 2_000
"""Rows that retention deletes per table and second: more than 1,250 nodes add."""

VACUUM_PAGES_MAX: Final = 256
VACUUM_FREE_RATIO: Final = 0.1
"""Free pages are reused; the file shrinks only when more than this share of it is free."""


class SqliteSink:
    """What the writer thread does: values to rows, rows to the file. Used by that thread only."""

    def __init__(
        self,
        database: Database,
        health: Health,
        *,
        retention_s: tuple[float, float],
        free_bytes_min: int,
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
    ) -> None:
        """`retention_s` is that of rows and that of fine data."""
        self._database = database
        self._health = health
        self._retention_s = retention_s
        self._free_bytes_min = free_bytes_min
        self._wall_s = wall_s
        self._raw = RawSamples(monotonic_s=monotonic_s)
        self._changes = ChangeLog(figures_s=FIGURES_S)
        self._number = 0
        self.deleted_count = 0
        self._pending: dict[str, dict[Any, Any]] = {kind: {} for kind in WRITES}

    @property
    def pending_count(self) -> int:
        """Rows that wait to be written."""
        return sum(map(len, self._pending.values()))

    def accept(self, kind: str, item: object) -> None:
        """Turn one value into rows."""
        match item:
            case NodeTelemetry():
                self._raw.add(item)
                for node in node_rollups(item):
                    self._merge("node_rollup", (node.period_s, node.at_s, node.node), node)
            case Decision():
                for domain in domain_rollups(item):
                    key = (domain.period_s, domain.at_s, domain.domain)
                    self._merge("domain_rollup", key, domain)
                self._add_changes(item)
                for event in item.events:
                    self._add("event", event_row(event))
            case Event():
                if not self._health.is_own(item):
                    self._add("event", event_row(item))
            case _:
                raise TypeError(f"history keeps no {type(item).__name__} as {kind}")

    def lost(self, kind: str, count: int, why: str) -> None:
        """Count what never came through."""
        self._health.drop(kind, count, why)

    def commit(self, *, everything: bool) -> bool:
        """Write all rows in one transaction, then delete a little of what is too old."""
        for block in self._raw.due(everything=everything):
            row = (block.gpu, block.minute_s, block.part, block.node)
            self._pending["raw"][block.part] = (*row, block.samples_count, block.data)
        if self._raw.refused_count:
            self._health.drop("raw_sample", self._raw.refused_count, "too many GPUs")
            self._raw.refused_count = 0
        self._take_alarms()
        if everything or self._health.may_try():
            self._try_to_write()
        self._trim()
        return not self.pending_count

    def close(self) -> None:
        """Count what could not be written, and let go of the file."""
        for kind, rows in self._pending.items():
            if rows:
                self._health.drop(kind, len(rows), "the store was closed")
        self._database.stop()

    def _add(self, kind: str, row: tuple[Any, ...]) -> None:
        self._number += 1
        self._pending[kind][self._number] = row

    def _merge(self, kind: str, key: tuple[Any, ...], value: DomainRollup | NodeRollup) -> None:
        waiting = self._pending[kind].get(key)
        self._pending[kind][key] = value if waiting is None else waiting.merged(value)

    def _add_changes(self, decision: Decision) -> None:
        for change in self._changes.changes(decision):
            if change.sentence:
                row = (change.subject, decision.wall_s, change.kind, decision.decision_id)
                self._add("sentence", (*row, change.mode, change.sentence))

    def _take_alarms(self) -> None:
        for event in self._health.take_own():
            self._add("event", event_row(event))

    def _try_to_write(self) -> None:
        try:
            if self._database.vanished():
                self._database.close()
                self._health.alarm(
                    "lost", "critical", f"{self._database.path} was removed; a new one begins."
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
        """Let go of the file; if it is damaged, keep it aside and begin a new one."""
        self._database.close()
        if is_corrupt(error):
            try:
                aside = self._database.move_aside()
            except OSError as trouble:
                self._health.failed(f"{error}, and it cannot be moved aside: {trouble}")
                return
            self._health.alarm(
                "corrupt",
                "critical",
                f"{self._database.path.name} was damaged ({error}) and is kept as {aside.name}; "
                "a new one begins.",
            )
        self._health.failed(str(error))

    def _write(self) -> None:
        """One transaction; raises after it when the disk has no room for more rows."""
        connection = self._database.connection()
        free_bytes = shutil.disk_usage(self._database.path.parent).free
        has_room = free_bytes >= self._free_bytes_min
        with transaction(connection):
            deleted_count = self._retain(connection)
            for kind, statement in WRITES.items():
                if has_room and self._pending[kind]:
                    connection.executemany(statement, self._rows(kind))
        self.deleted_count += deleted_count
        if has_room:
            for kind, rows in self._pending.items():
                self._health.written[kind] += len(rows)
                rows.clear()
        _give_pages_back(connection)
        if not has_room:
            raise OSError(
                f"{free_bytes >> 20} MiB are free on the disk, history leaves "
                f"{self._free_bytes_min >> 20} MiB to the audit log"
            )

    def _rows(self, kind: str) -> Iterator[tuple[Any, ...]]:
        values = self._pending[kind].values()
        if kind == "domain_rollup":
            return map(domain_rollup_row, values)
        if kind == "node_rollup":
            return map(node_rollup_row, values)
        return iter(values)

    def _trim(self) -> None:
        """Drop the oldest rows beyond each maximum."""
        for kind, rows in self._pending.items():
            excess = len(rows) - ROWS_MAX[kind]
            if excess > 0:
                for key in list(rows)[:excess]:
                    del rows[key]
                self._health.drop(kind, excess, self._health.last_error)

    def _retain(self, connection: sqlite3.Connection) -> int:
        """Delete a bounded number of rows that are too old; returns how many."""
        now_s = self._wall_s()
        deleted_count = 0
        for statement, fine in RETENTION:
            cutoff_s = now_s - self._retention_s[fine]
            deleted_count += connection.execute(statement, (cutoff_s, DELETES_MAX)).rowcount
        return deleted_count


def _give_pages_back(connection: sqlite3.Connection) -> None:
    """Shrink the file a little when much of it is free; outside a transaction."""
    free_count = connection.execute("PRAGMA freelist_count").fetchone()[0]
    pages_count = connection.execute("PRAGMA page_count").fetchone()[0]
    if free_count > VACUUM_FREE_RATIO * pages_count:
        # As a script: `execute` steps once, and each step frees a single page.
        connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES_MAX})")
