"""One thread that writes, and the bounded queue before it; the same for every store.

The caller's side never waits longer than it takes to append to a list. The queue has a limit per
kind, so that a flood of telemetry cannot push out events. What does not fit is refused, and the
sink is told how much was lost, after the items that came before. What the sink does with items, and
whether it can write, is not decided here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

logger = logging.getLogger(__name__)

CLOSE_S_MAX: Final = 10.0
"""Longest wait for the last write: a hung disk must not keep the controller from ending."""


class Sink(Protocol):
    """Where the thread takes items; every call comes from that one thread."""

    def accept(self, kind: str, item: object) -> None:
        """Take one item; an exception means that it is lost."""
        ...

    def lost(self, kind: str, count: int, why: str) -> None:
        """So many items of a kind never came through."""
        ...

    def commit(self, *, everything: bool) -> bool:
        """Write what is due, or all with `everything`; True when nothing is left waiting."""
        ...

    def close(self) -> None:
        """Let go; called last."""
        ...


class Inbox:
    """A queue in order of arrival with a limit per kind. Any thread may put, one takes."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        """`limits` names every kind and how many of it may wait."""
        self._lock = threading.Lock()
        self._limits = dict(limits)
        self._items: list[tuple[str, object]] = []
        self._waiting = dict.fromkeys(limits, 0)
        self._refused = dict.fromkeys(limits, 0)
        self._open = True

    def put(self, kind: str, item: object) -> bool:
        """Queue an item; False, and counted, when its kind is full or the queue is closed."""
        with self._lock:
            if not self._open or self._waiting[kind] >= self._limits[kind]:
                self._refused[kind] += 1
                return False
            self._waiting[kind] += 1
            self._items.append((kind, item))
            return True

    def take(self) -> tuple[list[tuple[str, object]], dict[str, int]]:
        """Return all waiting items, and how many were refused since the last call, by kind."""
        with self._lock:
            items, self._items = self._items, []
            refused = {kind: count for kind, count in self._refused.items() if count}
            self._waiting = dict.fromkeys(self._limits, 0)
            self._refused = dict.fromkeys(self._limits, 0)
        return items, refused

    def close(self) -> None:
        """Refuse everything from now on."""
        with self._lock:
            self._open = False

    @property
    def depth(self) -> int:
        """Items waiting now."""
        return len(self._items)

    def refused(self) -> dict[str, int]:
        """Refused since the last `take`, by kind."""
        with self._lock:
            return {kind: count for kind, count in self._refused.items() if count}


class WriterThread:
    """Moves items from an inbox into a sink every `period_s`, until stopped.

    The thread is a daemon: when a disk hangs, the process may end without it.
    """

    def __init__(
        self, sink: Sink, *, name: str, limits: Mapping[str, int], period_s: float
    ) -> None:
        """Nothing runs until `start`."""
        self.inbox = Inbox(limits)
        self._sink = sink
        self._period_s = period_s
        self._changed = threading.Condition()
        self._flushes_asked = 0
        self._flushes_done = 0
        self._flush_complete = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until all that was put before has gone through a commit; True when all is stored."""
        with self._changed:
            self._flushes_asked += 1
            ticket = self._flushes_asked
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._flushes_done >= ticket, timeout_s)
            return done and self._flush_complete

    def stop(self, *, timeout_s: float = CLOSE_S_MAX) -> bool:
        """Write what is queued and end the thread; False when it did not end in time."""
        self.inbox.close()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            asked = self._wait()
            everything = asked > self._flushes_done or self._stopping
            self._finish_flush(asked, self._cycle(everything=everything), everything=everything)
        asked = self._flushes_asked
        self._finish_flush(asked, self._cycle(everything=True), everything=True)
        self._guard(self._sink.close)

    def _finish_flush(self, asked: int, complete: bool, *, everything: bool) -> None:
        with self._changed:
            self._flushes_done = asked
            if everything:
                self._flush_complete = complete
            self._changed.notify_all()

    def _wait(self) -> int:
        """Sleep until the period is over, somebody flushes or it is time to stop."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or self._flushes_asked > self._flushes_done, self._period_s
            )
            return self._flushes_asked

    def _cycle(self, *, everything: bool) -> bool:
        items, refused = self.inbox.take()
        for kind, item in items:
            if not self._guard(partial(self._sink.accept, kind, item)):
                self._sink.lost(kind, 1, "it could not be encoded")
        for kind, count in refused.items():
            self._sink.lost(kind, count, "the queue was full")
        stored: list[bool] = []
        self._guard(lambda: stored.append(self._sink.commit(everything=everything)))
        return stored == [True]

    def _guard(self, action: Callable[[], object]) -> bool:
        """Run one step; whatever it raises is logged, because this thread must not die."""
        try:
            action()
        except Exception:
            logger.exception("event=store-bug thread=%s", self._thread.name)
            return False
        return True
