"""Live hands: threads between the actuator and a driver whose calls may block for ever.

One thread opens the driver, one reads all GPUs, and each GPU has one that writes. A call that hangs
costs its thread and blinds its GPU, nothing else: the reader is replaced and passes that GPU by,
and a GPU never has a second call of the same kind under way, which bounds the threads that can be
lost. The main loop never calls the driver. What a ceiling should be is not decided here.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from controllers.node_hands import (
    NO_SENSORS,
    CeilingWrite,
    CeilingWriter,
    GpuSample,
    HandsReport,
    SamplingPlan,
    Sight,
    WriteResult,
    read_gpu,
)
from facility.ports import DriverLost, GpuError, GpuHost, GpuPort, NodeSensorPort, NodeSensors
from facility.wire import GpuApplied, GpuIdentity

log = logging.getLogger(__name__)

Item = TypeVar("Item")

SLOW_CALL_S: Final = 0.25
"""A reader that is stuck for longer is replaced, so that the other GPUs are not blinded with it."""
SAMPLES_WAITING_MAX: Final = 4_096
RESULTS_WAITING_MAX: Final = 1_024
THREADS_MAX: Final = 256
"""Two for each of 64 GPUs, and as many again that hang in a driver that has gone."""
REOPEN_S_MIN: Final = 1.0
REOPEN_S_MAX: Final = 30.0
DRAIN_S: Final = 10.0
"""A lost driver is not closed under calls that are still inside it, for at most this long."""
SENSORS_S: Final = 0.5
SENSORS_OLD_S: Final = 5.0


class _Slot:
    """The writes of one GPU: the latest one wanted, and the one under way."""

    __slots__ = ("changed", "hung", "latest_mhz", "port", "since_s", "wanted_mhz", "writer")

    def __init__(self, port: GpuPort, writer: CeilingWriter, lock: threading.Lock) -> None:
        self.port = port
        self.writer = writer
        self.changed = threading.Condition(lock)
        self.wanted_mhz: int | None = None
        self.latest_mhz = 0
        self.since_s: float | None = None
        self.hung = False


class _Session:
    """One life of the driver, from an opening to its loss."""

    def __init__(
        self,
        generation: int,
        ports: Sequence[tuple[GpuIdentity, GpuPort, CeilingWriter]],
        plan: SamplingPlan,
        lock: threading.Lock,
    ) -> None:
        self.generation = generation
        self.identities = tuple(identity for identity, _, _ in ports)
        self.slots = {identity.uuid: _Slot(port, writer, lock) for identity, port, writer in ports}
        self.plan = plan
        self.over = threading.Event()
        self.lost_text = ""
        self.reader = 0
        """Which reader is at work; one that finds another number has been replaced."""
        self.reading: dict[str, float] = {}
        """GPUs with a read under way, and since when."""
        self.alive_s = math.inf
        """When the reader last showed a sign of life."""

    @property
    def calls_count(self) -> int:
        """Calls now inside the driver."""
        writing = sum(slot.since_s is not None for slot in self.slots.values())
        return len(self.reading) + writing


class ThreadedHands:
    """Access to the GPUs of this machine; see `controllers.node_hands.Hands`."""

    def __init__(
        self,
        host: GpuHost,
        *,
        sample_hz: float,
        call_timeout_s: float,
        make_writer: Callable[[GpuPort, GpuIdentity], CeilingWriter],
        clock: Callable[[], float],
        sensors: NodeSensorPort | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Use `host` from threads of its own; `wake` is called when `poll` has news that matters.

        `clock` is the clock of `poll`.
        """
        self._host = host
        self._sample_hz = sample_hz
        self._call_timeout_s = call_timeout_s
        self._make_writer = make_writer
        self._clock = clock
        self._sensors = sensors
        self._wake = wake
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._fault = "not opened yet"
        self._opening_since_s: float | None = None
        self._sight = Sight()
        self._samples: deque[GpuSample] = deque(maxlen=SAMPLES_WAITING_MAX)
        self._results: deque[WriteResult] = deque(maxlen=RESULTS_WAITING_MAX)
        self._readings = (float("-inf"), NO_SENSORS)
        self._closing = threading.Event()
        self._threads_count = 0
        self._driver: threading.Thread | None = None

    def start(self) -> None:
        """Begin to open the driver."""
        self._driver = self._spawn("driver", self._keep_open)
        if self._sensors is not None:
            self._spawn("sensors", self._read_sensors, self._sensors)

    def poll(self, now_s: float) -> HandsReport:
        """What the threads have brought since the last call, and who of them hangs."""
        session = self._session
        if session is not None:
            self._watch(session, now_s)
        opening_s = self._opening_since_s
        fault = self._fault
        if opening_s is not None and now_s - opening_s > self._call_timeout_s:
            fault = "opening the driver hangs"
        sensors_s, sensors = self._readings
        return HandsReport(
            session.generation if session is not None else 0,
            session.identities if session is not None else (),
            fault,
            _drain(self._samples),
            self._sight.blind,
            _drain(self._results),
            sensors if now_s - sensors_s <= SENSORS_OLD_S else NO_SENSORS,
        )

    def write(self, writes: Sequence[CeilingWrite]) -> Sequence[WriteResult]:
        """Hand ceilings to the writers. What cannot even be tried is answered at once."""
        session = self._session
        refused = []
        with self._lock:
            for write in writes:
                slot = session.slots.get(write.uuid) if session is not None else None
                if slot is None or session is None or session.over.is_set():
                    refused.append(self._result(session, write, "driver"))
                    continue
                slot.wanted_mhz = write.ceiling_mhz
                slot.changed.notify()
                if slot.hung:
                    refused.append(self._result(session, write, "hung"))
        return refused

    @staticmethod
    def _result(session: _Session | None, write: CeilingWrite, cause: str) -> WriteResult:
        generation = session.generation if session is not None else 0
        applied = GpuApplied(requested_mhz=write.ceiling_mhz, cause=cause)
        return WriteResult(write.uuid, generation, applied)

    def close(self) -> None:
        """Stop all threads that still can, and let go of the driver."""
        self._closing.set()
        session = self._session
        if session is not None:
            self._end(session, "")
        if self._driver is not None:
            self._driver.join(self._call_timeout_s)

    # Threads

    def _spawn(self, name: str, target: Callable[..., None], *args: object) -> threading.Thread:
        def run() -> None:
            try:
                target(*args)
            finally:
                with self._lock:
                    self._threads_count -= 1

        with self._lock:
            self._threads_count += 1
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _keep_open(self) -> None:
        """The driver thread: open, wait for the loss, close, wait, open again."""
        wait_s, generation = REOPEN_S_MIN, 0
        while not self._closing.is_set():
            began_s = self._clock()
            session = self._open(generation + 1)
            if session is not None:
                generation = session.generation
                session.over.wait()
                self._drain_calls(session)
                if session.calls_count == 0:
                    # Closing under a call that hangs could take the process with it.
                    self._host.close()
            if self._clock() - began_s > REOPEN_S_MAX:
                wait_s = REOPEN_S_MIN
            self._closing.wait(wait_s)
            wait_s = min(2.0 * wait_s, REOPEN_S_MAX)

    def _open(self, generation: int) -> _Session | None:
        if self._threads_count >= THREADS_MAX:
            self._fault = f"{self._threads_count} threads hang in the driver: restart the agent"
            return None
        self._opening_since_s = self._clock()
        try:
            found = [(port.identity(), port) for port in self._host.open()]
            ports = [(who, port, self._make_writer(port, who)) for who, port in found]
        except GpuError as error:
            self._fault = str(error) or error.cause
            self._wake()
            return None
        finally:
            self._opening_since_s = None
        session = _Session(generation, ports, SamplingPlan(self._sample_hz), self._lock)
        # The old life's readings and results must not speak for the new one.
        self._samples.clear()
        self._sight = Sight()
        self._session = session
        self._fault = ""
        for uuid, slot in session.slots.items():
            self._spawn(f"write-{uuid[:12]}", self._write_loop, session, uuid, slot)
        self._spawn("read", self._read_loop, session, 0)
        self._wake()
        return session

    def _drain_calls(self, session: _Session) -> None:
        waited_s = 0.0
        while session.calls_count and waited_s < DRAIN_S and not self._closing.is_set():
            self._closing.wait(0.1)
            waited_s += 0.1

    def _end(self, session: _Session, text: str) -> None:
        """The driver is gone, or nobody needs it any more."""
        with self._lock:
            if session.over.is_set():
                return
            if text:
                self._fault = text
            session.over.set()
            for slot in session.slots.values():
                slot.changed.notify()
        self._wake()

    def _read_loop(self, session: _Session, number: int) -> None:
        """A reader: all GPUs in turn, until it is replaced or the driver is lost."""
        while not session.over.is_set() and session.reader == number:
            now_s = session.alive_s = self._clock()
            due = session.plan.due(now_s)
            if due is None:
                session.over.wait(max(session.plan.next_s - now_s, 0.001))
                continue
            for uuid, slot in session.slots.items():
                at_s = session.alive_s = self._clock()
                with self._lock:
                    if uuid in session.reading:
                        continue
                    session.reading[uuid] = at_s
                try:
                    sample = read_gpu(slot.port, slot.writer, uuid, due, at_s)
                except DriverLost as error:
                    self._end(session, str(error) or error.cause)
                    return
                except GpuError as error:
                    self._look(session, uuid, error.cause)
                else:
                    self._look(session, uuid, "")
                    self._samples.append(sample)
                finally:
                    with self._lock:
                        del session.reading[uuid]
                if session.reader != number or session.over.is_set():
                    return

    def _look(self, session: _Session, uuid: str, cause: str) -> None:
        """Note that a GPU was read, or why it was not."""
        with self._lock:
            if self._session is not session:
                return
            if cause:
                self._sight.failed(uuid, cause)
            else:
                self._sight.saw(uuid)

    def _write_loop(self, session: _Session, uuid: str, slot: _Slot) -> None:
        """A writer: the latest ceiling wanted of one GPU, one call at a time."""
        while True:
            with self._lock:
                while slot.wanted_mhz is None and not session.over.is_set():
                    slot.changed.wait()
                if slot.wanted_mhz is None or session.over.is_set():
                    return
                ceiling_mhz, slot.wanted_mhz = slot.wanted_mhz, None
                slot.latest_mhz, slot.since_s = ceiling_mhz, self._clock()
            applied = GpuApplied(requested_mhz=ceiling_mhz, cause=DriverLost.cause)
            try:
                applied = slot.writer.write(ceiling_mhz)
            except DriverLost as error:
                self._end(session, str(error) or error.cause)
            with self._lock:
                slot.since_s = None
                if slot.hung:
                    # It was given up, so what it did is not trusted: the last ceiling wanted is
                    # written once more, now that the GPU answers.
                    slot.hung = False
                    if slot.wanted_mhz is None:
                        slot.wanted_mhz = slot.latest_mhz
                    continue
                self._results.append(WriteResult(uuid, session.generation, applied))
            self._wake()

    def _read_sensors(self, sensors: NodeSensorPort) -> None:
        """The chassis sensors, apart from everything: a slow bus behind them delays nobody."""
        while not self._closing.is_set():
            readings: NodeSensors = sensors.read()
            self._readings = (self._clock(), readings)
            self._closing.wait(SENSORS_S)

    # The watchdog, run by the main loop

    def _watch(self, session: _Session, now_s: float) -> None:
        with self._lock:
            reading = list(session.reading.items())
        for uuid, since_s in reading:
            if now_s - since_s > self._call_timeout_s and self._sight.blind.get(uuid) != "hung":
                log.warning("event=gpu-hangs gpu=%s call=read after_s=%.1f", uuid, now_s - since_s)
                self._look(session, uuid, "hung")
        patience_s = SLOW_CALL_S + 1.0 / self._sample_hz
        if now_s - session.alive_s > patience_s and not session.over.is_set():
            self._replace_reader(session, now_s)
        for uuid, slot in session.slots.items():
            asked_s = slot.since_s
            if asked_s is not None and now_s - asked_s > self._call_timeout_s:
                self._give_up(session, uuid, slot)

    def _replace_reader(self, session: _Session, now_s: float) -> None:
        if self._threads_count >= THREADS_MAX:
            return  # nothing more can be read: readings grow old, and everybody sees that
        session.reader += 1
        session.alive_s = now_s
        self._spawn("read", self._read_loop, session, session.reader)

    def _give_up(self, session: _Session, uuid: str, slot: _Slot) -> None:
        with self._lock:
            if slot.since_s is None or slot.hung:
                return
            slot.hung = True
            slot.writer.hung()
            ceiling_mhz = slot.wanted_mhz if slot.wanted_mhz is not None else slot.latest_mhz
            self._results.append(self._result(session, CeilingWrite(uuid, ceiling_mhz), "hung"))
        log.warning("event=gpu-hangs gpu=%s call=write ceiling_mhz=%d", uuid, ceiling_mhz)


def _drain(waiting: deque[Item]) -> list[Item]:
    """Take what is there now; threads may go on adding."""
    return [waiting.popleft() for _ in range(len(waiting))]
