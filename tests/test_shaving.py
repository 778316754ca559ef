"""Policies that shave: groups of nodes decide as single nodes do, and what a sentence rests on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.fleet import BoolArray
from controllers.holding import held
from controllers.policies import make_policy
from controllers.policy import Proposal, Situation
from controllers.shaving import Crowd, ShavingPolicy, demand_of
from facility.config import PolicyName
from tests.sweeps import Course, rows_site

SHAVING: tuple[PolicyName, ...] = ("uniform", "ampacity")


class NodesOnly(ShavingPolicy):
    """The same policy when nothing may be taken together."""

    def propose(self, situation: Situation) -> Proposal:
        if self._crowd is None:
            crowd = Crowd(situation.fleet, situation.tree)
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
    crowd = Crowd(situation.fleet, situation.tree)
    assert crowd.parts(situation)[0].count == 4
    one_stuck: BoolArray = np.arange(120) != 7
    other = dataclasses.replace(situation, movable=one_stuck)
    assert crowd.parts(other)[0].count == 120
    ceiling_mhz = situation.ceiling_mhz + 15 * (np.arange(120) == 7)
    assert crowd.parts(dataclasses.replace(situation, ceiling_mhz=ceiling_mhz))[0].count == 120


def test_what_parts_draw_is_what_their_nodes_draw() -> None:
    site = rows_site(2, 20, "ampacity")
    situation = Course(site, seed=2, steps=2).situation(1)
    crowd = Crowd(situation.fleet, situation.tree)
    parts, ceiling_mhz = crowd.parts(situation)
    demand = demand_of(situation, parts)
    above_w = parts.levels.above_idle_w(ceiling_mhz)
    now_w = parts.tree.load(demand.expected_w + demand.expected_slope * above_w)
    assert now_w == pytest.approx(situation.domain_power_w)
    assert demand.scale * now_w == pytest.approx(situation.domain_power_w + situation.rise_w)


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
