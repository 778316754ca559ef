"""What comes in: which filters are subscribed to, which were refused, and who gets a message.

It hands (topic, payload, retained) to synchronous handlers and survives whatever they do. It never
looks into a payload and sends nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from daemon.bus.outbox import BusCounters
from facility.wire import MESSAGE_BYTES_MAX

LOG = logging.getLogger(__name__)

Handler = Callable[[str, bytes, bool], None]
"""Takes topic, payload and whether it is retained state; runs on the loop and must only store."""


def matches(levels: Sequence[str], topic: str) -> bool:
    """Whether a filter's `levels`, which may hold + and a last #, cover `topic`."""
    parts = topic.split("/")
    for index, level in enumerate(levels):
        if level == "#":
            return True
        if index >= len(parts) or level not in ("+", parts[index]):
            return False
    return len(parts) == len(levels)


class Inbound:
    """The subscriptions of one bus. `due` has those that the broker has still to be asked for."""

    def __init__(self, counters: BusCounters, *, identifier: str) -> None:
        """Start without subscriptions; `identifier` is for the log."""
        self.due: dict[str, int] = {}
        """Filter and QoS."""
        self.refusals: dict[str, str] = {}
        """Filters that the broker denies now, with its reason."""
        self._counters = counters
        self._identifier = identifier
        self._qos: dict[str, int] = {}
        self._handlers: dict[str, list[Handler]] = {}
        self._wildcards: list[tuple[list[str], list[Handler]]] = []

    def add(self, topic_filter: str, handler: Handler, *, qos: int) -> None:
        """Add a handler; the filter is due, again if it was granted before."""
        if topic_filter not in self._handlers:
            self._handlers[topic_filter] = []
            if "+" in topic_filter or "#" in topic_filter:
                self._wildcards.append((topic_filter.split("/"), self._handlers[topic_filter]))
        self._handlers[topic_filter].append(handler)
        self._qos[topic_filter] = max(qos, self._qos.get(topic_filter, 0))
        self.due[topic_filter] = self._qos[topic_filter]

    def ask_for_all(self) -> None:
        """Make every filter due: the connection is new."""
        self.due = dict(self._qos)

    def ask_again(self) -> None:
        """Make the refused filters due: the broker's access list may have been mended."""
        self.due.update({name: self._qos[name] for name in self.refusals})

    def answered(self, asked: Mapping[str, int], refused: Mapping[str, str]) -> None:
        """Note the broker's answer; a refusal is an error in the log, once."""
        for topic_filter in asked:
            reason = refused.get(topic_filter)
            if reason is None:
                self.refusals.pop(topic_filter, None)
                continue
            self._counters.refused += 1
            if topic_filter not in self.refusals:
                LOG.error(
                    "event=subscription-refused client=%s topic=%s reason=%r",
                    self._identifier,
                    topic_filter,
                    reason,
                )
            self.refusals[topic_filter] = reason

    def receive(self, topic: str, payload: bytes, retained: bool) -> None:
        """Hand one message to everybody who subscribed to it."""
        self._counters.received += 1
        if len(payload) > MESSAGE_BYTES_MAX:
            self._counters.oversized += 1
            return
        handlers = list(self._handlers.get(topic, ()))
        for levels, others in self._wildcards:
            if matches(levels, topic):
                handlers += others
        for handler in handlers:
            try:
                handler(topic, payload, retained)
            except Exception:
                self._counters.handler_errors += 1
                count = self._counters.handler_errors
                if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: a bug must not flood the log
                    LOG.exception("event=handler-bug topic=%s errors_count=%d", topic, count)
