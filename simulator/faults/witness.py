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
from simulator.faults.hosts import NodeHost
from simulator.faults.parts import AuditRecord
from simulator.faults.world import DEPOSED, World

UNLOCKED_MHZ: Final = 10_000
LEASES_KEPT: Final = 24
ARMED_LEASES: Final = 6
HEARD_S: Final = 2.5
"""An emergency has reached everybody who could be reached within this."""
GRACE_S: Final = 1.0
"""Between the end of every lease and the moment at which a node must have asked for less."""
COMMIT_S_MAX: Final = 1.2
"""A record may be lost in a crash that comes within this time after it: two commits and a bit."""


class _Frame(Struct):
    """The two keys of a frame that a lease refers to."""

    session: Annotated[str, Meta(max_length=64)]
    seq: int


class _Granted(Struct, frozen=True):
    """One lease as it left: true time of its end at the latest, and what it allows."""

    ends_s: float
    session: str
    decision: tuple[int, int]
    highest_mhz: int
    armed_mhz: dict[str, int]


@dataclass(slots=True)
class _NodeLog:
    """What the broker has seen of one node."""

    frames: dict[tuple[str, int], float] = field(default_factory=dict)
    leases: list[_Granted] = field(default_factory=list)


class Acted(Struct, frozen=True):
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
        self.unramped: list[tuple[float, str]] = []
        """When which node was granted more than one step of its ramp."""
        self.unheeded: list[tuple[float, str]] = []
        """When which node did not act on an emergency that it must have heard."""
        self._since_s: dict[str, float] = {}
        self._clear_since_s: dict[str, float] = {}
        self._declared: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._order: dict[str, tuple[int, int]] = {}
        """Epoch and sequence of the newest emergency of each domain."""
        self._words: dict[str, bytes] = {}
        """The last emergency of each domain as its controller said it."""
        self._kept_since_s: dict[str, float] = {}
        """Domains whose last emergency the broker keeps, and since when."""
        self._leader_since_s: float | None = None
        """Since when a controller leads that the broker can hear."""
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
                self._emergency(self._codec.decode(payload, Emergency), payload)
            elif kind == "response":
                self._response(self._codec.decode(payload, Response))
        except (WireError, msgspec.DecodeError):
            return

    def _lease(self, name: str, lease: Lease) -> None:
        if lease.decision_id == DEPOSED:
            return  # sent again by a broker that had stood still
        log = self._logs[name]
        taken_s = log.frames.get((lease.session, lease.basis_seq), -math.inf)
        highest_mhz = max(lease.ceilings_mhz.values(), default=0)
        armed_mhz = {
            name: max(mhz, highest_mhz) if name in lease.active else mhz
            for name, mhz in lease.contingency_ceilings_mhz.items()
        }
        granted = _Granted(
            taken_s + lease.lease_s / self._factor,
            lease.session,
            _order(lease.decision_id),
            highest_mhz,
            armed_mhz,
        )
        if log.leases:
            self._check_ramp(name, log.leases[-1], granted)
        log.leases.append(granted)
        if len(log.leases) > LEASES_KEPT:
            del log.leases[: LEASES_KEPT // 2]
        armed = tuple(sorted(lease.contingency_ceilings_mhz.items()))
        news = (str(highest_mhz), armed)
        if self._told.get(name) != news:
            self._told[name] = news
            arrived_s = self._world.broker.arrived_s
            self.acted.append(
                Acted(arrived_s, "lease", (lease.decision_id, name, str(highest_mhz)))
            )

    def _check_ramp(self, name: str, before: _Granted, now: _Granted) -> None:
        """Whether a ceiling rises faster than it may from one cycle to the next.

        A node whose lease has ended is at its safe ceiling: there it rises from.
        """
        control, gpu = self._world.site.control, self._world.site.nodes[name].model.gpu
        (epoch, number), (before_epoch, before_number) = now.decision, before.decision
        if epoch != before_epoch or number != before_number + 1 or now.session != before.session:
            return
        step_mhz = control.raise_ratio_per_s * control.cycle_s * gpu.clock_mhz_max
        from_mhz = before.highest_mhz
        if before.ends_s <= self._world.timeline.now_s:
            from_mhz = max(from_mhz, gpu.safe_ceiling_mhz)
        rise_mhz = now.highest_mhz - from_mhz
        if rise_mhz > step_mhz + gpu.clock_mhz_step:
            self.unramped.append((self._world.timeline.now_s, name))

    def _emergency(self, emergency: Emergency, payload: bytes) -> None:
        if emergency.by == DEPOSED:
            return
        key = (emergency.domain, str(emergency.epoch), str(emergency.sequence))
        self.acted.append(Acted(self._world.broker.arrived_s, "emergency", key))
        order = (emergency.epoch, emergency.sequence)
        if order < self._order.get(emergency.domain, order):
            return  # late or sent again: a node that heard what came after it rightly ignores it
        self._order[emergency.domain] = order
        self._words[emergency.domain] = payload
        if not emergency.active:
            self._declared.pop(emergency.domain, None)
        elif self._declared.get(emergency.domain, (0.0, ()))[1] != emergency.active:
            self._declared[emergency.domain] = (self._world.timeline.now_s, emergency.active)

    def _response(self, response: Response) -> None:
        for kind in ("request", "response"):
            item = Acted(self._world.broker.arrived_s, kind, (response.transaction,))
            self.acted.append(item)

    def look(self) -> None:
        """Whether any running agent asks for more than its leases allow; called every half second.

        A frame reached the broker after it was sampled, so that no lease can end later than this.
        """
        now_s = self._world.timeline.now_s
        self._look_at_broker(now_s)
        for name, host in self._world.nodes.items():
            line = host.line
            if host.life is None or host.stopped:
                self._since_s.pop(name, None)
                self._clear_since_s.pop(name, None)
                continue
            asked_mhz = _asked_mhz(host)
            epoch = host.life.brain.book.epoch
            self._world.epochs[name] = max(self._world.epochs.get(name, 0), epoch)
            leases = self._logs[name].leases
            allowed = asked_mhz <= host.config.safe_ceiling_mhz or any(
                item.ends_s > now_s and item.highest_mhz >= asked_mhz for item in leases
            )
            last = host.life.brain.book.lease
            forged = last is not None and last.decision_id == DEPOSED
            if self._lasts(f"lease {name}", not allowed) or self._begins(f"forged {name}", forged):
                self.unleased.append((now_s, name))
            if line is None or not line.connected or line.is_cut or self._weather_is_bad():
                self._clear_since_s.pop(name, None)
            else:
                self._clear_since_s.setdefault(name, now_s)
            deaf = self._is_deaf(host, asked_mhz)
            if self._lasts(f"emergency {name}", deaf):
                self.unheeded.append((now_s, name))

    def _look_at_broker(self, now_s: float) -> None:
        """Whether an emergency is there for a node that comes later: kept, or said again."""
        world = self._world
        for domain, payload in self._words.items():
            if world.broker.retained.get(world.topics.domain(domain, "emergency")) == payload:
                self._kept_since_s.setdefault(domain, now_s)
            else:
                self._kept_since_s.pop(domain, None)
        leader = world.leader
        line = leader.line if leader is not None and not leader.stopped else None
        if line is None or not line.connected or line.is_cut:
            self._leader_since_s = None
        elif self._leader_since_s is None:
            self._leader_since_s = now_s

    def _must_know_s(self, domain: str, said_s: float, clear_s: float) -> float:
        """Since when a node that can be reached must know of an emergency.

        It was there when it was said; or the broker keeps it, whose copy a deposed leader or a
        rollback may have replaced; or the leader mends that copy.
        """
        if clear_s <= said_s:
            return said_s
        kept_s = self._kept_since_s.get(domain, math.inf)
        leader_s = math.inf if self._leader_since_s is None else self._leader_since_s
        return max(clear_s, min(kept_s, leader_s))

    def _weather_is_bad(self) -> bool:
        world = self._world
        late = world.weather.extra_s_max > 0.0 or world.weather.loss_ratio > 0.0
        return late or not world.broker.up or world.broker.frozen

    def _begins(self, key: str, wrong: bool) -> bool:
        """Whether something is wrong that was not so when last looked at."""
        if not wrong:
            self._since_s.pop(key, None)
            return False
        now_s = self._world.timeline.now_s
        return self._since_s.setdefault(key, now_s) == now_s

    def _lasts(self, key: str, wrong: bool) -> bool:
        """Whether something has been wrong for the whole grace, told once."""
        now_s = self._world.timeline.now_s
        if not wrong:
            self._since_s.pop(key, None)
            return False
        if now_s - self._since_s.setdefault(key, now_s) < GRACE_S:
            return False
        self._since_s[key] = math.inf
        return True

    def _is_deaf(self, host: NodeHost, asked_mhz: int) -> bool:
        """Whether a node runs above what its leases say for an emergency that it has heard."""
        clear_s = self._clear_since_s.get(host.name)
        if clear_s is None:
            return False
        heard_s = self._world.timeline.now_s - HEARD_S
        leases = self._logs[host.name].leases[-ARMED_LEASES:]
        for domain in host.config.domains:
            since_s, active = self._declared.get(domain, (math.inf, ()))
            if self._must_know_s(domain, since_s, clear_s) > heard_s:
                continue
            brake_mhz = host.config.brake_ceiling_mhz
            for name in active:
                allowed = [item.armed_mhz.get(name, brake_mhz) for item in leases]
                if asked_mhz > max(allowed, default=asked_mhz):
                    return True
        return False


def _asked_mhz(host: NodeHost) -> int:
    """The highest ceiling that an agent asks for; a GPU that it asks nothing of runs unlocked."""
    assert host.life is not None
    highest_mhz = 0
    if not host.life.brain.view.writable:
        return 0  # without a driver nobody can ask for anything
    for gpu in host.life.brain.view.gpus.values():
        if not gpu.lost:
            highest_mhz = max(highest_mhz, gpu.lock.requested_mhz or UNLOCKED_MHZ)
    return highest_mhz


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
            0.0 <= failing_s - at_s <= COMMIT_S_MAX
            for host in self._world.controllers
            for failing_s in host.disk.failing_s
        )


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
