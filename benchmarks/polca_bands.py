"""How sure `+45 %` of polca-row is: over seeds, and over what nobody has measured.

Every case is a run of `ampacity simulate polca-row` with one thing changed: the seed, an end of an
uncertain constant's band (docs/calibration.md), or one of the scenario's own choices. For each it
says the most servers that `ampacity` adds within POLCA's limits, and what that costs at +45 %.

    python -m benchmarks.polca_bands [--days 3] [--jobs 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from benchmarks._table import Figure, machine, show
from simulator.uncertain import band_of

ADDED: Final = "[0.3, 0.35, 0.4, 0.45, 0.5]"
SEEDS: Final = (1, 2, 3, 4, 5)
FIGURES: Final = (
    "decode_loss_ratio",
    "decode_slow_ratio",
    "bandwidth_knee_ratio",
    "a100_prefill_demand_ratio",
)
CHOICES: Final = (
    ("row.fixed_power_w", 1055.0),
    ("row.fixed_power_w", 1455.0),
    ("load.packed_ratio", 0.6),
    ("load.packed_ratio", 1.0),
    ("row.provisioned_w", 5300.0),
    ("row.provisioned_w", 5100.0),
)
"""What the scenario chose: a chassis 200 W lighter and heavier, requests packed less and more, a
row that peaks lower and higher."""
SHOWN: Final = (
    "brakes",
    "over_capacity_s",
    "latency_p50_impact_ratio_high",
    "latency_p50_impact_ratio_low",
    "latency_p99_impact_ratio_low",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is changed, and the seed."""

    name: str
    changes: tuple[str, ...] = ()
    seed: int = 1


def cases() -> list[Case]:
    """Seeds, both ends of each band, and the scenario's own choices."""
    found = [Case(f"seed {seed}", seed=seed) for seed in SEEDS]
    for figure in FIGURES:
        band = band_of(figure)
        found += [
            Case(f"{figure} {value:g}", (f"uncertain.{figure}={value:g}",))
            for value in (band.low, band.high)
        ]
    return found + [Case(f"{key} {value:g}", (f"{key}={value:g}",)) for key, value in CHOICES]


def run(case: Case, days: float) -> dict[str, Any]:
    """The metrics of `ampacity`, and at +45 %."""
    changes = [f"duration_days={days:g}", f"sweep.added_ratio={ADDED}", "sweep.power_factor=[1.0]"]
    changes += ["headline.added_ratio=0.45", *case.changes]
    command = [sys.executable, "-m", "daemon.main", "simulate", "polca-row", "--json"]
    command += ["--policy", "ampacity", "--seed", str(case.seed), "--jobs", "1"]
    command += [word for change in changes for word in ("--set", change)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(f"{case.name}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)["policies"]["ampacity"]
    return found


def line(case: Case, found: dict[str, Any]) -> Figure:
    """What one case came to."""
    most = found["added_ratio_max_at_power_1"]
    brakes, over_s, *impacts = (found[name] for name in SHOWN)
    high, low, low_p99 = (f"{impact:+.1%}" for impact in impacts)
    return Figure(
        case.name,
        f"{'less than +30 %' if most is None else f'+{most:.0%}'}; at +45 %: {brakes:g} brakes,"
        f" {over_s:g} s over, P50 high {high}, low {low}, P99 low {low_p99}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="polca-row over seeds and bands")
    parser.add_argument("--days", type=float, default=3.0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args(arguments)
    print(machine())
    print(f"polca-row, ampacity, {args.days:g} days each: the most that is added, and +45 %")
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda case: run(case, args.days), cases()))
    show([line(case, metrics) for case, metrics in zip(cases(), found, strict=True)])


if __name__ == "__main__":
    main()
