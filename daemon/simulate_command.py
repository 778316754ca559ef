"""`ampacity simulate`: run an experiment offline, all policies side by side.

Reads the scenario, runs each policy and seed in a process of its own, prints a table or one JSON
document, and says by its exit code whether the checks held.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from actuators.clocks import ClockActuator
from daemon.cells import cell
from daemon.config_file import read_config
from daemon.exit_codes import EX_FAILED, EX_USAGE
from daemon.faults_command import run_faults
from daemon.sweep_command import SweepOrder, run_sweep
from facility.compiler import did_you_mean
from facility.config import POLICIES, PolicyName
from facility.loader import load_document
from facility.strict_yaml import parse
from simulator.loads.formats import load_file
from simulator.loads.trace import Trace
from simulator.loads.workload import Workload
from simulator.scenario import CheckResult, Scenario, judge, run_scenario, scenario_site

SEEDS_MAX: Final = 100_000
JOBS_MAX: Final = 1_024
NUMBER: Final = ".3f"
SHOWN: Final = (
    "tripped",
    "row_power_ratio_max",
    "seconds_over_capacity",
    "emergency_reaction_s",
    "brakes",
    "requests_served",
    "requests_lost",
    "ttft_p99_s_high",
    "ttft_p99_s_low",
)

Metrics = dict[str, object]
Load = Trace | Workload


class ArgumentError(ValueError):
    """An argument that cannot be used; the text says what is allowed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ampacity simulate`."""
    parser.description = (
        "Runs a scenario offline: the same controller and agents as live, in lock step with the"
        " twin. The same seed gives the same report. Exits with 1 when a check of the scenario"
        " fails."
    )
    parser.add_argument("scenario", metavar="SCENARIO", help="a path, or a name in scenarios/")
    parser.add_argument(
        "--policy",
        action="append",
        metavar="P",
        help="only this one; may be repeated (default: those of the scenario)",
    )
    parser.add_argument("--seed", default="1", metavar="N", help="N or A..B (default 1)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the scenario, such as duration_s=60 or control.lease_s=6",
    )
    parser.add_argument(
        "--trace", metavar="FILE", help="recorded load, CSV or JSON lines (docs/loads.md)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="write the report there; a sweep goes on from what is there"
    )
    parser.add_argument(
        "--jobs", type=_jobs, metavar="N", help="processes of a sweep (default: one for each core)"
    )
    parser.add_argument(
        "--engine",
        type=_engine,
        default=None,
        metavar="E",
        help="what runs a sweep: processes (default), or dask[=SCHEDULER]; dask alone is local",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Run the scenario; returns the exit code."""
    try:
        text = scenario_text(args.scenario)
        seeds = parse_seeds(args.seed)
        kind = kind_of(text)
        if kind == "sweep":
            return run_sweep(sweep_order(args, text, seeds))
        if args.jobs is not None or args.engine is not None:
            raise ArgumentError("--jobs and --engine are for documents of kind sweep")
        if kind == "faults":
            return run_faults(
                text,
                args.scenario,
                parse_settings(args.set),
                seeds,
                seed_text=args.seed,
                policies=args.policy or (),
                as_json=args.json,
                out=args.out,
            )
        scenario = load_scenario(args.scenario, args.set)
        policies = _policies(args.policy) or scenario.policies
        for policy in policies:
            scenario_site(scenario, policy)
        trace = load_file(Path(args.trace)) if args.trace is not None else None
    except ArgumentError as error:
        print(f"ampacity simulate: {error}", file=sys.stderr)
        return EX_USAGE
    except ValueError as error:
        print(f"ampacity simulate: {error}", file=sys.stderr)
        return EX_FAILED
    started_s = time.monotonic()
    try:
        runs = _run_all(scenario, policies, seeds, trace)
    except ValueError as error:
        print(f"ampacity simulate: {error}", file=sys.stderr)
        return EX_FAILED
    results: dict[str, Metrics] = {
        policy: _merged([runs[policy, seed] for seed in seeds]) for policy in policies
    }
    checks = judge(scenario.checks, results)
    report = {
        "scenario": scenario.scenario,
        "seed": args.seed,
        "sim_seconds": scenario.duration_s * len(runs),
        "wall_seconds": round(time.monotonic() - started_s, 3),
        "policies": results,
        "checks": [
            {"name": item.name, "value": item.value, "band": item.band, "pass": item.passed}
            for item in checks
        ],
    }
    if args.out is not None:
        directory = Path(args.out)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, allow_nan=False) if args.json else _table(report, checks))
    return 0 if all(item.passed for item in checks) else EX_FAILED


def load_scenario(name: str, settings: Sequence[str]) -> Scenario:
    """The scenario at a path or of that name in `scenarios/`, with `settings` applied.

    Raises:
        ConfigError: the file, or a setting in its place, is wrong; with every problem.
        ArgumentError: no such scenario, or a setting that is not KEY=VALUE.
    """
    return load_document(scenario_text(name), name, Scenario, parse_settings(settings))


def scenario_text(name: str) -> str:
    """The document at a path or of that name in `scenarios/`. Raises ConfigError, ArgumentError."""
    path = Path(name)
    if not path.suffix and not path.exists():
        found = resources.files("scenarios").joinpath(f"{name}.yaml")
        if not found.is_file():
            known = scenario_names()
            raise ArgumentError(
                f"no scenario is named {name!r}: there are {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
        path = Path(str(found))
    return read_config(str(path))


def kind_of(text: str) -> str:
    """What kind of experiment a document is: `faults`, `sweep`, or `run` when it does not say."""
    value = parse(text).value
    return str(value.get("kind", "run")) if isinstance(value, dict) else "run"


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE texts as a mapping. Raises ArgumentError."""
    for item in settings:
        if "=" not in item:
            raise ArgumentError(f"--set {item}: expected KEY=VALUE")
    return dict(item.split("=", 1) for item in settings)


def scenario_names() -> list[str]:
    """The scenarios that are shipped."""
    files = resources.files("scenarios").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def parse_seeds(text: str) -> list[int]:
    """`N` or `A..B`, both ends included. Raises ArgumentError."""
    first, dots, last = text.partition("..")
    if not first.isdecimal() or (dots and not last.isdecimal()):
        raise ArgumentError(f"--seed {text}: expected N or A..B, whole numbers")
    low, high = int(first), int(last) if dots else int(first)
    if not low <= high < low + SEEDS_MAX:
        raise ArgumentError(f"--seed {text}: expected at most {SEEDS_MAX} ascending seeds")
    return list(range(low, high + 1))


def _jobs(text: str) -> int:
    """A number of processes. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or not 1 <= int(text) <= JOBS_MAX:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {JOBS_MAX}")
    return int(text)


def _engine(text: str) -> str:
    """The name of an engine. Raises argparse.ArgumentTypeError."""
    if text not in ("processes", "dask") and not text.startswith("dask="):
        raise argparse.ArgumentTypeError("expected processes, dask or dask=SCHEDULER")
    return text


def _policies(names: Sequence[str] | None) -> tuple[PolicyName, ...]:
    """Names of policies as they are typed. Raises ArgumentError."""
    known: dict[str, PolicyName] = {name: name for name in POLICIES}
    for name in names or ():
        if name not in known:
            raise ArgumentError(
                f"--policy {name}: there are {', '.join(known)}{did_you_mean(name, known)}"
            )
    return tuple(known[name] for name in names or ())


def sweep_order(args: argparse.Namespace, text: str, seeds: Sequence[int]) -> SweepOrder:
    """What was typed, for a sweep, and how to type it again. Raises ArgumentError."""
    again = ["ampacity", "simulate", args.scenario, "--seed", args.seed]
    again += [word for name in args.policy or () for word in ("--policy", name)]
    again += [word for item in args.set for word in ("--set", item)]
    for option in ("trace", "out", "jobs", "engine"):
        if (value := getattr(args, option)) is not None:
            again += [f"--{option}", str(value)]
    return SweepOrder(
        text=text,
        name=args.scenario,
        changes=parse_settings(args.set),
        policies=args.policy or (),
        seeds=seeds,
        seed_text=args.seed,
        again=(*again, "--json") if args.json else again,
        trace=args.trace,
        out=args.out,
        jobs=args.jobs,
        engine=args.engine or "processes",
        as_json=args.json,
    )


def _run_all(
    scenario: Scenario, policies: Sequence[PolicyName], seeds: Sequence[int], trace: Load | None
) -> dict[tuple[PolicyName, int], Metrics]:
    """Every policy with every seed, on all cores, with progress on stderr."""
    jobs = [(policy, seed) for policy in policies for seed in seeds]
    results: dict[tuple[PolicyName, int], Metrics] = {}
    with concurrent.futures.ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        waiting = {
            pool.submit(_one, scenario, policy, seed, trace): (policy, seed)
            for policy, seed in jobs
        }
        for done in concurrent.futures.as_completed(waiting):
            policy, seed = waiting[done]
            results[policy, seed] = done.result()
            print(
                f"{len(results)}/{len(jobs)}  {policy} seed {seed}: "
                f"{results[policy, seed]['verdict']}",
                file=sys.stderr,
            )
    return results


def _one(scenario: Scenario, policy: PolicyName, seed: int, trace: Load | None) -> Metrics:
    return dict(run_scenario(scenario, policy, seed=seed, trace=trace, make_writer=ClockActuator))


def _merged(runs: Sequence[Mapping[str, object]]) -> Metrics:
    """One run as it is; of several the mean of numbers, and true if it was so once."""
    if len(runs) == 1:
        return dict(runs[0])
    merged: Metrics = {"runs": len(runs)}
    for key in runs[0]:
        values = [run[key] for run in runs]
        if all(isinstance(value, bool) for value in values):
            merged[key] = any(values)
        elif all(isinstance(value, int | float) for value in values):
            numbers = [value for value in values if isinstance(value, int | float)]
            merged[key] = statistics.fmean(numbers)
            merged[f"{key}_max"] = max(numbers)
    return merged


def _table(report: Mapping[str, object], checks: Sequence[CheckResult]) -> str:
    """Policies as columns, the metrics that tell most as rows, then the checks."""
    policies = report["policies"]
    assert isinstance(policies, dict)
    lines = [f"{'':<24}" + "".join(f"{name:>14}" for name in policies)]
    for metric in SHOWN:
        cells = "".join(f"{cell(values.get(metric), NUMBER):>14}" for values in policies.values())
        lines.append(f"{metric:<24}{cells}")
    for item in checks:
        word = "pass" if item.passed else "FAIL"
        lines.append(f"{word}  {item.name}: {cell(item.value, NUMBER)}")
    return "\n".join(lines)
