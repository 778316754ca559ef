"""Requests drawn from a workload: as the source has them, and the same on both levels."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.loads.envelope import Envelope, Noise, Rate
from simulator.loads.named import NAMES, WorkloadName, workload_named
from simulator.loads.nodes import NodeLoad
from simulator.loads.polca import polca
from simulator.loads.stream import Stream
from simulator.loads.trace import Arrivals
from simulator.loads.workload import Kind, Lengths, Workload

LENGTHS = Lengths(np.array([10, 30, 400]), np.array([5, 1, 90]))


def steady(rate_per_s: float, *, cv: float = 1.0, kinds: tuple[Kind, ...] = ()) -> Workload:
    envelope = Envelope.even(np.full(4, rate_per_s), 60.0)
    return Workload("steady", envelope, kinds or (Kind("all", 1.0, LENGTHS),), cv=cv)


def drawn(workload: Workload, seconds: float, *, scale: float = 1.0, seed: int = 1) -> Arrivals:
    return Stream(workload, scale=scale, seed=seed).until(seconds)


def gaps_cv(arrivals: Arrivals) -> float:
    gaps = np.diff(arrivals.at_s)
    return float(gaps.std() / gaps.mean())


@pytest.mark.parametrize("cv", [1.0, 2.0, 4.0])
def test_gaps_have_the_mean_and_the_variation_of_the_workload(cv: float) -> None:
    arrivals = drawn(steady(30.0, cv=cv), 10_000.0)
    assert len(arrivals.at_s) == pytest.approx(300_000, rel=0.02)
    assert gaps_cv(arrivals) == pytest.approx(cv, rel=0.03)


def test_the_rate_follows_the_envelope_and_falls_silent_with_it() -> None:
    envelope = Envelope.even(np.array([50.0, 0.0, 0.0, 10.0]), 600.0)
    arrivals = drawn(Workload("x", envelope, (Kind("all", 1.0, LENGTHS),)), 24_000.0)
    tenths = np.bincount((arrivals.at_s % 2_400.0 // 60.0).astype(int), minlength=40) / 600.0
    assert tenths[5] == pytest.approx(48.3, rel=0.03)  # straight from 50 at 300 s to 0 at 900 s
    assert tenths[10] == pytest.approx(22.5, rel=0.05)
    assert tenths[15:25].sum() == 0.0
    assert tenths[35] == pytest.approx(12.0, rel=0.05)


def test_arrivals_come_in_order_once_each_however_they_are_asked_for() -> None:
    one, other = (Stream(polca(), scale=30.0, seed=4) for _ in range(2))
    steps = [one.until(0.7 * (step + 1)) for step in range(100)]
    at_once = other.until(70.0)
    assert np.concatenate([part.at_s for part in steps]).tolist() == at_once.at_s.tolist()
    assert at_once.priority is not None
    in_steps = [part.priority for part in steps if part.priority is not None]
    assert np.concatenate(in_steps).tolist() == at_once.priority.tolist()
    assert (np.diff(at_once.at_s) >= 0.0).all()
    assert at_once.at_s[0] >= 0.0
    assert at_once.at_s[-1] < 70.0


def test_the_same_seed_gives_the_same_requests_and_another_seed_others() -> None:
    one, same, other = (drawn(polca(), 100.0, scale=20.0, seed=seed) for seed in (5, 5, 6))
    assert one.at_s.tolist() == same.at_s.tolist()
    assert one.context_tokens.tolist() == same.context_tokens.tolist()
    assert one.at_s.tolist() != other.at_s.tolist()


def test_a_stream_begins_at_the_time_of_the_workload_that_is_asked_for() -> None:
    envelope = Envelope.even(np.array([100.0, 1.0]), 3_600.0)
    workload = Workload("x", envelope, (Kind("all", 1.0, LENGTHS),))
    early, late = (
        Stream(workload, scale=1.0, seed=1, start_s=-60.0, offset_s=offset_s).until(60.0)
        for offset_s in (1_800.0, 5_400.0)
    )
    assert len(early.at_s) == pytest.approx(120 * 99.2, rel=0.05)
    assert len(late.at_s) < 400
    assert early.at_s[0] == pytest.approx(-60.0, abs=1.0)


def test_requests_of_a_priority_have_its_lengths_and_its_share() -> None:
    arrivals = drawn(polca(), 10_000.0, scale=20.0)
    assert arrivals.priority is not None
    low = arrivals.priority == 1
    assert low.mean() == pytest.approx(0.5, abs=0.01)
    assert arrivals.context_tokens[low].mean() == pytest.approx(4_096.0, rel=0.01)
    assert arrivals.context_tokens[~low].mean() == pytest.approx(2_176.0, rel=0.01)
    assert arrivals.generated_tokens[low].mean() == pytest.approx(736.0, rel=0.01)
    assert arrivals.generated_tokens[~low].mean() == pytest.approx(1_312.0, rel=0.01)


def test_where_the_data_says_nothing_about_priorities_requests_have_none() -> None:
    assert drawn(steady(10.0), 10.0).priority is None


def test_a_priority_that_nobody_listed_is_refused() -> None:
    kinds = (Kind("all", 1.0, LENGTHS, {"middle": 1.0}),)
    with pytest.raises(ValueError, match="requests of priority 'middle'; expected only high, low"):
        drawn(steady(1.0, kinds=kinds), 1.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 2e6])
def test_a_rate_that_cannot_be_made_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="requests/s at peak; expected above 0"):
        drawn(steady(1.0), 1.0, scale=scale)


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_lengths_of_their_workload(name: WorkloadName) -> None:
    workload = workload_named(name)
    arrivals = drawn(workload, 3_600.0, scale=50.0 / workload.envelope.mean_per_s)
    lengths = workload.lengths()
    for got, source in (
        (arrivals.context_tokens, lengths.prompt_tokens),
        (arrivals.generated_tokens, lengths.generated_tokens),
    ):
        assert got.mean() == pytest.approx(source.mean(), rel=0.02)
        for percent in (25, 50, 75, 90, 95):
            # A quantile within half a point of where it is in the source.
            value = np.percentile(got, percent)
            low, high = np.percentile(source, (percent - 0.7, percent + 0.7))
            assert low <= value <= high
    assert np.corrcoef(arrivals.context_tokens, arrivals.generated_tokens)[0, 1] == pytest.approx(
        np.corrcoef(lengths.prompt_tokens, lengths.generated_tokens)[0, 1], abs=0.02
    )


NODES = 20
SECONDS = 7_200.0


@pytest.mark.parametrize("name", NAMES)
def test_both_levels_draw_the_same_load_from_the_same_workload(name: WorkloadName) -> None:
    """Two hours at 40 requests/s: tokens/s within 3 %, spread of counts per 2 s within 10 %."""
    workload = workload_named(name)
    priorities = workload.node_priorities(NODES) if workload.priorities else ("high",) * NODES
    per_node = 2.0 / workload.envelope.mean_per_s
    requests = drawn(workload, SECONDS, scale=per_node * NODES, seed=9)
    fluid = NodeLoad(workload, priorities=priorities, scale=per_node, seed=9).demand(
        0.0, 2.0, round(SECONDS / 2.0)
    )
    ticks = (requests.at_s // 2.0).astype(int)
    for tokens, sums in (
        (requests.context_tokens, fluid.prompt_tokens),
        (requests.generated_tokens, fluid.generated_tokens),
    ):
        assert tokens.sum() == pytest.approx(sums.sum(), rel=0.03)
    counts = np.bincount(ticks, minlength=fluid.arrivals.shape[0])
    both = counts, fluid.arrivals.sum(axis=1)
    assert both[0].mean() == pytest.approx(both[1].mean(), rel=0.03)
    assert both[0].var() == pytest.approx(both[1].var(), rel=0.10)


def test_both_levels_have_the_same_slow_noise_of_a_seed() -> None:
    noisy = polca(noise=Noise(ratio=0.2, slow_s=600.0))
    requests = drawn(noisy, 36_000.0, scale=100.0, seed=3)
    fluid = NodeLoad(noisy, priorities=("high", "low"), scale=50.0, seed=3)
    minutes = np.bincount((requests.at_s // 60.0).astype(int))
    sums = fluid.demand(0.0, 2.0, 18_000).arrivals.sum(axis=1).reshape(-1, 30).sum(axis=1)
    course = Rate(noisy.envelope, Noise(), 3).at(np.arange(600) * 60.0 + 30.0)
    assert np.corrcoef(minutes / course, sums / course)[0, 1] > 0.9
