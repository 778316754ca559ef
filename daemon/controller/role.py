"""Leader or standby: whether this controller speaks, and what changes in the cycle when that turns.

It owns the role and whose orders stand meanwhile. Who may speak is decided by the lock; a
controller without one leads alone, as it always did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from controllers.cycle import ControlCycle
from controllers.leadership import Leadership
from controllers.operator import OrdersState
from controllers.snapshot import Snapshot
from facility.wire import Emergency

RIVAL_S: Final = 10.0
"""Between two looks at a higher epoch: its leader needs time to show whether it renews leases."""


class Role:
    """One controller's role; `epoch` is that of its leadership, 0 before the first."""

    def __init__(self, lock: Leadership | None, *, epoch: int) -> None:
        self.leads = lock is None
        self.epoch = epoch
        self.lock = lock
        self._declared: dict[str, Emergency] = {}
        self._rival_told_s = -RIVAL_S

    def begin(self, cycle: ControlCycle) -> None:
        """Keep the cycle silent until there is a lock."""
        if self.lock is not None:
            cycle.stand_by()

    @property
    def may_speak(self) -> bool:
        """Whether anything may leave now: to be asked just before it does."""
        return self.leads and (self.lock is None or self.lock.may_speak())

    def attend(self, cycle: ControlCycle, now_s: float) -> str:
        """Begin or end to speak, as the lock says; returns why in words, empty for no change."""
        lock = self.lock
        if lock is None:
            return ""
        if not lock.may_speak():
            if not self.leads:
                return ""
            self.leads = False
            cycle.stand_by()
            return "is silent: its lock is no longer surely valid"
        if lock.epoch == self.epoch:
            if self.leads:
                return ""
            cycle.go_on()
        else:
            self._take_over(lock, cycle, now_s)
        self.leads = True
        return f"leads, as epoch {self.epoch}"

    def _take_over(self, lock: Leadership, cycle: ControlCycle, now_s: float) -> None:
        """Lead under a new epoch, with the orders of whoever led before."""
        record = lock.record
        assert record is not None
        if not self.leads:
            cycle.orders.follow(record.orders)
            for emergency in self._declared.values():
                cycle.orders.adopt(emergency)
        self.epoch = lock.epoch
        cycle.take_over(lock.epoch, now_s=now_s, lease_s=record.lease_s)

    def take_emergencies(self, cycle: ControlCycle, emergencies: Iterable[Emergency]) -> None:
        """Adopt what others have declared; as a standby, keep it and follow the leader's orders.

        What the bus retains may be newer than the leader's record, by one message at most.
        """
        for emergency in emergencies:
            before = self._declared.get(emergency.domain)
            stamp = (emergency.epoch, emergency.sequence)
            if before is None or stamp >= (before.epoch, before.sequence):
                self._declared[emergency.domain] = emergency
            if self.leads and emergency.epoch != self.epoch:
                cycle.orders.adopt(emergency)
        if not self.leads and self.lock is not None and self.lock.record is not None:
            cycle.orders.follow(self.lock.record.orders)

    def keep_orders(self, write: Callable[[OrdersState], str], orders: OrdersState) -> str:
        """Put a leader's orders where a standby finds them, and write them; returns what failed."""
        if self.leads and self.lock is not None:
            self.lock.keep_orders(orders)
        return write(orders)

    def watch_rival(
        self, cycle: ControlCycle, snapshot: Snapshot, raise_epoch: Callable[[int], int] | None
    ) -> str:
        """Nodes that obey a higher epoch refuse every lease of ours; returns what to tell of it.

        While somebody leads under it this is told again and again; once nobody renews their
        leases, this controller goes on above it.
        """
        epoch, leads = snapshot.epoch_above(self.epoch, fresh_s=cycle.site.control.lease_s)
        if not self.leads or not epoch or snapshot.now_s - self._rival_told_s < RIVAL_S:
            return ""  # a standby's nodes are to obey somebody else
        self._rival_told_s = snapshot.now_s
        if leads or (self.lock is None and raise_epoch is None):
            return (
                f"nodes obey epoch {epoch}, above ours, {self.epoch}: another controller leads them"
            )
        abandoned = f"nobody renews leases of epoch {epoch}: this controller"
        if self.lock is not None:
            self.lock.raise_above(epoch)
            return f"{abandoned} will lead above it"
        assert raise_epoch is not None
        self.epoch = raise_epoch(epoch)
        cycle.lead_as(self.epoch, now_s=snapshot.now_s)
        return f"{abandoned} leads as {self.epoch}"
