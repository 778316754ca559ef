"""`ampacity simulate` for documents of `kind: sweep`: run, resume, print, and write the report.

Owns the command line's side: where the folder is, what people are told and how it ends.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daemon.cells import cell
from daemon.exit_codes import EX_FAILED, EX_UNAVAILABLE, EX_USAGE
from facility.compiler import did_you_mean
from simulator.experiments.document import SweepScenario
from simulator.experiments.model import MODELS, load_model, load_sweep
from simulator.experiments.pool import Engine, EngineError, ProcessEngine
from simulator.experiments.runner import SweepFailed, Teller, run_units
from simulator.experiments.store import FolderError, SweepFolder, write_whole
from simulator.experiments.summary import Summary, summarise
from simulator.experiments.units import make_units

EX_INTERRUPTED: Final = 130
"""Ended by Ctrl-C, as shells count it."""
SWITCHES: Final = {"on": "true", "off": "false"}
NUMBER: Final = ".5g"
SHOWN_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class SweepOrder:
    """What was asked for on the command line."""

    text: str
    name: str
    changes: Mapping[str, str]
    policies: Sequence[str]
    seeds: Sequence[int]
    seed_text: str
    again: Sequence[str]
    """The command that was typed, to be typed again."""
    trace: str | None = None
    out: str | None = None
    jobs: int | None = None
    engine: str = "processes"
    as_json: bool = False


def run_sweep(order: SweepOrder, models: Mapping[str, str] = MODELS) -> int:
    """Run the sweep and print what came out; returns the exit code. Raises ConfigError."""
    changes = {key: SWITCHES.get(value, value) for key, value in order.changes.items()}
    if order.trace is not None:
        changes["trace"] = json.dumps(str(Path(order.trace).resolve()))
    role, scenario = load_sweep(order.text, order.name, changes, models)
    policies = tuple(order.policies or scenario.policies)
    if unknown := [name for name in policies if name not in scenario.policies]:
        known = ", ".join(scenario.policies)
        hint = did_you_mean(unknown[0], scenario.policies)
        tell(f"--policy {unknown[0]}: the scenario has {known}{hint}")
        return EX_USAGE
    if order.out is not None:
        # What draws the report is missing now or in an hour: better now.
        importlib.import_module("simulator.experiments.report")
    with tempfile.TemporaryDirectory(prefix="ampacity-sweep-") as temporary:
        folder = SweepFolder(Path(order.out or temporary))
        try:
            with closing(folder):
                folder.start()
                return _run(order, role, scenario, policies, folder)
        except (FolderError, EngineError) as error:
            tell(str(error))
            return EX_UNAVAILABLE
        except OSError as error:  # such as a full disk; what was stored before is whole
            tell(f"{error}{_resume(order, 'go on')}")
            return EX_UNAVAILABLE
        except SweepFailed as error:
            tell(f"{error}{_resume(order, 'try them again')}")
            return EX_FAILED
        except KeyboardInterrupt:
            tell(f"stopped{_resume(order, 'go on')}")
            return EX_INTERRUPTED


def tell(line: str) -> None:
    """Say something to people."""
    print(f"ampacity simulate: {line}", file=sys.stderr, flush=True)


def _resume(order: SweepOrder, what: str) -> str:
    if order.out is None:
        return "; nothing is kept without --out DIR"
    return f"; to {what}: {shlex.join(order.again)}"


def _run(
    order: SweepOrder,
    role: str,
    scenario: SweepScenario,
    policies: Sequence[str],
    folder: SweepFolder,
) -> int:
    began_s = time.monotonic()
    model = load_model(role)
    contents = model.units(scenario, policies, order.seeds)
    units = make_units(role, contents, scenario.trace)
    results = run_units(units, folder, _engine(order), Teller(tell, time.monotonic))
    summary = summarise(model, scenario, policies, results)
    if order.out is not None:
        _write_report(folder.path, scenario, summary, order.seed_text)
    document = {
        "scenario": scenario.scenario,
        "seed": order.seed_text,
        "sim_seconds": summary.sim_seconds,
        "wall_seconds": round(time.monotonic() - began_s, 3),
        "policies": summary.policies,
        "checks": [
            {"name": item.name, "value": item.value, "band": item.band, "pass": item.passed}
            for item in summary.checks
        ],
    }
    print(json.dumps(document, allow_nan=False) if order.as_json else table(scenario, summary))
    return 0 if all(item.passed for item in summary.checks) else EX_FAILED


def _write_report(path: Path, scenario: SweepScenario, summary: Summary, seed_text: str) -> None:
    # drawing is imported where it is used: without a report nobody waits for it
    from simulator.experiments.report import HTML, report_files

    for name, content in report_files(scenario, summary, seed_text).items():
        write_whole(path / name, content)
    tell(f"report: {path / HTML}")


def _engine(order: SweepOrder) -> Engine:
    """What runs the units. Raises EngineError."""
    jobs = order.jobs or len(os.sched_getaffinity(0))
    name, _, address = order.engine.partition("=")
    if name == "processes":
        return ProcessEngine(jobs)
    try:
        from simulator.experiments.dask_engine import DaskEngine
    except ImportError as error:
        raise EngineError(f"--engine dask needs ampacity[dask]: {error}") from error
    return DaskEngine(address or None, jobs)


def table(scenario: SweepScenario, summary: Summary) -> str:
    """Competitors as columns, the metrics that tell most as rows, then the checks."""
    names = dict.fromkeys(name for found in summary.policies.values() for name in found)
    shown = scenario.metrics or tuple(names)[:SHOWN_MAX]
    wide = max([24, *(len(name) + 1 for name in shown)])
    widths = [max(14, len(name) + 2) for name in summary.policies]
    columns = zip(summary.policies, widths, strict=True)
    lines = [" " * wide + "".join(f"{name:>{width}}" for name, width in columns)]
    for metric in shown:
        cells = [cell(found.get(metric), NUMBER) for found in summary.policies.values()]
        row = "".join(f"{text:>{width}}" for text, width in zip(cells, widths, strict=True))
        lines.append(f"{metric:<{wide}}{row}")
    lines += [
        f"{'pass' if item.passed else 'FAIL'}  {item.name}: {cell(item.value, NUMBER)}"
        for item in summary.checks
    ]
    return "\n".join(lines)
