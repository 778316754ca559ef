"""The controller's service in its caller's own time: what was declared before, and orders since."""

from __future__ import annotations

from random import Random

from daemon.faults_parts import LiveParts
from facility.compiler import compile_site
from facility.example import row_site
from facility.topics import COMMAND, STATE, Topics
from facility.wire import Codec, Emergency, Request, encode
from simulator.faults.disk import Disk
from simulator.faults.network import Broker, Line, Weather
from simulator.faults.parts import AuditRecord, ControllerLife, ControllerSeat
from simulator.faults.timeline import HostClock, Timeline

SITE = compile_site(row_site(nodes=4))
TOPICS = Topics(SITE.name)


class Room:
    """A broker, somebody else's connection, and one controller that can be started on it."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.broker = Broker(self.timeline, Random(1), Weather())
        self.disk = Disk(self.timeline, sync_s=0.01)
        self.parts = LiveParts()
        self.other = self.line()
        self.declared: list[tuple[str, ...]] = []
        self.broker.taps.append(self._tap)

    def _tap(self, topic: str, payload: bytes) -> None:
        if topic == TOPICS.domain("row-1", "emergency"):
            self.declared.append(Codec().decode(payload, Emergency).active)

    def line(self) -> Line:
        line = Line(self.broker, will=None)
        line.connect()
        return line

    def controller(self) -> ControllerLife:
        clock = HostClock(self.timeline, started_at_s=0.0, drift_ratio=0.0)
        seat = ControllerSeat(
            site=SITE,
            name="first",
            session="c-1",
            disk=self.disk,
            line=self.line(),
            clock=clock,
        )
        life = self.parts.controller(seat)
        life.begin()
        self.run()
        return life

    def run(self) -> None:
        self.timeline.run_until(self.timeline.now_s + 0.5)

    def declare(self, *active: str, epoch: int = 7) -> None:
        emergency = Emergency(
            domain="row-1", active=active, epoch=epoch, sequence=1, issued_at_s=0.0, by="earlier"
        )
        self.other.publish(TOPICS.domain("row-1", "emergency"), encode(emergency), STATE)
        self.run()

    def ask(self, name: str, *, on: bool) -> None:
        request = Request(verb="contingency", args={"contingency": name, "on": on})
        self.other.publish(TOPICS.request("contingency"), encode(request), COMMAND)
        self.run()

    def records(self, kind: str) -> list[AuditRecord]:
        records, problems = self.parts.audit(self.disk)
        assert not problems
        return [record for record in records if record.kind == kind]


def test_an_order_to_end_a_contingency_before_the_first_cycle_is_not_undone_by_it() -> None:
    room = Room()
    room.declare("ups-a-lost")
    controller = room.controller()
    room.ask("ups-a-lost", on=False)
    controller.serve()
    controller.decide()
    room.run()
    assert room.declared[-1] == ()


def test_what_a_deposed_leader_says_again_does_not_undo_what_was_ended_since() -> None:
    room = Room()
    room.declare("ups-a-lost")
    controller = room.controller()
    controller.decide()
    room.ask("ups-a-lost", on=False)
    controller.serve()
    room.declare("ups-a-lost")
    controller.decide()
    room.run()
    assert room.declared[-2:] == [("ups-a-lost",), ()]


def test_an_operators_own_word_counts_whatever_was_said_before() -> None:
    room = Room()
    controller = room.controller()
    room.ask("ups-a-lost", on=False)
    controller.serve()
    room.declare("brake", epoch=0)
    controller.decide()
    room.run()
    assert room.declared[-1] == ("brake",)


def test_a_contingency_found_on_the_bus_goes_on_under_a_new_controller() -> None:
    room = Room()
    room.declare("ups-a-lost")
    controller = room.controller()
    controller.decide()
    room.run()
    assert room.declared[-1] == ("ups-a-lost",)


def test_an_emergency_on_an_operators_command_is_in_the_audit() -> None:
    room = Room()
    controller = room.controller()
    room.ask("ups-a-lost", on=True)
    controller.serve()
    controller.keep_records()
    assert [record.subject for record in room.records("emergency")] == ["row-1"]
    assert len(room.records("request")) == len(room.records("response")) == 1


def test_a_full_disk_costs_no_record_once_it_takes_writes_again() -> None:
    room = Room()
    controller = room.controller()
    controller.keep_records()
    room.disk.full = True
    room.ask("ups-a-lost", on=True)
    controller.serve()
    controller.keep_records()
    assert not room.records("emergency")
    room.disk.full = False
    room.timeline.run_until(room.timeline.now_s + 40.0)
    controller.keep_records()
    assert room.records("emergency")
