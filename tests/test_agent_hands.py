"""Threaded hands over the fake driver: what hangs, is lost, denied or reloaded stays local."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actuators.clocks import ClockActuator
from collectors.nvml import NvmlHost
from controllers.node_hands import CeilingWrite
from daemon.agent.actuator import Actuator
from daemon.agent.hands import ThreadedHands
from daemon.agent.state import MemoryKeeper
from facility.ports import DriverLost
from facility.wire import (
    Applied,
    Codec,
    MessageT,
    NodeInfo,
    NodeTelemetry,
    Quality,
    encode,
)
from tests.libnvml import FakeNvml
from tests.node_fakes import BRAKE_MHZ, SAFE_MHZ, FakeHost, agent_config, emergency

pytest_plugins = ["tests.libnvml.fixtures"]

CALL_TIMEOUT_S = 0.4
PATIENCE_S = 10.0
CODEC = Codec()


@pytest.fixture
def driver(
    tmp_path: Path, nvml_library: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeNvml]:
    """Eight busy GPUs that live in real time."""
    made = FakeNvml.create(tmp_path / "live", nvml_library, write_s=0.002, settle_s=0.01)
    made.load(None, a=0.8, m=0.3, c=1.0)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    yield made
    made.heal()
    made.hang(None)


class Live:
    """An actuator with threaded hands, driven by the test in real time."""

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.hands = ThreadedHands(
            NvmlHost(),
            sample_hz=10.0,
            call_timeout_s=CALL_TIMEOUT_S,
            make_writer=ClockActuator,
            clock=time.monotonic,
            wake=self.wake.set,
        )
        self.actuator = Actuator(
            agent_config(call_timeout_s=CALL_TIMEOUT_S, telemetry_s=0.2, ramp_ratio_per_s=1.0),
            self.hands,
            MemoryKeeper(),
            session="s1",
        )
        self.said: list[tuple[str, bytes]] = []
        self.cycle_s_max = 0.0
        self.actuator.start()

    def cycle(self, *incoming: tuple[str, bytes]) -> None:
        began_s = time.monotonic()
        self.said += self.actuator.cycle(began_s, time.time(), incoming)
        self.cycle_s_max = max(self.cycle_s_max, time.monotonic() - began_s)

    def until(self, condition: Callable[[], bool]) -> float:
        """Run cycles until `condition`; returns how long that took."""
        began_s = time.monotonic()
        while not condition():
            assert time.monotonic() - began_s < PATIENCE_S, "it did not happen in time"
            self.wake.wait(0.01)
            self.wake.clear()
            self.cycle()
        return time.monotonic() - began_s

    def last(self, kind: str, message: type[MessageT]) -> MessageT | None:
        """The newest message of a kind."""
        data = next((data for what, data in reversed(self.said) if what == kind), None)
        return CODEC.decode(data, message) if data is not None else None

    def qualities(self) -> list[Quality]:
        frame = self.last("telemetry", NodeTelemetry)
        return [gpu.quality for gpu in frame.gpus] if frame is not None else []

    def frames_count(self) -> int:
        return sum(kind == "telemetry" for kind, _ in self.said)


@pytest.fixture
def live(driver: FakeNvml) -> Iterator[Live]:
    """A node that has started and reads well."""
    made = Live()
    made.until(lambda: made.qualities() == [Quality.GOOD] * 8)
    made.until(lambda: ceilings(driver) == [SAFE_MHZ] * 8)
    yield made
    driver.heal()
    made.hands.close()


def ceilings(driver: FakeNvml) -> list[int]:
    return [truth.ceiling_mhz for truth in driver.truths()]


def brake(live: Live, *, active: bool = True, sequence: int = 1) -> None:
    message = emergency(active, contingency="brake", sequence=sequence)
    live.cycle(("emergency", encode(message)))


def test_all_gpus_of_a_node_are_locked_together(driver: FakeNvml, live: Live) -> None:
    brake(live)
    live.until(lambda: ceilings(driver) == [BRAKE_MHZ] * 8)
    live.until(lambda: (live.last("applied", Applied) or fail()).reason == "contingency:brake")


def fail() -> Applied:
    raise AssertionError("nothing was applied")


def test_a_read_that_hangs_blinds_one_gpu_and_blocks_no_write(driver: FakeNvml, live: Live) -> None:
    driver.hang(3, reads_s=60.0)
    live.until(lambda: live.qualities()[3] is Quality.MISSING)
    others = [quality for index, quality in enumerate(live.qualities()) if index != 3]
    assert others == [Quality.GOOD] * 7
    brake(live)
    live.until(lambda: ceilings(driver) == [BRAKE_MHZ] * 8)
    assert live.cycle_s_max < CALL_TIMEOUT_S
    driver.hang(3)
    live.until(lambda: live.qualities() == [Quality.GOOD] * 8)


def test_a_write_that_hangs_delays_no_other_gpu_and_is_made_good_afterwards(
    driver: FakeNvml, live: Live
) -> None:
    driver.hang(3, writes_s=60.0)
    brake(live)
    live.until(lambda: ceilings(driver) == [BRAKE_MHZ] * 3 + [SAFE_MHZ] + [BRAKE_MHZ] * 4)
    hung = driver.gpu_uuid(3)
    live.until(lambda: (live.last("applied", Applied) or fail()).gpus[hung].cause == "hung")
    assert live.cycle_s_max < CALL_TIMEOUT_S
    driver.hang(3)
    live.until(lambda: ceilings(driver) == [BRAKE_MHZ] * 8)
    live.until(lambda: (live.last("applied", Applied) or fail()).gpus[hung].cause == "")


def test_the_last_ceiling_wanted_wins_over_one_that_hung(driver: FakeNvml, live: Live) -> None:
    driver.hang(3, writes_s=60.0)
    brake(live)
    live.until(lambda: ceilings(driver)[2] == BRAKE_MHZ)
    brake(live, active=False, sequence=2)
    live.until(lambda: ceilings(driver)[2] == SAFE_MHZ)
    driver.hang(3)
    live.until(lambda: driver.writes(3)[-1].ceiling_mhz == SAFE_MHZ and len(driver.writes(3)) >= 2)
    live.until(lambda: ceilings(driver) == [SAFE_MHZ] * 8)


def test_a_driver_that_hangs_altogether_never_stops_the_heartbeat(
    driver: FakeNvml, live: Live
) -> None:
    driver.hang(None, reads_s=60.0, writes_s=60.0)
    threads_count = threading.active_count()
    brake(live)
    live.until(lambda: live.qualities() == [Quality.MISSING] * 8)
    frames_count = live.frames_count()
    live.until(lambda: live.frames_count() >= frames_count + 5)
    assert live.cycle_s_max < CALL_TIMEOUT_S
    assert threading.active_count() <= threads_count + 8
    driver.hang(None)
    live.until(lambda: live.qualities() == [Quality.GOOD] * 8)
    live.until(lambda: ceilings(driver) == [BRAKE_MHZ] * 8)


def test_a_driver_reload_ends_with_the_ceilings_applied_again(driver: FakeNvml, live: Live) -> None:
    infos_count = sum(kind == "info" for kind, _ in live.said)
    driver.reload_driver(down_s=0.5)
    live.until(lambda: ceilings(driver) != [SAFE_MHZ] * 8)
    live.until(lambda: ceilings(driver) == [SAFE_MHZ] * 8)
    live.until(lambda: live.qualities() == [Quality.GOOD] * 8)
    infos = [CODEC.decode(data, NodeInfo) for kind, data in live.said if kind == "info"]
    assert [info.can_actuate for info in infos[infos_count:]] == [False, True]


def test_a_gpu_that_falls_off_the_bus_is_missing_and_the_others_are_not(
    driver: FakeNvml, live: Live
) -> None:
    driver.lose(5)
    live.until(lambda: live.qualities()[5] is Quality.MISSING)
    frame = live.last("telemetry", NodeTelemetry)
    assert frame is not None
    assert frame.gpus[5].power_w >= 500.0
    live.until(
        lambda: live.qualities() == [Quality.GOOD] * 5 + [Quality.MISSING] + [Quality.GOOD] * 2
    )


def test_a_node_without_permission_says_so(driver: FakeNvml) -> None:
    driver.deny_writes()
    live = Live()
    try:
        live.until(lambda: live.last("info", NodeInfo) is not None)
        info = live.last("info", NodeInfo)
        assert info is not None
        assert not info.can_actuate
        assert "no-permission" in info.cannot_actuate_because
        live.until(lambda: live.qualities() == [Quality.GOOD] * 8)
    finally:
        live.hands.close()


def test_a_driver_that_is_not_there_is_said_and_tried_again(driver: FakeNvml) -> None:
    driver.refuse_init(9)
    live = Live()
    try:
        live.until(lambda: live.last("info", NodeInfo) is not None)
        info = live.last("info", NodeInfo)
        assert info is not None
        assert not info.can_actuate
        driver.refuse_init(0)
        live.until(lambda: ceilings(driver) == [SAFE_MHZ] * 8)
    finally:
        live.hands.close()


def test_closed_hands_leave_no_thread_behind(driver: FakeNvml) -> None:
    before = set(threading.enumerate())
    live = Live()
    try:
        live.until(lambda: ceilings(driver) == [SAFE_MHZ] * 8)
    finally:
        live.hands.close()
    live.until(lambda: set(threading.enumerate()) <= before)


def test_a_ceiling_for_a_driver_that_is_gone_is_answered_at_once() -> None:
    host = FakeHost(1)
    host.open_error = DriverLost("no driver")
    hands = ThreadedHands(
        host,
        sample_hz=10.0,
        call_timeout_s=1.0,
        make_writer=ClockActuator,
        clock=time.monotonic,
    )
    results = hands.write([CeilingWrite("GPU-0", 1200)])
    assert [result.applied.cause for result in results] == ["driver"]
