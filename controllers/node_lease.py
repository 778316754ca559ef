"""Which leases and emergencies a node believes, and when a lease ends.

The promise: a lease never outlives `lease_s` after this node took the frame that the lease answers,
on this node's own monotonic clock, and nothing that an older leader or a replay says is obeyed.
Nothing here knows GPUs or their readings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from facility.wire import Count, Emergency, Lease, Name

FRAMES_REMEMBERED: Final = 64
"""A lease may answer any of the last frames; an older one would have expired at 1 Hz anyway."""

OPERATORS_MAX: Final = 64
"""Operators' keys remembered for one domain; the one that was silent longest is forgotten."""

BRAKE_CONTINGENCY: Final = "brake"


class EmergencyRecord(Struct, frozen=True, kw_only=True):
    """The last emergency message obeyed for one domain."""

    domain: Name
    active: tuple[Name, ...]
    epoch: Count = 0
    sequence: Count = 0
    operators: dict[str, Count] = {}
    """The last sequence of each operator's key that has declared something here itself."""


class NodeMemory(Struct, frozen=True, kw_only=True):
    """What must survive a restart, so that no old leader is obeyed and no emergency forgotten.

    `sequence` is kept for the record only. A lease names the session of the node that it answers,
    and a session is new in every process life: no lease sent before a restart can be accepted after
    it, whatever its sequence. The epoch is different: a leader that was deposed may be alive and
    answer the frames of the new session, so a new epoch is written at once.
    """

    epoch: Count = 0
    sequence: Count = 0
    emergencies: tuple[EmergencyRecord, ...] = ()
    local: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """UPSs by whose own word a contingency is on."""


class LeaseBook:
    """The lease in force, the frames that a lease may answer, and what refuses the others."""

    def __init__(self, *, node: str, session: str, epoch: int, sequence: int) -> None:
        """Start without a lease, with the epoch remembered from before."""
        self._node = node
        self._session = session
        self.epoch = epoch
        self.sequence = sequence
        self._sequence_floor = -1
        self._frames: deque[tuple[int, float]] = deque(maxlen=FRAMES_REMEMBERED)
        self.lease: Lease | None = None
        """The lease in force, None when there is none."""
        self.last: Lease | None = None
        """The last lease accepted, also after it has expired."""
        self.expires_s = 0.0

    def sampled(self, seq: int, at_s: float) -> None:
        """Remember that frame `seq` was sampled at `at_s`; frames come in order."""
        self._frames.append((seq, at_s))

    def offer(self, lease: Lease, now_s: float, gpus: Collection[str]) -> str:
        """Accept a lease, or say in one word why it is refused; empty means accepted."""
        expires_s = self._expires_s(lease)
        refusal = self._refusal(lease, expires_s, now_s, gpus)
        if refusal:
            return refusal
        assert expires_s is not None
        if lease.epoch > self.epoch:
            self.epoch = lease.epoch
        self.sequence = self._sequence_floor = lease.sequence
        self.lease = self.last = lease
        self.expires_s = expires_s
        return ""

    def expire(self, now_s: float) -> Lease | None:
        """End the lease if its time is over, and return it in the step in which it ends."""
        ended = self.lease
        if ended is None or now_s < self.expires_s:
            return None
        self.lease = None
        return ended

    def _expires_s(self, lease: Lease) -> float | None:
        if not self._frames:
            return None
        place = lease.basis_seq - self._frames[0][0]
        if not 0 <= place < len(self._frames):
            return None
        return self._frames[place][1] + lease.lease_s

    def _refusal(
        self, lease: Lease, expires_s: float | None, now_s: float, gpus: Collection[str]
    ) -> str:
        if lease.node != self._node:
            return "wrong-node"
        if lease.session != self._session:
            return "other-session"
        if lease.epoch < self.epoch:
            return "old-epoch"
        if lease.epoch == self.epoch and lease.sequence <= self._sequence_floor:
            return "replayed"
        if expires_s is None:
            return "unknown-frame"
        if expires_s <= now_s:
            return "expired"
        if any(uuid not in gpus for uuid in lease.ceilings_mhz):
            return "unknown-gpu"
        return ""


class ContingencyBook:
    """Which contingencies are active, by domain, with what refuses replays and old leaders."""

    def __init__(self, records: Collection[EmergencyRecord]) -> None:
        """Start from what was active before a restart."""
        self._records: dict[str, EmergencyRecord] = {}
        self.records: tuple[EmergencyRecord, ...] = ()
        """What to remember across a restart."""
        self.active: tuple[str, ...] = ()
        """The names of active contingencies, in order."""
        self._keep({record.domain: record for record in records})

    def _keep(self, records: dict[str, EmergencyRecord]) -> None:
        self._records = records
        self.records = tuple(records.values())
        self.active = tuple(sorted({name for r in self.records for name in r.active}))

    def keep_only(self, domains: Collection[str]) -> None:
        """Forget domains that are no longer above this node."""
        self._keep({key: r for key, r in self._records.items() if key in domains})

    def offer(self, emergency: Emergency, domains: Collection[str], epoch: int) -> str:
        """Obey an emergency message, or say in one word why not; empty means obeyed.

        A retained message that comes again says the same again and is obeyed without effect. A
        contingency may begin on the word of an older leader, whose message may have waited in the
        broker; it ends only on the word of the newest one: `epoch` is the highest known.
        """
        if emergency.domain not in domains:
            return "foreign-domain"
        stamp = (emergency.epoch, emergency.sequence)
        before = self._records.get(emergency.domain)
        active = set(emergency.active)
        if before is not None:
            if stamp < (before.epoch, before.sequence):
                return "replayed"
            if stamp == (before.epoch, before.sequence):
                return "" if set(before.active) == active else "replayed"
            if emergency.epoch < epoch:
                active |= set(before.active)
                if active == set(before.active) != set(emergency.active):
                    return "old-epoch"
        record = EmergencyRecord(
            domain=emergency.domain,
            active=tuple(sorted(active)),
            epoch=emergency.epoch,
            sequence=emergency.sequence,
            operators=before.operators if before is not None else {},
        )
        self._keep({**self._records, emergency.domain: record})
        return ""

    def begin(self, emergency: Emergency, domains: Collection[str], key: str) -> str:
        """Obey an operator who speaks without a controller, or say in one word why not.

        What is named begins; nothing ends, because only a controller knows what else depends on
        it. The sequence, which grows from message to message of one key, refuses replays, and what
        a controller has said meanwhile keeps its own place.
        """
        if emergency.domain not in domains:
            return "foreign-domain"
        if not emergency.active:
            return "may-not-end"
        before = self._records.get(emergency.domain)
        if before is None:
            before = EmergencyRecord(domain=emergency.domain, active=())
        active = set(before.active) | set(emergency.active)
        if emergency.sequence <= before.operators.get(key, -1):
            return "" if active == set(before.active) else "replayed"
        operators = {**before.operators, key: emergency.sequence}
        while len(operators) > OPERATORS_MAX:
            del operators[min(operators, key=lambda one: operators[one])]
        record = EmergencyRecord(
            domain=emergency.domain,
            active=tuple(sorted(active)),
            epoch=before.epoch,
            sequence=before.sequence,
            operators=operators,
        )
        self._keep({**self._records, emergency.domain: record})
        return ""


def contingency_ceiling_mhz(
    active: Collection[str], table_mhz: Mapping[str, int], brake_ceiling_mhz: int
) -> tuple[int, str] | None:
    """The lowest ceiling that active contingencies ask for, and whose it is; None without any.

    A contingency that the last lease did not know gets the brake ceiling: nobody has computed what
    would be safe. The contingency `brake` always gets it.
    """
    ceilings = [
        (
            brake_ceiling_mhz
            if name == BRAKE_CONTINGENCY
            else table_mhz.get(name, brake_ceiling_mhz),
            name,
        )
        for name in active
    ]
    return min(ceilings, default=None)
