"""The mean that a slow path answers: how old it is, and where it begins anew."""

from __future__ import annotations

import numpy as np
import pytest

from facility.config import ControlConfig
from predictors.power import steady_s
from predictors.steady import Steady


def test_without_an_age_every_value_stands_for_itself() -> None:
    steady = Steady(age_s=0.0, cycle_s=2.0)
    steady.of(np.array([1.0]))
    assert steady.of(np.array([9.0])).tolist() == [9.0]


def test_a_step_is_followed_to_63_percent_within_the_age() -> None:
    steady = Steady(age_s=20.0, cycle_s=2.0)
    steady.of(np.array([100.0]))
    followed = [float(steady.of(np.array([200.0]))[0]) for _ in range(10)]
    assert followed[0] == pytest.approx(109.5, abs=0.1)
    assert followed[-1] == pytest.approx(163.2, abs=0.1)


def test_what_is_unknown_ends_the_mean_and_what_comes_after_begins_it() -> None:
    steady = Steady(age_s=20.0, cycle_s=2.0)
    steady.of(np.array([100.0, 100.0]))
    assert np.isnan(steady.of(np.array([np.nan, 100.0]))).tolist() == [True, False]
    assert steady.of(np.array([300.0, 100.0])).tolist() == [300.0, 100.0]


@pytest.mark.parametrize(
    ("actuation_s", "age_s"), [(0.4, 0.0), (2.0, 0.0), (2.1, 1.05), (40.0, 20.0)]
)
def test_only_a_path_that_is_slower_than_the_cycle_is_steadied(
    actuation_s: float, age_s: float
) -> None:
    control = ControlConfig(cycle_s=2.0, actuation_s=actuation_s)
    assert steady_s(control) == pytest.approx(age_s)
