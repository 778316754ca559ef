"""The independent witness: which leases really left, which were recorded, and who runs without one.

It listens at the broker and reads the audit afterwards; it asks no controller what it thinks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from facility.wire import Codec, Emergency, Lease, Response, WireError
from simulator.faults.parts import AuditRecord
from simulator.faults.world import DEPOSED, World

GRACE_S: Final = 1.0
"""Between the end of every lease and the moment at which a node must have asked for less."""
COMMIT_S_MAX: Final = 1.2
"""A record may be lost in a crash that comes within this time after it: two commits and a bit."""


class _Frame(Struct):
    """The two keys of a frame that a lease refers to."""

    session: Annotated[str, Meta(max_length=64)]
    seq: int


@dataclass(slots=True)
class _NodeLog:
    """What the broker has seen of one node."""

    frames: dict[tuple[str, int], float] = field(default_factory=dict)
    leases: list[tuple[float, int, int]] = field(default_factory=list)
    """(ends at, epoch, highest ceiling)."""


@dataclass(frozen=True, slots=True)
class Acted:
    """Something that left a controller and must be in the audit: what, and by which key."""

    at_s: float
    kind: str
    key: tuple[str, ...]


class Witness:
    """Listens at the broker."""

    def __init__(self, world: World, *, lease_factor: float) -> None:
        self.acted: list[Acted] = []
        self.unleased: list[tuple[float, str]] = []
        """When which node asked for more than the safe ceiling without any lease that allows it."""
        self._world = world
        self._codec = Codec()
        self._frame = msgspec.json.Decoder(_Frame)
        self._logs: dict[str, _NodeLog] = defaultdict(_NodeLog)
        self._factor = lease_factor
        self._told: dict[str, tuple[str, tuple[tuple[str, int], ...]]] = {}
        self._since_s: dict[str, float] = {}
        world.broker.taps.append(self._tap)

    def _tap(self, topic: str, payload: bytes) -> None:
        world = self._world
        if world.injecting:
            return
        place = world.topics.split(topic)
        if place is None:
            return
        kind, name, what = place
        try:
            if what == "telemetry":
                frame = self._frame.decode(payload)
                self._logs[name].frames.setdefault((frame.session, frame.seq), world.timeline.now_s)
                world.frames[name] = (frame.session, frame.seq)
            elif what == "lease":
                self._lease(name, self._codec.decode(payload, Lease))
            elif kind == "domain" and what == "emergency":
                self._emergency(self._codec.decode(payload, Emergency))
            elif kind == "response":
                self._response(self._codec.decode(payload, Response))
        except (WireError, msgspec.DecodeError):
            return

    def _lease(self, name: str, lease: Lease) -> None:
        if lease.decision_id == DEPOSED:
            return  # sent again by a broker that had stood still
        now_s, log = self._world.timeline.now_s, self._logs[name]
        taken_s = log.frames.get((lease.session, lease.basis_seq), -math.inf)
        highest_mhz = max(lease.ceilings_mhz.values(), default=0)
        log.leases.append((taken_s + lease.lease_s / self._factor, lease.epoch, highest_mhz))
        if len(log.leases) > 24:
            del log.leases[:12]
        armed = tuple(sorted(lease.contingency_ceilings_mhz.items()))
        news = (str(highest_mhz), armed)
        if self._told.get(name) != news:
            self._told[name] = news
            self.acted.append(Acted(now_s, "lease", (lease.decision_id, name, str(highest_mhz))))

    def _emergency(self, emergency: Emergency) -> None:
        if emergency.by == DEPOSED:
            return
        key = (emergency.domain, str(emergency.epoch), str(emergency.sequence))
        self.acted.append(Acted(self._world.timeline.now_s, "emergency", key))

    def _response(self, response: Response) -> None:
        for kind in ("request", "response"):
            item = Acted(self._world.timeline.now_s, kind, (response.transaction,))
            self.acted.append(item)

    def look(self) -> None:
        """Whether any running agent asks for more than its leases allow; called every half second.

        A frame reached the broker after it was sampled, so that no lease can end later than this.
        """
        now_s = self._world.timeline.now_s
        for name, host in self._world.nodes.items():
            if host.life is None or host.stopped:
                self._since_s.pop(name, None)
                continue
            gpus = host.life.brain.view.gpus.values()
            asked_mhz = (gpu.lock.requested_mhz for gpu in gpus if not gpu.lost)
            highest_mhz = max(asked_mhz, default=0)
            leases = self._logs[name].leases
            allowed = highest_mhz <= host.config.safe_ceiling_mhz or any(
                ends_s > now_s and mhz >= highest_mhz for ends_s, _, mhz in leases
            )
            if allowed:
                self._since_s.pop(name, None)
            elif now_s - self._since_s.setdefault(name, now_s) >= GRACE_S:
                self._since_s[name] = math.inf
                self.unleased.append((now_s, name))


class AuditCheck:
    """Holds what left the controllers against what their audit logs say."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lost: list[Acted] = []
        self.problems: list[str] = []
        self.excused_count = 0
        self._logs = AuditLogs()

    def run(self, acted: list[Acted]) -> None:
        """Read every log, and find what is in none of them.

        A record is lost when what it tells has left, it is in no log, no gap record counts it, and
        neither a crash within `COMMIT_S_MAX` after it nor an alarm that the log cannot be written
        explains it: a disk that is full costs history, and says so.
        """
        for host in self._world.controllers:
            records, problems = self._world.parts.audit(host.disk)
            self.problems += problems
            for record in records:
                self._logs.read(record)
        for item in acted:
            if self._logs.tells(item):
                continue
            if self._logs.gaps_count or self._is_excused(item.at_s):
                self.excused_count += 1
            else:
                self.lost.append(item)

    def _is_excused(self, at_s: float) -> bool:
        for host in self._world.controllers:
            if any(at_s <= end_s + 0.1 and end_s - at_s <= COMMIT_S_MAX for end_s in host.ends_s):
                return True
        return any(
            event.event == "audit-failing" and self._covers(told_s, at_s)
            for told_s, event in self._world.events
        )

    def _covers(self, told_s: float, at_s: float) -> bool:
        """Whether an alarm at `told_s` speaks of the log as it was at `at_s`."""
        recovered = (
            when_s
            for when_s, event in self._world.events
            if event.event == "audit-recovered" and when_s > told_s
        )
        return told_s - 4.0 <= at_s <= min(recovered, default=math.inf)


class AuditLogs:
    """What all logs of a run say together.

    A decision is recorded as what it changes, so that a lease is told by the last change of its
    node before it.
    """

    def __init__(self) -> None:
        self.gaps_count = 0
        self._ceilings: dict[str, dict[tuple[int, int], str]] = defaultdict(dict)
        self._known: set[tuple[str, tuple[str, ...]]] = set()

    def read(self, record: AuditRecord) -> None:
        """Take one record."""
        self.gaps_count += record.kind == "gap"
        body: dict[str, Any] = msgspec.json.decode(record.body)
        if record.kind in ("request", "response"):
            self._known.add((record.kind, (str(body.get("transaction", "")),)))
        elif record.kind == "emergency":
            self._emergency(record.subject, body)
        for change in body.get("changes", ()):
            if change["kind"] == "node":
                ceiling = str(change["detail"]["ceiling_mhz"])
                self._ceilings[change["subject"]][_order(record.decision_id)] = ceiling
            elif change["kind"] == "emergency":
                self._emergency(change["subject"], change["detail"])

    def _emergency(self, domain: str, body: dict[str, Any]) -> None:
        self._known.add(("emergency", (domain, str(body["epoch"]), str(body["sequence"]))))

    def tells(self, item: Acted) -> bool:
        """Whether the logs tell of something that left a controller."""
        if item.kind != "lease":
            return (item.kind, item.key) in self._known
        decision_id, node, ceiling = item.key
        at = _order(decision_id)
        told = self._ceilings[node]
        last = max((order for order in told if order <= at), default=None)
        return last is not None and told[last] == ceiling


def _order(decision_id: str) -> tuple[int, int]:
    """Decisions in order: epoch, then number."""
    epoch, _, number = decision_id.partition("-")
    return int(epoch), int(number)
