"""Each deviation of a clock lock once more, through the real binding on the fake driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from actuators.clocks import ClockActuator
from facility.ports import DriverLost, GpuPort
from facility.wire import GpuApplied
from tests.libnvml import FakeNvml

pytest_plugins = ["tests.libnvml.fixtures"]


def follow(fake: FakeNvml, port: GpuPort, clocks: ClockActuator, seconds: float) -> GpuApplied:
    """Verify every 100 ms of model time, as the agent does, and return the last result."""
    for step in range(round(seconds * 10)):
        fake.elapse(0.1)
        medium, slow = port.read_medium(), port.read_slow()
        applied = clocks.verify(step * 0.1, port.read_fast(), medium, slow)
    return applied


def test_an_honest_gpu_is_seen_at_its_ceiling(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    clocks = ClockActuator(gpus[0], gpus[0].identity())
    clocks.write(1214)
    assert follow(fake, gpus[0], clocks, 2.0) == GpuApplied(
        requested_mhz=1214, accepted_mhz=1200, observed_mhz=1200
    )
    truth = fake.truth(0)
    assert (truth.lock_mhz_min, truth.ceiling_mhz) == (210, 1200)


@pytest.mark.parametrize(
    ("break_it", "cause", "observed_mhz"),
    [
        (lambda fake: fake.ignore_locks(0), "silent-clamp", 1980),
        (lambda fake: fake.clamp(0, clock_mhz=900.0), "", 900),
        (lambda fake: fake.limit(0, foreign_w=500.0), "foreign-limit", 1500),
        (lambda fake: fake.brake(0, on=True), "power-brake", 210),
    ],
)
def test_each_deviation_of_a_real_driver_has_its_word(
    fake: FakeNvml,
    gpus: Sequence[GpuPort],
    break_it: Callable[[FakeNvml], None],
    cause: str,
    observed_mhz: int,
) -> None:
    clocks = ClockActuator(gpus[0], gpus[0].identity())
    break_it(fake)
    assert clocks.write(1500).accepted_mhz == 1500
    applied = follow(fake, gpus[0], clocks, 2.0)
    assert (applied.cause, applied.observed_mhz) == (cause, observed_mhz)


def test_a_hot_gpu_is_thermal(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    clocks = ClockActuator(gpus[0], gpus[0].identity())
    clocks.write(1980)
    fake.heat(0, temperature_c=87.5)
    assert follow(fake, gpus[0], clocks, 0.5).cause == "thermal"


def test_a_lock_lifted_by_somebody_else_is_found_out(
    fake: FakeNvml, gpus: Sequence[GpuPort]
) -> None:
    clocks = ClockActuator(gpus[0], gpus[0].identity())
    clocks.write(1200)
    assert follow(fake, gpus[0], clocks, 1.0).cause == ""
    fake.unlock_behind(0)
    assert follow(fake, gpus[0], clocks, 2.0).cause == "silent-clamp"
    clocks.write(1200)
    assert follow(fake, gpus[0], clocks, 2.0).cause == ""


def test_a_node_without_permission_is_told_so(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    fake.deny_writes()
    clocks = ClockActuator(gpus[0], gpus[0].identity())
    assert clocks.write(1200).cause == "no-permission"
    assert follow(fake, gpus[0], clocks, 0.2) == GpuApplied(
        requested_mhz=1200, observed_mhz=1980, cause="no-permission"
    )


def test_a_lost_gpu_cannot_be_locked(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    clocks = ClockActuator(gpus[0], gpus[0].identity())
    fake.lose(0)
    assert clocks.write(1200).cause == "gpu-lost"


def test_a_reloaded_driver_is_raised(fake: FakeNvml, gpus: Sequence[GpuPort]) -> None:
    clocks = ClockActuator(gpus[0], gpus[0].identity())
    clocks.write(1200)
    fake.reload_driver()
    with pytest.raises(DriverLost):
        clocks.write(1200)
    assert clocks.last.cause == "driver"
