"""What domains carry, when a breaker trips and when not, and where the load goes then."""

from __future__ import annotations

import numpy as np
import pytest

from facility.compiler import compile_site
from facility.example import row_site
from facility.topology import Site
from simulator.electrical import NodePower, PowerTree, Trip

STEP_S = 0.1
NODES = 8


@pytest.fixture(scope="module")
def site() -> Site:
    return compile_site(row_site(nodes=NODES, feed_curve="ups-strict"))


def at_row_ratio(site: Site, ratio: float) -> np.ndarray:
    return np.full(NODES, ratio * site.domains["row-1"].capacity_w / NODES)


def seconds_until_trip(tree: PowerTree, node_power_w: np.ndarray, *, most_s: float) -> Trip | None:
    for step in range(round(most_s / STEP_S)):
        trips = tree.step(at_s=(step + 1) * STEP_S, dt_s=STEP_S, node_power_w=node_power_w)
        if trips:
            return trips[0]
    return None


def test_each_of_two_feeds_carries_half_and_a_rack_its_own_nodes(site: Site) -> None:
    tree = PowerTree(site)
    tree.step(at_s=0.1, dt_s=STEP_S, node_power_w=np.arange(1.0, NODES + 1.0) * 1000.0)
    load_w = dict(zip(tree.names, tree.power_w.tolist(), strict=True))
    assert load_w["row-1"] == pytest.approx(36_000.0)
    assert load_w["ups-a"] == load_w["ups-b"] == pytest.approx(18_000.0)
    assert load_w["rack-01"] == pytest.approx(10_000.0)


def test_a_row_at_its_capacity_never_trips(site: Site) -> None:
    tree = PowerTree(site)
    assert seconds_until_trip(tree, at_row_ratio(site, 1.0), most_s=600.0) is None
    assert tree.wear_ratio.max() == 0.0
    assert not tree.any_over


def test_a_row_just_above_its_capacity_trips_when_its_patience_is_over(site: Site) -> None:
    patience_s = site.domains["row-1"].trip_curve.patience_s(1.01)
    early = seconds_until_trip(
        PowerTree(site), at_row_ratio(site, 1.01), most_s=patience_s - STEP_S
    )
    assert early is None
    late = seconds_until_trip(PowerTree(site), at_row_ratio(site, 1.01), most_s=patience_s)
    assert late is not None
    assert late.domain == "row-1"
    assert late.at_s == pytest.approx(patience_s)


def test_beyond_the_last_point_of_its_curve_a_breaker_trips_at_once(site: Site) -> None:
    ratio_max = site.domains["row-1"].trip_curve.points[-1][0]
    node_power_w = at_row_ratio(site, ratio_max + 0.01)
    trip = seconds_until_trip(PowerTree(site), node_power_w, most_s=1.0)
    assert trip is not None
    assert trip.domain == "row-1"
    assert trip.at_s == pytest.approx(STEP_S)
    assert trip.load_ratio == pytest.approx(ratio_max + 0.01)


def test_patience_used_comes_back_slowly_below_capacity(site: Site) -> None:
    tree = PowerTree(site)
    seconds_until_trip(tree, at_row_ratio(site, 1.05), most_s=60.0)
    row = tree.names.index("row-1")
    worn = tree.wear_ratio[row]
    assert worn == pytest.approx(60.0 / 107.0, rel=0.01)
    seconds_until_trip(tree, at_row_ratio(site, 0.9), most_s=120.0)
    assert tree.wear_ratio[row] == pytest.approx(worn / np.e, rel=0.01)


def test_protections_that_are_not_armed_do_not_wear(site: Site) -> None:
    tree = PowerTree(site)
    for _ in range(100):
        assert not tree.step(
            at_s=0.1, dt_s=STEP_S, node_power_w=at_row_ratio(site, 3.0), armed=False
        )
    assert tree.wear_ratio.max() == 0.0


def test_a_lost_feed_moves_its_load_to_the_other(site: Site) -> None:
    tree = PowerTree(site)
    tree.set_active(frozenset({"ups-a-lost"}))
    tree.step(at_s=0.1, dt_s=STEP_S, node_power_w=at_row_ratio(site, 0.9))
    load = dict(zip(tree.names, tree.load_ratio.tolist(), strict=True))
    assert load["ups-a"] == 0.0
    assert load["ups-b"] == pytest.approx(0.9 / 0.8, rel=0.01)
    assert tree.fed.all()
    tree.set_active(frozenset())
    tree.step(at_s=0.2, dt_s=STEP_S, node_power_w=at_row_ratio(site, 0.9))
    assert tree.load_ratio[tree.names.index("ups-a")] == pytest.approx(0.45 / 0.8, rel=0.01)


def test_a_feed_that_trips_takes_the_row_with_it_when_it_was_the_last(site: Site) -> None:
    tree = PowerTree(site)
    tree.set_active(frozenset({"ups-a-lost"}))
    found = seconds_until_trip(tree, at_row_ratio(site, 1.06), most_s=10.0)
    assert found is not None
    assert found.domain == "ups-b"
    assert found.at_s == pytest.approx(3.0, abs=0.11)
    assert not tree.fed.any()


def test_a_tripped_rack_darkens_its_own_nodes_only(site: Site) -> None:
    tree = PowerTree(site)
    rack = site.domains["rack-01"]
    node_power_w = np.zeros(NODES)
    node_power_w[:4] = 2.5 * rack.capacity_w / 4
    tree.step(at_s=0.1, dt_s=STEP_S, node_power_w=node_power_w)
    assert "rack-01" in tree.tripped
    assert tree.fed[4:].all()
    assert not tree.fed[:4].any()


def test_a_zone_over_its_capacity_is_hot_but_no_breaker(site: Site) -> None:
    tree = PowerTree(site)
    tree.set_active(frozenset({"air-handler-1-lost"}))
    seconds_until_trip(tree, at_row_ratio(site, 0.99), most_s=30.0)
    assert tree.zone_ratio[0] == pytest.approx(0.9)
    zone = tree.names.index("aisle-1")
    assert tree.load_ratio[zone] > 0.9
    assert tree.wear_ratio[zone] == 0.0
    assert not tree.any_over


def test_a_contingency_that_is_not_declared_is_refused(site: Site) -> None:
    with pytest.raises(ValueError, match="no contingency ups-z-lost"):
        PowerTree(site).set_active(frozenset({"ups-z-lost"}))


def test_no_node_draws_more_than_its_model_says_for_its_gpus(site: Site) -> None:
    power = NodePower(site)
    model = site.nodes["n01"].model
    for fan_ratio in (0.0, 0.3, 0.8, 1.0):
        for busy in (0.0, 1.0):
            for gpu_w in (0.0, 576.0, 5600.0):
                node_w = power.at(
                    gpu_power_w=np.full(NODES, gpu_w),
                    fan_ratio=np.full(NODES, fan_ratio),
                    busy=np.full(NODES, busy),
                )
                assert (node_w <= model.node_power_w(gpu_w) + 1e-9).all()
    assert node_w[0] == pytest.approx(model.node_power_w(5600.0))


def test_an_idle_node_draws_about_two_kilowatts(site: Site) -> None:
    node_w = NodePower(site).at(
        gpu_power_w=np.full(NODES, 8 * 72.0),
        fan_ratio=np.full(NODES, 0.3),
        busy=np.zeros(NODES),
    )
    assert 1900.0 <= node_w[0] <= 2500.0
