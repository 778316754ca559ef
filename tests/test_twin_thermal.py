"""Power becomes temperature: GPUs, fans, and the air of a zone that loses its cooling."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.gpu import H100_SXM
from simulator.thermal import NEAR_LIMIT_K, SUPPLY_C, Heat, ZoneAir

STEP_S = 0.2
NODES = 4
FRONT, REAR = np.tile([True] * 4 + [False] * 4, NODES), np.tile([False] * 4 + [True] * 4, NODES)


def heat(*, zone_capacity_w: float = 60_000.0) -> Heat:
    """Four nodes of eight H100 in one zone."""
    node_of = np.repeat(np.arange(NODES), 8)
    air = ZoneAir(np.zeros(NODES, np.int64), np.array([zone_capacity_w]))
    return Heat([H100_SXM] * 8 * NODES, node_of, air, np.random.default_rng(1))


def run(
    model: Heat, *, seconds: float, gpu_w: float, node_w: float = 8000.0, cooling: float = 1.0
) -> None:
    for _ in range(round(seconds / STEP_S)):
        model.step(
            dt_s=STEP_S,
            gpu_power_w=np.full(8 * NODES, gpu_w),
            node_power_w=np.full(NODES, node_w),
            zone_ratio=np.array([cooling]),
        )


def test_at_700_w_a_front_gpu_settles_some_42_k_over_its_inlet() -> None:
    model = heat()
    run(model, seconds=900.0, gpu_w=700.0)
    rise_k = (model.die_c - model.inlet_c[0])[FRONT].mean()
    assert rise_k == pytest.approx(42.0, abs=5.0)
    assert model.die_c.max() < H100_SXM.operating_temperature_c_max


def test_rear_gpus_run_15_to_27_per_cent_hotter_than_front_ones() -> None:
    model = heat()
    run(model, seconds=900.0, gpu_w=600.0, node_w=7200.0)
    assert 1.15 <= model.die_c[REAR].mean() / model.die_c[FRONT].mean() <= 1.27


def test_memory_runs_5_to_12_k_over_the_die() -> None:
    model = heat()
    run(model, seconds=10.0, gpu_w=600.0)
    over_k = model.memory_c_at(np.full(8 * NODES, 60.0)) - model.die_c
    assert (over_k >= 5.0).all()
    assert (over_k <= 12.0).all()


def test_the_die_follows_in_seconds_and_the_sink_in_most_of_a_minute() -> None:
    model = heat()
    run(model, seconds=600.0, gpu_w=300.0, node_w=4500.0)
    before_c = model.die_c[0]
    run(model, seconds=3.0, gpu_w=700.0)
    fast_k = model.die_c[0] - before_c
    run(model, seconds=600.0, gpu_w=700.0)
    slow_k = model.die_c[0] - before_c - fast_k
    assert 6.0 <= fast_k <= 10.0
    assert slow_k > 0.5 * fast_k


def test_fans_speed_up_with_heat_and_no_faster_than_five_per_cent_a_second() -> None:
    model = heat()
    run(model, seconds=60.0, gpu_w=70.0, node_w=2000.0)
    assert (model.fan_ratio <= 0.35).all()
    before = model.fan_ratio.copy()
    model.die_c += 40.0
    run(model, seconds=1.0, gpu_w=700.0)
    assert (model.fan_ratio - before).max() <= 0.05 + 1e-9
    run(model, seconds=300.0, gpu_w=700.0)
    assert (model.fan_ratio > 0.6).all()


def test_a_zone_within_its_capacity_keeps_its_inlets_near_the_supply() -> None:
    model = heat(zone_capacity_w=34_000.0)
    run(model, seconds=900.0, gpu_w=600.0)
    assert model.zone_c[0] - SUPPLY_C < 1.5


def test_a_zone_that_loses_cooling_heats_its_inlets_and_its_gpus_and_recovers() -> None:
    model = heat(zone_capacity_w=34_000.0)
    run(model, seconds=900.0, gpu_w=600.0)
    zone_c, die_c = model.zone_c[0], model.die_c.mean()
    run(model, seconds=300.0, gpu_w=600.0, cooling=0.6)
    assert model.zone_c[0] > zone_c + 8.0
    assert model.die_c.mean() > die_c + 2.0
    run(model, seconds=1800.0, gpu_w=300.0, node_w=4500.0, cooling=1.0)
    assert model.zone_c[0] - SUPPLY_C < 1.5


def test_more_cooling_lost_is_hotter() -> None:
    after_c = []
    for cooling in (0.9, 0.7, 0.5):
        model = heat(zone_capacity_w=34_000.0)
        run(model, seconds=300.0, gpu_w=600.0, cooling=cooling)
        after_c.append(model.zone_c[0])
    assert after_c == sorted(after_c)
    assert after_c[0] < after_c[-1] - 5.0


def test_a_site_without_zones_breathes_supply_air() -> None:
    air = ZoneAir(np.full(1, -1), np.empty(0))
    model = Heat([H100_SXM] * 8, np.zeros(8, np.int64), air, np.random.default_rng(1))
    for _ in range(100):
        model.step(
            dt_s=STEP_S,
            gpu_power_w=np.full(8, 600.0),
            node_power_w=np.full(1, 7000.0),
            zone_ratio=np.empty(0),
        )
    assert SUPPLY_C <= model.inlet_c[0] <= SUPPLY_C + 2.0


def test_far_from_a_limit_heat_moves_once_a_second_and_near_it_in_every_step() -> None:
    def moves(model: Heat) -> int:
        return sum(
            model.step(
                dt_s=0.1,
                gpu_power_w=np.full(8 * NODES, 300.0),
                node_power_w=np.full(NODES, 4500.0),
                zone_ratio=np.ones(1),
            )
            for _ in range(20)
        )

    limit_c = H100_SXM.operating_temperature_c_max
    cool, hot = heat(), heat()
    run(cool, seconds=60.0, gpu_w=300.0, node_w=4500.0)
    run(hot, seconds=60.0, gpu_w=300.0, node_w=4500.0)
    missing_k = limit_c - hot.die_c.max() + 5.0
    hot.sink_c, hot.die_c = hot.sink_c + missing_k, hot.die_c + missing_k
    run(hot, seconds=0.6, gpu_w=300.0, node_w=4500.0)
    assert hot.die_c.max() > limit_c - NEAR_LIMIT_K
    assert moves(cool) == 2
    assert moves(hot) > 15


def test_a_step_of_any_length_brings_the_same_temperatures() -> None:
    settled_c = []
    for dt_s in (0.05, 0.1, 0.25):
        model = heat()
        for step in range(round(120.0 / dt_s)):
            # Power that changes once a second, as prompts come and go.
            gpu_w = 650.0 if int(step * dt_s + 1e-9) % 2 else 350.0
            model.step(
                dt_s=dt_s,
                gpu_power_w=np.full(8 * NODES, gpu_w),
                node_power_w=np.full(NODES, 6500.0),
                zone_ratio=np.ones(1),
            )
        settled_c.append(model.die_c.copy())
    assert np.abs(settled_c[1] - settled_c[0]).max() < 0.2
    assert np.abs(settled_c[2] - settled_c[0]).max() < 0.2
