"""A declared failure: agents lock first, from their leases; what is over is undone slowly."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from operator import ge
from typing import Final

import pytest

from facility.wire import Lease
from tests.system.conftest import on_mosquitto
from tests.system.processes import answer, monotonic_ns, wait_until
from tests.system.rig import CONTROL, LIGHT_INTENSITY, Rig

pytestmark = pytest.mark.integration

NAME: Final = "ups-a-lost"
LOCKED_S: Final = 0.5
"""From the command's end to the last lock. The path itself is measured by `make bench`; here the
command, three agents, a controller and a broker share the machine with the test."""


def order(rig: Rig, switch: str) -> None:
    """What an operator types."""
    said = answer("contingency", NAME, switch, "--config", rig.controller_path)
    assert said.code == 0, said.err
    assert said.out == f"contingency {NAME} is {switch}\n"


def test_a_lost_ups_locks_every_gpu_at_its_armed_ceiling_and_its_return_is_a_ramp(
    rig: Rig,
) -> None:
    for host in rig.hosts.values():
        host.fake.load(None, a=0.6)  # more than the other feed can carry
    armed = {name: rig.node(name)["contingency_ceilings_mhz"][NAME] for name in rig.hosts}
    begun_ns = monotonic_ns()
    order(rig, "on")
    ended_ns = monotonic_ns()
    for name, host in rig.hosts.items():
        assert armed[name] < rig.top_mhz
        rig.wait_ceilings(partial(ge, armed[name]), f"{name} at {armed[name]}", names=(name,))
        for gpu in range(host.fake.gpu_count):
            first = next(write for write in host.fake.writes(gpu) if write.at_ns > begun_ns)
            assert first.at_ns <= ended_ns + int(LOCKED_S * 1e9)
    assert rig.api("/api/v1/decision")["contingencies"] == [NAME]
    wait_until(
        lambda: rig.domain("ups-b")["power_w"] <= rig.domain("ups-b")["capacity_w"],
        "the other feed is within its capacity",
        but=rig.story,
    )
    wait_until(
        lambda: rig.node("n01")["lease"]["reason"] == f"contingency:{NAME}", "the agent says why"
    )
    for host in rig.hosts.values():
        host.fake.load(None, a=LIGHT_INTENSITY)
    order(rig, "off")
    over_ns = monotonic_ns()
    rig.heal()
    step_mhz = CONTROL.raise_ratio_per_s * CONTROL.cycle_s * rig.top_mhz
    for name, host in rig.hosts.items():
        leases = rig.listener.read(Lease, "lease", node=name)
        granted = [max(lease.ceilings_mhz.values()) for lease in leases]
        rises = [after - before for before, after in pairwise(granted)]
        assert max(rises) <= step_mhz
        assert 0 not in host.written_mhz(since_ns=begun_ns)
    slowest = min(armed.values())
    cycles_min = (rig.top_mhz - slowest) / step_mhz - 1.0
    assert monotonic_ns() - over_ns >= cycles_min * CONTROL.cycle_s * 1e9


@on_mosquitto
def test_a_brake_takes_a_domain_to_the_lowest_clock_until_it_is_released(rig: Rig) -> None:
    brake_mhz = rig.site.nodes["n01"].model.gpu.brake_ceiling_mhz
    assert answer("brake", "rack-01", "--config", rig.controller_path).code == 0
    rig.wait_ceilings(lambda mhz: mhz <= brake_mhz, "braked")
    assert answer("release", "rack-01", "--config", rig.controller_path).code == 0
    rig.heal()


@on_mosquitto
def test_an_unknown_contingency_is_refused_by_name_and_changes_nothing(rig: Rig) -> None:
    said = answer("contingency", "ups-a-lots", "on", "--config", rig.controller_path)
    assert said.code == 1
    assert "no contingency is named 'ups-a-lots'; did you mean 'ups-a-lost'?" in said.err
    assert rig.api("/api/v1/decision")["contingencies"] == []
