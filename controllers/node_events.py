"""The node's events: one sentence each, at a bounded rate, with what was left out counted."""

from __future__ import annotations

from typing import Final, Literal

from facility.wire import Event

EVENT_INTERVAL_S: Final = 10.0
"""The same event about the same subject is told at most this often; the next one says how many."""
EVENTS_WAITING_MAX: Final = 256
"""Most events of one step: each of 64 GPUs may be lost, deviate and come back at once."""


class EventLog:
    """Collects the events of a step."""

    def __init__(self, node: str) -> None:
        """Start without events."""
        self._source = f"node/{node}"
        self._waiting: list[Event] = []
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        self.wall_s = 0.0
        """Time of day of the present step."""
        self.dropped_count = 0

    def say(
        self,
        event: str,
        sentence: str,
        now_s: float,
        *,
        subject: str = "",
        severity: Literal["info", "warning", "critical"] = "info",
        decision_id: str = "",
        every_s: float = EVENT_INTERVAL_S,
    ) -> None:
        """Tell an event, unless the same one was told less than `every_s` ago.

        `event` and `subject` come from small fixed sets or are GPUs of this node, so that what is
        remembered stays bounded.
        """
        key = (event, subject)
        said_s, silent_count = self._said.get(key, (None, 0))
        if said_s is not None and now_s - said_s < every_s:
            self._said[key] = (said_s, silent_count + 1)
            return
        self._said[key] = (now_s, 0)
        if len(self._waiting) >= EVENTS_WAITING_MAX:
            self.dropped_count += 1
            return
        if silent_count:
            sentence += f" (and {silent_count} more since the last report)"
        self._waiting.append(
            Event(
                event=event,
                severity=severity,
                at_s=self.wall_s,
                source=self._source,
                subject=subject,
                sentence=sentence[:1_024],
                decision_id=decision_id,
            )
        )

    def drain(self) -> tuple[Event, ...]:
        """The events since the last call."""
        if not self._waiting:
            return ()
        events = tuple(self._waiting)
        self._waiting.clear()
        return events
