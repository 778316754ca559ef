"""Forecasts: spike margin without history, quantile of rises with it, trend on top."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.node_power import NodePowerEstimator
from predictors.power import HISTORY_S_MIN, PowerForecaster
from tests.row import site_of


def forecaster(domains: int = 1, **settings: float) -> PowerForecaster:
    """A forecaster of one-second cycles, three seconds ahead."""
    chosen = {"cycle_s": 1.0, "horizon_s": 3.0, "quantile": 0.99, "spike_ratio": 0.09} | settings
    return PowerForecaster(domains, **chosen)


def test_without_history_the_known_spike_is_assumed() -> None:
    first = forecaster().forecast(np.array([100_000.0]))
    assert first.forecast_w[0] == pytest.approx(109_000.0)
    assert not first.from_history[0]


def test_history_replaces_the_spike_after_a_minute_and_not_before() -> None:
    power = forecaster()
    steps = int(HISTORY_S_MIN) + 3
    for _ in range(steps - 1):
        last = power.forecast(np.array([100_000.0]))
    assert last.forecast_w[0] == pytest.approx(109_000.0)
    last = power.forecast(np.array([100_000.0]))
    assert last.from_history[0]
    assert last.forecast_w[0] == pytest.approx(100_000.0)


def test_the_quantile_is_exceeded_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    level = 100_000.0 + 2_000.0 * rng.standard_normal(4_000)
    power = forecaster(quantile=0.95)
    bounds = [float(power.forecast(np.array([value])).forecast_w[0]) for value in level]
    seen = np.array(bounds[400:-3])
    exceeded = float((level[403:] > seen).mean())
    assert 0.005 <= exceeded <= 0.06


def test_a_ramp_is_followed_at_once() -> None:
    power = forecaster()
    for _ in range(100):
        power.forecast(np.array([100_000.0]))
    for second in range(1, 6):
        last = power.forecast(np.array([100_000.0 + 2_000.0 * second]))
    assert last.forecast_w[0] == pytest.approx(110_000.0 + 3 * 2_000.0, rel=0.01)


def test_a_fall_is_not_extrapolated() -> None:
    power = forecaster()
    for _ in range(100):
        power.forecast(np.array([100_000.0]))
    last = power.forecast(np.array([60_000.0]))
    assert last.forecast_w[0] >= 60_000.0


def test_forgetting_one_domain_brings_back_its_spike_and_only_its() -> None:
    power = forecaster(2)
    for _ in range(100):
        power.forecast(np.array([1_000.0, 1_000.0]))
    power.forget(np.array([True, False]))
    last = power.forecast(np.array([2_000.0, 1_000.0]))
    assert list(last.from_history) == [False, True]
    assert last.forecast_w == pytest.approx([2_180.0, 1_000.0])


def test_without_a_meter_a_node_counts_with_its_worst_overhead() -> None:
    model = site_of(nodes=1).nodes["n01"].model
    estimator = NodePowerEstimator(model)
    power_w = estimator.estimate_w(1.0, gpu_power_w=1_000.0, node_power_w=None)
    assert power_w == pytest.approx(model.overhead_w + model.gpu_power_factor * 1_000.0)


def test_a_meter_corrects_slowly() -> None:
    model = site_of(nodes=1).nodes["n01"].model
    estimator = NodePowerEstimator(model)
    true_w = 1_500.0 + model.gpu_power_factor * 1_000.0
    first = estimator.estimate_w(1.0, gpu_power_w=1_000.0, node_power_w=true_w)
    assert first > true_w + 0.9 * (model.overhead_w - 1_500.0)
    for second in range(2, 300):
        last = estimator.estimate_w(float(second), gpu_power_w=1_000.0, node_power_w=true_w)
    assert last == pytest.approx(true_w, rel=0.01)


@pytest.mark.parametrize("meter_w", [0.0, 500_000.0])
def test_a_broken_meter_can_neither_hide_nor_invent_a_server(meter_w: float) -> None:
    model = site_of(nodes=1).nodes["n01"].model
    estimator = NodePowerEstimator(model)
    for second in range(600):
        power_w = estimator.estimate_w(float(second), gpu_power_w=4_000.0, node_power_w=meter_w)
    explained_w = model.gpu_power_factor * 4_000.0
    assert explained_w <= power_w <= explained_w + 1.5 * model.overhead_w
