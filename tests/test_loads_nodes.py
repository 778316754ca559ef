"""The fluid level's load: what nodes are given, and that it depends on seed, node and time only."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.loads.envelope import Envelope, Noise
from simulator.loads.lengths import uniform
from simulator.loads.nodes import EACH_MAX, NodeLoad
from simulator.loads.polca import polca
from simulator.loads.workload import Kind, Lengths, Workload

STILL = Noise()


def load(*, nodes: int = 8, scale: float = 0.5, seed: int = 1) -> NodeLoad:
    workload = polca()
    return NodeLoad(workload, priorities=workload.node_priorities(nodes), scale=scale, seed=seed)


def flat(rate_per_s: float, *, cv: float = 1.0) -> Workload:
    envelope = Envelope.even(np.full(10, rate_per_s), 60.0)
    lengths = Lengths(np.array([10, 30, 400]), np.array([5, 1, 90]))
    return Workload("flat", envelope, (Kind("all", 1.0, lengths),), cv=cv)


def test_the_same_seed_gives_the_same_load_and_another_seed_another() -> None:
    one, same, other = (load(seed=seed).demand(0.0, 2.0, 500) for seed in (3, 3, 4))
    assert (one.prompt_tokens == same.prompt_tokens).all()
    assert (one.arrivals != other.arrivals).any()


def test_how_steps_are_asked_for_changes_nothing() -> None:
    at_once = load().demand(1_000.0, 2.0, 2_500)
    source = load()
    parts = [source.demand(1_000.0 + 2.0 * step, 2.0, 250) for step in range(0, 2_500, 250)]
    for name in ("arrivals", "prompt_tokens", "generated_tokens"):
        whole = getattr(at_once, name)
        assert whole.shape == (2_500, 8)
        assert (np.concatenate([getattr(part, name) for part in parts]) == whole).all()


@pytest.mark.parametrize("scale", [0.5, 10.0], ids=["each drawn", "sums drawn"])
def test_a_node_gets_the_same_whatever_the_number_of_nodes(scale: float) -> None:
    few, many = (load(nodes=nodes, scale=scale).demand(0.0, 2.0, 300) for nodes in (4, 9))
    assert (many.arrivals[:, :4] == few.arrivals).all()
    assert (many.prompt_tokens[:, :4] == few.prompt_tokens).all()
    assert (many.generated_tokens[:, :4] == few.generated_tokens).all()


def test_half_of_the_nodes_serve_low_priority_and_have_its_lengths() -> None:
    workload = polca(noise=STILL)
    priorities = workload.node_priorities(60)
    assert priorities.count("low") == 30
    week = NodeLoad(workload, priorities=priorities, scale=1.0, seed=1).demand(0.0, 2.0, 3_000)
    low = np.array([priority == "low" for priority in priorities])
    for mine, prompt, generated in ((low, 4096.0, 736.0), (~low, 2176.0, 1312.0)):
        count = week.arrivals[:, mine].sum()
        assert week.prompt_tokens[:, mine].sum() / count == pytest.approx(prompt, rel=0.01)
        assert week.generated_tokens[:, mine].sum() / count == pytest.approx(generated, rel=0.01)


def test_the_scale_is_a_plain_multiplier_of_requests() -> None:
    workload = polca(noise=STILL)
    mean = [
        NodeLoad(workload, priorities=["high"] * 30, scale=scale, seed=1)
        .demand(36_000.0, 2.0, 2_000)
        .arrivals.mean()
        for scale in (0.5, 1.0, 2.0)
    ]
    assert mean[1] / mean[0] == pytest.approx(2.0, rel=0.02)
    assert mean[2] / mean[1] == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("rate_per_s", [0.2 * EACH_MAX, 0.5 * EACH_MAX, 1.5 * EACH_MAX])
def test_drawn_each_or_as_sums_tokens_have_the_same_means_and_spreads(rate_per_s: float) -> None:
    drawn = NodeLoad(flat(rate_per_s), priorities=["high"] * 40, scale=1.0, seed=2).demand(
        0.0, 2.0, 5_000
    )
    count = rate_per_s * 2.0
    prompt, generated = np.array([10.0, 30.0, 400.0]), np.array([5.0, 1.0, 90.0])
    assert drawn.arrivals.mean() == pytest.approx(count, rel=0.01)
    assert drawn.prompt_tokens.mean() == pytest.approx(count * prompt.mean(), rel=0.01)
    assert drawn.generated_tokens.mean() == pytest.approx(count * generated.mean(), rel=0.01)
    # A compound Poisson sum has the variance count x mean of squares, and so its covariance.
    both = np.cov(drawn.prompt_tokens.ravel(), drawn.generated_tokens.ravel())
    assert both[0, 0] == pytest.approx(count * np.square(prompt).mean(), rel=0.03)
    assert both[1, 1] == pytest.approx(count * np.square(generated).mean(), rel=0.03)
    assert both[0, 1] == pytest.approx(count * (prompt * generated).mean(), rel=0.03)


@pytest.mark.parametrize("scale", [0.1, 10.0], ids=["each drawn", "sums drawn"])
def test_tokens_come_with_requests_only_and_at_least_the_shortest(scale: float) -> None:
    drawn = load(scale=scale).demand(0.0, 2.0, 1_000)
    assert (drawn.prompt_tokens[drawn.arrivals == 0.0] == 0.0).all()
    assert (drawn.generated_tokens[drawn.arrivals == 0.0] == 0.0).all()
    assert (drawn.prompt_tokens >= drawn.arrivals * 512.0).all()
    assert (drawn.generated_tokens >= drawn.arrivals * 128.0).all()


def test_bursts_hit_all_nodes_together_and_spread_counts_as_their_cv_says() -> None:
    drawn = NodeLoad(flat(1.0, cv=3.0), priorities=["high"] * 50, scale=1.0, seed=2).demand(
        0.0, 2.0, 8_000
    )
    total = drawn.arrivals.sum(axis=1)
    assert total.mean() == pytest.approx(100.0, rel=0.02)
    assert total.var() / total.mean() == pytest.approx(9.0, rel=0.06)
    assert np.corrcoef(drawn.arrivals[:, 0], drawn.arrivals[:, 1])[0, 1] > 0.05


def test_uniform_lengths_reach_both_ends_and_are_independent() -> None:
    lengths = uniform((2048, 8192), (256, 512))
    assert (lengths.prompt_tokens.min(), lengths.prompt_tokens.max()) == (2048, 8192)
    assert (lengths.generated_tokens.min(), lengths.generated_tokens.max()) == (256, 512)
    assert lengths.prompt_mean == pytest.approx(5120.0, rel=1e-3)
    assert lengths.generated_mean == pytest.approx(384.0, rel=1e-3)
    assert abs(np.corrcoef(lengths.prompt_tokens, lengths.generated_tokens)[0, 1]) < 0.001


@pytest.mark.parametrize(
    ("begin_s", "dt_s", "steps", "said"),
    [
        (1.0, 2.0, 10, "begin_s is 1; expected a multiple of 2"),
        (-2.0, 2.0, 10, "begin_s is -2; expected"),
        (0.0, 0.0, 10, "10 steps of 0 s; expected at least one above 0 s"),
        (0.0, float("nan"), 10, "10 steps of nan s"),
        (0.0, 2.0, 0, "0 steps of 2 s"),
    ],
)
def test_times_off_the_grid_are_refused(begin_s: float, dt_s: float, steps: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load().demand(begin_s, dt_s, steps)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 10_001.0])
def test_a_scale_that_gives_no_load_or_an_absurd_one_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="requests/s per node at peak; expected above 0"):
        load(scale=scale)


def test_a_node_of_a_priority_that_the_workload_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="polca has no requests of priority 'middle'"):
        NodeLoad(polca(), priorities=["high", "middle"], scale=1.0, seed=1)
