"""Offline runs: the same objects as live, to the last bit the same for the same seed."""

from __future__ import annotations

import json

import msgspec
import pytest

from facility.config import PolicyName
from simulator.scenario import (
    CheckScenario,
    FailureScenario,
    RowScenario,
    Scenario,
    judge,
    run_scenario,
    scenario_site,
)


def scenario(**changes: object) -> Scenario:
    """A small row through a feed loss."""
    base = Scenario(
        version=1,
        scenario="small",
        duration_s=90.0,
        row=RowScenario(nodes=12),
        failure=FailureScenario(contingency="ups-a-lost", at_s=60.0),
        policies=("ampacity",),
    )
    return msgspec.structs.replace(base, **changes)


def test_the_same_seed_gives_the_same_report_and_another_does_not() -> None:
    first, again, other = (
        json.dumps(run_scenario(scenario(), "ampacity", seed=seed)) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("policy", ["uniform", "ampacity"])
def test_a_controlled_row_survives_a_lost_feed_without_a_brake(policy: PolicyName) -> None:
    report = run_scenario(scenario(), policy, seed=1)
    assert report["tripped"] is False
    assert report["brakes"] == 0
    assert report["requests_lost"] == 0
    assert report["leases_expired"] == 0
    reaction_s = report["emergency_reaction_s"]
    assert isinstance(reaction_s, float)
    assert reaction_s <= 3.0
    assert str(report["verdict"]).startswith("HELD")


def test_without_control_it_trips_and_loses_requests() -> None:
    # A minute for the survivor's 30 s of patience: how much of it is used depends on the seed.
    report = run_scenario(scenario(duration_s=120.0), "none", seed=1)
    assert report["tripped"] is True
    assert report["emergency_reaction_s"] is None
    lost = report["requests_lost"]
    assert isinstance(lost, int)
    assert lost > 0
    assert str(report["verdict"]).startswith("TRIPPED")


def test_every_request_is_accounted_for() -> None:
    report = run_scenario(scenario(), "ampacity", seed=2)
    parts = ("requests_served", "requests_lost", "requests_queued", "requests_in_flight")
    counts = [report[part] for part in parts]
    assert all(isinstance(count, int) for count in counts)
    assert sum(count for count in counts if isinstance(count, int)) == report["requests_arrived"]


def test_a_check_holds_within_its_band_and_fails_without_a_measurement() -> None:
    checks = [
        CheckScenario(name="at", policy="ampacity", metric="a", max=2.0),
        CheckScenario(name="over", policy="ampacity", metric="a", max=1.9),
        CheckScenario(name="true counts one", policy="ampacity", metric="b", min=1.0),
        CheckScenario(name="unmeasured", policy="ampacity", metric="c", max=1.0),
        CheckScenario(name="another policy", policy="none", metric="a", max=0.0),
    ]
    results = judge(checks, {"ampacity": {"a": 2.0, "b": True, "c": None}})
    assert [(item.name, item.passed) for item in results] == [
        ("at", True),
        ("over", False),
        ("true counts one", True),
        ("unmeasured", False),
    ]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"control": {"lease": 4}}, "unknown field `lease`"),
        ({"control": {"lease_s": 1.0}}, "at least three cycles"),
    ],
)
def test_control_overrides_are_checked(changes: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        scenario_site(scenario(**changes), "ampacity")


def test_a_failure_that_the_site_does_not_know_is_refused() -> None:
    wrong = scenario(failure=FailureScenario(contingency="ups-c-lost", at_s=5.0))
    with pytest.raises(ValueError, match="'ups-c-lost' is none of ups-a-lost"):
        run_scenario(wrong, "ampacity", seed=1)
