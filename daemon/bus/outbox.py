"""What waits to be published: bounded, latest state wins, oldest samples go first.

It decides the order and what is dropped, and counts it. It never talks to a broker, and time is an
argument. State is kept after it was sent, so that it can be sent again to a broker that lost it.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass

from facility.topics import Delivery


@dataclass(slots=True)
class BusCounters:
    """What a bus has done since it started; every number only grows.

    `dropped_*` were given up because a queue was full, `expired` because they were too old to send,
    `coalesced` because a newer state replaced them. `refused` counts subscriptions that the broker
    denied, `oversized` incoming messages above the limit, `handler_errors` bugs in a handler.
    """

    published: int = 0
    received: int = 0
    dropped_samples: int = 0
    dropped_commands: int = 0
    dropped_states: int = 0
    expired: int = 0
    coalesced: int = 0
    connects: int = 0
    disconnects: int = 0
    failed_attempts: int = 0
    refused: int = 0
    oversized: int = 0
    handler_errors: int = 0

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(0, self.connects - 1)

    @property
    def dropped(self) -> int:
        """Everything that was given up without being sent."""
        return self.dropped_samples + self.dropped_commands + self.dropped_states + self.expired


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way out. `expires_at_s` is on the clock of whoever takes it."""

    topic: str
    payload: bytes
    delivery: Delivery
    expires_at_s: float = math.inf


class Outbox:
    """The outgoing queue of one bus: states first, then commands, then samples."""

    def __init__(self, counters: BusCounters, *, queue_max: int, states_max: int) -> None:
        """Start empty.

        Args:
            counters: where drops are counted.
            queue_max: most commands and samples that wait, together.
            states_max: most retained topics that are remembered.
        """
        assert queue_max > 0
        assert states_max > 0
        self._counters = counters
        self._queue_max = queue_max
        self._states_max = states_max
        self._states: dict[str, Outgoing] = {}
        self._due: OrderedDict[str, None] = OrderedDict()
        self._commands: deque[Outgoing] = deque()
        self._samples: deque[Outgoing] = deque()

    def __len__(self) -> int:
        return len(self._due) + len(self._commands) + len(self._samples)

    @property
    def has_states(self) -> bool:
        """Whether there is anything to repeat."""
        return bool(self._states)

    def put(self, message: Outgoing, *, urgent: bool = False) -> bool:
        """Queue a message; False when it was not taken. An urgent state overtakes all others."""
        if message.delivery.retain:
            return self._put_state(message, urgent=urgent)
        lane = self._samples if message.delivery.qos == 0 else self._commands
        if len(self._commands) + len(self._samples) >= self._queue_max:
            self._drop_oldest()
        lane.append(message)
        return True

    def _put_state(self, message: Outgoing, *, urgent: bool) -> bool:
        if message.topic not in self._states and len(self._states) >= self._states_max:
            self._counters.dropped_states += 1
            return False
        self._counters.coalesced += message.topic in self._due
        self._states[message.topic] = message
        self._due[message.topic] = None
        if urgent:
            self._due.move_to_end(message.topic, last=False)
        return True

    def _drop_oldest(self) -> None:
        if self._samples:
            self._samples.popleft()
            self._counters.dropped_samples += 1
        else:
            self._commands.popleft()
            self._counters.dropped_commands += 1

    def take(self, now_s: float) -> Outgoing | None:
        """Return the next message to send, passing over what has expired; None when empty."""
        while (message := self._next()) is not None:
            if message.expires_at_s > now_s:
                if message.delivery.retain and not message.payload:
                    del self._states[message.topic]  # it deletes; there is nothing to repeat
                return message
            if message.delivery.retain:
                del self._states[message.topic]
            self._counters.expired += 1
        return None

    def _next(self) -> Outgoing | None:
        if self._due:
            return self._states[self._due.popitem(last=False)[0]]
        if self._commands:
            return self._commands.popleft()
        return self._samples.popleft() if self._samples else None

    def give_back(self, message: Outgoing) -> None:
        """Put a command that was not acknowledged in front again; it may arrive twice.

        State is left alone: `repeat_states` sends the latest one, which may be newer.
        """
        if message.delivery.retain:
            # A deletion is not remembered; it is due again unless a newer state took its place.
            self._states.setdefault(message.topic, message)
            return
        if len(self._commands) + len(self._samples) >= self._queue_max:
            self._drop_oldest()
        self._commands.appendleft(message)

    def repeat_states(self) -> None:
        """Make every remembered state due again; what is due already keeps its place in front."""
        self._due.update(dict.fromkeys(self._states))
