"""`ampacity simulate faults`: seeds over all cores, progress on stderr, one report.

Runs in processes of its own, a few seeds at a time, prints a table or one JSON document, and one
command for each failure that replays it.
"""

from __future__ import annotations

import concurrent.futures
import gc
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

GARBAGE_AT: Final = 50_000
"""New objects between two looks for cycles among them: a seed makes few, and looks cost 2 %."""
CHUNK: Final = 8
"""Seeds that a process runs before it reports."""
PROGRESS_S: Final = 10.0
NAMED_MAX: Final = 10
"""Failed seeds that a line of progress names."""
SWITCHES: Final = {"on": "true", "off": "false"}
"""How people say it on a command line."""
SHOWN: Final = (
    "seeds", "inside_seeds", "trips", "thermal_shutdowns", "lost_audit_records",
    "liveness_failures", "unleased_ceilings", "failed_cycles", "seeds_tripped", "load_ratio_max",
    "outside_seeds", "outside_trips", "outside_undetected", "outside_untellable", "sim_hours",
    "faults_injected", "never_happened",
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
    done, told = 0, 0
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=min(os.cpu_count() or 1, len(chunks)), initializer=_settle
    ) as pool:
        running = [pool.submit(_run_chunk, scenario, chunk) for chunk in chunks]
        for future in concurrent.futures.as_completed(running):
            results = future.result()
            for result in results:
                report.add(result)
            done += len(results)
            now_s, failed = time.monotonic(), report.failed_seeds()
            if now_s - told_s >= PROGRESS_S or done == len(seeds) or len(failed) > told:
                told_s, told = now_s, len(failed)
                left_s = (now_s - began_s) / done * (len(seeds) - done)
                print(progress(done, len(seeds), failed, left_s), file=sys.stderr, flush=True)


def progress(done: int, total: int, failed: Sequence[int], left_s: float) -> str:
    """How far a run is, and the seeds that have failed, so that nobody waits for its end."""
    named = ", ".join(map(str, failed[:NAMED_MAX])) + (", ..." if len(failed) > NAMED_MAX else "")
    which = f" ({named})" if failed else ""
    return f"{done}/{total} seeds, {len(failed)} failed{which}, {left_s:.0f} s left"


def _settle() -> None:
    """Thousands of production processes say much; what matters is in the report."""
    logging.disable(logging.CRITICAL)
    gc.freeze()
    gc.set_threshold(GARBAGE_AT)


def _run_chunk(scenario: FaultsScenario, seeds: Sequence[int]) -> list[SeedResult]:
    return [run_seed(seed, scenario, LiveParts()) for seed in seeds]
