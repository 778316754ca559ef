"""The command: so many mutated messages and files, one input again, or atheris on one target.

python -m tests.fuzz --messages 1000000 --files 100000 --others 100000
python -m tests.fuzz --replay inbox --seed 7 --at 4711
python -m tests.fuzz --atheris wire --seconds 60
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.fuzz.driver import Report

SLICE: Final = 10_000
"""Inputs to one piece of work; a multiple of a target's life."""
Work = tuple[str, int, int, int]


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=0, metavar="N")
    parser.add_argument("--files", type=int, default=0, metavar="N")
    parser.add_argument("--others", type=int, default=0, metavar="N")
    parser.add_argument("--target", action="append", help="of the counts, only for these")
    parser.add_argument("--seed", type=int, help="default: a fresh one, which is printed")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--replay", metavar="TARGET", help="one input again, with its life before")
    parser.add_argument("--at", type=int, default=0, metavar="NUMBER", help="which to replay")
    parser.add_argument("--atheris", metavar="TARGET", help="coverage-guided instead")
    parser.add_argument("--seconds", type=int, default=60, help="how long atheris runs")
    options = parser.parse_args(arguments)
    if options.atheris:
        from tests.fuzz import coverage  # before the code that it instruments

        return coverage.run(options.atheris, seconds=options.seconds)
    seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
    if options.replay:
        return _replay(options.replay, seed, options.at)
    counts = {"message": options.messages, "file": options.files, "other": options.others}
    print(f"seed {seed}", file=sys.stderr)
    reports = run_all(counts, seed=seed, jobs=options.jobs, only=options.target)
    for report in reports:
        for finding in report.findings:
            print(f"{finding.replay()}\n{finding.data[:300]!r}\n{finding.story}", file=sys.stderr)
    if options.json:
        print(json.dumps([_as_json(report) for report in reports]))
    else:
        print("\n".join(_table(reports)))
    return int(any(report.findings for report in reports))


def run_all(
    counts: dict[str, int], *, seed: int, jobs: int, only: Sequence[str] | None = None
) -> list[Report]:
    """Share each family's count out among its targets by weight; one report per target."""
    from tests.fuzz.catalogue import catalogue

    kinds = [kind for kind in catalogue().values() if not only or kind.name in only]
    work: list[Work] = []
    for kind in kinds:
        family = [other.weight for other in kinds if other.family == kind.family]
        count = round(counts[kind.family] * kind.weight / sum(family))
        work += [
            (kind.name, min(SLICE, count - first), seed, first) for first in range(0, count, SLICE)
        ]
    if jobs == 1:
        parts = [_do(item) for item in work]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            parts = list(pool.map(_do, work))
    return _merged(parts)


def _do(work: Work) -> Report:
    from tests.fuzz.catalogue import catalogue
    from tests.fuzz.driver import fuzz

    name, count, seed, first = work
    return fuzz(catalogue()[name], count=count, seed=seed, first=first)


def _merged(parts: Sequence[Report]) -> list[Report]:
    whole: dict[str, Report] = {}
    for part in parts:
        report = whole.setdefault(part.target, part)
        if report is part:
            continue
        report.inputs_count += part.inputs_count
        report.outcomes += part.outcomes
        report.wall_s += part.wall_s
        report.growth_bytes = max(report.growth_bytes, part.growth_bytes)
        report.findings += part.findings
        if part.slowest_s > report.slowest_s:
            report.slowest_s, report.slowest_number = part.slowest_s, part.slowest_number
    return list(whole.values())


def _replay(name: str, seed: int, number: int) -> int:
    from tests.fuzz.catalogue import catalogue
    from tests.fuzz.driver import replay

    report = replay(catalogue()[name], seed=seed, number=number)
    for finding in report.findings:
        print(f"{finding.number}: {finding.data!r}\n{finding.story}")
    print("\n".join(_table([report])))
    return int(bool(report.findings))


def _table(reports: Sequence[Report]) -> list[str]:
    rows = [f"{'target':9} {'inputs':>8} {'broken':>6} {'slowest':>9} {'growth':>8}  outcomes"]
    for report in reports:
        outcomes = ", ".join(f"{name} {count}" for name, count in report.outcomes.most_common(8))
        rows.append(
            f"{report.target:9} {report.inputs_count:8} {len(report.findings):6}"
            f" {1e3 * report.slowest_s:6.1f} ms {report.growth_bytes / 1e6:5.1f} MB  {outcomes}"
        )
    return [*rows, f"{sum(report.wall_s for report in reports):.0f} s of work"]


def _as_json(report: Report) -> dict[str, object]:
    return {
        "target": report.target,
        "seed": report.seed,
        "inputs_count": report.inputs_count,
        "broken_count": len(report.findings),
        "slowest_s": report.slowest_s,
        "slowest_number": report.slowest_number,
        "growth_bytes": report.growth_bytes,
        "wall_s": report.wall_s,
        "outcomes": dict(report.outcomes),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
