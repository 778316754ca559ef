"""A budget fills with time up to a burst, and spends all of a cost or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facility.budget import Budget, Rate

RATE = Rate(per_s=2.0, burst=6.0)


def test_a_burst_may_be_spent_at_once_and_no_more() -> None:
    budget = Budget(RATE, 100.0)
    assert [budget.spend(100.0) for _ in range(7)] == [True] * 6 + [False]


def test_what_is_over_budget_costs_nothing() -> None:
    budget = Budget(RATE, 0.0)
    assert not budget.spend(0.0, 6.1)
    assert budget.spend(0.0, 6.0)


def test_an_empty_budget_fills_with_time() -> None:
    budget = Budget(RATE, 0.0)
    assert budget.spend(0.0, 6.0)
    assert budget.wait_s(0.0) == pytest.approx(0.5)
    assert not budget.spend(0.49)
    assert budget.spend(0.51)


def test_a_clock_that_runs_back_fills_nothing() -> None:
    budget = Budget(RATE, 50.0)
    assert budget.spend(50.0, 6.0)
    assert not budget.spend(0.0)
    assert not budget.spend(50.0)


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 8.0)), max_size=50))
def test_never_more_is_spent_than_a_burst_and_what_time_gave(
    steps: list[tuple[float, float]],
) -> None:
    budget, now_s, spent = Budget(RATE, 0.0), 0.0, 0.0
    for pause_s, cost in steps:
        now_s += pause_s
        spent += cost if budget.spend(now_s, cost) else 0.0
        assert spent <= RATE.burst + RATE.per_s * now_s + 1e-6
