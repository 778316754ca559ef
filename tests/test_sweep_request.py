"""Sweeps at request level: every point is the run that a plain scenario makes."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from daemon.main import main
from simulator.experiments.model import MODELS, load_model, load_sweep
from simulator.experiments.request_level import RequestLevel, RequestSweep
from simulator.scenario import Scenario, run_scenario

SWEEP = """
version: 1
kind: sweep
scenario: small-sweep
model: request
duration_s: 10
row: {nodes: 4}
load: {requests_per_node_s: 4}
sweep: {oversubscription_ratio: [1.0, 1.3]}
policies:
  none: {policy: none}
  slow: {policy: ampacity, control: {lease_s: 6}}
headline: {oversubscription_ratio: 1.3}
checks:
  - {name: served, policy: slow, metric: requests_served, at: {}, min: 1}
"""


def load(changes: Mapping[str, str] | None = None) -> RequestSweep:
    scenario = load_sweep(SWEEP, "small.yaml", changes or {})[1]
    assert isinstance(scenario, RequestSweep)
    return scenario


def test_axes_are_crossed_with_competitors_and_seeds() -> None:
    scenario = load({"sweep.nodes": "[2, 4]"})
    contents = RequestLevel().units(scenario, ("none", "slow"), (1, 2))
    assert len(contents) == 2 * 2 * 2 * 2
    assert contents[0]["label"] == "none seed 1, nodes 2, oversubscription_ratio 1"
    assert contents[0]["at"] == {
        "nodes": 2.0, "oversubscription_ratio": 1.0, "requests_per_node_s": 4.0,
    }  # fmt: skip


def test_a_point_is_what_a_plain_scenario_gives() -> None:
    scenario, model = load(), RequestLevel()
    *_, content = model.units(scenario, ("slow",), (3,))
    told: list[float] = []
    (point,) = model.run(content, told.append).points
    plain = msgspec.convert(content["scenario"], Scenario)
    assert plain.row.oversubscription_ratio == 1.3
    assert plain.control == {"lease_s": 6}
    expected = run_scenario(plain, "ampacity", seed=3)
    assert point.metrics["energy_j"] == expected["energy_j"]
    assert point.metrics["tripped"] == 0.0
    assert point.metrics["emergency_reaction_s"] is None
    assert "verdict" not in point.metrics
    assert told == [1.0]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"failure.contingency": "moon-lost", "failure.at_s": "5"}, "is none of ups-a-lost"),
        ({"policies.slow.control.lease_s": "1"}, "at least three cycles"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_runs(
    changes: dict[str, str], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        RequestLevel().units(load(changes), ("none", "slow"), (1,))


def test_every_model_that_documents_may_name_is_there() -> None:
    for role in MODELS.values():
        assert load_model(role).document.__struct_fields__


def test_the_command_runs_it_on_fresh_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    out = tmp_path / "out"
    assert main(["simulate", str(path), "--json", "--out", str(out), "--jobs", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["policies"]) == {"none", "slow"}
    assert document["policies"]["slow"]["requests_served"] > 0
    assert document["sim_seconds"] == 40.0
    assert len(list((out / "units").glob("*.json"))) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--policy", "slo"], 2, "did you mean 'slow'"),
        (["--set", "sweep.nodes=[0]"], 1, "sweep.nodes[0]: 0 is not allowed"),
        (["--trace", "missing.csv"], 1, "missing.csv"),
        (["--set", "policies.slow.control.lease_s=1"], 1, "at least three cycles"),
    ],
)
def test_bad_arguments_are_refused(
    tmp_path: Path,
    arguments: list[str],
    code: int,
    error: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    assert main(["simulate", str(path), *arguments]) == code
    captured = capsys.readouterr()
    assert error in captured.err
    assert captured.out == ""


def test_dask_that_is_not_installed_is_told_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "simulator.experiments.dask_engine", raising=False)
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    assert main(["simulate", str(path), "--engine", "dask"]) == 69
    assert "needs ampacity[dask]" in capsys.readouterr().err


def test_a_disk_that_is_full_is_told_and_what_is_there_stays_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    command = ["simulate", str(path), "--policy", "none", "--out", str(tmp_path / "out"),
               "--jobs", "1"]  # fmt: skip
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, before[1]))
    try:
        assert main(command) == 69
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "to go on: ampacity simulate" in capsys.readouterr().err
    assert not list((tmp_path / "out" / "units").glob("*.json"))
    assert main([*command, "--json"]) == 0
