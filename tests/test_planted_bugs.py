"""Planted bugs that the fault machine finds within a few seeds; `python -m tests.planted` has all.

The rest takes minutes, so that it is run by hand when the machine or what it judges has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import pytest

from tests.planted.bugs import BUGS, Bug
from tests.planted.hunt import first_seed

SEEDS_MAX: Final = 4
QUICK: Final = [bug for bug in BUGS if bug.within <= SEEDS_MAX]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("bug", QUICK, ids=lambda bug: bug.name)
def test_the_machine_finds_a_planted_bug(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.plant(monkeypatch)
    seed, problem = first_seed(bug)
    assert seed is not None, f"not found in {bug.within} seeds"
    assert problem


def test_there_are_at_least_twelve_bugs_with_names_of_their_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 12
