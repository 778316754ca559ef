"""Simulated seconds per second of the twin on one core (DESIGN 8): a row of 40 servers.

The request level: DGX A100 with POLCA's requests, and the H100 example row with the recorded
conversations; physics included, no controller, a step of 0.25 s. The fluid level: the row of
`polca-row` in steps of 2 s, without a policy and with two of them. Time is the process's own
processor time; the best of several stretches, as others share the machine, and the median beside.
POLCA's evaluation as a whole, all competitors at all points, is run for some hours on two cores;
what six weeks take follows from two lengths, so that starting up is not counted 42 times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Final

import numpy as np

from benchmarks._table import Figure, at_least, at_most, machine, show
from daemon.simulate_command import scenario_text
from facility.compiler import compile_site
from facility.example import row_site
from simulator.experiments.model import load_sweep
from simulator.fluid.document import FluidSweep
from simulator.fluid.experiment import bench_of
from simulator.plant import Plant, PlantSettings
from simulator.rows import ROW_DT_S
from tests.twin_rows import FULL_MHZ, TICK_S, polca_row

NODES_COUNT: Final = 40
STRETCHES_COUNT: Final = 12
STRETCH_S: Final = 100.0
REQUEST_SPEED_MIN: Final = 500.0
FLUID_SPEED_MIN: Final = 20_000.0
FLUID_STRETCH_S: Final = 40_000.0
WHOLE_DAYS: Final = (0.5, 1.5)
WHOLE_MINUTES_MAX: Final = 30.0
CORES: Final = 2


def speeds(run: Callable[[], None]) -> list[float]:
    """Simulated seconds per processor second of each stretch of `STRETCH_S`."""
    found = []
    for _ in range(STRETCHES_COUNT):
        begun_s = time.process_time()
        run()
        found.append(STRETCH_S / (time.process_time() - begun_s))
    return found


def figures(what: str, found: list[float], least: float | None) -> list[Figure]:
    """The best, judged, and the median."""
    best, middle = max(found), median(found)
    first = (
        Figure(what, f"{best:,.0f} x real time")
        if least is None
        else at_least(what, best, least, "x real time")
    )
    return [first, Figure("  the median stretch", f"{middle:,.0f} x real time")]


def polca() -> list[float]:
    """DGX A100, two priorities, long answers: large batches."""
    row = polca_row(nodes=NODES_COUNT, requests_per_s=30.0)
    row.plant.start()
    ceiling_mhz = np.full(NODES_COUNT, FULL_MHZ)

    def run() -> None:
        for _ in range(round(STRETCH_S / TICK_S)):
            row.step(ceiling_mhz, TICK_S)

    return speeds(run)


def conversations(requests_per_s: float) -> list[float]:
    """DGX H100, the recorded conversations."""
    site = compile_site(row_site(nodes=NODES_COUNT))
    settings = PlantSettings(dt_s=ROW_DT_S, mean_requests_per_s=requests_per_s, trips=False)
    plant = Plant(site, settings)
    plant.start()

    def run() -> None:
        for _ in range(round(STRETCH_S / ROW_DT_S)):
            plant.step()

    return speeds(run)


def fluid(policy: str) -> list[float]:
    """A row of 40 servers, as in every sweep."""
    changes = {"sweep.added_ratio": "[0]", "sweep.power_factor": "[1.0]"}
    _, scenario = load_sweep(scenario_text("polca-row"), "polca-row", changes)
    assert isinstance(scenario, FluidSweep)
    found = []
    for seed in range(1, STRETCHES_COUNT + 1):
        bench = bench_of(scenario, policy, seed=seed)
        begun_s = time.process_time()
        bench.run.run(bench.load, bench.work, duration_s=FLUID_STRETCH_S)
        # The warm-up of one block costs time as well, and is not counted.
        found.append(FLUID_STRETCH_S / (time.process_time() - begun_s))
    return found


def whole_minutes() -> float:
    """What `polca-row` takes on two cores as it is shipped, six weeks of everything."""
    walls_s = [_whole_s(days) for days in WHOLE_DAYS]
    _, scenario = load_sweep(scenario_text("polca-row"), "polca-row", {})
    assert isinstance(scenario, FluidSweep)
    day_s = (walls_s[1] - walls_s[0]) / (WHOLE_DAYS[1] - WHOLE_DAYS[0])
    return (walls_s[0] + day_s * (scenario.duration_days - WHOLE_DAYS[0])) / 60.0


def _whole_s(days: float) -> float:
    command = [sys.executable, "-m", "daemon.main", "simulate", "polca-row", "--json"]
    command += ["--jobs", str(CORES), "--set", f"duration_days={days:g}"]
    # So short a run need not pass the checks of six weeks: its exit code says nothing here.
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(json.loads(found.stdout)["wall_seconds"])


def main() -> None:
    """Print the table."""
    print(machine())
    print(f"{NODES_COUNT} servers of 8 GPUs, {STRETCHES_COUNT} stretches of {STRETCH_S:g} s each")
    show(
        [
            *figures("request level, POLCA, 30 requests/s", polca(), REQUEST_SPEED_MIN),
            *figures("request level, Azure, 32 requests/s", conversations(32.0), REQUEST_SPEED_MIN),
            *figures("request level, Azure, 320 requests/s", conversations(320.0), None),
            *figures("fluid level, no policy", fluid("none"), FLUID_SPEED_MIN),
            *figures("fluid level, polca", fluid("polca"), None),
            *figures("fluid level, ampacity", fluid("ampacity"), None),
            at_most("polca-row, all of it, two cores", whole_minutes(), WHOLE_MINUTES_MAX, "min"),
        ]
    )
