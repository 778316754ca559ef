"""`ampacity simulate faults`: seeds over all cores, progress on stderr, one report.

Runs in processes of its own, a few seeds at a time, prints a table or one JSON document, and one
command for each failure that replays it.
"""

from __future__ import annotations

import concurrent.futures
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from daemon.exit_codes import EX_FAILED, EX_USAGE
from daemon.faults_parts import LiveParts
from facility.loader import load_document
from simulator.faults.document import FaultsScenario
from simulator.faults.report import Report, judge_faults
from simulator.faults.run import SeedResult, run_seed

CHUNK: Final = 8
"""Seeds that a process runs before it reports."""
PROGRESS_S: Final = 10.0
SWITCHES: Final = {"on": "true", "off": "false"}
"""How people say it on a command line."""
SHOWN: Final = (
    "seeds", "inside_seeds", "trips", "thermal_shutdowns", "lost_audit_records",
    "liveness_failures", "unleased_ceilings", "failed_cycles", "seeds_tripped", "load_ratio_max",
    "outside_seeds", "outside_trips", "outside_undetected", "sim_hours", "faults_injected",
    "never_happened",
)  # fmt: skip


def run_faults(
    text: str,
    name: str,
    changes: Mapping[str, str],
    seeds: Sequence[int],
    *,
    seed_text: str,
    policies: Sequence[str],
    as_json: bool,
    out: str | None,
) -> int:
    """Run the seeds and print the report; returns the exit code. Raises ConfigError."""
    scenario = load_faults(text, name, changes)
    if set(policies) - {"ampacity"}:
        print("ampacity simulate: the fault machine runs policy ampacity only", file=sys.stderr)
        return EX_USAGE
    started_s = time.monotonic()
    report = Report(scenario)
    _run_all(scenario, seeds, report)
    metrics = report.metrics()
    checks = judge_faults(scenario.checks, metrics)
    document = {
        "scenario": scenario.scenario,
        "seed": seed_text,
        "sim_seconds": report.sim_seconds,
        "wall_seconds": round(time.monotonic() - started_s, 3),
        "policies": {"ampacity": metrics},
        "checks": checks,
    }
    for failure in report.failures():
        print(f"replay: {failure['replay']}", file=sys.stderr)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        for key in SHOWN:
            print(f"{key:<24}{metrics[key]}")
        for item in checks:
            print(f"{'pass' if item['pass'] else 'FAIL'}  {item['name']}: {item['value']}")
    return 0 if all(item["pass"] for item in checks) else EX_FAILED


def load_faults(text: str, name: str, changes: Mapping[str, str]) -> FaultsScenario:
    """The document with keys changed; switches may be said as on and off. Raises ConfigError."""
    spoken = {key: SWITCHES.get(value, value) for key, value in changes.items()}
    return load_document(text, name, FaultsScenario, spoken)


def _run_all(scenario: FaultsScenario, seeds: Sequence[int], report: Report) -> None:
    """Every seed, on all cores, with the time that remains on stderr."""
    chunks = [tuple(seeds[place : place + CHUNK]) for place in range(0, len(seeds), CHUNK)]
    began_s = told_s = time.monotonic()
    done = 0
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=min(os.cpu_count() or 1, len(chunks)), initializer=_quiet
    ) as pool:
        for results in pool.map(_run_chunk, [scenario] * len(chunks), chunks):
            for result in results:
                report.add(result)
            done += len(results)
            now_s = time.monotonic()
            if now_s - told_s >= PROGRESS_S or done == len(seeds):
                told_s = now_s
                left_s = (now_s - began_s) / done * (len(seeds) - done)
                bad = len(report.failures())
                line = f"{done}/{len(seeds)} seeds, {bad} failures, {left_s:.0f} s left"
                print(line, file=sys.stderr, flush=True)


def _quiet() -> None:
    """Thousands of production processes say much; what matters is in the report."""
    logging.disable(logging.CRITICAL)


def _run_chunk(scenario: FaultsScenario, seeds: Sequence[int]) -> list[SeedResult]:
    return [run_seed(seed, scenario, LiveParts()) for seed in seeds]
