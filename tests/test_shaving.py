"""Policies that shave: groups of nodes decide as single nodes do, and what a sentence rests on."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.fleet import BoolArray, FloatArray, IntArray
from controllers.holding import held
from controllers.policies import make_policy
from controllers.policy import Proposal, Situation
from controllers.shaving import Crowd, ShavingPolicy, demand_of
from facility.config import PolicyName
from predictors.steady import Steady
from tests.series import noise
from tests.sweeps import Course, drive, rows_site

SHAVING: tuple[PolicyName, ...] = ("uniform", "ampacity")


class NodesOnly(ShavingPolicy):
    """The same policy when nothing may be taken together."""

    def propose(self, situation: Situation) -> Proposal:
        if self._crowd is None:
            crowd = Crowd(situation.fleet, situation.tree, by_priority=self._by_priority)
            crowd._groups = crowd._nodes
            self._crowd = crowd
        return super().propose(situation)


@pytest.mark.parametrize("policy", SHAVING)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_groups_decide_exactly_what_their_nodes_would(policy: PolicyName, seed: int) -> None:
    site = rows_site(3, 10, policy)
    course = Course(site, seed=seed, steps=120)
    by_priority = policy == "ampacity"
    one = ShavingPolicy(3, by_priority=by_priority, cycle_s=2.0)
    other = NodesOnly(3, by_priority=by_priority, cycle_s=2.0)
    nobody = np.zeros(30, dtype=np.bool_)
    lowered = False
    for step in range(120):
        situation = course.situation(step)
        found, expected = one.propose(situation), other.propose(dataclasses.replace(situation))
        assert (found.ceiling_mhz == expected.ceiling_mhz).all()
        assert (found.bound_by == expected.bound_by).all()
        assert (found.brake == expected.brake).all()
        lowered |= bool((found.bound_by >= 0).any())
        course.ceiling_mhz = held(situation, found, brake=found.brake, missing=nobody, blind=nobody)
    assert lowered


def test_sixty_alike_nodes_of_two_priorities_are_two_parts_until_one_is_different() -> None:
    site = rows_site(2, 60, "ampacity")
    situation = Course(site, seed=1, steps=2).situation(0)
    crowd = Crowd(situation.fleet, situation.tree, by_priority=True)
    assert crowd.parts(situation)[0].count == 4
    one_stuck: BoolArray = np.arange(120) != 7
    other = dataclasses.replace(situation, movable=one_stuck)
    assert crowd.parts(other)[0].count == 120
    ceiling_mhz = situation.ceiling_mhz + 15 * (np.arange(120) == 7)
    assert crowd.parts(dataclasses.replace(situation, ceiling_mhz=ceiling_mhz))[0].count == 120


def test_what_parts_draw_is_what_their_nodes_draw() -> None:
    site = rows_site(2, 20, "ampacity")
    situation = Course(site, seed=2, steps=2).situation(1)
    crowd = Crowd(situation.fleet, situation.tree, by_priority=True)
    parts, ceiling_mhz = crowd.parts(situation)
    demand = demand_of(situation, parts, Steady(age_s=0.0, cycle_s=1.0))
    above_w = parts.levels.above_idle_w(ceiling_mhz)
    now_w = parts.tree.load(demand.expected_w + demand.expected_slope * above_w)
    assert now_w == pytest.approx(situation.domain_power_w)
    assert demand.scale * now_w == pytest.approx(situation.domain_power_w + situation.rise_w)


@pytest.mark.parametrize("model_ratio", [1.0, 0.5])
def test_what_clocks_give_is_what_gpus_draw_and_not_what_a_model_says_of_the_rest(
    model_ratio: float,
) -> None:
    fleet = Course(rows_site(1, 10, "ampacity"), seed=2, steps=1).fleet
    overhead_w, idle_w = model_ratio * fleet.overhead_w, fleet.gpu_factor * fleet.idle_w

    def power_w(ceiling_mhz: IntArray) -> FloatArray:
        above_w = fleet.worst_case_w(ceiling_mhz) - fleet.idle_node_w
        drawn_w: FloatArray = overhead_w + idle_w + 0.4 * above_w
        return drawn_w

    slow_w = power_w(fleet.safe_ceiling_mhz)
    free_w = fleet.free_w(slow_w, fleet.safe_ceiling_mhz, overhead_w)
    assert free_w == pytest.approx(power_w(fleet.clock_mhz_max))
    assert (free_w > 1.2 * slow_w).all()


def test_a_slow_path_answers_how_busy_nodes_have_been_and_not_the_moment() -> None:
    site = rows_site(1, 10, "ampacity", actuation_s=40.0, horizon_s=42.0)
    start = dataclasses.replace(Course(site, seed=1, steps=1).situation(0), rise_w=np.zeros(1))
    usual_w = start.domain_power_w
    room = dataclasses.replace(start, capacity_w=1.1 * usual_w, rated_w=1.3 * usual_w)
    policy = make_policy("ampacity", domain_count=1, cycle_s=2.0)
    for step in range(40):
        policy.propose(dataclasses.replace(room, now_s=2.0 * step))
    higher_w = start.overhead_w + 1.3 * (start.power_w - start.overhead_w)
    lowers = []
    for step in range(40, 80):
        high = dataclasses.replace(room, now_s=2.0 * step, power_w=higher_w)
        lowers.append(bool((policy.propose(high).ceiling_mhz < start.ceiling_mhz).any()))
    assert not lowers[0]  # one reading is no reason
    assert lowers[-1]  # a minute is


@pytest.mark.parametrize("policy", SHAVING)
@pytest.mark.parametrize(("ratio", "moves"), [(0.91, 1), (0.93, 0), (0.969, 0), (0.971, -1)])
def test_clocks_rise_below_the_release_fall_above_the_target_and_rest_between(
    policy: PolicyName, ratio: float, moves: int
) -> None:
    site = rows_site(1, 10, policy)
    situation = Course(site, seed=1, steps=1).situation(0)
    load_w = situation.domain_power_w + situation.rise_w
    capacity_w = load_w / ratio
    situation = dataclasses.replace(situation, capacity_w=capacity_w, rated_w=capacity_w)
    found = make_policy(policy, domain_count=1, cycle_s=2.0).propose(situation)
    changed = found.ceiling_mhz - situation.ceiling_mhz
    assert np.sign(changed.sum()) == moves
    if moves < 0:
        assert (found.bound_by[changed < 0] == 0).all()


def test_a_rise_stops_at_the_release_ratio_and_high_priority_takes_what_there_is() -> None:
    site = rows_site(1, 10, "ampacity")
    situation = Course(site, seed=1, steps=1).situation(0)
    load_w = situation.domain_power_w + situation.rise_w
    capacity_w = load_w / 0.9195
    situation = dataclasses.replace(situation, capacity_w=capacity_w, rated_w=capacity_w)
    policy = make_policy("ampacity", domain_count=1, cycle_s=2.0)
    found = policy.propose(situation)
    risen = found.ceiling_mhz > situation.ceiling_mhz
    low = situation.fleet.low_priority
    assert not risen[low].any()
    step_mhz = 0.04 * situation.fleet.clock_mhz_max
    assert (found.ceiling_mhz - situation.ceiling_mhz < step_mhz).all()
    assert (found.bound_by == 0).all()


def busy_day(rows: int, nodes: int, steps: int, *, seed: int = 1) -> FloatArray:
    """From a quiet night over a peak that needs shaving to a quiet night; noise of 3 %."""
    rng = np.random.default_rng(seed)
    day = 0.45 + 0.40 * np.sin(np.pi * np.arange(steps) / steps)[:, np.newaxis] ** 2
    row = day * (1.0 + 0.03 * noise(rng, steps)[:, :rows])
    load = np.repeat(row, nodes, axis=1) + rng.normal(0.0, 0.05, (steps, rows * nodes))
    return np.asarray(np.clip(load, 0.0, 1.0))


IN_BAND = {"horizon_s": 4.0, "actuation_s": 0.4}
OUT_OF_BAND = {"horizon_s": 42.0, "actuation_s": 40.0}


@pytest.mark.parametrize(("delay_steps", "timing"), [(0, IN_BAND), (20, OUT_OF_BAND)])
@pytest.mark.parametrize("quantile", [0.99, 0.999])
def test_power_passes_what_it_is_kept_under_no_more_often_than_the_quantile_allows(
    quantile: float, delay_steps: int, timing: dict[str, float]
) -> None:
    site = rows_site(
        2, 20, "ampacity", oversold_ratio=1.45, forecast_quantile=quantile,
        history_target_ratio=1.0, **timing,
    )  # fmt: skip
    found = drive(site, busy_day(2, 20, 6_000), delay_steps=delay_steps)
    assert found.low_mhz.min() < 0.8 * site.nodes["row-00-n000"].model.gpu.clock_mhz_max
    assert float((found.ratio > 1.0).mean()) <= 1.0 - quantile
    assert found.ratio.max() > 0.93  # and nothing is kept back for no reason
    assert found.brakes == 0


def test_history_is_worth_clocks() -> None:
    """The spike of a whole row is the margin of those who know nothing else."""
    load = busy_day(2, 20, 3_000)
    site = rows_site(2, 20, "ampacity", oversold_ratio=1.45, **IN_BAND)
    backed, assumed = (drive(site, load, delay_steps=0, history=known) for known in (True, False))
    assert backed.high_mhz.mean() > 1.03 * assumed.high_mhz.mean()
    assert backed.low_mhz.mean() > 1.03 * assumed.low_mhz.mean()
    assert backed.ratio.max() <= 1.0
    assert backed.brakes == assumed.brakes == 0


def test_clocks_do_not_chatter() -> None:
    """Noise turns a node's clock round a few times in an hour, not each cycle."""
    site = rows_site(2, 20, "ampacity", oversold_ratio=1.45, **IN_BAND)
    found = drive(site, busy_day(2, 20, 3_000), delay_steps=0)
    assert 0 < found.turns / 40.0 / (3_000 * 2.0 / 3_600.0) <= 30.0


@pytest.mark.parametrize(("actuation_s", "waits_s"), [(0.4, 0.0), (40.0, 40.0)])
def test_nobody_rises_while_a_command_to_slow_down_is_on_its_way(
    actuation_s: float, waits_s: float
) -> None:
    site = rows_site(1, 10, "ampacity", actuation_s=actuation_s, horizon_s=42.0)
    policy = make_policy("ampacity", domain_count=1, cycle_s=2.0)
    start = Course(site, seed=1, steps=1).situation(0)
    load_w = start.domain_power_w + start.rise_w
    tight = dataclasses.replace(start, capacity_w=load_w, rated_w=load_w)
    slow_mhz = policy.propose(tight).ceiling_mhz
    assert (slow_mhz < start.ceiling_mhz)[start.fleet.low_priority].all()
    risen = []
    for at_s in range(2, 60, 2):
        roomy = dataclasses.replace(
            start, now_s=float(at_s), ceiling_mhz=slow_mhz, capacity_w=2.0 * load_w,
            rated_w=2.0 * load_w,
        )  # fmt: skip
        low = policy.propose(roomy).ceiling_mhz[start.fleet.low_priority]
        if (low > slow_mhz[start.fleet.low_priority]).any():
            risen.append(at_s)
    assert risen[0] == waits_s + 2.0
    assert risen == list(range(risen[0], 60, 2))


@pytest.mark.parametrize(("ratio", "lowers"), [(0.975, False), (0.985, True)])
def test_where_history_backs_the_forecast_its_own_target_counts(ratio: float, lowers: bool) -> None:
    site = rows_site(2, 10, "ampacity")
    situation = Course(site, seed=1, steps=1).situation(0)
    capacity_w = (situation.domain_power_w + situation.rise_w) / ratio
    situation = dataclasses.replace(
        situation, capacity_w=capacity_w, rated_w=capacity_w, from_history=np.array([True, False])
    )
    found = make_policy("ampacity", domain_count=2, cycle_s=2.0).propose(situation)
    low = situation.fleet.low_priority & (found.ceiling_mhz < situation.ceiling_mhz)
    assert bool(low[:10].any()) is lowers
    assert low[10:].any()


@pytest.mark.parametrize(
    ("capacity_ratio", "low_mhz", "high_mhz"),
    [(0.99, (1545, 1979), (1980, 1980)), (0.94, (1006, 1544), (1830, 1830)),
     (0.85, (1005, 1005), (1006, 1829))],
)  # fmt: skip
def test_what_costs_little_is_given_by_both_before_low_priority_gives_more(
    capacity_ratio: float, low_mhz: tuple[int, int], high_mhz: tuple[int, int]
) -> None:
    """Of 1980 MHz, 0.787 is 1545 on the clock grid, and 0.926 is 1830."""
    site = rows_site(1, 10, "ampacity")
    control = msgspec.structs.replace(site.control, easy_ratios=(0.787, 0.926))
    course = Course(site, seed=1, steps=1)
    course.ceiling_mhz = course.fleet.clock_mhz_max
    situation = dataclasses.replace(course.situation(0), control=control)
    load_w = situation.domain_power_w + situation.rise_w
    capacity_w = capacity_ratio * load_w / control.target_ratio
    situation = dataclasses.replace(situation, capacity_w=capacity_w, rated_w=load_w)
    found = make_policy("ampacity", domain_count=1, cycle_s=2.0).propose(situation).ceiling_mhz
    low = situation.fleet.low_priority
    assert low_mhz[0] <= found[low].min() <= found[low].max() <= low_mhz[1]
    assert high_mhz[0] <= found[~low].min() <= found[~low].max() <= high_mhz[1]
