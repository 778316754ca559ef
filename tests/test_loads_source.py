"""What the twin is asked to serve: a trace replayed or a workload drawn, at the rate asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from daemon.main import main
from daemon.simulate_command import load_scenario
from facility.compiler import compile_site
from facility.example import row_site
from simulator.loads.formats import built_in_trace
from simulator.loads.named import workload_named
from simulator.loads.source import source_of
from simulator.loads.trace import Trace
from simulator.loads.workload import Workload
from simulator.plant import Plant, PlantSettings

SMALL = """
version: 1
scenario: small
duration_s: 40
row: {nodes: 4}
load: {requests_per_node_s: 3}
policies: [none]
"""
LONG = "".join(
    f'{{"timestamp": {100 * i}, "input_length": 100, "output_length": 50, "hash_ids": [1]}}\n'
    for i in range(100)
)
RATES = "client,t_s,rate_rps,cv,pattern,param1,param2\n0,0,1,1,Gamma,1,2\n0,600,1,1,Gamma,1,2\n"


def rate_of(load: Trace | Workload | None, seconds: float) -> float:
    source = source_of(
        load,
        rate_per_s=30.0,
        seed=np.random.SeedSequence(1),
        priorities=("high", "low"),
        start_s=-60.0,
    )
    source.until(0.0)
    return len(source.until(seconds).at_s) / seconds


def test_a_trace_or_by_default_the_built_in_one_is_replayed_at_the_mean_rate() -> None:
    assert rate_of(None, 3_600.0) == pytest.approx(30.0, rel=0.02)
    assert rate_of(built_in_trace(), 3_600.0) == rate_of(None, 3_600.0)


def test_a_workload_is_drawn_at_the_mean_rate_of_its_whole_period() -> None:
    hour = workload_named("azure-2023-code")
    assert rate_of(hour, hour.envelope.period_s) == pytest.approx(30.0, rel=0.02)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A scenario file of four nodes and forty seconds."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def arrived(capsys: pytest.CaptureFixture[str], *command: str) -> int:
    assert main(["simulate", *command, "--json"]) == 0
    return int(json.loads(capsys.readouterr().out)["policies"]["none"]["requests_arrived"])


@pytest.mark.parametrize(("name", "text"), [("long.jsonl", LONG), ("rates.csv", RATES)])
def test_simulate_takes_a_recording_in_any_format(
    small: str, tmp_path: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    # What was there at time 0 counts as arrived, too.
    count = arrived(capsys, small, "--trace", str(tmp_path / name))
    assert 0.7 * 480 <= count <= 1.6 * 480


def test_a_scenario_names_a_workload_and_the_time_it_begins_at(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [small, "--set", "load.workload=azure-2024-week", "--set"]
    night, noon = (arrived(capsys, *asked, f"load.begin_s={at_s}") for at_s in (28_800, 136_800))
    assert noon > 2 * night


def test_an_unknown_workload_is_refused_with_those_there_are(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", small, "--set", "load.workload=polka"]) == 1
    said = capsys.readouterr().err
    assert "load.workload" in said
    assert "polca" in said
    assert load_scenario(small, ["load.workload=polca"]).load.workload == "polca"


def test_requests_of_a_workload_with_priorities_go_to_services_of_their_own() -> None:
    """Three of five nodes serve high priority, but half of POLCA's requests are low."""
    site = compile_site(row_site(nodes=10, oversubscription_ratio=1.3))
    settings = PlantSettings(
        trace=workload_named("polca"), requests_per_node_s=1.0, load_begin_s=136_800.0
    )
    plant = Plant(site, settings)
    for _ in range(600):
        plant.step()
    high, low = plant.engines.arrived.tolist()
    assert high + low > 800
    assert low / (high + low) == pytest.approx(0.5, abs=0.05)
