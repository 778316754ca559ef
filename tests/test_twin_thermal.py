"""Power becomes temperature: GPUs, fans, and the air of a zone that loses its cooling."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.gpu import H100_SXM
from simulator.thermal import SUPPLY_C, Heat, ZoneAir

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
            memory_power_w=np.full(8 * NODES, 60.0),
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
    assert ((model.memory_c - model.die_c) >= 5.0).all()
    assert ((model.memory_c - model.die_c) <= 12.0).all()


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
            memory_power_w=np.zeros(8),
            node_power_w=np.full(1, 7000.0),
            zone_ratio=np.empty(0),
        )
    assert SUPPLY_C <= model.inlet_c[0] <= SUPPLY_C + 2.0
