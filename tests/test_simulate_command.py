"""`ampacity simulate`: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.main import main
from daemon.simulate_command import (
    kind_of,
    load_scenario,
    parse_seeds,
    scenario_names,
    scenario_text,
)
from simulator.experiments.model import load_sweep

SMALL = """
version: 1
scenario: small
duration_s: 20
row: {nodes: 4}
policies: [none, ampacity]
checks:
  - {name: served something, policy: ampacity, metric: requests_served, min: 1}
  - {name: impossible, policy: none, metric: requests_served, max: 0}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A scenario file of four nodes and twenty seconds, one of whose checks fails."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def test_json_has_the_contract_keys(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", small, "--json", "--seed", "5"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {
        "scenario", "seed", "sim_seconds", "wall_seconds", "policies", "checks",
    }  # fmt: skip
    assert set(document["policies"]) == {"none", "ampacity"}
    assert [check["pass"] for check in document["checks"]] == [True, False]
    assert {"name", "value", "band", "pass"} == set(document["checks"][0])
    assert document["sim_seconds"] == 40.0


def test_one_policy_and_several_seeds(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", small, "--policy", "ampacity", "--seed", "1..2", "--json"]
    assert main(command) == 0
    metrics = json.loads(capsys.readouterr().out)["policies"]["ampacity"]
    assert metrics["runs"] == 2
    assert metrics["row_power_ratio_max_max"] >= metrics["row_power_ratio_max"]


def test_a_report_is_written_where_asked(small: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    main(["simulate", small, "--policy", "ampacity", "--out", str(out)])
    assert json.loads((out / "report.json").read_text())["scenario"] == "small"


def test_set_reaches_keys_at_any_depth(small: str) -> None:
    changed = load_scenario(small, ["duration_s=30", "row.nodes=8", "control.lease_s=6"])
    assert (changed.duration_s, changed.row.nodes, changed.control) == (30.0, 8, {"lease_s": 6})


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--set", "duration=9"], 1, "did you mean 'duration_s'"),
        (["--set", "duration_s=-1"], 1, "duration_s: -1 is not allowed"),
        (["--set", "duration_s"], 2, "expected KEY=VALUE"),
        (["--seed", "a"], 2, "expected N or A..B"),
        (["--seed", "5..3"], 2, "ascending"),
        (["--set", "control.lease_s=1"], 1, "at least three cycles"),
        (["--trace", "missing.csv"], 1, "missing.csv"),
        (["--policy", "polka"], 2, "did you mean 'polca'"),
        (["--jobs", "2"], 2, "--jobs and --engine are for documents of kind sweep"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_allowed(
    small: str,
    arguments: list[str],
    code: int,
    error: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["simulate", small, *arguments]) == code
    captured = capsys.readouterr()
    assert error in captured.err
    assert captured.out == ""


def test_an_unknown_scenario_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "ups-los"]) == 2
    assert "did you mean 'ups-loss'" in capsys.readouterr().err


def test_every_shipped_scenario_loads() -> None:
    for name in scenario_names():
        text = scenario_text(name)
        if kind_of(text) == "run":
            assert load_scenario(name, []).scenario == name
        elif kind_of(text) == "sweep":
            assert load_sweep(text, name, {})[1].scenario == name


@pytest.mark.parametrize(("text", "seeds"), [("7", [7]), ("2..4", [2, 3, 4])])
def test_seeds_are_one_or_a_range(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds
