"""Looks for the first seed in which something fails inside the assumptions."""

from __future__ import annotations

import logging

import pytest

from daemon.faults_command import load_faults
from daemon.faults_parts import LiveParts
from daemon.simulate_command import scenario_text
from simulator.faults.run import run_seed
from tests.planted.bugs import BUGS, Bug


def first_seed(bug: Bug) -> tuple[int | None, str]:
    """The first seed of 1..`within` that fails, and its first problem; None when none does."""
    changes = {"only": f"[{bug.only}]"} if bug.only else {}
    scenario = load_faults(scenario_text("faults"), "faults", changes)
    for seed in range(1, bug.within + 1):
        result = run_seed(seed, scenario, LiveParts())
        if result.problems and not result.outside:
            return seed, result.problems[0]
    return None, ""


def hunt(place: int) -> tuple[int, int | None, str]:
    """Plant bug number `place` in this process, look for it, and take it out again."""
    logging.disable(logging.CRITICAL)
    bug = BUGS[place]
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        seed, problem = first_seed(bug)
    return place, seed, problem
