"""Alarms about the envelope itself: a promise of the site file that reality does not keep.

Decides only when to speak: at once when something begins, again while it lasts, never each cycle.
"""

from __future__ import annotations

import math
from typing import Final

from controllers.snapshot import Snapshot
from facility.wire import Event

REPEAT_S: Final = 600.0
"""Whoever comes on duty finds it said within ten minutes."""


class EnvelopeAlarms:
    """Speaks of domains beyond the lease rule, and of hops that are slower than promised."""

    def __init__(self, *, grace_s: float) -> None:
        """Be quiet for `grace_s` of an excess: leases in force before a failure end within it."""
        self._grace_s = grace_s
        self._since_s: dict[str, float] = {}
        self._told_s: dict[str, float] = {}

    def step(
        self, snapshot: Snapshot, *, exceeded: tuple[str, ...], slow: tuple[str, ...]
    ) -> tuple[Event, ...]:
        """The events of one cycle.

        Args:
            snapshot: what was known, for its times.
            exceeded: domains and states whose exposure no clamp can bring within the rule.
            slow: hops that took longer than their bounds, a sentence each.
        """
        now_s = snapshot.now_s
        self._since_s = {name: self._since_s.get(name, now_s) for name in exceeded}
        events = [
            self._event(
                snapshot,
                "exposure-exceeds-patience",
                name,
                f"{name}: what may be in force exceeds what its protection tolerates for as long"
                " as a loss of control lasts, and nothing more can be taken back",
            )
            for name, since_s in self._since_s.items()
            if now_s - since_s >= self._grace_s and self._is_due(name, now_s)
        ]
        for sentence in slow:
            hop = sentence.split(" ", 1)[0]
            if self._is_due(f"hop {hop}", now_s):
                text = f"{sentence}: leases are held against the measured time"
                events.append(self._event(snapshot, "reaction-slow", hop, text))
        return tuple(events)

    def _is_due(self, key: str, now_s: float) -> bool:
        if now_s - self._told_s.get(key, -math.inf) < REPEAT_S:
            return False
        self._told_s[key] = now_s
        return True

    def _event(self, snapshot: Snapshot, event: str, subject: str, sentence: str) -> Event:
        return Event(
            event=event,
            severity="critical",
            at_s=snapshot.wall_s,
            source="controller",
            subject=subject[:256],
            sentence=sentence[:1024],
        )
