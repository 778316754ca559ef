"""Which of several controllers may speak: one record in a consensus store, under compare-and-set.

Two rules make sure that no two speak at once, whatever a store answers late or not at all. Who
leads may speak until `ttl_s`, less a margin, after it *sent* its last renewal that was confirmed.
Who stands by takes over only by replacing the very record that it has seen unchanged for a whole
`ttl_s` since the answer that showed it first. Each side uses its own monotonic clock alone; the
record is never removed, so the epoch in it only rises. Nothing here does I/O or knows the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from controllers.operator import OrdersState
from facility.config import ControlConfig
from facility.wire import Count, Seconds, Text

RENEW_RATIO: Final = 0.25
"""Of `ttl_s`: how often a leader renews and a standby looks. Three renewals may go wrong."""
MARGIN_RATIO: Final = 0.1
"""Of `ttl_s`: how much earlier a leader is silent than another may speak. It covers clocks that run
at different rates, and what was decided but is not yet on the wire."""
TTL_S_MIN: Final = 0.4
"""The shortest that a configuration may ask for."""
STORE_S: Final = 0.1  # from memory; measured p99 of a renewal over three nodes: 4 ms
"""The longest answer of a healthy store."""


class LeaderRecord(Struct, frozen=True, kw_only=True):
    """What the store keeps. An empty `session` means that the last leader has left on purpose.

    `lease_s` bounds every lease that may be in force when somebody takes over. `orders` are the
    standing orders: a cap must not be lifted because its controller died.
    """

    holder: Text
    session: Text
    epoch: Count
    renewals: Count
    ttl_s: Seconds
    lease_s: Seconds
    orders: OrdersState = OrdersState()


@dataclass(frozen=True, slots=True)
class Claim:
    """A write to attempt: `record` in the place of exactly what has `revision`, 0 for nothing."""

    record: LeaderRecord
    revision: int
    sent_at_s: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """Somebody else's record, or nothing, as first seen in this revision."""

    record: LeaderRecord | None
    revision: int
    since_s: float

    def free_at_s(self, ttl_s: float) -> float:
        """When it may be replaced."""
        if self.record is None:
            return self.since_s + ttl_s
        if not self.record.session:
            return self.since_s
        return self.since_s + max(ttl_s, self.record.ttl_s)


class Candidate:
    """One controller's part in the election, as a plain object.

    Args:
        holder: the controller's name, for people.
        session: a name of this life of the process that no other life has.
        ttl_s: how long a leader's word is good; every candidate should have the same.
        lease_s: the longest lease that this controller grants.
    """

    def __init__(self, *, holder: str, session: str, ttl_s: float, lease_s: float) -> None:
        self.orders = OrdersState()
        """The standing orders, to be kept with the next renewal."""
        self.predecessor: LeaderRecord | None = None
        """What the last record was that this controller replaced by its own."""
        self.record: LeaderRecord | None = None
        """The record as last seen or written."""
        self.epoch = 0
        """Of this controller's leadership; 0 when it has none."""
        self.ttl_s = ttl_s
        self.period_s = RENEW_RATIO * ttl_s
        self._holder = holder
        self._session = session
        self._lease_s = lease_s
        self._inherited_until_s = -math.inf
        self._valid_until_s = -math.inf
        self._mine_revision: int | None = None
        self._seen: _Seen | None = None
        self._unsure = False
        self._not_before_s = -math.inf
        self._above = 0
        self._epoch_seen = 0

    def may_speak(self, now_s: float) -> bool:
        """Whether this controller's lock is surely valid at `now_s`."""
        return now_s < self._valid_until_s

    def raise_above(self, epoch: int) -> None:
        """Somebody obeys `epoch`: lead above it, from the next renewal on."""
        self._above = max(self._above, epoch)

    def action(self, now_s: float) -> Literal["read", "renew", "take"]:
        """What to ask the store for."""
        if self._mine_revision is not None:
            return "renew"
        if self._seen is None or self._unsure:
            return "read"
        return "take" if now_s >= self._free_at_s(self._seen) else "read"

    def _free_at_s(self, seen: _Seen) -> float:
        return max(seen.free_at_s(self.ttl_s), self._not_before_s)

    def claim(self, now_s: float, fresh_epoch: Callable[[int], int]) -> Claim:
        """The write that renews the leadership, or takes it.

        Args:
            now_s: monotonic time, before anything is sent.
            fresh_epoch: records and returns an epoch above the one given and every own one.
        """
        mine = self._mine_revision is not None
        if not (mine and self._above < self.epoch):
            epoch = fresh_epoch(max(self._epoch_seen, self._above))
        else:
            epoch = self.epoch
        revision = self._mine_revision
        if revision is None:
            assert self._seen is not None, "nothing to replace"
            revision = self._seen.revision
        record = LeaderRecord(
            holder=self._holder,
            session=self._session,
            epoch=epoch,
            renewals=(self.record.renewals if self.record is not None else 0) + 1,
            ttl_s=self.ttl_s,
            lease_s=self._lease_s_max(now_s),
            orders=self.orders if mine else self._inherited_orders(),
        )
        return Claim(record, revision, now_s)

    def _lease_s_max(self, now_s: float) -> float:
        """The longest lease in force: our own, and the last leader's while they may last."""
        last = self.predecessor if self._mine_revision is not None else self.record
        if last is None:
            return self._lease_s
        over = self._mine_revision is not None and now_s >= self._inherited_until_s
        return self._lease_s if over else max(self._lease_s, last.lease_s)

    def _inherited_orders(self) -> OrdersState:
        """Who takes over begins with the last leader's orders; the very first with its own."""
        return self.record.orders if self.record is not None else self.orders

    def resignation(self) -> Claim | None:
        """The write that frees the place at once, None when there is nothing to free.

        Nothing may be said any more once this was called.
        """
        self._valid_until_s = -math.inf
        if self._mine_revision is None or self.record is None:
            return None
        record = replace(
            self.record, session="", orders=self.orders, renewals=self.record.renewals + 1
        )
        claim = Claim(record, self._mine_revision, -math.inf)
        self._mine_revision, self.epoch = None, 0
        return claim

    def written(self, claim: Claim, revision: int) -> None:
        """The store has confirmed `claim`, which has `revision` now."""
        if self._mine_revision is None:
            self.predecessor = self.record
            before_s = self.predecessor.lease_s if self.predecessor is not None else 0.0
            self._inherited_until_s = claim.sent_at_s + before_s
            self.orders = claim.record.orders
        self._mine_revision = revision
        self._seen = None
        self._unsure = False
        self.record = claim.record
        self.epoch = self._epoch_seen = claim.record.epoch
        self._valid_until_s = claim.sent_at_s + (1.0 - MARGIN_RATIO) * self.ttl_s

    def refused(self) -> None:
        """The record is not what it was: look again before anything else.

        What was confirmed stays confirmed: nobody replaces a record before its leader is silent,
        and it may have been a renewal of our own whose answer was lost.
        """
        self._mine_revision = None
        self._seen = None

    def unanswered(self) -> None:
        """The store did not answer: whatever was asked for may or may not have happened."""
        self._unsure = True

    def saw(self, record: LeaderRecord | None, revision: int, now_s: float) -> None:
        """A read was answered at `now_s`."""
        if self._unsure:
            # After an outage who led may go on leading, if it is still there: it tries as often.
            self._unsure = False
            self._not_before_s = now_s + 2.0 * self.period_s
        before, self.record = self.record, record
        if record is not None:
            self._epoch_seen = max(self._epoch_seen, record.epoch)
            if record.session == self._session:
                # Ours, although we were not told: speak after the next confirmed renewal.
                self._adopt_own(record, revision, before)
                return
        self._mine_revision = None
        self._valid_until_s, self.epoch = -math.inf, 0
        seen = self._seen
        if seen is None or (seen.record, seen.revision) != (record, revision):
            self._seen = _Seen(record, revision, now_s)

    def _adopt_own(self, own: LeaderRecord, revision: int, before: LeaderRecord | None) -> None:
        if not self.epoch:
            self.predecessor, self.orders = before, own.orders
            self._inherited_until_s = math.inf
        self._mine_revision, self._seen = revision, None

    def next_s(self, now_s: float) -> float:
        """When to ask the store for the next thing, after an answer at `now_s`."""
        if self._mine_revision is not None:
            sent_at_s = self._valid_until_s - (1.0 - MARGIN_RATIO) * self.ttl_s
            return max(sent_at_s + self.period_s, now_s) if self.may_speak(now_s) else now_s
        if self._seen is None:
            return now_s
        return min(now_s + self.period_s, max(self._free_at_s(self._seen), now_s))


class Leadership(Protocol):
    """A candidacy that somebody keeps up: what a controller asks of it."""

    @property
    def epoch(self) -> int:
        """Of this controller's leadership; 0 when it has none."""
        ...

    @property
    def record(self) -> LeaderRecord | None:
        """The leader's record, ours or another's."""
        ...

    def may_speak(self) -> bool:
        """Whether this controller's lock is surely valid now."""
        ...

    def keep_orders(self, orders: OrdersState) -> None:
        """Put the leader's standing orders into the record."""
        ...

    def raise_above(self, epoch: int) -> None:
        """Lead above an epoch that somebody obeys."""
        ...


@dataclass(frozen=True, slots=True)
class Takeover:
    """Whether a standby's first leases come before the last ones of a dead leader end, seconds."""

    takes_s: float
    lasts_s: float

    @property
    def in_time(self) -> bool:
        """Whether no agent falls to its safe ceiling."""
        return self.takes_s <= self.lasts_s


def takeover(control: ControlConfig, ttl_s: float) -> Takeover:
    """The worst case of a leader that dies just before it would have renewed leases.

    Its last leases answer frames that were then up to a telemetry period and their way old, and a
    whole cycle has passed since. The standby sees the last renewal after a look and an answer of
    the store, waits `ttl_s`, replaces it, decides and sends. The store itself is healthy.
    """
    hops = control.reaction
    frame_s = control.telemetry_s + hops.sample_s + hops.transport_s
    send_s = hops.decide_s + hops.transport_s
    return Takeover(
        takes_s=(1.0 + RENEW_RATIO) * ttl_s + 2.0 * STORE_S + send_s,
        lasts_s=control.lease_s - frame_s - control.cycle_s - hops.decide_s,
    )


def takeover_sentence(control: ControlConfig, ttl_s: float) -> str:
    """Whether a standby is in time, and if not, with what it would be."""
    found = takeover(control, ttl_s)
    facts = (
        f"a standby's first leases come at most {found.takes_s:.2f} s after a leader died, whose"
        f" last leases then hold for at least {found.lasts_s:.2f} s"
    )
    price = (
        f"a broker or a store that is away for longer than leases last ({control.lease_s:g} s at"
        " most) is waited for at the safe ceilings"
    )
    if found.in_time:
        return f"{facts}: no node falls to its safe ceiling; {price}"
    remedies = [f"lease_s of at least {control.lease_s + found.takes_s - found.lasts_s:.2f}"]
    longest_s = ttl_s - (found.takes_s - found.lasts_s) / (1.0 + RENEW_RATIO)
    if longest_s >= TTL_S_MIN:
        remedies.append(f"ttl_s of at most {math.floor(100.0 * longest_s) / 100.0:.2f}")
    return (
        f"{facts}: nodes may fall to their safe ceilings when a leader dies; would be in time with"
        f" {', or '.join(remedies)}; {price}"
    )
