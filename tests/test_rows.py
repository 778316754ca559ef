"""A row driven tick by tick: ceilings count at once, latency is kept by priority, steps agree."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simulator.rows import RequestRow, Row, Served, Times
from tests.twin_rows import FULL_MHZ, TICK_S, drive, polca_row

QUARTER_S = 900.0
LOW_MHZ = 1110.0


def latencies(served: dict[str, Served]) -> dict[str, float]:
    """Medians and P95 by priority and kind, s: a quarter of an hour has too few for a P99."""
    found = {}
    for priority, item in served.items():
        for kind in ("ttft", "tpot", "itl", "e2e"):
            times: Times = getattr(item, kind)
            for share in (0.5, 0.95):
                value = times.quantile_s(share)
                assert value is not None
                found[f"{priority} {kind} {share}"] = value
    return found


def test_the_request_level_is_a_row() -> None:
    row: Row = polca_row(nodes=4, requests_per_s=3.0, warm_up_s=10.0)
    power_w = row.step(np.full(4, FULL_MHZ), TICK_S)
    assert power_w.shape == (4,)
    assert set(row.served()) == {"high", "low"}


def test_a_quarter_of_a_second_is_as_good_as_a_tenth() -> None:
    found = []
    for dt_s in (0.25, 0.1):
        row = polca_row(dt_s=dt_s)
        row_w = drive(row, seconds=QUARTER_S).sum(axis=1)
        found.append((row_w.mean(), np.percentile(row_w, 99.0), latencies(row.served())))
    (mean_w, p99_w, times), (exact_mean_w, exact_p99_w, exact_times) = found
    assert mean_w == pytest.approx(exact_mean_w, rel=0.01)
    assert p99_w == pytest.approx(exact_p99_w, rel=0.01)
    assert times == pytest.approx(exact_times, rel=0.03)


def test_the_same_seed_gives_the_same_row_and_another_does_not() -> None:
    def figures(seed: int) -> str:
        row = polca_row(nodes=4, requests_per_s=3.0, warm_up_s=10.0, seed=seed)
        power_w = drive(row, seconds=20.0)
        return json.dumps([power_w.tolist(), [item.served for item in row.served().values()]])

    assert figures(1) == figures(1)
    assert figures(1) != figures(2)


def test_a_ceiling_counts_from_the_beginning_of_its_tick_on_the_nodes_that_have_it() -> None:
    row = polca_row(nodes=4, requests_per_s=3.0, warm_up_s=120.0)
    full_w = drive(row, seconds=60.0).mean(axis=0)
    half = np.array([LOW_MHZ, LOW_MHZ, FULL_MHZ, FULL_MHZ])
    slow_w = np.mean([row.step(half, TICK_S) for _ in range(30)], axis=0)
    assert (slow_w[:2] < 0.95 * full_w[:2]).all()
    assert (slow_w[2:] > 0.95 * full_w[2:]).all()
    assert row.plant.bank.clock_mhz[:, :16].max() == LOW_MHZ
    assert row.plant.bank.clock_mhz[:, 16:].max() == FULL_MHZ


def test_lower_clocks_cost_latency_and_no_request() -> None:
    def run(clock_mhz: float) -> Served:
        row = polca_row(nodes=6, requests_per_s=4.0, warm_up_s=120.0)
        drive(row, seconds=300.0, ceiling_mhz=lambda _tick: clock_mhz)
        return row.served()["high"]

    full, slow = run(FULL_MHZ), run(LOW_MHZ)
    assert full.arrived == pytest.approx(slow.arrived, rel=0.01)
    assert full.lost == slow.lost == 0
    for kind in ("ttft", "tpot", "e2e"):
        fast_s, slow_s = getattr(full, kind).mean_s, getattr(slow, kind).mean_s
        assert 1.02 < slow_s / fast_s < 1.6


def test_a_row_far_over_its_capacity_goes_on_because_nothing_opens() -> None:
    row = polca_row(nodes=4, requests_per_s=3.0, warm_up_s=10.0)
    row.plant.tree.capacity_w[:] = 1.0
    power_w = drive(row, seconds=60.0)
    assert not row.plant.tree.tripped
    assert (power_w > 0.0).all()


@pytest.mark.parametrize("tick_s", [0.0, 0.1, 0.3, 2.1])
def test_a_tick_that_is_no_multiple_of_the_step_is_refused(tick_s: float) -> None:
    row: RequestRow = polca_row(nodes=4, requests_per_s=3.0)
    with pytest.raises(ValueError, match=r"expected a multiple of the step, 0\.25"):
        row.step(np.full(4, FULL_MHZ), tick_s)


def test_a_distribution_without_values_has_no_figures() -> None:
    empty = Times(np.zeros(10))
    assert empty.count == 0.0
    assert empty.mean_s is None
    assert empty.quantile_s(0.5) is None
