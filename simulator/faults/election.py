"""A consensus store and candidacies for it in virtual time: who of two controllers may speak.

The rules of the election are production's (`controllers.leadership`); this is the part that talks
to the store, which may be slow, unreachable, or take a write and lose the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from controllers.leadership import Candidate, Claim, LeaderRecord
from controllers.operator import OrdersState
from simulator.faults.timeline import HostClock, Timeline

TIMEOUT_RATIO: Final = 0.2
"""Of `ttl_s`: how long an answer is waited for."""
PAUSE_S_MIN: Final = 0.02
DELAY_S_MAX: Final = 0.02


class ConsensusStore:
    """One record under compare-and-set. `unreachable` names who gets no answer."""

    def __init__(self) -> None:
        self.record: LeaderRecord | None = None
        self.revision = 0
        self.unreachable: set[str] = set()
        self.takes_count = 0
        """Times that somebody else than before became the holder."""

    def write(self, claim: Claim) -> int | None:
        """Put the claim's record in place of the revision that it names; None when refused."""
        if claim.revision != self.revision:
            return None
        before, self.record = self.record, claim.record
        self.revision += 1
        self.takes_count += before is not None and before.holder != claim.record.holder
        return self.revision


class Candidacy:
    """One life's candidacy: a `Leadership` that asks in virtual time."""

    def __init__(
        self,
        store: ConsensusStore,
        candidate: Candidate,
        *,
        holder: str,
        clock: HostClock,
        timeline: Timeline,
        rng: Random,
        fresh_epoch: Callable[[int], int],
    ) -> None:
        self.changed: Callable[[], object] = _nobody
        """Called when `may_speak` or the epoch has changed."""
        self.stopped = False
        """Whether the process stands still: answers wait for it."""
        self._store = store
        self._candidate = candidate
        self._holder = holder
        self._clock = clock
        self._timeline = timeline
        self._rng = rng
        self._fresh_epoch = fresh_epoch
        self._closed = False
        self._serial = 0

    @property
    def epoch(self) -> int:
        """Of this controller's leadership; 0 when it has none."""
        return self._candidate.epoch

    @property
    def record(self) -> LeaderRecord | None:
        """The leader's record, ours or another's."""
        return self._candidate.record

    def may_speak(self) -> bool:
        """Whether the lock is surely valid now."""
        return self._candidate.may_speak(self._clock.now_s())

    def keep_orders(self, orders: OrdersState) -> None:
        """Put the leader's standing orders into the record, with the next renewal."""
        self._candidate.orders = orders

    def raise_above(self, epoch: int) -> None:
        """Lead above an epoch that somebody obeys."""
        self._candidate.raise_above(epoch)

    def start(self) -> None:
        """Begin to stand by."""
        self._ask()

    def close(self) -> None:
        """The process is gone, without a word to the store."""
        self._closed = True

    def _later(self, wait_s: float, act: Callable[[], None]) -> None:
        """Do `act` later, and not before a process that stands still goes on."""

        def do() -> None:
            if self._closed:
                return
            if self.stopped:
                self._timeline.after(0.05, do)
            else:
                act()

        self._timeline.after(wait_s, do)

    def _ask(self) -> None:
        """Send one question; whatever comes first, answer or time-out, ends it."""
        self._serial += 1
        serial, candidate = self._serial, self._candidate
        now_s = self._clock.now_s()
        claim = None
        if candidate.action(now_s) != "read":
            claim = candidate.claim(now_s, self._fresh_epoch)
        self._later(TIMEOUT_RATIO * candidate.ttl_s, lambda: self._time_out(serial))
        lost = self._holder in self._store.unreachable
        if lost and self._rng.random() < 0.7:
            return
        wait_s = self._rng.uniform(0.001, DELAY_S_MAX)
        # A store that is reached may still fail to answer: then the write has happened.
        self._timeline.after(wait_s, lambda: self._reach(serial, claim, lost=lost))

    def _reach(self, serial: int, claim: Claim | None, *, lost: bool) -> None:
        store = self._store
        revision = store.write(claim) if claim is not None else store.revision
        record = store.record
        if not lost:
            wait_s = self._rng.uniform(0.001, DELAY_S_MAX)
            self._later(wait_s, lambda: self._answer(serial, claim, record, revision))

    def _time_out(self, serial: int) -> None:
        if serial == self._serial:
            self._candidate.unanswered()
            self._next(self._clock.now_s())

    def _answer(
        self, serial: int, claim: Claim | None, record: LeaderRecord | None, revision: int | None
    ) -> None:
        if serial != self._serial:
            return
        now_s, candidate = self._clock.now_s(), self._candidate
        before = (candidate.may_speak(now_s), candidate.epoch)
        if claim is None:
            assert revision is not None
            candidate.saw(record, revision, now_s)
        elif revision is None:
            candidate.refused()
        else:
            candidate.written(claim, revision)
        if (candidate.may_speak(now_s), candidate.epoch) != before:
            self.changed()
        self._next(candidate.next_s(now_s))

    def _next(self, at_s: float) -> None:
        self._serial += 1
        wait_s = max(at_s - self._clock.now_s(), PAUSE_S_MIN) / self._clock.rate_ratio
        self._later(wait_s, self._ask)


def _nobody() -> None:
    """Nobody listens yet."""
