"""Forecasts: spike margin without history, quantile of rises with it, trend on top."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from predictors.node_power import NodePowerEstimator
from predictors.power import PowerForecaster
from predictors.rises import HISTORY_S_MIN
from tests.row import site_of


def forecaster(domains: int = 1, *, quantile: float = 0.99) -> PowerForecaster:
    """A forecaster of one-second cycles, three seconds ahead."""
    return PowerForecaster(domains, cycle_s=1.0, horizon_s=3.0, quantile=quantile, spike_ratio=0.09)


def test_without_history_the_known_spike_is_assumed() -> None:
    first = forecaster().forecast(np.array([100_000.0]))
    assert first.forecast_w[0] == pytest.approx(109_000.0)
    assert not first.from_history[0]


def test_history_replaces_the_spike_when_it_has_a_rise_for_the_quantile_and_not_before() -> None:
    """A P99 needs 99 rises: the largest of fewer is passed more often than once in a hundred."""
    power = forecaster()
    for _ in range(99 + 3 - 1):
        last = power.forecast(np.array([100_000.0]))
    assert not last.from_history[0]
    assert last.forecast_w[0] == pytest.approx(109_000.0)
    last = power.forecast(np.array([100_000.0]))
    assert last.from_history[0]
    assert last.forecast_w[0] == pytest.approx(100_000.0)


def test_a_low_quantile_still_waits_a_minute() -> None:
    power = forecaster(quantile=0.6)
    for _ in range(int(HISTORY_S_MIN) + 3 - 1):
        last = power.forecast(np.array([100_000.0]))
    assert not last.from_history[0]
    assert power.forecast(np.array([100_000.0])).from_history[0]


@pytest.mark.parametrize("samples", [102, 152, 202, 299])
def test_p99_is_passed_about_once_in_a_hundred_whatever_the_history(samples: int) -> None:
    rng, trials = np.random.default_rng(7), 300
    level_w = 1e5 + 1e3 * rng.standard_normal((samples + 3, trials))
    power = forecaster(trials)
    for row in level_w[:samples]:
        last = power.forecast(row)
    assert last.from_history.all()
    passed = (level_w[samples + 2] > last.forecast_w).mean()
    assert passed <= 0.03


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
    for _ in range(110):
        power.forecast(np.array([100_000.0]))
    for second in range(1, 6):
        last = power.forecast(np.array([100_000.0 + 2_000.0 * second]))
    assert last.forecast_w[0] == pytest.approx(110_000.0 + 3 * 2_000.0, rel=0.01)


def test_a_fall_is_not_extrapolated() -> None:
    """After a fall the forecast is what is drawn now, neither less nor a return to before."""
    power = forecaster()
    for _ in range(110):
        power.forecast(np.array([100_000.0]))
    last = power.forecast(np.array([60_000.0]))
    assert last.forecast_w[0] == pytest.approx(60_000.0)


def steadied(more_w: float, *, forgets: bool = False, silent_s: float = 0.0) -> float:
    """The rise that a slow path is told of right after a calm 100 kW have become `more_w` more."""
    power = PowerForecaster(
        1, cycle_s=2.0, horizon_s=42.0, quantile=0.99, spike_ratio=0.09, steady_s=20.0
    )
    now_s = 0.0
    for _ in range(300):
        now_s += 2.0
        power.forecast(np.array([1e5]), now_s=now_s)
    if forgets:
        power.forget(np.array([True]))
    now_w = np.array([1e5 + more_w])
    found = power.forecast(now_w, now_s=now_s + 2.0 + silent_s)
    return float((found.rise_w / now_w)[0])


def test_a_slow_path_takes_what_is_above_its_mean_for_a_rise() -> None:
    assert steadied(1e5) > 0.8


def test_a_slow_path_begins_its_mean_anew_where_the_load_is_another_or_nobody_looked() -> None:
    assert steadied(1e5, forgets=True) == pytest.approx(0.09)
    assert steadied(1e5, silent_s=600.0) < 0.01


def test_forgetting_one_domain_brings_back_its_spike_and_only_its() -> None:
    power = forecaster(2)
    for _ in range(110):
        power.forecast(np.array([1_000.0, 1_000.0]))
    power.forget(np.array([True, False]))
    last = power.forecast(np.array([2_000.0, 1_000.0]))
    assert list(last.from_history) == [False, True]
    assert last.forecast_w == pytest.approx([2_180.0, 1_000.0])


def risen(more_w: float, *, assumed: bool, cycles: int = 130) -> float:
    """What is expected after so many cycles, as a share of power.

    Of 100 kW some 40 are assumed, and from the 50th to the 60th cycle there is `more_w` of them, or
    of what is read.
    """
    power = forecaster()
    for cycle in range(cycles):
        more = np.array([more_w if 50 <= cycle < 60 else 0.0])
        assumed_w = np.array([40_000.0]) + (more if assumed else 0.0)
        last = power.forecast(100_000.0 + more, assumed_w=assumed_w)
    return float(last.rise_w[0] / last.power_w[0])


@pytest.mark.parametrize("cycles", [51, 52, 55, 60, 61, 65])
def test_while_a_node_is_silent_and_when_it_is_back_no_more_is_expected(cycles: int) -> None:
    assert risen(40_000.0, assumed=True, cycles=cycles) == pytest.approx(0.09)
    assert risen(40_000.0, assumed=False, cycles=52) > 0.2


def test_a_silent_node_is_no_load_that_has_come_and_is_not_learnt_as_one() -> None:
    assert risen(40_000.0, assumed=True) == 0.0
    assert risen(40_000.0, assumed=False) == pytest.approx(0.4, rel=0.01)


def test_what_is_assumed_counts_as_load_below_one_percent_of_it() -> None:
    assert risen(1_005.0, assumed=True) == pytest.approx(0.01, rel=0.01)
    assert risen(1_015.0, assumed=True) == 0.0


def expected_again(spikes: Sequence[int], cycles: int) -> float:
    """What is expected after so many cycles, as a share: a spike of 40 % for 10 cycles at each."""
    power = forecaster()
    for cycle in range(cycles):
        spike = any(0 <= cycle - begin < 10 for begin in spikes)
        last = power.forecast(np.array([140_000.0 if spike else 100_000.0]))
    assert last.from_history[0] == (cycles >= 102)
    return float(last.rise_w[0] / last.power_w[0])


@pytest.mark.parametrize("begins", [20, 80])
def test_a_spike_in_a_young_history_is_expected_again_for_300_horizons_at_least(
    begins: int,
) -> None:
    assert expected_again([begins], begins + 10 + 900) == pytest.approx(0.4, rel=0.02)


@pytest.mark.parametrize("begins", [20, 80])
def test_a_spike_in_a_young_history_is_forgotten_after_600_horizons(begins: int) -> None:
    """Steps alone would hold it for a day: a P99 goes down a hundred times slower than up."""
    assert expected_again([begins], begins + 10 + 1_800) == 0.0


def test_one_spike_in_a_long_history_is_no_hundredth() -> None:
    assert expected_again([850], 850 + 20) < 0.01


def test_a_spike_that_comes_back_within_a_hundred_horizons_is_not_forgotten() -> None:
    spikes = range(50, 4_000, 280)
    for begins in spikes[-3:]:
        assert expected_again(spikes, begins) == pytest.approx(0.4, rel=0.02)


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


def test_a_meter_below_its_own_gpus_is_not_used() -> None:
    model = site_of(nodes=1).nodes["n01"].model
    estimator = NodePowerEstimator(model)
    for second in range(600):
        power_w = estimator.estimate_w(float(second), gpu_power_w=4_000.0, node_power_w=100.0)
    assert power_w == pytest.approx(model.overhead_w + model.gpu_power_factor * 4_000.0)


def test_a_meter_of_one_supply_of_two_cannot_hide_half_a_server() -> None:
    model = site_of(nodes=1).nodes["n01"].model
    estimator = NodePowerEstimator(model)
    explained_w = model.gpu_power_factor * 2_000.0
    for second in range(600):
        power_w = estimator.estimate_w(
            float(second), gpu_power_w=2_000.0, node_power_w=explained_w + 10.0
        )
    assert power_w == pytest.approx(explained_w + 0.5 * model.overhead_w, rel=1e-3)


def test_a_meter_cannot_invent_a_server() -> None:
    model = site_of(nodes=1).nodes["n01"].model
    estimator = NodePowerEstimator(model)
    for second in range(600):
        power_w = estimator.estimate_w(float(second), gpu_power_w=4_000.0, node_power_w=5e5)
    assert power_w <= model.gpu_power_factor * 4_000.0 + 1.5 * model.overhead_w + 1.0


def test_one_reading_after_a_silence_weighs_no_more_than_any_other() -> None:
    model = site_of(nodes=1).nodes["n01"].model
    estimator = NodePowerEstimator(model)
    before_w = estimator.estimate_w(0.0, gpu_power_w=4_000.0, node_power_w=None)
    low_w = model.gpu_power_factor * 4_000.0 + 1.0
    after_w = estimator.estimate_w(600.0, gpu_power_w=4_000.0, node_power_w=low_w)
    assert before_w - after_w < 0.1 * model.overhead_w
