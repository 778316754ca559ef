"""Orders that UPSs and meters give: at once, ended only by who began them, never an old story."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.node_ups import UpsWatch
from controllers.operator import Orders, OrdersState
from daemon.controller.supplies import Supplies, supply_problems
from facility.compiler import compile_site
from facility.config import ControllerConfig, MeterConfig, UpsConfig
from facility.example import row_site
from facility.nut import NutReading
from facility.topology import Site
from facility.wire import Emergency, Event, Request

UPS, OTHER, METER = "nut:ups-a", "nut:ups-a2", "meter:pdu-1"
LOST = "ups-a-lost"


@pytest.fixture
def site() -> Site:
    return compile_site(row_site(site="lab", nodes=4))


@pytest.fixture
def orders(site: Site) -> Orders:
    return Orders(site)


def contingency(orders: Orders, by: str, on: bool) -> None:
    args: dict[str, str | float | bool] = {"contingency": LOST, "on": on}
    assert orders.apply(Request(verb="contingency", by=by, args=args)).status == "ok"


def announced(orders: Orders) -> list[tuple[str, ...]]:
    return [message.active for message in orders.announce(epoch=1, wall_s=0.0)]


def test_what_a_ups_began_it_ends(orders: Orders) -> None:
    contingency(orders, UPS, on=True)
    assert announced(orders) == [(LOST,)]
    contingency(orders, UPS, on=False)
    assert announced(orders) == [()]


def test_what_an_operator_began_no_ups_ends(orders: Orders) -> None:
    contingency(orders, "ann", on=True)
    contingency(orders, UPS, on=True)
    contingency(orders, UPS, on=False)
    assert orders.active == {LOST}
    contingency(orders, "ann", on=False)
    assert not orders.active


def test_what_an_operator_takes_over_is_his(orders: Orders) -> None:
    contingency(orders, UPS, on=True)
    contingency(orders, "ann", on=True)
    contingency(orders, UPS, on=False)
    assert orders.active == {LOST}


def test_an_operator_ends_what_a_ups_began(orders: Orders) -> None:
    contingency(orders, UPS, on=True)
    contingency(orders, "ann", on=False)
    assert not orders.active
    contingency(orders, UPS, on=False)
    assert not orders.active


def test_of_two_upss_the_last_one_ends_it(orders: Orders) -> None:
    contingency(orders, UPS, on=True)
    contingency(orders, OTHER, on=True)
    contingency(orders, UPS, on=False)
    assert orders.active == {LOST}
    contingency(orders, OTHER, on=False)
    assert not orders.active


def test_a_meters_brake_is_released_by_the_meter_and_an_operators_is_not(orders: Orders) -> None:
    def ask(verb: str, by: str) -> None:
        orders.apply(Request(verb=verb, by=by, args={"domain": "rack-01"}))

    ask("brake", METER)
    ask("release", METER)
    assert not orders.brakes
    ask("brake", "ann")
    ask("release", METER)
    assert orders.brakes == {"rack-01"}
    ask("release", "ann")
    assert not orders.brakes


def test_who_holds_an_order_survives_a_restart(site: Site, orders: Orders) -> None:
    contingency(orders, UPS, on=True)
    again = Orders(site)
    again.restore(orders.state())
    assert again.state() == orders.state()
    contingency(again, UPS, on=False)
    assert not again.active


def test_a_successor_that_has_only_the_broker_knows_who_may_end_it(
    site: Site, orders: Orders
) -> None:
    contingency(orders, UPS, on=True)
    (message,) = orders.announce(epoch=1, wall_s=0.0)
    assert message.by == UPS
    successor = Orders(site)
    successor.adopt(message)
    contingency(successor, UPS, on=False)
    assert not successor.active


def test_what_operators_and_upss_hold_together_is_adopted_as_an_operators(
    site: Site, orders: Orders
) -> None:
    contingency(orders, UPS, on=True)
    orders.apply(Request(verb="brake", by="ann", args={"domain": "row-1"}))
    (message,) = orders.announce(epoch=1, wall_s=0.0)
    assert message.by == "controller"
    successor = Orders(site)
    successor.adopt(message)
    contingency(successor, UPS, on=False)
    assert successor.active == {LOST}


# --- from looks to orders ------------------------------------------------------------------------


class Bench:
    """Supplies over real orders, without any upsd: a test says what was seen."""

    def __init__(self, site: Site, orders: OrdersState | None = None) -> None:
        config = ControllerConfig(
            version=1,
            site_file="site.yaml",
            ups=(UpsConfig(name="ups-a", source="ups-a@h", contingency=LOST, quiet_s=0.000_001),),
        )
        self.orders = Orders(site)
        self.requests: list[Request] = []
        self.told: list[Event] = []
        self.supplies = Supplies(
            config, site, order=self._order, note=self.told.append, failed=lambda: None
        )
        if orders is not None:
            self.orders.restore(orders)
        self.supplies.ordered(self.orders.state())
        self._watch = UpsWatch(config.ups[0])
        self._now_s = 0.0

    def _order(self, request: Request) -> None:
        self.requests.append(request)
        self.orders.apply(request)
        self.supplies.ordered(self.orders.state())

    def see(self, words: str) -> None:
        self._now_s += 1.0
        notices = self._watch.see(self._now_s, NutReading("fresh", frozenset(words.split())))
        self.supplies.take_ups(self._watch, notices)


def test_a_ups_on_battery_is_ordered_once_and_ended_once(site: Site) -> None:
    bench = Bench(site)
    for words in ("OL", "OL", "OB", "OB", "OB LB"):
        bench.see(words)
    assert [request.args["on"] for request in bench.requests] == [True]
    assert bench.requests[0].by == UPS
    assert bench.orders.active == {LOST}
    for _ in range(4):
        bench.see("OL")
    assert [request.args["on"] for request in bench.requests] == [True, False]
    assert not bench.orders.active
    assert [event.event for event in bench.told] == ["ups-alarm", "ups-alarm", "ups-clear"]


def test_an_operators_end_stands_until_the_ups_goes_on_battery_anew(site: Site) -> None:
    bench = Bench(site)
    bench.see("OB")
    contingency(bench.orders, "ann", on=False)
    bench.supplies.ordered(bench.orders.state())
    bench.see("OB")
    assert not bench.orders.active
    for words in ("OL", "OL", "OL", "OB"):
        bench.see(words)
    assert bench.orders.active == {LOST}


def test_what_a_ups_began_in_an_earlier_life_ends_in_this_one(site: Site) -> None:
    before = Bench(site)
    before.see("OB")
    after = Bench(site, before.orders.state())
    assert after.orders.active == {LOST}
    for _ in range(3):
        after.see("OL")
    assert not after.orders.active


def test_what_the_broker_remembered_of_a_ups_ends_with_it(site: Site) -> None:
    bench = Bench(site)
    for _ in range(3):
        bench.see("OL")
    old = Emergency(
        domain="row-1", active=(LOST,), epoch=1, sequence=1, issued_at_s=0.0, by="nut:ups-a"
    )
    bench.orders.adopt(old)
    bench.supplies.ordered(bench.orders.state())
    assert bench.orders.active == {LOST}
    bench.see("OL")
    assert not bench.orders.active


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "value", "text"),
    [
        (
            "ups",
            UpsConfig(name="a", source="a@h", contingency="ups-a-lots"),
            "no contingency is named 'ups-a-lots'; did you mean 'ups-a-lost'?",
        ),
        (
            "meters",
            MeterConfig(name="a", source="a@h", domain="rack-1"),
            "no domain is named 'rack-1'; did you mean 'rack-01'?",
        ),
        (
            "meters",
            MeterConfig(name="a", source="a@h", domain="aisle-1"),
            "'aisle-1' is a zone: its capacity is heat, a meter reads power",
        ),
    ],
)
def test_names_that_the_site_does_not_have_are_found(
    site: Site, section: str, value: Any, text: str
) -> None:
    sections: dict[str, Any] = {section: (value,)}
    config = ControllerConfig(version=1, site_file="site.yaml", **sections)
    (problem,) = supply_problems(config, site)
    assert problem.text == text
    assert problem.key[:2] == (section, 0)
