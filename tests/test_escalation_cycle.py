"""Requests under a power shortage: what the cycle takes from them, says of it, and gives back."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from controllers.cycle import ControlCycle
from facility.compiler import compile_site
from facility.decisions import Decision
from facility.example import row_site
from facility.wire import EndpointRoute, Event
from tests.row import Row, domain, site_of

STEPS = ("escalated", "eased", "rerouted")
Routes = dict[str, EndpointRoute]


def short_row(*, nodes: int = 10, **control: float) -> Row:
    """A busy row whose operator has capped it far below what its safe ceilings need."""
    base = row_site(nodes=nodes)
    services = tuple(replace(service, quality_levels=1) for service in base.services)
    settings = replace(base.control, escalation_settle_s=5.0, escalation_calm_s=10.0, **control)
    site = compile_site(replace(base, services=services, control=settings))
    row = Row(site, load_ratio=0.9)
    row.run(10)
    response, _ = row.order("cap", domain="row-1", cap_w=3_500.0 * nodes)
    assert response.status == "ok"
    return row


def watched(row: Row, seconds: int) -> tuple[Routes, list[Event], Decision]:
    """Run: the last route of each endpoint that was published, and the steps' events."""
    routes: Routes = {}
    events: list[Event] = []
    for _ in range(seconds):
        decision = row.step()
        for item in decision.routing:
            routes |= {route.endpoint: route for route in item.endpoints}
        events += [one for one in decision.events if one.event in STEPS]
    return routes, events, decision


LOW = ("n02", "n04", "n07", "n09")


def limited(routes: Routes) -> set[str]:
    """Endpoints that are not as in a quiet hour."""
    return {
        name
        for name, route in routes.items()
        if route.drain or route.batch_ratio < 1.0 or route.quality_level
    }


def test_a_shortage_that_clocks_cannot_solve_ends_with_low_priority_off() -> None:
    row = short_row(automatic_steps_per_minute_max=1000)
    routes, events, decision = watched(row, 90)
    assert {name for name, route in routes.items() if route.drain} == set(LOW)
    assert {route.batch_ratio for route in routes.values()} == {0.5}
    assert {route.quality_level for route in routes.values()} == {1}
    assert [event.severity for event in events] == ["warning"] * 4 + ["critical"]
    state = domain(decision, "row-1")
    assert "; low priority off on n02, n04, n07, n09" in state.sentence
    assert {event.subject for event in events} == {"row-1"}
    assert all(event.decision_id for event in events)
    assert "forecast" in events[-1].sentence


def test_everything_comes_back_when_the_shortage_is_over() -> None:
    row = short_row(automatic_steps_per_minute_max=1000)
    watched(row, 90)
    row.order("cap", domain="row-1", clear=True)
    row.load_ratio = 0.3
    routes, events, decision = watched(row, 200)
    assert limited(routes) == set()
    assert {event.event for event in events} == {"eased"}
    assert "priority off" not in domain(decision, "row-1").sentence


def test_a_shortage_that_clocks_solve_takes_nothing_from_requests() -> None:
    row = Row(site_of(nodes=10, escalation_settle_s=1.0), load_ratio=0.95)
    routes, events, _ = watched(row, 120)
    assert (limited(routes), events) == (set(), [])


def test_a_controller_that_starts_anew_replays_nothing() -> None:
    row = short_row(automatic_steps_per_minute_max=1000)
    watched(row, 90)
    orders = row.cycle.orders.state()
    row.cycle = ControlCycle(row.site, epoch=row.epoch + 1, started_at_s=row.now_s)
    row.cycle.orders.restore(orders)
    routes, events, _ = watched(row, 5)
    assert set(routes) == set(row.site.nodes)  # what an earlier life took is lifted by name
    assert (limited(routes), events) == (set(), [])
    routes, events, _ = watched(row, 90)
    assert {name for name, route in routes.items() if route.drain} == set(LOW)


def test_in_shadow_steps_are_told_and_not_sent() -> None:
    row = short_row(automatic_steps_per_minute_max=1000, shadow=True)
    routes, events, _ = watched(row, 90)
    assert routes == {}
    assert events


@pytest.mark.parametrize(("limit", "drained"), [(2, 2), (10, 3)])
def test_silent_nodes_are_drained_no_faster_than_the_limit(limit: int, drained: int) -> None:
    row = Row(site_of(nodes=10, automatic_steps_per_minute_max=limit), load_ratio=0.3)
    row.run(10)
    row.silent.update(("n02", "n03", "n04"))
    routes, _, _ = watched(row, 10)
    assert sum(route.drain for route in routes.values()) == drained


def test_a_start_that_hears_some_nodes_late_drains_none_of_them() -> None:
    row = Row(site_of(nodes=10), load_ratio=0.3)
    row.silent.update(("n02", "n03"))
    routes, _, _ = watched(row, 29)
    assert not any(route.drain for route in routes.values())
    routes, _, _ = watched(row, 5)
    assert {name for name, route in routes.items() if route.drain} == {"n02", "n03"}


def test_requests_that_leave_a_hot_aisle_are_told_once() -> None:
    row = Row(site_of(nodes=8), load_ratio=0.4)
    row.run(80)
    row.inlets_c = dict.fromkeys(row.site.domains["aisle-1"].nodes, 36.0)
    _, events, _ = watched(row, 30)
    assert [(event.event, event.subject) for event in events] == [
        ("rerouted", "batch"),
        ("rerouted", "chat"),
    ]
    assert all("% of capacity there" in event.sentence for event in events)
    row.inlets_c = {}
    routes, events, _ = watched(row, 200)
    assert {route.weight_ratio for route in routes.values()} == {1.0}
    back = [event.sentence for event in events if event.event == "rerouted"]
    assert {text.split(": ")[0] for text in back} == {"chat", "batch"}
    assert all("full share of requests again" in text for text in back)


def test_weights_move_only_as_far_as_the_limit_allows() -> None:
    row = Row(site_of(nodes=8, automatic_steps_per_minute_max=1), load_ratio=0.4)
    row.run(80)
    row.inlets_c = dict.fromkeys(row.site.domains["aisle-1"].nodes, 36.0)
    routes, _, _ = watched(row, 30)
    assert sum(route.weight_ratio < 1.0 for route in routes.values()) == 1
