"""Routing: load leaves what is under pressure, after clocks have acted, by small steps."""

from __future__ import annotations

import itertools

import pytest

from facility.wire import Routing
from tests.row import Row, site_of


def weights(routings: tuple[Routing, ...]) -> dict[str, float]:
    """Endpoint weights of all services in some routings."""
    return {route.endpoint: route.weight_ratio for item in routings for route in item.endpoints}


@pytest.fixture
def row() -> Row:
    """Two aisles of four nodes at an easy load."""
    row = Row(site_of(), load_ratio=0.4)
    row.run(80)
    return row


def collected(row: Row, seconds: int) -> dict[str, float]:
    """The last weights published within some seconds."""
    seen: dict[str, float] = {}
    for _ in range(seconds):
        seen |= weights(row.step().routing)
    return seen


def test_without_pressure_everybody_has_the_same_share(row: Row) -> None:
    assert set(collected(row, 11).values()) == {1.0}


def test_load_leaves_a_hot_aisle_but_clocks_act_first(row: Row) -> None:
    hot = row.site.domains["aisle-1"].nodes
    row.inlets_c = dict.fromkeys(hot, 36.0)
    early = collected(row, 4)
    assert set(early.values()) <= {1.0}
    late = collected(row, 30)
    assert max(late[name] for name in hot) < 1.0
    assert min(late[name] for name in row.site.domains["aisle-2"].nodes) == 1.0


def test_weights_move_by_small_steps_and_never_to_nothing(row: Row) -> None:
    hot = row.site.domains["aisle-1"].nodes
    row.inlets_c = dict.fromkeys(hot, 40.0)
    before = dict.fromkeys(row.site.nodes, 1.0)
    for _ in range(60):
        now = before | weights(row.step().routing)
        assert all(abs(now[name] - before[name]) <= 0.11 for name in now)
        assert min(now.values()) >= 0.2
        before = now


def test_pressure_on_everybody_alike_moves_nothing(row: Row) -> None:
    row.load_ratio = 0.95
    assert set(collected(row, 40).values()) <= {1.0}


def test_a_missing_node_is_drained_and_comes_back(row: Row) -> None:
    row.silent.add("n03")
    drains: dict[str, bool] = {}
    for _ in range(6):
        for item in row.step().routing:
            drains |= {route.endpoint: route.drain for route in item.endpoints}
    assert [name for name, drain in drains.items() if drain] == ["n03"]
    row.silent.clear()
    for _ in range(2):
        for item in row.step().routing:
            drains |= {route.endpoint: route.drain for route in item.endpoints}
    assert not any(drains.values())


def test_when_nobody_is_heard_the_services_stay_up(row: Row) -> None:
    row.silent.update(row.site.nodes)
    for _ in range(20):
        for item in row.step().routing:
            assert not all(route.drain for route in item.endpoints)


def test_a_routing_is_renewed_before_it_runs_out(row: Row) -> None:
    row.run(15)
    sent = [row.now_s for _ in range(40) if row.step().routing]
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert max(gaps) <= 10.0
    assert {item.valid_s for item in row.run(10).routing} <= {30.0}
