"""Operators' requests: done or refused whole, answered with what is allowed, dry runs included."""

from __future__ import annotations

import pytest

from facility.wire import Codec, Emergency, Mode, Request, Response, encode
from tests.row import Row, ceilings, domain, site_of


@pytest.fixture
def row() -> Row:
    """A row that has been running for a while."""
    row = Row(site_of(), load_ratio=0.5)
    row.run(30)
    return row


def test_a_brake_holds_until_it_is_released(row: Row) -> None:
    row.order("brake", domain="row-1")
    brake = row.site.nodes["n01"].model.gpu.brake_ceiling_mhz
    decision = row.run(30)
    assert set(ceilings(decision, row.site.nodes)) == {brake}
    assert domain(decision, "row-1").mode is Mode.BRAKE
    row.order("release", domain="row-1")
    decision = row.run(2)
    assert domain(decision, "row-1").mode is not Mode.BRAKE
    assert max(ceilings(decision, row.site.nodes)) <= brake + 2 * 55


def test_a_brake_of_one_rack_leaves_the_others_alone(row: Row) -> None:
    row.order("brake", domain="rack-01")
    decision = row.run(2)
    inside = set(row.site.domains["rack-01"].nodes)
    outside = set(row.site.nodes) - inside
    assert outside
    brake = row.site.nodes["n01"].model.gpu.brake_ceiling_mhz
    assert set(ceilings(decision, inside)) == {brake}
    assert min(ceilings(decision, outside)) > brake


def test_a_cap_lowers_a_capacity_and_its_end_restores_it(row: Row) -> None:
    capacity_w = row.site.domains["row-1"].capacity_w
    row.order("cap", domain="row-1", cap_w=0.8 * capacity_w)
    row.load_ratio = 0.95
    state = domain(row.run(60), "row-1")
    assert state.capacity_w == pytest.approx(0.8 * capacity_w)
    assert state.power_w <= state.capacity_w
    row.order("cap", domain="row-1", clear=True)
    assert domain(row.step(), "row-1").capacity_w == pytest.approx(capacity_w)


def test_a_drained_node_is_drained_at_its_router(row: Row) -> None:
    row.order("drain", node="n03", on=True)
    routes = {
        route.endpoint: route.drain for routing in row.step().routing for route in routing.endpoints
    }
    assert routes["n03"]


def test_a_dry_run_answers_and_changes_nothing(row: Row) -> None:
    response, emergencies = row.order("brake", dry_run=True, domain="row-1")
    assert response.status == "ok"
    assert response.data["dry_run"] is True
    assert response.data["nodes"] == len(row.site.nodes)
    assert emergencies == ()
    assert domain(row.step(), "row-1").mode is not Mode.BRAKE


@pytest.mark.parametrize(
    ("verb", "args", "error"),
    [
        ("brake", {"domain": "row-2"}, "did you mean 'row-1'"),
        ("brake", {}, "brake needs domain"),
        ("release", {"domain": "row-2"}, "did you mean 'row-1'"),
        ("drain", {"node": "\x7f" * 200_000}, "no node is named"),
        ("brake", {"domain": "x" * 2_000}, "no domain is named"),
        ("cap", {"domain": "row-1", "cap_w": -1.0}, "outside 0 to"),
        ("cap", {"domain": "row-1", "cap_w": 1e9}, "only lowers"),
        ("cap", {"domain": "row-1"}, "cap_w, a number of watts"),
        ("cap", {"domain": "row-1", "cap_w": True}, "cap_w, a number of watts"),
        ("contingency", {"contingency": "ups-c-lost"}, "no contingency is named"),
        ("contingency", {"contingency": "ups-a-lost", "on": "yes"}, "true or false"),
        ("drain", {"node": "n99"}, "no node is named"),
        ("explode", {}, "no verb 'explode'"),
    ],
)
def test_a_bad_request_is_refused_with_what_is_allowed(
    row: Row, verb: str, args: dict[str, str | float | bool], error: str
) -> None:
    before = (row.cycle.orders.active, set(row.cycle.orders.brakes), dict(row.cycle.orders.caps_w))
    request = Request(verb=verb, args=args, by="test")
    (response,), emergencies, _ = row.cycle.handle((request,), row.wall_s)
    assert response.status == "error"
    assert error in response.error
    assert Codec().decode(encode(response), Response) == response
    assert response.data == {}
    assert emergencies == ()
    assert before == (
        row.cycle.orders.active, row.cycle.orders.brakes, row.cycle.orders.caps_w,
    )  # fmt: skip


def test_every_request_is_an_event_for_the_audit(row: Row) -> None:
    _, _, events = row.cycle.handle(
        (Request(verb="brake", args={"domain": "row-9"}, by="ann"),), row.wall_s
    )
    assert [(event.source, event.subject, event.severity) for event in events] == [
        ("ann", "brake", "warning")
    ]
    assert "row-9" in events[0].sentence


@pytest.mark.parametrize(
    ("verb", "args"),
    [("contingency", {"contingency": "ups-a-lost", "on": False}), ("release", {"domain": "row-1"})],
)
def test_an_end_is_always_announced_because_a_node_may_remember_what_we_do_not(
    row: Row, verb: str, args: dict[str, str | float | bool]
) -> None:
    _, emergencies, _ = row.cycle.handle((Request(verb=verb, args=args),), row.wall_s)
    assert [(item.domain, item.active) for item in emergencies] == [("row-1", ())]


def test_a_contingency_that_the_site_file_lost_stands_until_somebody_ends_it(row: Row) -> None:
    found = Emergency(domain="row-1", active=("old-name",), epoch=3, sequence=1, issued_at_s=0.0)
    row.cycle.orders.adopt(found)
    assert [item.active for item in row.step().emergencies] == [("old-name",)]
    response, _ = row.order("contingency", contingency="old-name", on=True)
    assert "can only end" in response.error
    response, emergencies = row.order("contingency", contingency="old-name", on=False)
    assert response.status == "ok"
    assert [item.active for item in emergencies] == [()]


def test_a_cap_is_the_lower_of_cap_and_what_a_failure_leaves_not_both(row: Row) -> None:
    capacity_w = row.site.domains["aisle-1"].capacity_w
    row.order("cap", domain="aisle-1", cap_w=0.85 * capacity_w)
    row.order("contingency", contingency="air-handler-1-lost", on=True)
    assert domain(row.step(), "aisle-1").capacity_w == pytest.approx(0.85 * capacity_w)
