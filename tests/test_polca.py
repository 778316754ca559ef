"""POLCA, Algorithm 1, threshold by threshold (papers: ASPLOS 2024, section 5)."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.fleet import Fleet
from controllers.policies import PolcaPolicy
from controllers.policy import Situation
from tests.row import site_of

SITE = site_of(nodes=8, policy="polca")
FLEET = Fleet(SITE)
ROW = FLEET.domain_index["row-1"]
LOW = FLEET.low_priority


def situation(ratio: float, at_s: float) -> Situation:
    """A row at `ratio` of its capacity; all other domains have room."""
    shares = FLEET.shares(frozenset())
    capacity_w = np.full(len(FLEET.domains), 1e9)
    capacity_w[ROW] = 100_000.0
    nodes = len(FLEET.nodes)
    return Situation(
        now_s=at_s,
        fleet=FLEET,
        control=SITE.control,
        shares=shares,
        over_table=np.ones(nodes),
        rated_w=capacity_w,
        capacity_w=capacity_w,
        power_w=np.full(nodes, ratio * 100_000.0 / nodes),
        rise_w=np.zeros(len(FLEET.domains)),
        ceiling_mhz=FLEET.clock_mhz_max.astype(np.int64),
        measured_mhz=FLEET.clock_mhz_max.astype(np.int64),
        movable=np.ones(nodes, dtype=np.bool_),
        hold=False,
    )


def clocks(ratios: list[float]) -> tuple[float, float]:
    """Clocks of low and high priority, as shares of the highest, after a course of row loads."""
    policy = PolcaPolicy(len(FLEET.domains))
    for at_s, ratio in enumerate(ratios):
        proposal = policy.propose(situation(ratio, 2.0 * at_s))
    share = proposal.ceiling_mhz / FLEET.clock_mhz_max
    return float(share[LOW].max()), float(share[~LOW].max())


@pytest.mark.parametrize(
    ("ratios", "low", "high"),
    [
        ([0.79], 1.0, 1.0),
        ([0.80], 1275 / 1410, 1.0),
        ([0.88], 1275 / 1410, 1.0),
        ([0.89], 1110 / 1410, 1.0),
        ([0.89, 0.89], 1110 / 1410, 1305 / 1410),
        ([0.89, 0.89, 0.85], 1110 / 1410, 1305 / 1410),
        ([0.89, 0.89, 0.83], 1110 / 1410, 1.0),
        ([0.89, 0.89, 0.83, 0.83], 1275 / 1410, 1.0),
        ([0.80, 0.76], 1275 / 1410, 1.0),
        ([0.80, 0.74], 1.0, 1.0),
    ],
)
def test_clocks_follow_the_thresholds(ratios: list[float], low: float, high: float) -> None:
    got_low, got_high = clocks(ratios)
    assert got_low == pytest.approx(low, abs=0.008)
    assert got_high == pytest.approx(high, abs=0.008)


@pytest.mark.parametrize(("ratio", "brakes"), [(0.999, False), (1.001, True)])
def test_the_brake_falls_at_the_limit(ratio: float, brakes: bool) -> None:
    policy = PolcaPolicy(len(FLEET.domains))
    assert bool(policy.propose(situation(ratio, 0.0)).brake[ROW]) is brakes
