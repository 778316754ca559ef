"""POLCA, Algorithm 1, and its two baselines, threshold by threshold (ASPLOS 2024, section 5)."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from controllers.fleet import Fleet
from controllers.policy import Situation
from controllers.thresholds import (
    ONE_THRESHOLD_ALL,
    ONE_THRESHOLD_LOW,
    POLCA,
    Step,
    ThresholdPolicy,
)
from tests.row import site_of

SITE = site_of(nodes=8, policy="polca")
FLEET = Fleet(SITE)
ROW = FLEET.domain_index["row-1"]
LOW = FLEET.low_priority


def situation(
    ratio: float, at_s: float, *, actuation_s: float = 0.4, hold: bool = False
) -> Situation:
    """A row at `ratio` of its capacity; all other domains have room."""
    shares = FLEET.shares(frozenset())
    capacity_w = np.full(len(FLEET.domains), 1e9)
    capacity_w[ROW] = 100_000.0
    nodes = len(FLEET.nodes)
    return Situation(
        now_s=at_s,
        fleet=FLEET,
        control=msgspec.structs.replace(SITE.control, actuation_s=actuation_s),
        shares=shares,
        over_table=np.ones(nodes),
        rated_w=capacity_w,
        capacity_w=capacity_w,
        power_w=np.full(nodes, ratio * 100_000.0 / nodes),
        overhead_w=FLEET.overhead_w,
        rise_w=np.zeros(len(FLEET.domains)),
        ceiling_mhz=FLEET.clock_mhz_max.astype(np.int64),
        measured_mhz=FLEET.clock_mhz_max.astype(np.int64),
        movable=np.ones(nodes, dtype=np.bool_),
        hold=hold,
    )


def clocks(
    ratios: list[float],
    *,
    steps: tuple[Step, ...] = POLCA,
    actuation_s: float = 0.4,
    period_s: float = 2.0,
) -> tuple[float, float]:
    """Clocks of low and high priority, as shares of the highest, after a course of row loads."""
    policy = ThresholdPolicy(len(FLEET.domains), steps)
    for place, ratio in enumerate(ratios):
        proposal = policy.propose(situation(ratio, period_s * place, actuation_s=actuation_s))
    share = proposal.ceiling_mhz / FLEET.clock_mhz_max
    return float(share[LOW].max()), float(share[~LOW].max())


BASE, DEEP, HIGH = 1275 / 1410, 1110 / 1410, 1305 / 1410


@pytest.mark.parametrize(
    ("ratios", "low", "high"),
    [
        ([0.79], 1.0, 1.0),
        ([0.80], BASE, 1.0),
        ([0.88], BASE, 1.0),
        ([0.89], DEEP, 1.0),
        ([0.80, 0.89], DEEP, 1.0),
        ([0.89, 0.89], DEEP, HIGH),
        ([0.89, 0.89, 0.85], DEEP, HIGH),
        ([0.89, 0.89, 0.83], DEEP, 1.0),
        ([0.89, 0.89, 0.83, 0.83], BASE, 1.0),
        ([0.80, 0.76], BASE, 1.0),
        ([0.80, 0.74], 1.0, 1.0),
    ],
)
def test_clocks_follow_the_thresholds(ratios: list[float], low: float, high: float) -> None:
    assert clocks(ratios) == pytest.approx((low, high), abs=0.008)


@pytest.mark.parametrize(
    ("ratios", "low", "high"),
    [
        ([0.88], 1.0, 1.0),
        ([0.89], DEEP, 1.0),
        ([0.89, 0.95, 0.95], DEEP, 1.0),
        ([0.89, 0.84], DEEP, 1.0),
        ([0.89, 0.83], 1.0, 1.0),
    ],
)
def test_one_threshold_slows_low_priority_alone(
    ratios: list[float], low: float, high: float
) -> None:
    assert clocks(ratios, steps=ONE_THRESHOLD_LOW) == pytest.approx((low, high), abs=0.008)


@pytest.mark.parametrize(
    ("ratios", "both"), [([0.88], 1.0), ([0.89], DEEP), ([0.89, 0.84], DEEP), ([0.89, 0.83], 1.0)]
)
def test_one_threshold_for_all_slows_everybody_alike(ratios: list[float], both: float) -> None:
    assert clocks(ratios, steps=ONE_THRESHOLD_ALL) == pytest.approx((both, both), abs=0.008)


@pytest.mark.parametrize(("seconds", "high"), [(40, 1.0), (42, HIGH)])
def test_high_priority_waits_until_what_low_was_told_has_been_carried_out(
    seconds: int, high: float
) -> None:
    """A command through a server's own controller takes 40 s: until then power says nothing."""
    ratios = [0.90] * (seconds // 2 + 1)
    assert clocks(ratios, actuation_s=40.0) == pytest.approx((DEEP, high), abs=0.008)


@pytest.mark.parametrize(("seconds", "low"), [(40, DEEP), (42, BASE)])
def test_nothing_is_given_back_while_a_command_is_in_flight(seconds: int, low: float) -> None:
    ratios = [0.90] + [0.80] * (seconds // 2)
    assert clocks(ratios, actuation_s=40.0) == pytest.approx((low, 1.0), abs=0.008)


def test_a_higher_threshold_is_answered_at_once_whatever_is_in_flight() -> None:
    assert clocks([0.82, 0.90], actuation_s=40.0) == pytest.approx((DEEP, 1.0), abs=0.008)


def test_the_meter_is_read_every_two_seconds_however_short_the_cycle_is() -> None:
    assert clocks([0.70, 0.90], period_s=1.0) == (1.0, 1.0)
    assert clocks([0.70, 0.90, 0.90], period_s=1.0) == pytest.approx((DEEP, 1.0), abs=0.008)


def test_each_domain_is_on_its_own_and_the_lowest_ceiling_wins() -> None:
    policy = ThresholdPolicy(len(FLEET.domains), POLCA)
    quiet = situation(0.5, 0.0)
    rack = FLEET.domain_index["rack-01"]
    capacity_w = quiet.capacity_w.copy()
    capacity_w[rack] = quiet.domain_power_w[rack] / 0.9
    capacity_w[ROW] = quiet.domain_power_w[ROW] / 0.82
    proposal = policy.propose(dataclasses.replace(quiet, capacity_w=capacity_w, rated_w=capacity_w))
    below = quiet.shares[rack] > 0.0
    share = proposal.ceiling_mhz / FLEET.clock_mhz_max
    assert share[LOW & below] == pytest.approx(DEEP, abs=0.008)
    assert share[LOW & ~below] == pytest.approx(BASE, abs=0.008)
    assert (proposal.bound_by[LOW & below] == rack).all()
    assert (proposal.bound_by[LOW & ~below] == ROW).all()
    assert (proposal.bound_by[~LOW] == -1).all()


def test_nothing_rises_while_too_much_is_silent() -> None:
    policy = ThresholdPolicy(len(FLEET.domains), POLCA)
    quiet = situation(0.5, 0.0, hold=True)
    low_mhz = np.full(len(FLEET.nodes), 1005)
    proposal = policy.propose(dataclasses.replace(quiet, ceiling_mhz=low_mhz))
    assert (proposal.ceiling_mhz == low_mhz).all()


@pytest.mark.parametrize(("ratio", "brakes"), [(0.999, False), (1.001, True)])
@pytest.mark.parametrize("steps", [POLCA, ONE_THRESHOLD_LOW, ONE_THRESHOLD_ALL])
def test_the_brake_falls_at_the_limit(steps: tuple[Step, ...], ratio: float, brakes: bool) -> None:
    policy = ThresholdPolicy(len(FLEET.domains), steps)
    assert bool(policy.propose(situation(ratio, 0.0)).brake[ROW]) is brakes


def test_the_brake_is_released_after_a_quiet_while_and_not_by_a_moment_of_it() -> None:
    policy = ThresholdPolicy(len(FLEET.domains), POLCA)
    course = [(0, 1.01), (2, 0.5), (4, 0.95), (6, 0.5), (10, 0.5), (11, 0.5), (12, 1.01)]
    braked = [
        at_s for at_s, ratio in course if policy.propose(situation(ratio, float(at_s))).brake[ROW]
    ]
    assert braked == [0, 2, 4, 6, 10, 12]
