"""`ampacity check FILE...`: every problem of a configuration, or what a clean site adds up to.

Reads and prints; it changes nothing. The table compares worst cases with capacities at rest. It is
no proof that no lease can trip a breaker.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec

from daemon.config_file import read_config, shown
from facility.config import AgentConfig, SiteConfig
from facility.loader import ConfigError, ConfigProblem, load_any
from facility.topology import Node, Site

EXIT_OK: Final = 0
EXIT_PROBLEMS: Final = 1
ROUNDING_RATIO: Final = 1e-9
"""What sums of floats may be off: a load that equals its capacity is within it."""
NORMAL: Final = "normal"
"""What the state without any contingency is called."""

DESCRIPTION: Final = """\
Checks site, agent and controller files, told apart by their keys, and prints every problem as
path:line: key: what is wrong, what is allowed. `-` reads standard input. For a site without
problems it prints each domain's worst case against its capacity, at full clocks, at the safe
ceilings and at the brake, normally and under each contingency that changes it.

exit codes: 0 clean, 1 problems, 2 usage
example: ampacity check /etc/ampacity/site.yaml
"""


@dataclass(frozen=True, slots=True)
class DomainLoad:
    """Worst cases of all nodes below one domain, in one state of the site, against its capacity."""

    domain: str
    state: str
    capacity_w: float
    full_w: float
    safe_w: float
    brake_w: float

    @property
    def warning(self) -> str:
        """What is unsafe about it, as a sentence; empty when nothing is."""
        for what, power_w in (("the brake ceiling", self.brake_w), ("safe ceilings", self.safe_w)):
            if power_w > self.capacity_w * (1.0 + ROUNDING_RATIO):
                return (
                    f"{self.domain}, {self.state}: at {what} the worst case, {_kw(power_w)} kW,"
                    f" exceeds the capacity, {_kw(self.capacity_w)} kW"
                )
        return ""


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


def site_loads(site: Site) -> list[DomainLoad]:
    """Each domain normally, then under each contingency that changes its capacity or its load."""
    rows = [_load(site, name, NORMAL, frozenset()) for name in site.domains]
    before = {row.domain: row for row in rows}
    for contingency in site.contingencies:
        active = frozenset({contingency})
        for name in site.domains:
            row = _load(site, name, contingency, active)
            same = (row.capacity_w, row.full_w) == (before[name].capacity_w, before[name].full_w)
            if not same:
                rows.append(row)
    return rows


def _load(site: Site, domain: str, state: str, active: frozenset[str]) -> DomainLoad:
    shares = site.shares(active)[domain]
    below = [(site.nodes[name], share) for name, share in shares.items()]
    return DomainLoad(
        domain=domain,
        state=state,
        capacity_w=site.capacity_w(domain, active),
        full_w=sum(share * node.model.power_w_max for node, share in below),
        safe_w=sum(share * _at(node, node.model.gpu.safe_ceiling_mhz) for node, share in below),
        brake_w=sum(share * _at(node, node.model.gpu.brake_ceiling_mhz) for node, share in below),
    )


def _at(node: Node, ceiling_mhz: int) -> float:
    return node.model.worst_case_w(ceiling_mhz)


def _check(path: str) -> dict[str, Any]:
    """One file's report, in the shape that `--json` prints."""
    name = shown(path)
    try:
        loaded = load_any(read_config(path), name)
    except ConfigError as error:
        return {
            "path": name,
            "ok": False,
            "problems": [_problem(problem) for problem in error.problems],
        }
    if isinstance(loaded, tuple):
        return {"path": name, "ok": True, "kind": "site", **_summary(*loaded)}
    kind = "agent" if isinstance(loaded, AgentConfig) else "controller"
    return {"path": name, "ok": True, "kind": kind}


def _problem(problem: ConfigProblem) -> dict[str, str | int]:
    return {**asdict(problem), "message": str(problem)}


def _summary(config: SiteConfig, site: Site) -> dict[str, Any]:
    loads = site_loads(site)
    return {
        "site": site.name,
        "nodes_count": len(site.nodes),
        "gpus_count": sum(node.model.gpu_count for node in site.nodes.values()),
        "policy": config.control.policy,
        "domains": [_ratios(row) for row in loads],
        "warnings": [row.warning for row in loads if row.warning],
    }


def _ratios(row: DomainLoad) -> dict[str, Any]:
    loads = {"full": row.full_w, "safe": row.safe_w, "brake": row.brake_w}
    ratios = {
        f"{name}_ratio": power_w / row.capacity_w if row.capacity_w else None
        for name, power_w in loads.items()
    }
    return {**asdict(row), **ratios}


def _text(report: dict[str, Any]) -> str:
    if not report["ok"]:
        return "".join(f"{problem['message']}\n" for problem in report["problems"])
    if report["kind"] != "site":
        return f"{report['path']}: {report['kind']} file, no problems\n"
    lines = [
        f"{report['path']}: site {report['site']!r}, no problems: {report['nodes_count']} nodes,"
        f" {report['gpus_count']} GPUs, policy {report['policy']}",
        "",
        "Worst case of all nodes against capacity, in kW (this is no proof about leases):",
        *_table(report["domains"]),
        "",
    ]
    lines += [f"WARNING: {warning}" for warning in report["warnings"]]
    if not report["warnings"]:
        lines.append("At the safe ceilings every domain is within its capacity, in every state.")
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    head = ["domain", "state", "capacity", "full clocks", "", "safe", "", "brake", ""]
    cells = [head]
    for row in rows:
        line = [
            row["domain"],
            row["state"],
            _kw(row["capacity_w"]) if row["capacity_w"] else "lost",
        ]
        for name in ("full", "safe", "brake"):
            ratio = row[f"{name}_ratio"]
            line += [_kw(row[f"{name}_w"]), "" if ratio is None else f"{100 * ratio:.0f} %"]
        cells.append(line)
    widths = [max(len(line[place]) for line in cells) for place in range(len(head))]
    return ["  ".join(_cells(line, widths)).rstrip() for line in cells]


def _cells(line: list[str], widths: list[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    return [
        text.ljust(width) if place < 2 else text.rjust(width)
        for place, (text, width) in enumerate(zip(line, widths, strict=True))
    ]


def _kw(power_w: float) -> str:
    return f"{power_w / 1000:.1f}"
