"""A node with a UPS client of its own: real upsd, real agents, with and without a broker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from operator import ge
from pathlib import Path
from typing import Final

import pytest

from facility.config import UpsConfig
from facility.wire import Applied, Event
from tests.system.conftest import on_mosquitto
from tests.system.processes import monotonic_ns, wait_until
from tests.system.rig import CONTROL, Rig
from tests.system.test_agent_host import reload
from tests.upsd_server import Upsd

pytestmark = [pytest.mark.integration, on_mosquitto]

NAME: Final = "ups-a-lost"
QUIET_S: Final = 0.4
MISSING_S: Final = 0.5
IO_RELOADED: Final = "event=reloaded changed=yes"
ON_LINE: Final = {"ups.status": "OL", "device.type": "ups"}


@pytest.fixture
def upsd(tmp_path: Path) -> Iterator[Upsd]:
    with Upsd(tmp_path / "nut", ups={"ups-a": ON_LINE}) as server:
        yield server


@pytest.fixture
def site(rig: Rig, upsd: Upsd) -> Iterator[Rig]:
    """n01 arms the contingency by its UPS, n02 the brake; n03 has no UPS client."""
    for name, contingency in (("n01", NAME), ("n02", "brake")):
        ups = UpsConfig(
            name="ups-a",
            source=upsd.source("ups-a"),
            contingency=contingency,
            poll_s=0.05,
            quiet_s=QUIET_S,
            missing_s=MISSING_S,
        )
        before = rig.hosts[name].agent.log.count(IO_RELOADED)
        reload(rig, name, ups=(ups,))
        # The I/O process reads its file after the actuator, and says so too.
        wait_until(partial(has_reloaded, rig, name, before), "the I/O process listens")
    rig.heal()
    yield rig
    for name in ("n01", "n02"):
        reload(rig, name)


def has_reloaded(rig: Rig, name: str, before: int) -> bool:
    return rig.hosts[name].agent.log.count(IO_RELOADED) > before


def brake_mhz(rig: Rig) -> int:
    return rig.site.nodes["n02"].model.gpu.brake_ceiling_mhz


def heard(rig: Rig, event: str, source: str) -> bool:
    return any(e.event == event and e.source == source for e in rig.listener.read(Event, "event"))


def test_a_ups_on_battery_locks_the_nodes_that_listen_to_it_and_lets_go_by_a_ramp(
    site: Rig, upsd: Upsd
) -> None:
    armed_mhz = site.node("n01")["contingency_ceilings_mhz"][NAME]
    assert brake_mhz(site) < armed_mhz < site.top_mhz
    upsd.say("ups-a", "ups.status", "OB DISCHRG")
    site.wait_ceilings(partial(ge, armed_mhz), f"n01 at {armed_mhz} MHz", names=("n01",))
    site.wait_ceilings(partial(ge, brake_mhz(site)), "n02 braked", names=("n02",))
    assert site.hosts["n03"].ceilings_mhz == {site.top_mhz}
    assert site.api("/api/v1/decision")["contingencies"] == []
    wait_until(lambda: heard(site, "local-contingency-on", "node/n01"), "it is told")
    over_ns = monotonic_ns()
    upsd.say("ups-a", "ups.status", "OL CHRG")
    site.heal()
    rise_s = (site.top_mhz - brake_mhz(site)) / (CONTROL.raise_ratio_per_s * site.top_mhz)
    assert monotonic_ns() - over_ns >= (QUIET_S + 0.8 * rise_s) * 1e9
    reasons = [one.reason for one in site.listener.read(Applied, "applied", node="n02")]
    assert "contingency:brake" in reasons


def test_no_broker_is_needed_and_what_is_on_outlives_upsd_and_the_process_that_asked(
    site: Rig, upsd: Upsd
) -> None:
    site.broker.kill()
    site.wait_safe()
    upsd.say("ups-a", "ups.status", "OB")
    site.wait_ceilings(partial(ge, brake_mhz(site)), "n02 braked", names=("n02",))
    upsd.kill()
    log = site.hosts["n02"].agent
    wait_until(lambda: "event=ups-missing" in log.log, "n02 misses upsd", but=site.story)
    assert site.hosts["n02"].ceilings_mhz == {brake_mhz(site)}
    begun_ns = monotonic_ns()
    starts = log.log.count("event=io-started")
    os.kill(site.hosts["n02"].io_pid, signal.SIGKILL)
    wait_until(lambda: log.log.count("event=io-started") > starts, "it is started again")
    wait_until(lambda: log.log.count("event=ups-missing") > 1, "it misses upsd", but=site.story)
    assert site.hosts["n02"].ceilings_mhz == {brake_mhz(site)}
    assert not site.hosts["n02"].written_mhz(since_ns=begun_ns) - {brake_mhz(site)}
    upsd.start()
    upsd.say("ups-a", "ups.status", "OL")
    site.wait_safe()
    site.broker.start()
    site.heal()


def test_a_upsd_that_is_gone_is_an_alarm_and_brakes_nobody(site: Rig, upsd: Upsd) -> None:
    begun_ns = monotonic_ns()
    upsd.kill()
    for name in ("n01", "n02"):
        wait_until(
            partial(heard, site, "ups-missing", f"node/{name}"), f"{name} alarms", but=site.story
        )
    assert not any(host.written_mhz(since_ns=begun_ns) for host in site.hosts.values())
    upsd.start()
    for name in ("n01", "n02"):
        wait_until(partial(heard, site, "ups-back", f"node/{name}"), f"{name} is glad")
