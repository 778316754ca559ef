"""The model `request`: every request of a row, the live controller and agents, minutes to hours.

Each point, competitor and seed is a unit, run in lock step as `kind: run` scenarios are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from facility.config import PolicyName
from simulator.experiments.document import At, Section, SweepScenario
from simulator.experiments.model import Content, Model, Progress
from simulator.experiments.results import Figure, MetricValue, Point, UnitResult
from simulator.loads.formats import load_file
from simulator.scenario import (
    FailureScenario,
    LoadScenario,
    RowScenario,
    Scenario,
    Seconds,
    run_scenario,
    scenario_site,
)

AXIS_POINTS_MAX: Final = 64


class RequestAxes(Section, frozen=True, kw_only=True):
    """What is swept; an axis that is left out has the value of `row` or `load`."""

    nodes: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=4_096)], ...], Meta(max_length=AXIS_POINTS_MAX)
    ] = ()
    oversubscription_ratio: Annotated[
        tuple[Annotated[float, Meta(ge=0.1, le=10.0)], ...], Meta(max_length=AXIS_POINTS_MAX)
    ] = ()
    requests_per_node_s: Annotated[
        tuple[Annotated[float, Meta(gt=0.0, le=1_000.0)], ...], Meta(max_length=AXIS_POINTS_MAX)
    ] = ()


class RequestSweep(SweepScenario, frozen=True, kw_only=True):
    """A sweep at request level: the keys of a plain scenario, and axes."""

    duration_s: Seconds
    sample_hz: Annotated[float, Meta(gt=0.0, le=10.0)] = 2.0
    row: RowScenario = RowScenario()
    load: LoadScenario = LoadScenario()
    ledger: bool | None = None
    failure: FailureScenario | None = None
    sweep: RequestAxes = RequestAxes()


class RequestLevel:
    """Runs points of a `RequestSweep`."""

    document = RequestSweep

    def units(
        self, scenario: RequestSweep, policies: Sequence[str], seeds: Sequence[int]
    ) -> list[Content]:
        """A unit for each point, competitor and seed. Raises ValueError for a wrong site."""
        contents = []
        points = _points(scenario)
        swept = [axis for axis in points[0] if len({at[axis] for at in points}) > 1]
        for at, name in itertools.product(points, policies):
            variant = scenario.policies[name]
            plain = _at_point(scenario, at, variant.policy, variant.control)
            site = scenario_site(plain, variant.policy)
            if plain.failure is not None and plain.failure.contingency not in site.contingencies:
                known = ", ".join(site.contingencies)
                raise ValueError(
                    f"failure.contingency: {plain.failure.contingency!r} is none of {known}"
                )
            place = "".join(f", {axis} {at[axis]:g}" for axis in swept)
            contents += [
                {
                    "label": f"{name} seed {seed}{place}",
                    "cost": plain.row.nodes,
                    "name": name,
                    "seed": seed,
                    "at": at,
                    "trace": scenario.trace,
                    "scenario": msgspec.to_builtins(plain),
                }
                for seed in seeds
            ]
        return contents

    def run(self, content: Content, progress: Progress) -> UnitResult:
        """Run one point of one competitor with one seed."""
        plain = msgspec.convert(content["scenario"], Scenario)
        trace = None if content["trace"] is None else load_file(Path(content["trace"]))
        report = run_scenario(plain, plain.policies[0], seed=content["seed"], trace=trace)
        progress(1.0)
        metrics = {
            name: None if value is None else float(value)
            for name, value in report.items()
            if value is None or isinstance(value, bool | int | float)
        }
        point = Point(
            policy=content["name"], seed=content["seed"], at=content["at"], metrics=metrics
        )
        return UnitResult(sim_seconds=plain.duration_s, points=(point,))

    def points(self, _scenario: RequestSweep, results: Sequence[UnitResult]) -> tuple[Point, ...]:
        """Every point stands for itself."""
        return tuple(point for result in results for point in result.points)

    def metrics(
        self, _scenario: RequestSweep, _points: Sequence[Point]
    ) -> dict[str, dict[str, MetricValue]]:
        """Nothing beyond the points."""
        return {}

    def figures(self, _scenario: RequestSweep, _results: Sequence[UnitResult]) -> Sequence[Figure]:
        """Nothing beyond the document's curves."""
        return ()

    def notes(self, scenario: RequestSweep) -> Sequence[str]:
        """What was simulated."""
        return (
            f"Request level: every request of {scenario.duration_s:g} s after a warm-up, with the"
            " live controller and agents in lock step.",
        )


def model() -> Model[RequestSweep]:
    """The model of this module."""
    return RequestLevel()


def _points(scenario: RequestSweep) -> list[At]:
    axes = {
        "nodes": scenario.sweep.nodes or (scenario.row.nodes,),
        "oversubscription_ratio": scenario.sweep.oversubscription_ratio
        or (scenario.row.oversubscription_ratio,),
        "requests_per_node_s": scenario.sweep.requests_per_node_s
        or (scenario.load.requests_per_node_s,),
    }
    return [
        dict(zip(axes, map(float, values), strict=True))
        for values in itertools.product(*axes.values())
    ]


def _at_point(
    scenario: RequestSweep, at: At, policy: PolicyName, control: dict[str, object]
) -> Scenario:
    """The plain scenario of one point and competitor."""
    row = RowScenario(nodes=int(at["nodes"]), oversubscription_ratio=at["oversubscription_ratio"])
    load = msgspec.structs.replace(scenario.load, requests_per_node_s=at["requests_per_node_s"])
    return Scenario(
        version=1,
        scenario=scenario.scenario,
        duration_s=scenario.duration_s,
        sample_hz=scenario.sample_hz,
        row=row,
        load=load,
        control=control,
        ledger=scenario.ledger,
        failure=scenario.failure,
        policies=(policy,),
    )
