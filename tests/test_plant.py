"""The whole twin: a row that trips when nobody acts and holds when clocks are locked in time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from facility.compiler import compile_site
from facility.example import row_site
from facility.ports import DriverLost, GpuInvalid, GpuLost, GpuPort, NodeSensorPort, RouterPort
from facility.topology import Site
from facility.wire import EndpointRoute, Routing
from simulator.plant import Plant, PlantSettings

POLCA_RISE_2_S = 0.09


@pytest.fixture(scope="module")
def row() -> Site:
    """The standard row: 40 nodes, sold 30 % beyond its capacity."""
    return compile_site(row_site(feed_curve="ups-strict"))


@pytest.fixture(scope="module")
def small() -> Site:
    return compile_site(row_site(nodes=5))


def run(plant: Plant, seconds: float, each_step: Callable[[], None] = lambda: None) -> Plant:
    for _ in range(round(seconds / plant.settings.dt_s)):
        plant.step()
        each_step()
    return plant


def settings(**keys: Any) -> PlantSettings:
    return PlantSettings(**({"lock_ignored_ratio": 0.0, "warm_up_s": 20.0} | keys))


def lock_all(plant: Plant, ceiling_mhz: int) -> None:
    for node in plant.site.nodes:
        for gpu in plant.host(node).open():
            gpu.lock_clocks(clock_mhz_min=210, ceiling_mhz=ceiling_mhz)


def test_the_doors_are_the_ports_that_agents_know(small: Site) -> None:
    plant = Plant(small)
    gpu: GpuPort = plant.host("n01").open()[0]
    sensors: NodeSensorPort = plant.sensors("n01")
    router: RouterPort = plant.router()
    plant.start()
    assert gpu.identity().uuid == "GPU-n01-0"
    assert len(plant.host("n01").open()) == 8
    assert sensors.read().node_power_w is not None
    assert router is plant.router()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(small: Site) -> None:
    def report(seed: int) -> str:
        return json.dumps(run(Plant(small, settings(seed=seed)), 15.0).report())

    assert report(7) == report(7)
    assert report(7) != report(8)


def test_reading_and_truth_change_nothing(small: Site) -> None:
    watched, alone = (Plant(small, settings()) for _ in range(2))

    def look() -> None:
        watched.truth()
        watched.report()
        for gpu in watched.host("n02").open():
            gpu.read_fast()
            gpu.read_medium()

    run(watched, 5.0, look)
    run(alone, 5.0)
    assert watched.report() == alone.report()


def test_before_the_first_step_nothing_was_measured(small: Site) -> None:
    report = Plant(small).report()
    for key in ("row_power_ratio_max", "energy_j", "ttft_p99_s_high", "gpu_temperature_c_max"):
        assert report[key] is None
    assert report["seconds"] == 0.0
    assert report["tripped"] is False


def test_an_uncontrolled_row_runs_over_its_capacity_until_its_breaker_trips(row: Site) -> None:
    plant = Plant(row, settings())
    ratios: list[float] = []
    run(plant, 60.0, lambda: ratios.append(plant.tree.row_load_ratio))
    assert min(ratios) >= 0.95
    assert 1.05 <= max(ratios) <= 1.15
    assert not plant.report()["tripped"]
    two_s = np.array(ratios).reshape(-1, 10).mean(axis=1)
    assert (two_s[2:] - two_s[:-2]).max() <= POLCA_RISE_2_S
    run(plant, 90.0)
    report = plant.report()
    assert report["tripped"] is True
    assert isinstance(report["tripped_domains"], list)
    assert report["tripped_domains"][0]["domain"] == "row-1"
    assert plant.truth().nodes["n01"].power_w == 0.0
    assert report["requests_lost"]


def test_at_full_clocks_engines_are_busy_but_not_saturated(row: Site) -> None:
    plant = run(Plant(row, settings()), 30.0)
    truth = plant.truth()
    assert truth.requests_queued < 40
    assert max(node.batch for node in truth.nodes.values()) < 0.6 * plant.settings.engine.batch_max
    busiest = run(Plant(row, settings(requests_per_node_s=14.0, warm_up_s=40.0)), 20.0).report()
    assert isinstance(busiest["requests_served"], int)
    full_per_node_s = busiest["requests_served"] / 20.0 / len(row.nodes)
    assert 0.60 <= plant.settings.requests_per_node_s / full_per_node_s <= 0.75


def test_after_a_feed_is_lost_an_uncontrolled_row_trips_within_seconds(row: Site) -> None:
    plant = run(Plant(row, settings()), 5.0)
    plant.begin("ups-a-lost")
    truth = run(plant, 0.1).truth()
    assert truth.domains["ups-a"].power_w == 0.0
    assert truth.domains["ups-b"].load_ratio > 1.2
    run(plant, 20.0)
    report = plant.report()
    assert isinstance(report["tripped_domains"], list)
    assert report["tripped_domains"][0]["domain"] == "ups-b"


def test_after_a_feed_is_lost_a_row_locked_within_a_second_fits_the_survivor(row: Site) -> None:
    plant = run(Plant(row, settings()), 5.0)
    plant.begin("ups-a-lost")
    run(plant, 0.8)
    lock_all(plant, 1200)
    run(plant, 0.4)
    ratios: list[float] = []
    run(plant, 25.0, lambda: ratios.append(plant.tree.row_load_ratio))
    assert max(ratios) < 1.0
    report = plant.report()
    assert report["tripped"] is False
    assert report["seconds_over_capacity"] == pytest.approx(6.0, abs=1.0)


def test_clocks_shaved_by_a_fifth_cost_power_far_more_than_latency(row: Site) -> None:
    def shaved(ceiling_mhz: int) -> tuple[float, float, float]:
        plant = Plant(row, settings())
        plant.start()
        lock_all(plant, ceiling_mhz)
        report = run(plant, 20.0).report()
        values = (report["energy_j"], report["ttft_p99_s_high"], report["tpot_p50_s_high"])
        assert all(isinstance(value, float) for value in values)
        return values  # type: ignore[return-value]

    full, slow = shaved(1980), shaved(1590)
    assert slow[0] / full[0] < 0.86
    assert slow[1] / full[1] < 1.5
    assert slow[2] / full[2] < 1.4


@pytest.mark.parametrize("ceiling_mhz", [345, 795, 1305, 1980])
def test_true_node_power_stays_below_the_models_worst_case(row: Site, ceiling_mhz: int) -> None:
    plant = Plant(row, settings(requests_per_node_s=12.0))
    plant.start()
    lock_all(plant, ceiling_mhz)
    run(plant, 0.5)
    limit_w = row.nodes["n01"].model.worst_case_w(ceiling_mhz)
    highest_w: list[float] = []
    run(plant, 5.0, lambda: highest_w.append(float(plant.node_power_w.max())))
    assert 0.6 * limit_w < max(highest_w) <= limit_w


def test_every_request_is_served_lost_queued_or_in_flight(small: Site) -> None:
    plant = run(Plant(small, settings(mean_requests_per_s=60.0)), 10.0)
    plant.darken("n02")
    report = run(plant, 5.0).report()
    keys = ("requests_served", "requests_lost", "requests_queued", "requests_in_flight")
    parts = [report[key] for key in keys]
    assert all(isinstance(part, int) and part > 0 for part in parts)
    assert report["requests_arrived"] == sum(part for part in parts if isinstance(part, int))


def test_a_dark_node_draws_nothing_answers_nothing_and_boots_unlocked(small: Site) -> None:
    plant = run(Plant(small, settings(boot_s=3.0)), 1.0)
    gpu = plant.host("n01").open()[0]
    gpu.lock_clocks(clock_mhz_min=210, ceiling_mhz=1200)
    run(plant, 0.5)
    assert gpu.read_fast().sm_clock_mhz <= 1200
    plant.darken("n01")
    run(plant, 0.1)
    assert plant.truth().nodes["n01"].power_w == 0.0
    assert plant.sensors("n01").read().node_power_w is None
    with pytest.raises(DriverLost):
        gpu.read_fast()
    with pytest.raises(DriverLost):
        plant.host("n01").open()
    plant.darken("n01", on=False)
    run(plant, 2.9)
    assert plant.truth().nodes["n01"].dark
    run(plant, 1.0)
    assert not plant.truth().nodes["n01"].dark
    assert plant.bank.ceiling_mhz(0) == 1980
    assert plant.host("n01").open()[0].read_fast().power_w > 0.0


def test_a_lost_gpu_takes_its_engine_with_it_and_no_other(small: Site) -> None:
    plant = run(Plant(small, settings()), 1.0)
    plant.lose_gpu("n01", 3)
    run(plant, 1.0)
    with pytest.raises(GpuLost):
        plant.host("n01").open()[3].read_fast()
    assert plant.host("n01").open()[2].read_fast().power_w > 0.0
    truth = plant.truth()
    assert truth.nodes["n01"].batch == 0
    assert truth.nodes["n03"].batch > 0
    assert truth.requests_lost > 0


def test_a_node_that_ignores_locks_says_yes_and_keeps_its_clock(small: Site) -> None:
    plant = run(Plant(small, settings()), 1.0)
    plant.ignore_locks("n01")
    lock_all(plant, 1200)
    run(plant, 1.0)
    truth = plant.truth()
    assert truth.nodes["n01"].clock_mhz_mean > 1200
    assert truth.nodes["n02"].clock_mhz_mean <= 1200


def test_frozen_sensors_go_on_saying_what_they_said(small: Site) -> None:
    plant = run(Plant(small, settings()), 1.0)
    plant.freeze_sensors("n01")
    gpu, sensors = plant.host("n01").open()[0], plant.sensors("n01")
    before = gpu.read_fast(), gpu.read_medium(), sensors.read()
    lock_all(plant, 600)
    run(plant, 2.0)
    assert (gpu.read_fast(), gpu.read_medium(), sensors.read()) == before
    plant.freeze_sensors("n01", on=False)
    assert gpu.read_fast().power_w < before[0].power_w
    assert sensors.read().node_power_w != before[2].node_power_w


def test_a_foreign_limit_shows_as_enforced_below_requested(small: Site) -> None:
    plant = run(Plant(small, settings()), 1.0)
    plant.limit_power("n01", 350.0)
    run(plant, 1.0)
    gpu = plant.host("n01").open()[0]
    assert gpu.read_fast().power_limit_w == 350.0
    assert gpu.read_slow().power_limit_requested_w == 700.0
    assert plant.bank.power_w[:8].max() <= 350.0
    plant.limit_power("n01", None)
    run(plant, 0.1)
    assert gpu.read_fast().power_limit_w == 700.0


def test_the_power_brake_shows_in_clock_counter_and_event_reasons(small: Site) -> None:
    plant = run(Plant(small, settings()), 1.0)
    plant.brake("n01")
    run(plant, 1.0)
    gpu = plant.host("n01").open()[0]
    reading = gpu.read_fast()
    assert reading.sm_clock_mhz == 210
    assert reading.brake_s == pytest.approx(1.0)
    assert gpu.read_medium().event_reasons & 0x80


@pytest.mark.parametrize(("low", "high"), [(210, 1201), (1200, 210), (0, 1200), (210, 1995)])
def test_clocks_off_the_grid_or_upside_down_are_refused(small: Site, low: int, high: int) -> None:
    gpu = Plant(small).host("n01").open()[0]
    with pytest.raises(GpuInvalid, match="from 210 to 1980"):
        gpu.lock_clocks(clock_mhz_min=low, ceiling_mhz=high)


def test_a_lock_is_lifted_by_reset(small: Site) -> None:
    plant = run(Plant(small, settings()), 0.5)
    gpu = plant.host("n01").open()[0]
    gpu.lock_clocks(clock_mhz_min=210, ceiling_mhz=600)
    run(plant, 0.5)
    assert gpu.read_fast().sm_clock_mhz <= 600
    gpu.reset_clocks()
    run(plant, 1.5)
    assert gpu.read_fast().sm_clock_mhz > 1500


def test_meters_and_thermometers_are_near_the_truth_and_whole(small: Site) -> None:
    read_w: list[list[float]] = []
    true_w: list[list[float]] = []

    def look() -> None:
        seen = [plant.sensors(node).read().node_power_w for node in small.nodes]
        read_w.append([power_w for power_w in seen if power_w is not None])
        true_w.append([node.power_w for node in plant.truth().nodes.values()])

    plant = Plant(small, settings())
    run(plant, 20.0, look)
    # The meter lags a second behind, so it is compared over twenty.
    assert np.mean(read_w, axis=0) == pytest.approx(np.mean(true_w, axis=0), rel=0.05)
    truth = plant.truth()
    for node in small.nodes:
        reading = plant.sensors(node).read()
        assert reading.inlet_temperature_c is not None
        assert reading.inlet_temperature_c == round(truth.nodes[node].inlet_temperature_c)
    medium = plant.host("n01").open()[0].read_medium()
    assert medium.temperature_c is not None
    assert medium.margin_c == 87.0 - medium.temperature_c
    blind = Plant(small, settings(node_meter=False))
    blind.start()
    assert blind.sensors("n01").read().node_power_w is None


def test_a_lost_air_handler_takes_cooling_from_its_zone_until_it_is_back(small: Site) -> None:
    plant = run(Plant(small, settings()), 1.0)
    whole_w = plant.truth().domains["aisle-1"].capacity_w
    plant.begin("air-handler-1-lost")
    assert run(plant, 0.1).truth().domains["aisle-1"].capacity_w == pytest.approx(0.9 * whole_w)
    assert plant.truth().contingencies == {"air-handler-1-lost"}
    plant.end("air-handler-1-lost")
    assert run(plant, 0.1).truth().domains["aisle-1"].capacity_w == pytest.approx(whole_w)


async def test_routing_shifts_load_and_is_forgotten_after_its_time(small: Site) -> None:
    plant = run(Plant(small, settings(mean_requests_per_s=30.0)), 1.0)
    endpoints = (
        EndpointRoute(endpoint="n01", weight_ratio=1.0, drain=True),
        EndpointRoute(endpoint="n03", weight_ratio=1.0),
        EndpointRoute(endpoint="n05", weight_ratio=1.0),
    )
    refused = await plant.router().apply(
        Routing(service="chat", decision_id="d", at_s=0.0, valid_s=30.0, endpoints=endpoints)
    )
    assert list(refused) == []
    run(plant, 29.0)
    assert plant.truth().nodes["n01"].batch <= 1
    run(plant, 10.0)
    assert plant.truth().nodes["n01"].batch > 1


def test_names_that_the_site_does_not_have_are_refused(small: Site) -> None:
    plant = Plant(small)
    with pytest.raises(ValueError, match="no node 'n99'"):
        plant.host("n99")
    with pytest.raises(ValueError, match="no contingency ups-z-lost"):
        plant.begin("ups-z-lost")


@pytest.mark.parametrize("dt_s", [0.0, -0.1, 0.26, math.nan])
def test_a_step_outside_its_range_is_refused(small: Site, dt_s: float) -> None:
    with pytest.raises(ValueError, match=r"dt_s is .*; expected above 0 and at most 0\.25"):
        Plant(small, PlantSettings(dt_s=dt_s))
