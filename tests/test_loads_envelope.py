"""Envelopes repeat, and their noise is slow, seeded, of mean 1, and known at any time."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.loads.envelope import NOISE_KNOT_S, NOISE_KNOTS, WEEK_S, Envelope, Noise, Rate
from simulator.loads.polca import diurnal_week, polca
from simulator.loads.workload import TABLE, Kind, Lengths, Workload

DAY_S = 86_400.0


def one(rate: list[float], step_s: float = 600.0) -> Envelope:
    return Envelope.even(np.array(rate), step_s)


def test_an_envelope_is_straight_between_its_knots_and_goes_round() -> None:
    rate = Rate(one([1.0, 3.0]), Noise(), 1)
    at_s = np.array([300.0, 600.0, 900.0, 1_200.0, 1_500.0, -300.0])
    assert rate.at(at_s).tolist() == pytest.approx([1.0, 2.0, 3.0, 2.0, 1.0, 3.0])
    assert one([1.0, 3.0]).mean_per_s == pytest.approx(2.0)


def test_the_mean_of_uneven_knots_is_that_over_time() -> None:
    envelope = Envelope(np.array([0.0, 10.0]), np.array([0.0, 10.0]), 100.0)
    assert envelope.mean_per_s == pytest.approx(5.0)
    uneven = Envelope(np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 0.0]), 100.0)
    assert uneven.mean_per_s == pytest.approx(1.0)


@pytest.mark.parametrize("slow_s", [120.0, 600.0, 3_600.0])
def test_slow_noise_has_mean_1_its_ratio_and_its_time(slow_s: float) -> None:
    rate = Rate(one([1.0]), Noise(ratio=0.1, slow_s=slow_s), 2)
    at_s = np.arange(NOISE_KNOTS) * NOISE_KNOT_S
    values = rate.at(at_s)
    assert values.mean() == pytest.approx(1.0, abs=0.005)
    assert values.std() == pytest.approx(0.1, rel=0.05)
    later = rate.at(at_s + slow_s)
    assert np.corrcoef(values, later)[0, 1] == pytest.approx(np.exp(-1.0), abs=0.06)


def test_the_level_of_weeks_differs_and_changes_without_a_step() -> None:
    rate = Rate(one([1.0]), Noise(week_ratio=0.05), 2)
    weeks = rate.at((np.arange(60) + 0.5) * WEEK_S)
    assert weeks.std() == pytest.approx(0.05, rel=0.3)
    assert weeks.mean() == pytest.approx(1.0, abs=0.02)
    hours = rate.at(np.arange(60 * 168) * 3_600.0)
    assert np.abs(np.diff(hours)).max() < 0.002


def test_noise_depends_on_the_seed_alone() -> None:
    at_s = np.arange(0.0, DAY_S, 60.0)
    noise = Noise(ratio=0.1)
    one_seed, same, other = (Rate(one([1.0]), noise, seed).at(at_s) for seed in (1, 1, 2))
    assert one_seed.tolist() == same.tolist()
    assert abs(np.corrcoef(one_seed, other)[0, 1]) < 0.3


def test_the_diurnal_week_peaks_at_its_peak_on_a_weekday_and_rests_at_the_weekend() -> None:
    week = diurnal_week(1.0)
    assert week.peak_per_s == pytest.approx(1.0)
    assert week.period_s == WEEK_S
    peak_s = week.at_s[week.rate_per_s.argmax()]
    assert 1 <= peak_s // DAY_S <= 5  # the week begins on a Sunday
    assert 13.0 <= peak_s % DAY_S / 3_600.0 <= 15.5
    days = [week.rate_per_s[week.at_s // DAY_S == day].mean() for day in range(7)]
    assert max(days[0], days[6]) < 0.75 * min(days[1:6])
    assert week.peak_per_s / week.rate_per_s.min() == pytest.approx(3.5, abs=0.3)


def test_six_weeks_of_polca_have_the_declared_peak_and_noise() -> None:
    workload = polca(peak_per_s=0.8, noise=Noise(ratio=0.03, slow_s=300.0, week_ratio=0.02))
    course = Rate(workload.envelope, workload.noise, 1).at(np.arange(0.0, 6 * WEEK_S, 30.0))
    still = Rate(workload.envelope, Noise(), 1).at(np.arange(0.0, 6 * WEEK_S, 30.0))
    assert still.max() == pytest.approx(0.8, rel=0.01)
    assert course.max() == pytest.approx(0.8 * 1.09, rel=0.05)
    assert (course / still).std() == pytest.approx(0.035, abs=0.008)


@pytest.mark.parametrize(
    ("at_s", "rate", "period_s", "said"),
    [
        ([], [], 1.0, "at least one"),
        ([0.0], [1.0, 2.0], 1.0, "as many rates as times"),
        ([0.0, 0.0], [1.0, 1.0], 1.0, "ascending times"),
        ([-1.0, 0.0], [1.0, 1.0], 1.0, "ascending times from 0"),
        ([0.0, 1.0], [1.0, 1.0], 1.0, "before its period's end"),
        ([0.0], [-1.0], 1.0, "rates of 0 and more"),
        ([0.0], [float("nan")], 1.0, "rates of 0 and more"),
        ([0.0], [0.0], 1.0, "one above 0"),
    ],
)
def test_what_is_no_course_of_rates_is_refused(
    at_s: list[float], rate: list[float], period_s: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Envelope(np.array(at_s), np.array(rate), period_s)


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ({"ratio": 1.1}, "ratio is 1.1; expected from 0 to 1"),
        ({"week_ratio": -0.1}, "week_ratio is -0.1; expected from 0 to 1"),
        ({"slow_s": 29.0}, "slow_s is 29; expected from 30 to 604800"),
    ],
)
def test_noise_that_cannot_be_drawn_is_refused(noise: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Noise(**noise)


SHORT = Lengths(np.array([1, 2, 3]), np.array([1, 1, 1]))
LONG = Lengths(np.array([1_000]), np.array([100]))


def test_kinds_have_their_share_of_the_table_and_of_each_priority() -> None:
    workload = Workload(
        "x",
        one([1.0]),
        (
            Kind("short", 0.25, SHORT, {"high": 1.0}),
            Kind("long", 0.75, LONG, {"high": 1 / 3, "low": 2 / 3}),
        ),
    )
    assert workload.priorities == pytest.approx({"high": 0.5, "low": 0.5})
    assert (workload.lengths().prompt_tokens == 1_000).sum() == 0.75 * TABLE
    high = workload.lengths("high").prompt_tokens
    assert (high == 1_000).sum() == TABLE / 2
    assert np.bincount(high, minlength=4)[1:4] == pytest.approx([TABLE / 6] * 3, abs=1)
    assert workload.lengths("low").prompt_tokens.min() == 1_000


def test_priorities_of_nodes_are_spread_and_the_first_stay_when_more_come() -> None:
    workload = polca()
    many = workload.node_priorities(60)
    for count in (1, 2, 7, 40, 52):
        assert workload.node_priorities(count) == many[:count]
        assert abs(many[:count].count("low") - count / 2) <= 0.5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Kind("k", 0.0, SHORT), "k: share is 0; expected above 0"),
        (lambda: Kind("k", 1.0, SHORT, {"high": 0.5}), "k: priorities sum to 0.5"),
        (lambda: Lengths(np.array([0]), np.array([1])), "at least one token each"),
        (lambda: Lengths(np.array([1]), np.array([1, 1])), "as many prompts as answers"),
        (lambda: Workload("w", one([1.0]), (Kind("k", 0.5, SHORT),)), "w: shares of kinds sum to"),
        (lambda: Workload("w", one([1.0]), (Kind("k", 1.0, SHORT),), cv=0.9), "w: cv is 0.9; exp"),
        (
            lambda: Workload(
                "w", one([1.0]), (Kind("k", 0.5, SHORT), Kind("l", 0.5, SHORT, {"high": 1.0}))
            ),
            "w: either all kinds have priorities or none",
        ),
        (lambda: steady().node_priorities(3), "w says nothing about priorities"),
    ],
)
def test_a_workload_that_cannot_be_drawn_from_is_refused(make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=said):
        make()


def steady() -> Workload:
    return Workload("w", one([1.0]), (Kind("k", 1.0, SHORT),))
