"""A controller that listens to a UPS and a power meter: real upsd, broker, agents and all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import ge
from pathlib import Path
from typing import Final

import pytest

from facility.config import MeterConfig, UpsConfig
from facility.wire import Emergency, Event
from tests.system.conftest import on_mosquitto
from tests.system.processes import monotonic_ns, wait_until
from tests.system.rig import Rig
from tests.upsd_server import Upsd

pytestmark = [pytest.mark.integration, on_mosquitto]

NAME: Final = "ups-a-lost"
QUIET_S: Final = 0.4
RACK: Final = "rack-01"


@pytest.fixture
def upsd(tmp_path: Path) -> Iterator[Upsd]:
    devices = {
        "ups-a": {"ups.status": "OL", "device.type": "ups"},
        "pdu-1": {"outlet.1.realpower": "1000", "device.type": "pdu"},
    }
    with Upsd(tmp_path / "nut", ups=devices) as server:
        yield server


@pytest.fixture
def site(rig: Rig, upsd: Upsd) -> Iterator[Rig]:
    ups = UpsConfig(
        name="ups-a",
        source=upsd.source("ups-a"),
        contingency=NAME,
        poll_s=0.05,
        quiet_s=QUIET_S,
        missing_s=0.5,
    )
    meter = MeterConfig(
        name="pdu-1",
        source=upsd.source("pdu-1"),
        variable="outlet.1.realpower",
        domain=RACK,
        poll_s=0.1,
        quiet_s=QUIET_S,
        missing_s=0.5,
    )
    rig.controller.end()
    rig.rewrite_controller(ups=(ups,), meters=(meter,))
    rig.heal()
    yield rig
    rig.controller.end()
    rig.rewrite_controller()


def contingencies(rig: Rig) -> list[str]:
    return list((rig.api("/api/v1/decision") or {}).get("contingencies", ()))


def heard(rig: Rig, event: str, *, since_ns: int = 0) -> bool:
    return any(
        event.encode() in message.payload
        for message in rig.listener.messages("event")
        if message.at_ns >= since_ns
    )


def test_a_ups_on_battery_is_an_emergency_and_its_return_ends_it(site: Rig, upsd: Upsd) -> None:
    armed = {name: site.node(name)["contingency_ceilings_mhz"][NAME] for name in site.hosts}
    upsd.say("ups-a", "ups.status", "OB DISCHRG")
    for name, mhz in armed.items():
        site.wait_ceilings(partial(ge, mhz), f"{name} at {mhz} MHz", names=(name,))
    wait_until(lambda: contingencies(site) == [NAME], "it is declared", but=site.story)
    message = site.listener.read(Emergency, "emergency")[-1]
    assert (message.active, message.by) == ((NAME,), "nut:ups-a")
    assert any(event.event == "ups-alarm" for event in site.listener.read(Event, "event"))
    upsd.say("ups-a", "ups.status", "OL CHRG")
    wait_until(lambda: contingencies(site) == [], "it is over", but=site.story)
    site.heal()
    assert site.metric("ampacity_ups_alarms_total") == 1.0


def test_what_an_operator_declared_stays_when_the_ups_is_well(site: Rig, upsd: Upsd) -> None:
    begun_ns = monotonic_ns()
    site.ask("contingency", contingency=NAME, on=True)
    wait_until(lambda: contingencies(site) == [NAME], "it is declared", but=site.story)
    upsd.say("ups-a", "ups.status", "OB")
    wait_until(partial(heard, site, "ups-alarm", since_ns=begun_ns), "it is told")
    upsd.say("ups-a", "ups.status", "OL")
    wait_until(partial(heard, site, "ups-clear", since_ns=begun_ns), "that too", but=site.story)
    assert contingencies(site) == [NAME]
    site.calm()


def test_a_upsd_that_is_gone_is_an_alarm_and_no_emergency(site: Rig, upsd: Upsd) -> None:
    begun_ns = monotonic_ns()
    upsd.kill()
    wait_until(partial(heard, site, "ups-missing", since_ns=begun_ns), "alarm", but=site.story)
    wait_until(partial(heard, site, "meter-missing", since_ns=begun_ns), "alarm", but=site.story)
    assert contingencies(site) == []
    assert not any(host.written_mhz(since_ns=begun_ns) for host in site.hosts.values())
    upsd.start()
    wait_until(partial(heard, site, "ups-back", since_ns=begun_ns), "it is back", but=site.story)


def test_what_began_and_ended_while_there_was_no_broker_is_never_told(
    site: Rig, upsd: Upsd
) -> None:
    log = site.controller
    site.broker.kill()
    upsd.say("ups-a", "ups.status", "OB")
    wait_until(lambda: "event=ups-alarm" in log.log, "the controller sees it", but=site.story)
    upsd.say("ups-a", "ups.status", "OL")
    wait_until(lambda: "event=ups-clear" in log.log, "and its end", but=site.story)
    begun_ns = monotonic_ns()
    site.broker.start()
    site.heal()
    told = [m for m in site.listener.messages("emergency") if m.at_ns >= begun_ns]
    assert all(NAME.encode() not in message.payload for message in told)


def test_a_meter_above_the_capacity_brakes_its_domain_until_it_reads_less(
    site: Rig, upsd: Upsd
) -> None:
    capacity_w = site.domain(RACK)["capacity_w"]
    brake_mhz = site.site.nodes["n01"].model.gpu.brake_ceiling_mhz
    upsd.say("pdu-1", "outlet.1.realpower", f"{1.05 * capacity_w:.0f}")
    inside = tuple(site.site.domains[RACK].nodes)
    site.wait_ceilings(partial(ge, brake_mhz), f"{RACK} brakes", names=inside)
    message = site.listener.read(Emergency, "emergency")[-1]
    assert (message.domain, message.active, message.by) == (RACK, ("brake",), "meter:pdu-1")
    upsd.say("pdu-1", "outlet.1.realpower", "1000")
    site.heal()
