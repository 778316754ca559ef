"""A trip curve always errs towards sooner."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facility.trip import BUILT_IN, TripCurve

CURVE = TripCurve("two-steps", ((1.1, 60.0), (1.5, 3.0)), "test")


@pytest.mark.parametrize(
    ("load_ratio", "patience_s"),
    [
        (-1.0, math.inf),
        (0.0, math.inf),
        (1.0, math.inf),
        (math.nextafter(1.0, 2.0), 60.0),
        (1.1, 60.0),
        (math.nextafter(1.1, 2.0), 3.0),
        (1.5, 3.0),
        (math.nextafter(1.5, 2.0), 0.0),
        (math.inf, 0.0),
        (math.nan, 0.0),
    ],
)
def test_between_points_the_next_higher_one_counts(load_ratio: float, patience_s: float) -> None:
    assert CURVE.patience_s(load_ratio) == patience_s


@given(st.sampled_from(sorted(BUILT_IN)), st.floats(0.0, 4.0), st.floats(0.0, 4.0))
def test_more_load_is_never_tolerated_longer(name: str, one: float, other: float) -> None:
    curve = BUILT_IN[name]
    low, high = min(one, other), max(one, other)

    assert curve.patience_s(low) >= curve.patience_s(high)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_built_in_curve_says_where_it_comes_from(name: str) -> None:
    assert BUILT_IN[name].name == name
    assert BUILT_IN[name].source


def test_the_defaults_are_the_strictest_of_their_kind() -> None:
    for ratio, _ in BUILT_IN["ups-tolerant"].points:
        strict = BUILT_IN["ups-strict"].patience_s(ratio)
        assert strict <= BUILT_IN["ups-tolerant"].patience_s(ratio)
    for ratio, _ in BUILT_IN["breaker-nominal"].points:
        low = BUILT_IN["breaker-low-band"].patience_s(ratio)
        assert low <= BUILT_IN["breaker-nominal"].patience_s(ratio)


def test_the_low_band_is_the_thermal_model_rounded_down() -> None:
    """Trip state 1.1236, time constant 120 s, from full load (physics D.1)."""
    for ratio, seconds in BUILT_IN["breaker-low-band"].points:
        trip_s = 120.0 * math.log((ratio**2 - 1.0) / (ratio**2 - 1.1236))
        assert seconds == pytest.approx(trip_s, abs=1.0)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ((), "no points"),
        (((1.0, 5.0),), "ratios must ascend from above 1"),
        (((1.2, 5.0), (1.2, 4.0)), "ratios must ascend"),
        (((1.2, 5.0), (1.1, 4.0)), "ratios must ascend"),
        (((math.nan, 5.0),), "ratios must ascend"),
        (((math.inf, 5.0),), "ratios must ascend"),
        (((1.2, -1.0),), "seconds must be 0 or more"),
        (((1.2, math.inf),), "seconds must be 0 or more"),
        (((1.2, math.nan),), "seconds must be 0 or more"),
        (((1.2, 5.0), (1.3, 6.0)), "not ascend"),
    ],
)
def test_a_curve_that_can_be_read_two_ways_is_refused(
    points: tuple[tuple[float, float], ...], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        TripCurve("bad", points, "test")


def test_a_curve_may_stay_level_and_end_at_zero() -> None:
    curve = TripCurve("level", ((1.1, 5.0), (1.2, 5.0), (1.3, 0.0)), "test")

    assert curve.patience_s(1.2) == 5.0
    assert curve.patience_s(1.3) == 0.0


@pytest.mark.parametrize(
    ("patience_s", "load_ratio"), [(0.0, 1.5), (3.0, 1.5), (3.01, 1.3), (60.0, 1.3), (601.0, 1.0)]
)
def test_the_load_for_a_patience_is_the_highest_that_is_tolerated_so_long(
    patience_s: float, load_ratio: float
) -> None:
    curve = BUILT_IN["ups-strict"]
    assert curve.load_ratio_for(patience_s) == load_ratio
    assert curve.patience_s(load_ratio) >= patience_s


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_curve_names_its_source(name: str) -> None:
    assert len(BUILT_IN[name].source) > 20
