"""The index arrays of a power tree say what the matrix of shares says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.tree import NOBODY, BoolArray, FloatArray, IntArray, Tree


@st.composite
def matrices(draw: st.DrawFn) -> FloatArray:
    """Shares of up to seven domains in up to nine nodes, rows and columns of nothing included."""
    domains, nodes = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    share = st.sampled_from([0.0, 0.0, 0.5, 1.0])
    return np.array([[draw(share) for _ in range(nodes)] for _ in range(domains)], dtype=np.float64)


@given(shares=matrices(), seed=st.integers(0, 2**32 - 1))
def test_loads_are_the_shares_times_the_nodes(shares: FloatArray, seed: int) -> None:
    power_w = np.random.default_rng(seed).uniform(0.0, 9e3, size=len(shares.T))
    tree = Tree(shares)
    assert tree.load(power_w) == pytest.approx(shares @ power_w)
    assert (tree.alive == shares.any(axis=1)).all()


@given(shares=matrices(), seed=st.integers(0, 2**32 - 1))
def test_the_largest_above_is_that_of_the_domains_that_carry_the_node(
    shares: FloatArray, seed: int
) -> None:
    level: IntArray = np.random.default_rng(seed).integers(0, 4, size=len(shares))
    flags: BoolArray = np.asarray(level >= 2)
    largest, place = Tree(shares).largest_above(level, otherwise=-7)
    flagged = Tree(shares).any_above(flags)
    for node in range(shares.shape[1]):
        above = np.flatnonzero(shares[:, node])
        expected = [(level[domain], -domain) for domain in above]
        best, first = max(expected, default=(-7, -NOBODY))
        assert (largest[node], place[node]) == (best, -first)
        assert flagged[node] == flags[above].any()


def test_independent_rows_are_summed_as_they_come() -> None:
    shares: FloatArray = np.repeat(np.eye(3), 4, axis=1)
    assert Tree(shares).load(np.arange(12.0)) == pytest.approx([6.0, 22.0, 38.0])
