"""The last minutes of history in memory, for a page to show when the whole of it is elsewhere.

One thread adds, any thread reads. What is older than the window is not here; it says nothing about
nodes or raw samples.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from daemon.store.changes import Change
from daemon.store.history import EventFilter, Sentence
from daemon.store.rollups import DomainRollup, Period, domain_rollups
from facility.decisions import Decision
from facility.wire import Event

EVENTS_MAX: Final = 10_000
SENTENCES_MAX: Final = 10_000
BUCKETS_MAX: Final = 900
"""A quarter of an hour of seconds, and fifteen hours of minutes, of every domain."""


class Recent:
    """Bounded windows of events, sentences and domains' roll-ups."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._sentences: deque[Sentence] = deque(maxlen=SENTENCES_MAX)
        self._rollups: dict[tuple[str, Period], OrderedDict[int, DomainRollup]] = {}

    def add_event(self, event: Event) -> None:
        """Keep one event."""
        with self._lock:
            self._events.append(event)

    def add_decision(self, decision: Decision, changes: Sequence[Change]) -> None:
        """Keep the roll-ups of one cycle, and its changed sentences."""
        with self._lock:
            for rollup in domain_rollups(decision):
                self._merge(rollup)
            self._sentences += [
                Sentence(
                    change.kind,
                    change.subject,
                    decision.wall_s,
                    decision.decision_id,
                    change.mode,
                    change.sentence,
                )
                for change in changes
            ]

    def domain_rollups(
        self, domain: str, *, since_s: float, until_s: float, period_s: Period
    ) -> list[DomainRollup]:
        """Roll-ups whose period touches the interval, oldest first."""
        with self._lock:
            kept = list(self._rollups.get((domain, period_s), {}).values())
        return [one for one in kept if since_s < one.at_s + period_s and one.at_s <= until_s]

    def events(self, wanted: EventFilter) -> list[Event]:
        """Matching events, newest first."""
        with self._lock:
            matching = [event for event in self._events if wanted.matches(event)]
        matching.sort(key=lambda event: event.at_s)
        return matching[::-1][: max(0, wanted.limit)]

    def sentences(self, subject: str, *, limit: int) -> list[Sentence]:
        """Sentences about a subject, newest first."""
        with self._lock:
            matching = [one for one in self._sentences if one.subject == subject]
        return matching[::-1][: max(0, limit)]

    def _merge(self, rollup: DomainRollup) -> None:
        buckets = self._rollups.setdefault((rollup.domain, rollup.period_s), OrderedDict())
        before = buckets.get(rollup.at_s)
        buckets[rollup.at_s] = rollup if before is None else before.merged(rollup)
        if len(buckets) > BUCKETS_MAX:
            buckets.popitem(last=False)
