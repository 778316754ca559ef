"""The controller's loop: inbox to snapshot to decision to bus, at its own pace.

Callbacks only store. A request wakes the loop between cycles, because an emergency message needs
no decision. What is decided is published, recorded and shown; nothing here decides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from controllers.cycle import ControlCycle
from controllers.door import Door
from controllers.inbox import Inbox
from controllers.leadership import Leadership
from controllers.operator import OrdersState
from controllers.snapshot import Snapshot
from daemon.bus import Bus
from daemon.clock import Clock
from daemon.controller.keeping import OrdersKeeper, forget
from daemon.controller.role import Role
from daemon.controller.steering import Steering
from daemon.store.audit import Audit
from daemon.store.history import History
from daemon.web.board import Board
from facility.decisions import Decision
from facility.ports import RouterPort
from facility.signing import Signer
from facility.topics import COMMAND, SAMPLE, STATE, Topics
from facility.topology import Site
from facility.wire import (
    Codec,
    ControllerStatus,
    Emergency,
    Event,
    Request,
    Response,
    encode,
)

LOG = logging.getLogger(__name__)

LEAVE_S: Final = 0.002  # what is ordered is sent before a cycle takes the loop
STATE_REPEAT_CYCLES: Final = 5
"""An unchanged domain is told again this often, so that its time shows that somebody is there."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the loop is wired to.

    `keep_orders` returns what went wrong, empty for nothing. `raise_epoch` returns and records an
    epoch above the one given. `door` says whose requests are believed, everybody's without one;
    `signer` signs leases and emergencies. Without `leadership` this controller leads alone.
    """

    bus: Bus
    clock: Clock
    board: Board
    history: History
    audit: Audit
    routers: Sequence[RouterPort] = ()
    after_cycle: Callable[[Decision], None] | None = None
    keep_orders: Callable[[OrdersState], str] = forget
    raise_epoch: Callable[[int], int] | None = None
    door: Door | None = None
    signer: Signer | None = None
    leadership: Leadership | None = None


class ControllerService:
    """One controller of one site."""

    def __init__(
        self,
        site: Site,
        surroundings: Surroundings,
        *,
        name: str,
        session: str,
        epoch: int,
        orders: OrdersState | None = None,
    ) -> None:
        self.site = site
        self._name = name
        self._session = session
        self._to = surroundings
        self._topics = Topics(site.name)
        self._codec = Codec()
        self.inbox = Inbox(site, codec=self._codec, door=surroundings.door)
        self._role = Role(surroundings.leadership, epoch=epoch)
        write = partial(self._role.keep_orders, surroundings.keep_orders)
        self._keeper = OrdersKeeper(orders or OrdersState(), write, self.note)
        self.signer = surroundings.signer  # may be replaced at any time
        self._cycle: ControlCycle | None = None
        self._own: dict[str, Request] = {}
        self._woken = asyncio.Event()
        self._told: dict[str, tuple[object, int]] = {}
        self._steering = Steering(surroundings.routers, surroundings.clock, self.note)
        self._cycles_count = 0
        self.overruns_count = 0
        self.failures_count = 0

    @property
    def epoch(self) -> int:
        """Of its leadership; 0 when it never led."""
        return self._role.epoch

    def subscribe(self) -> None:
        """Listen to agents and operators; what arrives is stored until the loop is ready."""
        for what in ("status", "info", "telemetry", "applied"):
            qos = 0 if what == "telemetry" else 1
            self._to.bus.subscribe(self._topics.node("+", what), self._receive, qos=qos)
        self._to.bus.subscribe(self._topics.domain("+", "emergency"), self._receive)
        self._to.bus.subscribe(self._topics.event, self._receive, qos=0)
        self._to.bus.subscribe(self._topics.request("+"), self._receive_request)

    def _receive(self, topic: str, payload: bytes, _retained: bool) -> None:
        self.inbox.receive(self._to.clock.now_s(), self._to.clock.wall_s(), topic, payload)

    def _receive_request(self, topic: str, payload: bytes, retained: bool) -> None:
        if retained:
            return  # A command is acted on once, now, or never.
        self._receive(topic, payload, retained)
        self._woken.set()

    def birth(self, state: Literal["ready", "disconnected", "lost"] = "ready") -> bytes:
        """This controller's status message."""
        return encode(
            ControllerStatus(
                controller=self._name,
                state=state,
                leader=state == "ready" and self._role.leads,
                epoch=self.epoch,
                session=self._session,
            )
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Cycle until told to stop; drift-free, on the given clock."""
        clock, period_s = self._to.clock, self.site.control.cycle_s
        self.begin()
        next_s = clock.now_s() + period_s
        while not stopping.is_set():
            await self._wait(next_s, stopping)
            if self._woken.is_set():
                next_s = clock.now_s() if self.serve() else next_s  # a new leader decides now
                await asyncio.sleep(LEAVE_S)
            if clock.now_s() + 1e-6 < next_s:
                continue
            self.decide()
            next_s += period_s
            if clock.now_s() > next_s:
                missed = int((clock.now_s() - next_s) / period_s) + 1
                self.overruns_count += missed
                next_s += missed * period_s

    def begin(self) -> None:
        """Take up the cycle with the orders of the last life, and say who leads."""
        self._cycle = ControlCycle(self.site, epoch=self.epoch, started_at_s=self._to.clock.now_s())
        self._cycle.orders.restore(self._keeper.orders)
        self._role.begin(self._cycle)
        self._to.bus.publish(self._topics.controller_status(self._name), self.birth(), STATE)

    def serve(self) -> bool:
        """Carry out the requests that have come, and look at the lock.

        Returns whether this controller has just begun to lead: it should decide at once.
        """
        if not self._woken.is_set():
            return False
        self._woken.clear()
        led = self._role.leads
        self._guarded(self._attend)
        self._guarded(self._serve_requests)
        return self._role.leads and not led

    def wake(self) -> None:
        """Look at requests and at the lock now."""
        self._woken.set()

    def decide(self) -> None:
        """One cycle."""
        self._guarded(self._step)

    async def _wait(self, until_s: float, stopping: asyncio.Event) -> None:
        """Until the next cycle, a request, or the end."""
        waits = [
            asyncio.ensure_future(self._to.clock.sleep_until(until_s)),
            asyncio.ensure_future(self._woken.wait()),
            asyncio.ensure_future(stopping.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _attend(self) -> None:
        """Begin or end to speak, as the lock says, and tell everybody."""
        assert self._cycle is not None
        turn = self._role.attend(self._cycle, self._to.clock.now_s())
        if not turn:
            return
        self._to.bus.publish(self._topics.controller_status(self._name), self.birth(), STATE)
        self.note(
            Event(
                event="leads" if self._role.leads else "stands-by",
                severity="info" if self._role.leads else "warning",
                at_s=self._to.clock.wall_s(),
                source="controller",
                subject=self._name,
                sentence=f"controller {self._name} {turn}",
            )
        )

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do it. The only catch-all: a bug must not end the leases of a whole site in silence.

        Leases run out by themselves meanwhile, which is the safe side.
        """
        try:
            work()
        except Exception:
            self.failures_count += 1
            LOG.exception("event=cycle-failed failures=%d", self.failures_count)
            self.note(
                Event(
                    event="cycle-failed",
                    severity="critical",
                    at_s=self._to.clock.wall_s(),
                    source="controller",
                    sentence="a control cycle or a request failed: leases run out if it stays so;"
                    " please report this as a bug",
                )
            )

    def _step(self) -> None:
        assert self._cycle is not None
        started_s = time.perf_counter()
        clock = self._to.clock
        self._attend()
        self._hear()
        snapshot = self.inbox.snapshot(clock.now_s(), clock.wall_s(), self._cycle.orders.active)
        self._watch_rival(snapshot)
        decision = self._cycle.step(snapshot)
        if self._role.may_speak:
            self._publish(decision)
        self._cycle.took(clock.now_s() - snapshot.now_s)
        self._keeper.keep(self._cycle.orders.state(), clock.wall_s())
        self._cycles_count += 1
        for frame in self.inbox.take_frames():
            self._to.board.telemetry(frame)
            self._to.history.record_telemetry(frame)
        for applied in self.inbox.take_applied():
            self._to.board.applied(applied)
            self._to.audit.record_applied(applied)
        self._to.board.counters(self._counters())
        self._to.board.update(decision, duration_s=time.perf_counter() - started_s)
        self._to.history.record_decision(decision)
        if self._role.leads:
            self._to.audit.record_decision(decision)
        for event in self.inbox.take_node_events():
            self._record(event)
        told = (*self.inbox.take_events(), *self._to.history.take_events())
        for event in (*told, *self._to.audit.take_events()):
            self.note(event)
        if self._to.after_cycle is not None:
            self._to.after_cycle(decision)

    def _hear(self) -> None:
        """Take what others have declared, as far as it has arrived."""
        assert self._cycle is not None
        emergencies = self.inbox.take_emergencies()
        self._role.take_emergencies(self._cycle, emergencies)
        for emergency in () if self._role.leads else emergencies:
            self._to.board.emergency(emergency)

    def _watch_rival(self, snapshot: Snapshot) -> None:
        """Tell of nodes that obey a higher epoch, and go on above it once nobody leads under it."""
        assert self._cycle is not None
        before = self.epoch
        words = self._role.watch_rival(self._cycle, snapshot, self._to.raise_epoch)
        if self.epoch != before:
            self._to.bus.publish(self._topics.controller_status(self._name), self.birth(), STATE)
        if words:
            self.note(
                Event(
                    event="epoch-above-ours",
                    severity="critical",
                    at_s=snapshot.wall_s,
                    source="controller",
                    sentence=words,
                )
            )

    def _counters(self) -> dict[str, float]:
        counters, refused = self._to.bus.counters, self.inbox.refused_by_reason()
        return {
            **{f"messages_refused_{word.replace('-', '_')}": n for word, n in refused.items()},
            "messages_refused": float(sum(self.inbox.refused.values())),
            "messages_accepted": float(sum(self.inbox.accepted.values())),
            "bus_messages_published": float(counters.published),
            "bus_messages_dropped": float(counters.dropped),
            "bus_reconnects": float(counters.reconnects),
            "control_cycles_failed": float(self.failures_count),
            "control_cycles_missed": float(self.overruns_count),
        }

    def _publish(self, decision: Decision) -> None:
        """Leases first: they are what keeps nodes above their safe ceilings."""
        bus, topics = self._to.bus, self._topics
        for lease in decision.leases:
            topic = topics.node(lease.node, "lease")
            bus.publish(topic, self._sealed(topic, encode(lease)), STATE, lease.lease_s)
        self._publish_emergencies(decision.emergencies)
        for state in decision.domains:
            told = (state.mode, state.sentence, round(state.power_w), state.nodes_missing_count)
            before, told_at = self._told.get(state.domain, (None, -STATE_REPEAT_CYCLES))
            if told != before or self._cycles_count - told_at >= STATE_REPEAT_CYCLES:
                self._told[state.domain] = (told, self._cycles_count)
                bus.publish(topics.domain(state.domain, "state"), encode(state), STATE)
        for routing in decision.routing:
            bus.publish(topics.service_routing(routing.service), encode(routing), STATE)
            self._steering.apply(routing, decision.decision_id)
        for event in decision.events:
            self._say(event)

    def _sealed(self, topic: str, body: bytes) -> bytes:
        """The message under our signature, if we have one."""
        return self.signer.seal(topic, body) if self.signer else body

    def _publish_emergencies(self, emergencies: Sequence[Emergency]) -> None:
        for emergency in emergencies:
            topic = self._topics.domain(emergency.domain, "emergency")
            payload = self._sealed(topic, encode(emergency))
            self._to.bus.publish(topic, payload, STATE, urgent=True)

    def _serve_requests(self) -> None:
        """Carry out requests; emergencies leave before the answers do."""
        assert self._cycle is not None
        answers, requests = self.inbox.take_answers(), self.inbox.take_requests()
        if not self._role.may_speak:
            return  # the leader answers; without one, nobody does, and the operator is told so
        for answer in answers:
            self._respond(answer)
        self._hear()  # first: what was there before must not undo an order to end it
        requests = (*self._own.values(), *requests)
        self._own = {}
        wall_s = self._to.clock.wall_s()
        responses, emergencies, events = self._cycle.handle(requests, wall_s)
        self._publish_emergencies(emergencies)
        for emergency in emergencies:
            self._to.board.emergency(emergency)
            self._to.audit.record_emergency(emergency, at_s=wall_s)
        for request, response in zip(requests, responses, strict=True):
            self._to.audit.record_request(request, at_s=wall_s)
            self._to.audit.record_response(response, at_s=wall_s)
            self._respond(response)
        for event in events:
            self.note(event)
        self._keeper.keep(self._cycle.orders.state(), wall_s)

    def _respond(self, response: Response) -> None:
        self._to.bus.publish(self._topics.response(response.verb), encode(response), COMMAND)

    def order(self, request: Request) -> None:
        """Carry out an order of our own, before any cycle, and not before we may speak.

        Of each giver only the last order waits: what is over by then was never said.
        """
        self._own[request.by] = request
        self._woken.set()

    def note(self, event: Event) -> None:
        """An event that no decision carries: to the page, the store, the audit and the bus."""
        self._record(event)
        self._say(event)

    def _record(self, event: Event) -> None:
        self._to.board.event(event)
        self._to.history.record_event(event)
        self._to.audit.record_event(event)

    def _say(self, event: Event) -> None:
        if self._role.leads or event.source == "controller":
            self._to.bus.publish(self._topics.event, encode(event), SAMPLE)
        level = {"info": logging.INFO, "warning": logging.WARNING}.get(
            event.severity, logging.ERROR
        )
        LOG.log(level, "event=%s subject=%s %s", event.event, event.subject, event.sentence)
