"""The door to history: what is recorded, what can be read back, and which store stands behind it.

History informs people; nothing is controlled by it. Recording never waits for a disk or a server:
it puts a value into a bounded queue and returns. What does not fit is dropped and counted. Nothing
here decides what to record, and the audit log is elsewhere (`daemon.store.audit`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from daemon.store.rollups import DomainRollup, NodeRollup, Period
from facility.config import StoreConfig
from facility.decisions import Decision
from facility.wire import Event, NodeTelemetry

Severity = Literal["info", "warning", "critical"]

EVENTS_PER_READ_MAX = 10_000
BUCKETS_PER_READ_MAX = 100_000


class StoreError(Exception):
    """A store cannot be opened or read; the text says which file, why, and what to do.

    Commands exit with `exit_code`.
    """

    exit_code: Final = 78


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to read, newest first; an empty text matches everything."""

    limit: int = 100
    since_s: float = 0.0
    until_s: float = 1e12
    severity: Severity | None = None
    event: str = ""
    subject: str = ""
    source: str = ""

    def matches(self, event: Event) -> bool:
        """Whether the event is one of those asked for, the limit apart."""
        return (
            self.since_s <= event.at_s <= self.until_s
            and self.severity in (None, event.severity)
            and self.event in ("", event.event)
            and self.subject in ("", event.subject)
            and self.source in ("", event.source)
        )


@dataclass(frozen=True, slots=True)
class Sentence:
    """What was decided about one subject, and why, from `at_s` (UTC) until its next sentence."""

    kind: str
    subject: str
    at_s: float
    decision_id: str
    mode: str
    sentence: str


@dataclass(frozen=True, slots=True)
class GpuMinute:
    """The raw samples of one GPU in one minute, ascending in time; four columns of equal length.

    `at_s` is UTC in milliseconds' resolution, the others are float32. A value that the GPU did not
    give is NaN, never zero.
    """

    gpu: str
    minute_s: int
    at_s: tuple[float, ...]
    power_w: tuple[float, ...]
    sm_clock_mhz: tuple[float, ...]
    temperature_c: tuple[float, ...]


class History(Protocol):
    """A store of what happened. Recording may be called from any thread and never blocks.

    Reading blocks for milliseconds to seconds: from an event loop, call it in a thread. Reading
    raises StoreError when the store cannot answer.
    """

    def record_telemetry(self, frame: NodeTelemetry) -> None:
        """Keep one frame: raw samples and node roll-ups."""
        ...

    def record_decision(self, decision: Decision) -> None:
        """Keep one cycle: domain roll-ups, changed sentences, and the events it carries."""
        ...

    def record_event(self, event: Event) -> None:
        """Keep one event that no decision carries."""
        ...

    def domain_rollups(
        self, domain: str, *, since_s: float, until_s: float, period_s: Period = 1
    ) -> Sequence[DomainRollup]:
        """Roll-ups of one domain, oldest first."""
        ...

    def node_rollups(
        self, node: str, *, since_s: float, until_s: float, period_s: Period = 1
    ) -> Sequence[NodeRollup]:
        """Roll-ups of one node, oldest first."""
        ...

    def events(self, wanted: EventFilter) -> Sequence[Event]:
        """Events, newest first, at most `wanted.limit`."""
        ...

    def sentences(self, subject: str, *, limit: int = 100) -> Sequence[Sentence]:
        """What was decided about a domain or a node, newest first."""
        ...

    def gpu_minute(self, gpu: str, *, minute_s: int) -> GpuMinute | None:
        """Raw samples of one GPU in the minute that begins at `minute_s`; None without any."""
        ...

    def take_events(self) -> Sequence[Event]:
        """What the store itself has to report since the last call: disk full, file corrupt, ...

        They are in the history already, and not twice when they come back by `record_event`;
        they are returned to be alerted on and audited.
        """
        ...

    def counters(self) -> dict[str, Any]:
        """Counts since start: `written` and `dropped` by kind, queue depth.

        `last_error` says what is wrong now and is empty while writing works; `failing` says whether
        anything waits for that.
        """
        ...

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until all that was recorded before is stored; False when it could not be."""
        ...

    def close(self) -> None:
        """Store what is queued, within a few seconds, and let go. Never raises."""
        ...


def open_history(
    config: StoreConfig,
    *,
    site: str,
    wall_s: Callable[[], float] = time.time,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> History:
    """Return the store that the configuration asks for, started.

    Raises:
        StoreError: the directory or file cannot be used, another controller uses it, the schema is
            newer than this program, or the server's address or token file is missing.
    """
    if config.kind == "influxdb":
        from daemon.store.influx import InfluxHistory

        influx = InfluxHistory.from_config(
            config, site=site, wall_s=wall_s, monotonic_s=monotonic_s
        )
        influx.start()
        return influx
    from daemon.store.sqlite import SqliteHistory

    sqlite = SqliteHistory.from_config(config, wall_s=wall_s, monotonic_s=monotonic_s)
    sqlite.start()
    return sqlite
