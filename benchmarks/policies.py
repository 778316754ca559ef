"""What a forecast and a decision of each policy cost, for one row and for a sweep of twenty rows.

The load is a day: each row has more of it than the one before, so that in the evening some are far
from every threshold and some beyond all. What a policy decides changes what the nodes draw. Means
leave out the slowest 2 %, which somebody else interrupted. The last column sets each policy against
`brake-only`, which only adds up power and compares it.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from benchmarks._table import Figure, at_most, machine, percentile, show
from controllers.holding import held
from controllers.policies import make_policy
from facility.config import POLICIES, PolicyName
from predictors.power import PowerForecaster
from tests.sweeps import Course, rows_site

STEPS: Final = 3_000
FORECAST_US_MAX: Final = 40.0
SIZES: Final = ((20, 60, 150.0), (1, 40, 60.0))
"""Rows, nodes per row, and the budget of one proposal in us."""


def usual_us(took_us: list[float]) -> float:
    """The mean without the slowest 2 %."""
    return float(np.mean(sorted(took_us)[: int(0.98 * len(took_us))]))


def proposals_us(policy_name: PolicyName, rows: int, nodes: int) -> tuple[list[float], float]:
    """What each proposal took, and the share of steps in which any node was slowed."""
    site = rows_site(rows, nodes, policy_name)
    course = Course(site, seed=3, steps=STEPS)
    course.ceiling_mhz = course.fleet.clock_mhz_max
    policy = make_policy(policy_name, domain_count=rows, cycle_s=site.control.cycle_s)
    nobody = np.zeros(rows * nodes, dtype=np.bool_)
    took_us, slowed = [], 0
    for step in range(STEPS):
        situation = course.situation(step)
        begun_ns = time.perf_counter_ns()
        proposal = policy.propose(situation)
        took_us.append((time.perf_counter_ns() - begun_ns) / 1e3)
        course.ceiling_mhz = held(
            situation, proposal, brake=proposal.brake, missing=nobody, blind=nobody
        )
        slowed += bool((course.ceiling_mhz < course.fleet.clock_mhz_max).any())
    return took_us, slowed / STEPS


def compared(rows: int, nodes: int, most_us: float) -> list[Figure]:
    """One line per policy."""
    found = {name: proposals_us(name, rows, nodes) for name in POLICIES}
    least_us = usual_us(found["brake-only"][0])
    figures = []
    for name, (took_us, slowed) in found.items():
        mean_us = usual_us(took_us)
        figures.append(
            Figure(
                f"{rows} x {nodes} nodes: {name}, slowing in {100 * slowed:.0f} % of steps",
                f"{mean_us:.0f} us, p95 {percentile(took_us, 0.95):.0f} us,"
                f" {mean_us / least_us:.1f} x brake-only",
                f"<= {most_us:g} us",
                within=mean_us <= most_us,
            )
        )
    return figures


def forecast() -> Figure:
    """One cycle of the forecast of twenty domains, as a sweep has it."""
    rng = np.random.default_rng(1)
    power = PowerForecaster(20, cycle_s=2.0, horizon_s=2.0, quantile=0.9999, spike_ratio=0.09)
    level_w = 2e5 * np.exp(0.03 * rng.standard_normal((STEPS, 20)))
    took_us = []
    for step, power_w in enumerate(level_w):
        begun_ns = time.perf_counter_ns()
        power.forecast(power_w, free_w=power_w, now_s=2.0 * step)
        took_us.append((time.perf_counter_ns() - begun_ns) / 1e3)
    return at_most("20 domains: forecast", usual_us(took_us), FORECAST_US_MAX, "us", digits=0)


def main() -> None:
    """Print one line per policy and size."""
    print(machine())
    show([forecast()] + [figure for size in SIZES for figure in compared(*size)])
