"""The fault machine: equal seeds give equal runs, and a slice of seeds shows no failure.

The fresh slice takes its seeds from the time of day; a failure prints the command that replays it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Final

import pytest

from daemon.faults_command import NAMED_MAX, load_faults, progress
from daemon.faults_parts import LiveParts
from daemon.simulate_command import scenario_text
from simulator.faults.document import FaultsScenario
from simulator.faults.report import Report, judge_faults
from simulator.faults.run import SeedResult, run_seed

FIXED: Final = range(1, 26)
FRESH_COUNT: Final = 10


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def shipped(**changes: str) -> FaultsScenario:
    return load_faults(scenario_text("faults"), "faults", changes)


def run_all(seeds: range, scenario: FaultsScenario) -> Report:
    report = Report(scenario)
    for seed in seeds:
        report.add(run_seed(seed, scenario, LiveParts()))
    return report


def assert_holds(report: Report, scenario: FaultsScenario) -> None:
    failed = [item for item in judge_faults(scenario.checks, report.metrics()) if not item["pass"]]
    assert not failed, report.failures()


@pytest.mark.slow
def test_nothing_fails_inside_the_assumptions_in_a_fixed_slice() -> None:
    report = run_all(FIXED, shipped())
    assert_holds(report, shipped())
    metrics = report.metrics()
    assert isinstance(metrics["inside_ratio"], float)
    assert metrics["inside_ratio"] >= 0.6


@pytest.mark.slow
def test_nothing_fails_inside_the_assumptions_in_a_fresh_slice() -> None:
    first = 1_000_000 + int(time.time()) % 1_000_000_000
    print(f"fresh slice: ampacity simulate faults --seed {first}..{first + FRESH_COUNT - 1}")
    assert_holds(run_all(range(first, first + FRESH_COUNT), shipped()), shipped())


def test_a_seed_gives_the_same_run_to_the_last_bit() -> None:
    one, two = (run_seed(7, shipped(), LiveParts()) for _ in range(2))
    assert one == two
    assert one.digest


def test_another_seed_gives_another_run() -> None:
    short = shipped(storm_s="10", heal_s="10")
    one, two = (run_seed(seed, short, LiveParts()) for seed in (1, 2))
    assert one.digest != two.digest


def test_a_failure_names_the_command_that_replays_it() -> None:
    scenario = shipped(ledger="off", storm_s="30")
    report = Report(scenario)
    result = run_seed(3, scenario, LiveParts())
    result.outside.clear()
    result.trips.append("row-1 trips at 20.0 s, load 1.400")
    report.add(result)
    (failure,) = report.failures()
    assert failure["replay"] == (
        "ampacity simulate faults --seed 3 --json --set storm_s=30.0 --set ledger=off"
    )


def test_a_run_names_the_seeds_that_failed_inside_the_assumptions_while_it_goes_on() -> None:
    report = Report(shipped())
    outside = SeedResult(5, trips=["row-1 trips"], outside={"locks": 20.0})
    for result in (SeedResult(9, trips=["row-1 trips"]), SeedResult(7), SeedResult(3), outside):
        report.add(result)
    assert report.failed_seeds() == [9]
    assert progress(4, 8, report.failed_seeds(), 2.0) == "4/8 seeds, 1 failed (9), 2 s left"
    assert progress(4, 8, [], 2.0) == "4/8 seeds, 0 failed, 2 s left"


def test_a_run_in_which_much_fails_names_the_first_seeds_only() -> None:
    some, more = range(NAMED_MAX), range(NAMED_MAX + 1)
    assert "..." not in progress(20, 20, some, 0.0)
    assert progress(20, 20, more, 0.0).endswith(f"{NAMED_MAX - 1}, ...), 0 s left")
