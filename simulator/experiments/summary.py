"""What a sweep comes to: metrics by competitor, checks with their bands, curves over seeds.

A check holds when it holds at every point and in every seed that it leaves open: the worst counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from simulator.experiments.document import At, CurvePlot, SweepCheck, SweepScenario
from simulator.experiments.model import Model
from simulator.experiments.results import (
    Bars,
    Cdf,
    Curve,
    Figure,
    Line,
    MetricValue,
    Numbers,
    Point,
    Series,
    Table,
    UnitResult,
)

Metrics = dict[str, dict[str, MetricValue]]


class CheckOutcome(Struct, frozen=True, kw_only=True):
    """One check after a run. A metric that was not measured fails."""

    name: str
    policy: str
    metric: str
    value: float | None
    band: tuple[float | None, float | None]
    passed: bool


class Summary(Struct, frozen=True, kw_only=True):
    """All that a report says, as data."""

    sim_seconds: float
    policies: Metrics
    checks: tuple[CheckOutcome, ...]
    points: tuple[Point, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]


def summarise(
    model: Model[Any],
    scenario: SweepScenario,
    policies: Sequence[str],
    results: Sequence[UnitResult],
) -> Summary:
    """Everything that the results of all units say; a pure function of them."""
    points = model.points(scenario, results)
    metrics = _headlines(scenario.headline, policies, points)
    for policy, found in model.metrics(scenario, points).items():
        if policy in metrics:
            metrics[policy].update(found)
    own = (figure for result in results for figure in result.figures)
    curves = (curve(item, policies, points) for item in scenario.curves)
    figures = merged((*own, *curves, *model.figures(scenario, results)))
    return Summary(
        sim_seconds=sum(result.sim_seconds for result in results),
        policies=metrics,
        checks=tuple(
            judged(check, scenario.headline, points, metrics)
            for check in scenario.checks
            if check.policy in policies
        ),
        points=points,
        figures=figures,
        notes=tuple(model.notes(scenario)),
    )


def judged(
    check: SweepCheck, headline: At, points: Sequence[Point], metrics: Metrics
) -> CheckOutcome:
    """Hold one check against every value that it covers; the worst is its value."""
    at = headline if check.at is None else check.at
    values = [
        point.metrics[check.metric]
        for point in points
        if point.policy == check.policy and _matches(point, at) and check.metric in point.metrics
    ]
    if not values and check.at is None:
        value = metrics.get(check.policy, {}).get(check.metric)
        values = [float(value) if isinstance(value, bool | int | float) else None]
    worst = _worst(values, check)
    return CheckOutcome(
        name=check.name,
        policy=check.policy,
        metric=check.metric,
        value=worst,
        band=(check.min, check.max),
        passed=worst is not None and _excess(worst, check) <= 0.0,
    )


def curve(plot: CurvePlot, policies: Sequence[str], points: Sequence[Point]) -> Curve:
    """A metric against an axis: the mean over seeds, with its spread when there are several."""
    lines = []
    for policy in plot.policies or policies:
        values: dict[float, list[float]] = {}
        for point in points:
            x, y = point.at.get(plot.against), point.metrics.get(plot.metric)
            if point.policy == policy and x is not None and _matches(point, plot.at):
                values.setdefault(x, []).extend([] if y is None else [y])
        if values:
            lines.append(_line(policy, values))
    return Curve(
        title=plot.title,
        x_label=plot.x_label or plot.against,
        y_label=plot.y_label,
        limits=plot.limits,
        log=plot.log,
        note=plot.note,
        lines=tuple(lines),
    )


def merged(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    """Figures in order, those of one kind and title as one with all their lines, bars or rows."""
    found: dict[tuple[str, str], Figure] = {}
    for figure in figures:
        key = (type(figure).__name__, figure.title)
        found[key] = _joined(found[key], figure) if key in found else figure
    return tuple(found.values())


def _joined(first: Figure, second: Figure) -> Figure:
    match first, second:
        case Table(), Table():
            return msgspec.structs.replace(first, rows=first.rows + second.rows)
        case Bars(), Bars():
            return msgspec.structs.replace(first, bars=first.bars + second.bars)
        case Series() | Curve() | Cdf(), Series() | Curve() | Cdf():
            limits = {**first.limits, **second.limits}
            return msgspec.structs.replace(first, lines=first.lines + second.lines, limits=limits)
    raise TypeError(f"{type(first).__name__} and {type(second).__name__} are no one figure")


def _headlines(headline: At, policies: Sequence[str], points: Sequence[Point]) -> Metrics:
    """Metrics at the headline: one value as it is, of several the mean, least and most."""
    metrics: Metrics = {policy: {} for policy in policies}
    for policy in policies:
        mine = [item for item in points if item.policy == policy and _matches(item, headline)]
        if not headline and len({tuple(sorted(item.at.items())) for item in mine}) > 1:
            continue  # a whole sweep has no single value
        for name in dict.fromkeys(name for item in mine for name in item.metrics):
            values = [value for item in mine if (value := item.metrics.get(name)) is not None]
            metrics[policy][name] = statistics.fmean(values) if values else None
            if len(mine) > 1 and values:
                metrics[policy][f"{name}_min"] = min(values)
                metrics[policy][f"{name}_max"] = max(values)
        if len(mine) > 1:
            metrics[policy]["runs"] = len(mine)
    return metrics


def _matches(point: Point, at: At) -> bool:
    return all(point.at.get(axis) == value for axis, value in at.items())


def _worst(values: Sequence[float | None], check: SweepCheck) -> float | None:
    """The value farthest out of the band, or nearest to its edge; None when any is missing."""
    measured = [value for value in values if value is not None]
    if not measured or len(measured) < len(values):
        return None
    return max(measured, key=lambda value: _excess(value, check))


def _excess(value: float, check: SweepCheck) -> float:
    """By how much a value is outside the band; negative inside."""
    below = -math.inf if check.min is None else check.min - value
    above = -math.inf if check.max is None else value - check.max
    return max(below, above)


def _line(label: str, values: Mapping[float, Sequence[float]]) -> Line:
    x = tuple(sorted(values))
    spread = any(len(values[place]) > 1 for place in x)
    y: Numbers = tuple(statistics.fmean(values[place]) if values[place] else None for place in x)
    if not spread:
        return Line(label=label, x=x, y=y)
    low: Numbers = tuple(min(values[place], default=None) for place in x)
    high: Numbers = tuple(max(values[place], default=None) for place in x)
    return Line(label=label, x=x, y=y, low=low, high=high)
