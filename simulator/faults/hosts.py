"""The hosts of a run: nodes with their agents, and controllers, with all that may befall them.

A process dies without a word, its locks stay on the GPUs, and a supervisor starts it again. A host
that loses power comes back without locks and without work, and gets work once its agent runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Final

from facility.config import AgentConfig
from facility.topics import Topics
from facility.wire import ControllerStatus, NodeStatus, encode
from simulator.faults.disk import Disk
from simulator.faults.election import Candidacy
from simulator.faults.gpu import Chassis
from simulator.faults.hands import HangingHands
from simulator.faults.network import Broker, Line
from simulator.faults.parts import (
    AgentLife,
    AgentSeat,
    CannotStart,
    ControllerLife,
    ControllerSeat,
    Parts,
)
from simulator.faults.plant import Plant
from simulator.faults.timeline import HostClock, Timeline

COMMIT_S: Final = 0.5
"""Between two commits of the audit, as live."""
MAIL_S: Final = 0.005
"""From a message's arrival until its process has acted on it."""


class NodeHost:
    """One server: its chassis, its disk, and the lives of its agent."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        plant: Plant,
        chassis: Chassis,
        broker: Broker,
        clock: HostClock,
        disk: Disk,
        parts: Parts,
        rng: Random,
    ) -> None:
        self.config = config
        self.name = config.node
        self.chassis = chassis
        self.clock = clock
        self.disk = disk
        self.life: AgentLife | None = None
        self.line: Line | None = None
        self.powered = True
        self.stopped = False
        self.lives_count = 0
        self.allowed_until_s = 0.0
        """True time until which the last lease of an agent that is gone may still stand."""
        self._plant = plant
        self._broker = broker
        self._parts = parts
        self._rng = rng
        self._timeline: Timeline = broker.timeline
        self._serial = 0
        self._mail = False
        self._look_s = -math.inf

    def start(self) -> None:
        """The supervisor starts the agent."""
        if self.life is not None or not self.powered:
            return
        self.lives_count += 1
        session = f"{self.name}-{self.lives_count}"
        lost = NodeStatus(node=self.name, session=session, state="lost")
        topic = Topics(self.config.site).node(self.name, "status")
        self.line = Line(self._broker, will=(topic, encode(lost)), woken=self._woken)
        hands = HangingHands(
            self.chassis,
            sample_hz=self.config.sample_hz,
            call_timeout_s=self.config.call_timeout_s,
            clock=self.clock.now_s,
            make_writer=self._parts.writer,
        )
        self.life = self._parts.agent(
            AgentSeat(self.config, hands, self.disk, self.line, self.clock, session)
        )
        self._timeline.after(0.05 + 0.2 * self._rng.random(), self.line.connect)
        self._serial += 1
        self._turn(self._serial)

    def _woken(self) -> None:
        if not self._mail and self.life is not None and not self.stopped:
            self._mail = True
            self._serial += 1
            serial = self._serial
            self._timeline.after(MAIL_S, lambda: self._turn(serial))

    def _turn(self, serial: int) -> None:
        """One cycle of the agent, and when the next is due."""
        if serial != self._serial or self.life is None or self.stopped:
            return
        self._mail = False
        now_s = self.clock.now_s()
        self.life.cycle(now_s, self.clock.wall_s())
        if now_s >= self._look_s - 1e-6:
            self._look_s = now_s + 1.0 / self.config.sample_hz
        due_s = min(self.life.next_deadline_s(), self._look_s)
        self._timeline.at(self.clock.true_s(due_s) + 1e-6, lambda: self._turn(serial))

    def _forget_agent(self, *, will: bool) -> None:
        self._note_lease()
        self.life = None
        self.stopped = False
        self._mail = False
        self._serial += 1
        self.disk.crash()
        if self.line is not None:
            self.line.close(will=will)
            self.line = None

    def _note_lease(self) -> None:
        if self.life is not None:
            book = self.life.brain.book
            ends_s = book.expires_s if book.lease is not None else self.clock.now_s()
            self.allowed_until_s = self.clock.true_s(ends_s)

    def crash_agent(self) -> None:
        """The agent is killed; the GPUs stay as they are."""
        self._forget_agent(will=True)

    def crash_io(self, back_s: float) -> None:
        """Only the I/O process dies: the connection is gone, the actuator goes on."""
        line = self.line
        if line is not None:
            line.lose(will=True)
            line.cut(up=True, down=True)
            self._timeline.after(back_s, line.heal)

    def stop_agent(self) -> None:
        """The agent stands still, its timer too."""
        if self.life is not None and not self.stopped:
            self._note_lease()
            self.stopped = True
            self._serial += 1
            if self.line is not None:
                self.line.pause()

    def resume_agent(self) -> None:
        """It goes on where it stood."""
        if self.life is not None and self.stopped:
            self.stopped = False
            self._serial += 1
            self._turn(self._serial)
            if self.line is not None:
                self.line.resume()

    def power_off(self) -> None:
        """The server is off."""
        if not self.powered:
            return
        self._forget_agent(will=True)
        self.powered = False
        self._plant.powered[self.chassis.place] = False
        self._set_working(on=False)

    def power_on(self, boot_s: float) -> None:
        """It comes back without locks and idle; its agent starts when it has booted."""
        if self.powered:
            return
        self.powered = True
        self._plant.powered[self.chassis.place] = True
        self.chassis.driver_gone = False
        self.chassis.forget_locks()
        for gpu in self.chassis.gpus:
            gpu.lost = gpu.hung = False
            self._plant.alive[gpu.index] = True
        self.allowed_until_s = self._timeline.now_s
        self._timeline.after(boot_s, self.start)
        self._timeline.after(boot_s + 1.0 + 2.0 * self._rng.random(), self._work_again)

    def _work_again(self) -> None:
        if self.powered:
            self._set_working(on=True)

    def _set_working(self, *, on: bool) -> None:
        for index in self._plant.gpus_of(self.name):
            self._plant.working[index] = on

    def begin_work(self) -> None:
        """Jobs start."""
        self._set_working(on=True)


class ControllerHost:
    """One controller's host and the lives of its process."""

    def __init__(
        self,
        name: str,
        *,
        broker: Broker,
        clock: HostClock,
        disk: Disk,
        parts: Parts,
        rng: Random,
        seat: Callable[[ControllerHost, Line, str], ControllerSeat],
    ) -> None:
        self.name = name
        self.clock = clock
        self.disk = disk
        self.life: ControllerLife | None = None
        self.line: Line | None = None
        self.candidacy: Candidacy | None = None
        self.stopped = False
        self.wanted = False
        """Whether this host should run a controller."""
        self.lives_count = 0
        self.ends_s: list[float] = []
        """True times after which a life that ended without a word wrote nothing: its end, or, if it
        was killed while it stood still, since when it did."""
        self._stopped_s = 0.0
        self.failures_count = 0
        self._broker = broker
        self._parts = parts
        self._rng = rng
        self._seat = seat
        self._timeline = broker.timeline
        self._serial = 0

    def start(self) -> None:
        """The supervisor starts the controller, again and again until it can start."""
        self.wanted = True
        self._try_start()

    def _try_start(self) -> None:
        if self.life is not None or not self.wanted:
            return
        self.lives_count += 1
        session = f"{self.name}-{self.lives_count}"
        line = Line(self._broker, will=None, woken=self._woken)
        seat = self._seat(self, line, session)
        try:
            life = self._parts.controller(seat)
        except CannotStart:
            line.close(will=False)
            if seat.candidacy is not None:
                seat.candidacy.close()
            self._timeline.after(2.0, self._try_start)
            return
        topics = Topics(seat.site.name)
        status = ControllerStatus(
            controller=self.name, state="lost", leader=False, epoch=0, session=session
        )
        line.will = (topics.controller_status(self.name), encode(status))
        self.life, self.line, self.candidacy = life, line, seat.candidacy
        life.begin()
        self._timeline.after(0.02 + 0.1 * self._rng.random(), line.connect)
        self._serial += 1
        serial, period_s = self._serial, seat.site.control.cycle_s
        start_s = self._timeline.now_s
        self._timeline.at(start_s + period_s, lambda: self._cycle(serial, period_s))
        self._timeline.at(start_s + COMMIT_S, lambda: self._commit(serial))

    def _woken(self) -> None:
        if self.life is not None and not self.stopped:
            self.life.serve()

    def _cycle(self, serial: int, period_s: float) -> None:
        if serial != self._serial or self.life is None:
            return
        if self.stopped:
            self._timeline.after(0.25, lambda: self._cycle(serial, period_s))
            return
        self.life.decide()
        self._timeline.after(period_s, lambda: self._cycle(serial, period_s))

    def _commit(self, serial: int) -> None:
        if serial != self._serial or self.life is None:
            return
        if not self.stopped:
            self.life.keep_records()
        self._timeline.after(COMMIT_S, lambda: self._commit(serial))

    def _end(self) -> None:
        assert self.life is not None
        self.failures_count += self.life.failures_count
        self.life = None
        self.stopped = False
        if self.candidacy is not None:
            self.candidacy.close()
            self.candidacy = None
        self._serial += 1
        self.disk.crash()
        if self.line is not None:
            self.line.close(will=True)
            self.line = None

    def crash(self) -> None:
        """Killed."""
        if self.life is not None:
            self.ends_s.append(self._stopped_s if self.stopped else self._timeline.now_s)
            self._end()

    def quit(self) -> None:
        """A clean stop: what is recorded is written first."""
        self.wanted = False
        if self.life is not None:
            self.life.keep_records()
            self._end()

    def stop(self) -> None:
        """It stands still."""
        if self.life is not None:
            if not self.stopped:
                self._stopped_s = self._timeline.now_s
            self.stopped = True
            if self.candidacy is not None:
                self.candidacy.stopped = True
            if self.line is not None:
                self.line.pause()

    @property
    def leads(self) -> bool:
        """Whether it may speak now."""
        return self.life is not None and (self.candidacy is None or self.candidacy.may_speak())

    def resume(self) -> None:
        """It goes on where it stood, with what it had."""
        if self.life is not None and self.stopped:
            self.stopped = False
            if self.candidacy is not None:
                self.candidacy.stopped = False
            if self.line is not None:
                self.line.resume()
            self.life.serve()
