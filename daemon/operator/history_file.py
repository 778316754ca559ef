"""What a controller's history file says, read by somebody else while the controller runs.

Opens the file for reading only. SQLite history and what it needs are loaded on use, because an
agent's host has neither.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from daemon.exit_codes import EX_UNAVAILABLE
from facility.config import StoreConfig
from facility.wire import Event, Severity

SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
"""From least to most."""


class HistoryUnreadable(Exception):
    """There is no history to read here; the text says why. Commands exit with `exit_code`."""

    exit_code: Final = EX_UNAVAILABLE


def at_least(severity: Severity) -> tuple[Severity, ...]:
    """This severity and those above."""
    return SEVERITIES[SEVERITIES.index(severity) :]


def recent_events(store: StoreConfig, *, limit: int, severity: Severity) -> Sequence[Event]:
    """The last `limit` events of this severity and above, oldest first.

    Raises:
        HistoryUnreadable: it is elsewhere, not there, or not ours to read.
    """
    if store.kind != "sqlite":
        raise HistoryUnreadable(
            f"history is in {store.kind} at {store.url}: ask there, or listen with --follow"
        )
    try:
        from daemon.store.history import EventFilter, StoreError
        from daemon.store.sqlite import SqliteHistory
    except ImportError as error:
        raise HistoryUnreadable(
            f"{error.name} is not installed here: install ampacity[controller], or use --follow"
        ) from error
    history = SqliteHistory.from_config(store, wall_s=time.time, monotonic_s=time.monotonic)
    try:
        found = [
            event
            for one in at_least(severity)
            for event in history.events(EventFilter(limit=limit, severity=one))
        ]
    except StoreError as error:
        raise HistoryUnreadable(f"{error}; run as who may read it, or use --follow") from error
    return sorted(found, key=lambda event: event.at_s)[-limit:] if limit else []


def last_sentence(directory: Path, subject: str) -> str:
    """The controller's last sentence about a subject; empty where history cannot be read."""
    if not (directory / "history.db").exists():
        return ""
    try:
        from daemon.store.history import StoreError
        from daemon.store.sqlite import SqliteHistory
    except ImportError:
        return ""
    store = StoreConfig(directory=str(directory))
    history = SqliteHistory.from_config(store, wall_s=time.time, monotonic_s=time.monotonic)
    try:
        found = history.sentences(subject, limit=1)
    except StoreError:
        return ""
    return found[0].sentence if found else ""
