"""The production agent and controller for the fault machine: everything but processes and sockets.

The actuator, the link, the controller's service, its audit chain and its rules of epochs and orders
are the live ones. The bus, the disk and the clock are the machine's; page and history are left out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

import msgspec

from actuators.clocks import ClockActuator
from controllers.node import NodeBrain
from controllers.node_hands import CeilingWriter
from controllers.operator import OrdersState
from daemon.agent.actuator import Actuator
from daemon.agent.link import AgentLink
from daemon.agent.state import NodeState
from daemon.bus import Bus
from daemon.controller.epoch import epoch_after
from daemon.controller.service import ControllerService, Surroundings
from daemon.store.audit import AUDIT, Audit, AuditSink
from daemon.store.chain import Head, Record, digest, read_head
from daemon.store.database import Database
from daemon.store.health import Health
from daemon.store.history import History
from daemon.web.board import Board
from facility.decisions import Decision
from facility.ports import GpuPort
from facility.wire import Applied, Emergency, Event, GpuIdentity, Request, Response
from simulator.faults.disk import Disk
from simulator.faults.parts import (
    AgentLife,
    AgentSeat,
    AuditRecord,
    CannotStart,
    ControllerLife,
    ControllerSeat,
)

STATE_NAME: Final = "agent.json"
EPOCH_NAME: Final = "epoch"
ORDERS_NAME: Final = "orders.json"
AUDIT_NAME: Final = "audit.db"
RECORDS_MAX: Final = 20_000
BYTES_MAX: Final = 16 * 2**20


class LiveParts:
    """Makes them."""

    def writer(self, port: GpuPort, identity: GpuIdentity) -> CeilingWriter:
        """The live writer of clocks."""
        return ClockActuator(port, identity)

    def agent(self, seat: AgentSeat) -> AgentLife:
        """An actuator with its link, in one process."""
        return HostedAgent(seat)

    def controller(self, seat: ControllerSeat) -> ControllerLife:
        """A controller's service on the machine's bus. Raises CannotStart."""
        return HostedController(seat)

    def audit(self, disk: Disk) -> tuple[Sequence[AuditRecord], Sequence[str]]:
        """Every committed record, and the problems of the chain."""
        database = disk.tables.get(AUDIT_NAME)
        if not isinstance(database, MemoryDatabase):
            return (), ()
        return database.read()


class HostedAgent:
    """One life of the actuator and the link beside it."""

    def __init__(self, seat: AgentSeat) -> None:
        self._incoming: list[tuple[str, bytes]] = []
        self._actuator = Actuator(
            seat.config, seat.hands, PortKeeper(seat.disk), session=seat.session
        )
        self._actuator.start()
        self._link = AgentLink(cast("Bus", seat.line), seat.config, self._take, timer=seat.clock)
        self._link.start()

    @property
    def brain(self) -> NodeBrain:
        """The brain."""
        return self._actuator.brain

    def _take(self, kind: str, payload: bytes) -> None:
        self._incoming.append((kind, payload))

    def cycle(self, now_s: float, wall_s: float) -> None:
        """One cycle with all that has come."""
        incoming, self._incoming = self._incoming, []
        for kind, payload in self._actuator.cycle(now_s, wall_s, incoming):
            self._link.send(kind, payload)

    def next_deadline_s(self) -> float:
        """When the next cycle must run."""
        return self._actuator.next_deadline_s()


class PortKeeper:
    """The agent's state on the machine's disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def load(self) -> NodeState:
        """What the last life left on the disk."""
        data = self._disk.read(STATE_NAME)
        return NodeState() if data is None else msgspec.json.decode(data, type=NodeState)

    def keep(self, state: NodeState) -> None:
        """Write it soon."""
        self._disk.write_soon(STATE_NAME, msgspec.json.encode(state))

    @property
    def problem(self) -> str:
        """Why the last attempt failed."""
        return self._disk.problem

    def close(self) -> None:
        """Nothing to finish."""


class HostedController:
    """One life of the controller's service, and of its audit's writer."""

    def __init__(self, seat: ControllerSeat) -> None:
        disk = self._disk = seat.disk
        self._clock = seat.clock
        candidacy = seat.candidacy
        epoch = 0 if candidacy is not None else self._raise_epoch(0)
        orders = disk.read(ORDERS_NAME)
        self._audit = MemoryAudit(
            disk,
            wall_s=seat.clock.wall_s,
            monotonic_s=seat.clock.now_s,
            true_s=disk.now_s,
        )
        self._service = ControllerService(
            seat.site,
            Surroundings(
                bus=cast("Bus", seat.line),
                clock=seat.clock,
                board=cast("Board", _Unseen()),
                history=cast("History", _Unseen()),
                audit=cast("Audit", self._audit),
                keep_orders=self._keep_orders,
                raise_epoch=self._raise_epoch,
                leadership=candidacy,
            ),
            name=seat.name,
            session=seat.session,
            epoch=epoch,
            orders=None if orders is None else msgspec.json.decode(orders, type=OrdersState),
        )
        self._service.subscribe()
        if candidacy is not None:
            candidacy.changed = self._turn
            candidacy.start()

    def _turn(self) -> None:
        """The lock has changed: the first cycle of a leader is now."""
        self._service.wake()
        if self._service.serve():
            self._service.decide()

    def _raise_epoch(self, above: int) -> int:
        before = int(self._disk.read(EPOCH_NAME) or b"0")
        epoch = epoch_after(before, wall_s=self._clock.wall_s(), above=above)
        try:
            self._disk.write(EPOCH_NAME, str(epoch).encode())
        except OSError as error:
            raise CannotStart(f"cannot keep the epoch: {error}") from error
        return epoch

    def _keep_orders(self, state: OrdersState) -> str:
        try:
            self._disk.write(ORDERS_NAME, msgspec.json.encode(state))
        except OSError as error:
            return f"cannot write the orders: {error}; a restart would forget this order"
        return ""

    @property
    def failures_count(self) -> int:
        """Cycles and requests that ended in an exception."""
        return self._service.failures_count

    def begin(self) -> None:
        """Take up the cycle."""
        self._service.begin()

    def serve(self) -> bool:
        """Requests."""
        return self._service.serve()

    def decide(self) -> None:
        """One cycle."""
        self._service.decide()

    def keep_records(self) -> None:
        """The audit's writer."""
        self._audit.commit()


class _Unseen:
    """A page and a history that nobody looks at."""

    def _nothing(self, *_args: object, **_values: object) -> None:
        return None

    telemetry = applied = update = event = emergency = counters = _nothing
    record_telemetry = record_decision = record_event = _nothing

    def take_events(self) -> Sequence[Event]:
        """None."""
        return ()


class MemoryDatabase:
    """The audit's tables in memory, on a disk that may be full."""

    def __init__(self, disk: Disk) -> None:
        self.path = Path(AUDIT_NAME)
        self._disk = disk
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        for statement in AUDIT.statements:
            if not statement.startswith("CREATE INDEX"):  # nobody looks anything up here
                self._connection.execute(statement)

    def connection(self) -> sqlite3.Connection:
        """The tables. Raises sqlite3.OperationalError while the disk is full."""
        if self._disk.full:
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection

    def vanished(self) -> bool:
        """Nobody deletes it."""
        return False

    def close(self) -> None:
        """Committed content stays."""

    def stop(self) -> None:
        """Likewise."""

    def move_aside(self) -> Path:
        """It is never damaged here."""
        raise OSError("a table in memory cannot be moved")

    def read(self) -> tuple[Sequence[AuditRecord], Sequence[str]]:
        """All records, and what is wrong with their chain."""
        rows = self._connection.execute(
            "SELECT at_s, kind, subject, decision_id, body, seq, hash FROM record ORDER BY seq"
        ).fetchall()
        genesis = self._connection.execute("SELECT hash FROM genesis").fetchone()
        last, problems = Head(0, genesis[0]), []
        for row in rows:
            record = Record(*row)
            follows = record.seq == last.seq + 1
            if not follows or digest(last.hash, record, record.seq) != record.hash:
                problems.append(f"record {record.seq} does not follow record {last.seq}")
            last = Head(record.seq, record.hash)
        if last != read_head(self._connection):
            problems.append(f"the head is not record {last.seq}")
        return [AuditRecord(*row[:5]) for row in rows], problems


class MemoryAudit:
    """The live audit's sink and health on a table in memory, without its thread."""

    def __init__(
        self,
        disk: Disk,
        *,
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
        true_s: Callable[[], float],
    ) -> None:
        database = disk.tables.setdefault(AUDIT_NAME, MemoryDatabase(disk))
        assert isinstance(database, MemoryDatabase)
        self._health = Health(
            store="audit", severity="critical", wall_s=wall_s, monotonic_s=monotonic_s
        )
        self._sink = AuditSink(
            cast("Database", database),
            self._health,
            records_max=RECORDS_MAX,
            bytes_max=BYTES_MAX,
            wall_s=wall_s,
        )
        self._queue: list[tuple[str, object]] = []
        self._true_s = true_s
        self._failing_s = disk.failing_s
        try:
            self._sink.begin("")
        except Exception as error:
            raise CannotStart(f"the audit log cannot be opened: {error}") from error

    def record_decision(self, decision: Decision) -> bool:
        """Queue it."""
        return self._put("decision", decision)

    def record_applied(self, applied: Applied) -> bool:
        """Queue it."""
        return self._put("applied", applied)

    def record_event(self, event: Event) -> bool:
        """Queue it."""
        return self._put("record", event)

    def record_request(self, request: Request, *, at_s: float) -> bool:
        """Queue it."""
        body = msgspec.json.encode(request).decode()
        return self._put("record", Record(at_s, "request", request.verb, "", body))

    def record_response(self, response: Response, *, at_s: float) -> bool:
        """Queue it."""
        body = msgspec.json.encode(response).decode()
        return self._put("record", Record(at_s, "response", response.verb, "", body))

    def record_emergency(self, emergency: Emergency, *, at_s: float) -> bool:
        """Queue it."""
        body = msgspec.json.encode(emergency).decode()
        return self._put("record", Record(at_s, "emergency", emergency.domain, "", body))

    def _put(self, kind: str, item: object) -> bool:
        self._queue.append((kind, item))
        return not self._health.failing

    def take_events(self) -> Sequence[Event]:
        """The log's own alarms."""
        return self._health.take_events()

    def commit(self) -> None:
        """What the writer thread does twice a second."""
        queue, self._queue = self._queue, []
        for kind, item in queue:
            self._sink.accept(kind, item)
        self._sink.commit(everything=False)
        if self._health.failing:
            self._failing_s.append(self._true_s())
