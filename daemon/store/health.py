"""Whether a store can write: when to try again, what to count, and whom to tell.

Trouble is told once when it begins and once when it ends, not at every attempt; attempts back off
up to a named maximum. Nothing here touches a disk or a server.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from daemon.store.history import Severity
from facility.wire import Event

logger = logging.getLogger(__name__)

RETRY_S_MIN: Final = 0.5
RETRY_S_MAX: Final = 30.0
ALARMS_MAX: Final = 1_000
TEXT_CHARS_MAX: Final = 1_024
"""What `facility.wire.Text` accepts: an event must survive its way over the wire."""


class Health:
    """The state of one store. Written by its writer thread, read by any."""

    def __init__(
        self,
        *,
        store: str,
        severity: Severity,
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
        retry_s_min: float = RETRY_S_MIN,
    ) -> None:
        """`store` is one word and begins the names of its events; `severity` that of failing."""
        self.store = store
        self.written: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.failures_count = 0
        self.last_error = ""
        self.failing = False
        self._severity = severity
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._retry_s_min = retry_s_min
        self._retry_s = retry_s_min
        self._next_try_s = float("-inf")
        self._alarms: deque[Event] = deque(maxlen=ALARMS_MAX)
        self._own: deque[Event] = deque(maxlen=ALARMS_MAX)
        self._told: deque[Event] = deque(maxlen=ALARMS_MAX)

    def may_try(self) -> bool:
        """Whether the backoff is over."""
        return self._monotonic_s() >= self._next_try_s

    def failed(self, error: str) -> None:
        """A write failed: back off, and say so if it is the first in a row."""
        self.failures_count += 1
        self.last_error = error
        self._next_try_s = self._monotonic_s() + self._retry_s
        self._retry_s = min(2.0 * self._retry_s, RETRY_S_MAX)
        if not self.failing:
            self.failing = True
            sentence = f"The {self.store} cannot be written: {error}. Control goes on."
            self.alarm("failing", self._severity, sentence)

    def worked(self) -> None:
        """A write succeeded: nothing is wrong now; say so if it had failed before."""
        self.last_error = ""
        self._retry_s = self._retry_s_min
        self._next_try_s = float("-inf")
        if self.failing:
            self.failing = False
            self.alarm("recovered", "info", f"The {self.store} is written again.")

    def drop(self, kind: str, count: int, why: str) -> None:
        """Count what is lost; the first loss of a kind is logged, the rest only counted."""
        if not self.dropped[kind]:
            logger.warning("event=%s-dropped kind=%s because=%r", self.store, kind, why)
        self.dropped[kind] += count

    def alarm(self, what: str, severity: Severity, sentence: str) -> None:
        """Report the event `<store>-<what>`: to the log, to whoever asks, to the store itself."""
        event = Event(
            event=f"{self.store}-{what}",
            severity=severity,
            at_s=self._wall_s(),
            source=self.store,
            subject=self.store,
            sentence=sentence[:TEXT_CHARS_MAX],
        )
        level = logging.INFO if severity == "info" else logging.ERROR
        logger.log(level, "event=%s sentence=%r", event.event, sentence)
        self._alarms.append(event)
        self._own.append(event)
        self._told.append(event)

    def take_events(self) -> tuple[Event, ...]:
        """Alarms since the last call, oldest first; from any one thread."""
        return _drained(self._alarms)

    def is_own(self, event: Event) -> bool:
        """Whether the event is one of this store's alarms coming back; its writer thread asks."""
        return event.source == self.store and event in self._told

    def take_own(self) -> tuple[Event, ...]:
        """The same alarms once more, for the store to keep in itself."""
        return _drained(self._own)

    def counters(self) -> dict[str, Any]:
        """Counts as plain values; `last_error` is empty while writing works."""
        return {
            "written": dict(self.written),
            "dropped": dict(self.dropped),
            "failures_count": self.failures_count,
            "failing": self.failing,
            "last_error": self.last_error,
        }


def _drained(queue: deque[Event]) -> tuple[Event, ...]:
    events = []
    while queue:
        events.append(queue.popleft())
    return tuple(events)
