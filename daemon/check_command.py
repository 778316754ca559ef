"""`ampacity check FILE...`: every problem of a configuration, and the lease proof of a site.

Reads and prints; it changes nothing. The proof itself is in `controllers.proof`, and a controller
runs the same one before it actuates.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from typing import Any, Final

import msgspec

from controllers.proof import ProofRow, prove, undeclared
from daemon.config_file import read_config, shown
from daemon.controller.refusal import proof_error
from daemon.controller.takeover_check import leadership_lines, leadership_report
from facility.config import ControllerConfig, SiteConfig
from facility.loader import KINDS, ConfigError, load_any
from facility.topology import Site

EXIT_OK: Final = 0
EXIT_PROBLEMS: Final = 1

DESCRIPTION: Final = """\
Checks site, agent, controller and operator files, told apart by their keys, and prints every
problem as path:line: key: what is wrong, what is allowed. `-` reads standard input. For a site it
prints the lease proof: a row for each domain, normally and under each contingency that changes it,
with the worst case at the brake, at safe ceilings and at full leases, how long the protection
tolerates that, how long the reaction takes, and PASS or FAIL with what would pass.

exit codes: 0 clean, 1 problems or a proof that fails, 2 usage
example: ampacity check /etc/ampacity/site.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file, or - for standard input")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Check every file; problems, or the summary, go to stdout."""
    reports = [_check(path) for path in args.files]
    if args.json:
        document = {"ok": all(report["ok"] for report in reports), "files": reports}
        print(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        for report in reports:
            sys.stdout.write(_text(report))
    return EXIT_OK if all(report["ok"] for report in reports) else EXIT_PROBLEMS


def _check(path: str) -> dict[str, Any]:
    """One file's report, in the shape that `--json` prints."""
    name = shown(path)
    try:
        text = read_config(path)
        loaded = load_any(text, name)
    except ConfigError as error:
        return {"path": name, "ok": False, "problems": _problems(error)}
    if isinstance(loaded, tuple):
        return _site_report(text, name, *loaded)
    kind = next(name for name, type_ in KINDS.items() if isinstance(loaded, type_))
    report: dict[str, Any] = {"path": name, "ok": True, "kind": kind}
    if isinstance(loaded, ControllerConfig):
        report |= leadership_report(path, loaded)
    return report


def _problems(error: ConfigError) -> list[dict[str, str | int]]:
    return [{**asdict(problem), "message": str(problem)} for problem in error.problems]


def _site_report(text: str, name: str, config: SiteConfig, site: Site) -> dict[str, Any]:
    proof = prove(site)
    report: dict[str, Any] = {
        "path": name,
        "ok": proof.passed,
        "kind": "site",
        "site": site.name,
        "nodes_count": len(site.nodes),
        "gpus_count": sum(node.model.gpu_count for node in site.nodes.values()),
        "policy": config.control.policy,
        "ledger": config.control.ledger,
        "lease_s": config.control.lease_s,
        "reaction_margin_ratio": proof.reaction.margin_ratio,
        "with_control_s": proof.reaction.with_control_s,
        "without_control_s": proof.reaction.without_control_s,
        "proof": [_row(row) for row in proof.rows],
        "warnings": [
            f"{domain}: no contingency declares its loss, which would move its load to others:"
            " that is not in the proof"
            for domain in undeclared(site)
        ],
    }
    if not proof.passed:
        report["problems"] = _problems(proof_error(text, name, config, proof))
    return report


def _row(row: ProofRow) -> dict[str, Any]:
    """A row for `--json`; what is infinite is null."""
    values = {**asdict(row), "load_ratio": row.load_ratio, "margin_ratio": row.margin_ratio}
    values["patience_s"] = row.patience_s if math.isfinite(row.patience_s) else None
    return {**values, "pass": row.passed}


def _text(report: dict[str, Any]) -> str:
    problems = [problem["message"] for problem in report.get("problems", ())]
    if report.get("kind") != "site":
        clean = f"{report['path']}: {report.get('kind')} file, no problems"
        return "\n".join([*(problems or [clean]), *leadership_lines(report)]) + "\n"
    lines = [
        f"{report['path']}: site {report['site']!r}: {report['nodes_count']} nodes,"
        f" {report['gpus_count']} GPUs, policy {report['policy']}, leases of"
        f" {report['lease_s']:g} s",
        "",
        "Worst cases as shares of the capacity in each state. `floor`: where nodes go by"
        " themselves. `leases`: the most",
        "that leases may add up to, and the clock that everybody may have at once. The protection"
        " tolerates that for",
        f"`patience`; it must be {report['reaction_margin_ratio']:g} times the reaction, with"
        " control and without it.",
        "",
        *_table(report["proof"]),
        "",
        *(f"WARNING: {warning}" for warning in report["warnings"]),
        *problems,
    ]
    if report["ok"]:
        lines.append(
            f"PASS: no loss of control loads any domain for longer than it tolerates"
            f" ({len(report['proof'])} rows)."
        )
    else:
        failed = sum(not row["pass"] for row in report["proof"])
        lines.append(
            f"FAIL: {failed} of {len(report['proof'])} rows. A controller refuses to actuate"
            " this site; `control: {shadow: true}` only watches."
        )
    return "\n".join(lines) + "\n"


HEAD: Final = (
    "domain", "state", "kW", "brake", "safe", "floor", "leases", "MHz", "patience", "with",
    "without", "margin", "",
)  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [list(HEAD)] + [_line(row) for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(HEAD))]
    return ["  ".join(_cells(line, widths)).rstrip() for line in cells]


def _line(row: dict[str, Any]) -> list[str]:
    capacity_w = row["capacity_w"]
    if not capacity_w and not row["full_w"]:
        return [row["domain"], row["state"], "lost", *[""] * 9, "PASS"]
    shares = [_percent(row[f"{name}_w"], capacity_w) for name in ("brake", "safe", "floor")]
    patience_s, margin = row["patience_s"], row["margin_ratio"]
    return [
        row["domain"],
        row["state"],
        f"{capacity_w / 1000:.1f}",
        *shares,
        _percent(row["leased_w"], capacity_w),
        str(row["lease_ceiling_mhz"]),
        "any" if patience_s is None else f"{patience_s:g} s",
        f"{row['with_control_s']:.1f} s",
        f"{row['without_control_s']:.1f} s",
        "any" if margin is None else f"{margin:.1f}",
        "PASS" if row["pass"] else "FAIL",
    ]


def _percent(power_w: float, capacity_w: float) -> str:
    return f"{100 * power_w / capacity_w:.0f} %" if capacity_w else "no room"


def _cells(line: list[str], widths: list[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    last = len(line) - 1
    return [
        text.ljust(width) if place < 2 or place == last else text.rjust(width)
        for place, (text, width) in enumerate(zip(line, widths, strict=True))
    ]
