"""The report of a sweep: one HTML page that loads nothing, CSV and JSON beside it.

A pure function of the scenario and the summary: no times, hosts or folders are in it, so that the
same sweep gives the same bytes.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from simulator.experiments.document import SweepScenario
from simulator.experiments.honesty import calibration_tables
from simulator.experiments.plots import svg
from simulator.experiments.results import MetricValue, Point, Table
from simulator.experiments.summary import CheckOutcome, Metrics, Summary

HTML, JSON, POINTS, CHECKS = "report.html", "report.json", "points.csv", "checks.csv"
NUMBER: Final = re.compile(r"[-+0-9.,e]*(?: \([-+0-9.,e]+ to [-+0-9.,e]+\))?")
CSS: Final = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:62rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;font-size:13.5px;margin:.6rem 0}
th,td{padding:.22rem .7rem;border-bottom:1px solid #e2e2e2;text-align:right;
font-variant-numeric:tabular-nums}
th:first-child,td:first-child,.t{text-align:left}th{border-bottom:2px solid #8a8a8a}
.wide{overflow-x:auto}figure{margin:1.4rem 0}figure svg{width:100%;height:auto}
figcaption,.facts{color:#4a4a4a;font-size:13.5px}
.pass{color:#00664a;font-weight:600}.fail{color:#b00020;font-weight:700}
"""


def report_files(scenario: SweepScenario, summary: Summary, seed_text: str) -> dict[str, bytes]:
    """The files of the report by name."""
    return {
        POINTS: _points_csv(summary.points).encode(),
        CHECKS: _checks_csv(summary.checks).encode(),
        JSON: _json(scenario, summary, seed_text),
        HTML: _page(scenario, summary, seed_text).encode(),
    }


def _json(scenario: SweepScenario, summary: Summary, seed_text: str) -> bytes:
    document = {
        "scenario": scenario.scenario,
        "seed": seed_text,
        "sim_seconds": summary.sim_seconds,
        "policies": summary.policies,
        "checks": [
            {
                "name": item.name,
                "value": item.value,
                "band": item.band,
                "pass": item.passed,
                "policy": item.policy,
                "metric": item.metric,
            }
            for item in summary.checks
        ],
        "notes": summary.notes,
        "points": summary.points,
        "figures": summary.figures,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _page(scenario: SweepScenario, summary: Summary, seed_text: str) -> str:
    parts = [
        f"<h1>{_text(scenario.scenario)}</h1>",
        f"<p>{_text(scenario.description)}</p>" if scenario.description else "",
        _facts(scenario, summary, seed_text),
        _checks(summary.checks) if summary.checks else "",
        "<h2>Metrics</h2>",
        _metrics(scenario, summary.policies),
        "<h2>Figures</h2>" if summary.figures else "",
    ]
    for figure in (*summary.figures, *calibration_tables()):
        note = f"<figcaption>{_text(figure.note)}</figcaption>" if figure.note else ""
        if isinstance(figure, Table):
            rows = [[_cell(value) for value in row] for row in figure.rows]
            parts.append(f"<h2>{_text(figure.title)}</h2>{_table(figure.columns, rows)}{note}")
        else:
            picture = svg(figure).replace(
                "<svg ", f'<svg role="img" aria-label="{_text(figure.title)}" ', 1
            )
            parts.append(f"<figure>{picture}{note}</figure>")
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_text(scenario.scenario)}</title><style>{CSS}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _facts(scenario: SweepScenario, summary: Summary, seed_text: str) -> str:
    days = summary.sim_seconds / 86_400.0
    facts = [
        f"Seed {seed_text}; model <code>{_text(scenario.model)}</code>; "
        f"{days:,.4g} days simulated over all units; {len(summary.points)} points.",
        *(_text(note) for note in summary.notes),
        "The same scenario, seed and version give this page to the last byte. All numbers are in "
        f"<code>{POINTS}</code> and <code>{JSON}</code> beside it.",
    ]
    return '<ul class="facts">' + "".join(f"<li>{fact}</li>" for fact in facts) + "</ul>"


def _checks(checks: Sequence[CheckOutcome]) -> str:
    rows = []
    for item in checks:
        word = '<span class="pass">pass</span>' if item.passed else '<span class="fail">FAIL</span>'
        low, high = (_cell(end) if end is not None else "" for end in item.band)
        cells = (_text(item.name), _text(item.policy), _text(item.metric))
        rows.append([*cells, _cell(item.value), low, high, word])
    failed = sum(not item.passed for item in checks)
    said = "all hold" if not failed else f"{failed} of {len(checks)} FAIL"
    columns = ("check", "policy", "metric", "value", "at least", "at most", "")
    return f"<h2>Checks: {said}</h2>{_table(columns, rows)}"


def _metrics(scenario: SweepScenario, policies: Metrics) -> str:
    names = tuple(dict.fromkeys(name for found in policies.values() for name in found))
    ends = {f"{name}{end}" for name in names for end in ("_min", "_max") if f"{name}_min" in names}
    chosen = [name for name in scenario.metrics or names if name in names and name not in ends]
    rows = [
        [_text(name), *(_spread(found, name) for found in policies.values())] for name in chosen
    ]
    where = ", ".join(f"{axis} = {value:g}" for axis, value in scenario.headline.items())
    said = f'<p class="facts">At {_text(where)}, and of the whole sweep.</p>' if where else ""
    return said + _table(("metric", *policies), rows)


def _spread(metrics: Mapping[str, MetricValue], name: str) -> str:
    """A metric, and the least and most of it over seeds when there are several."""
    low, high = metrics.get(f"{name}_min"), metrics.get(f"{name}_max")
    mean = _cell(metrics.get(name))
    return mean if low == high else f"{mean} ({_cell(low)} to {_cell(high)})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells are HTML already."""
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def _data(cell: str) -> str:
    """A cell of a table: numbers stand right, words left."""
    return f"<td>{cell}</td>" if NUMBER.fullmatch(cell) else f'<td class="t">{cell}</td>'


def _cell(value: MetricValue) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"
    return _text(str(value))


def _text(words: str) -> str:
    return html.escape(words)


def _points_csv(points: Sequence[Point]) -> str:
    axes = tuple(dict.fromkeys(axis for point in points for axis in point.at))
    names = tuple(dict.fromkeys(name for point in points for name in point.metrics))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["policy", "seed", *axes, *names])
    for point in points:
        values = [point.at.get(axis) for axis in axes] + [point.metrics.get(n) for n in names]
        writer.writerow([point.policy, point.seed, *values])
    return buffer.getvalue()


def _checks_csv(checks: Sequence[CheckOutcome]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["check", "policy", "metric", "value", "min", "max", "pass"])
    for item in checks:
        passed = "pass" if item.passed else "FAIL"
        writer.writerow([item.name, item.policy, item.metric, item.value, *item.band, passed])
    return buffer.getvalue()
