"""A toy model for tests of the runner: cheap, seeded, slow on request, and in need of no twin."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from simulator.experiments.document import Section, SweepScenario, Variant
from simulator.experiments.model import Content, Model, Progress
from simulator.experiments.results import (
    Bar,
    Bars,
    Cdf,
    Figure,
    Line,
    MetricValue,
    Point,
    Series,
    Table,
    UnitResult,
)

TOY = {"toy": "tests.toy_sweep"}
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)


class ToyVariant(Variant, frozen=True, kw_only=True):
    """A competitor whose ceilings arrive late or at once."""

    actuation: Literal["oob", "in-band"] = "in-band"


class ToyAxes(Section, frozen=True, kw_only=True):
    """What is swept."""

    added_ratio: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


class ToySweep(SweepScenario, frozen=True, kw_only=True):
    """A toy sweep: `pause_s` of sleep in each unit, and competitors that fail or die."""

    policies: dict[str, ToyVariant]
    sweep: ToyAxes = ToyAxes()
    pause_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0
    broken: str = ""
    deadly: str = ""


class ToyModel:
    """Power rises with servers; brakes come where it passes the limit."""

    document = ToySweep

    def units(
        self, scenario: ToySweep, policies: Sequence[str], seeds: Sequence[int]
    ) -> list[Content]:
        """One unit for each competitor and seed, all points in it."""
        if scenario.sweep.added_ratio != tuple(sorted(scenario.sweep.added_ratio)):
            raise ValueError("sweep.added_ratio: expected ascending values")
        return [
            {
                "label": f"{name} seed {seed}",
                "policy": name,
                "seed": seed,
                "added": list(scenario.sweep.added_ratio),
                "late": scenario.policies[name].actuation == "oob",
                "pause_s": scenario.pause_s,
                "broken": scenario.broken == name,
                "deadly": scenario.deadly == name,
                "trace": scenario.trace,
            }
            for name in policies
            for seed in seeds
        ]

    def run(self, content: Content, progress: Progress) -> UnitResult:
        """Seeded numbers that rise with the servers."""
        draw = random.Random(f"{content['policy']} {content['seed']}")
        for step in range(10):
            time.sleep(content["pause_s"] / 10)
            progress((step + 1) / 10)
        if content["broken"]:
            raise ValueError("the toy is broken")
        if content["deadly"]:
            os.kill(os.getpid(), signal.SIGKILL)
        name, seed = content["policy"], content["seed"]
        points = []
        for added in content["added"]:
            peak = 0.79 * (1 + added) * draw.uniform(0.99, 1.01)
            peak = min(peak, 1.0 if content["late"] else 0.97)
            brakes = max(0.0, round((peak - 0.98) * 1e4)) if content["late"] else 0.0
            metrics = {"row_power_ratio_max": peak, "brakes": brakes, "ttft_p99_s_low": None}
            points.append(Point(policy=name, seed=seed, at={"added_ratio": added}, metrics=metrics))
        figures: tuple[Figure, ...] = ()
        if seed == 1:
            figures = self._figures(name, draw)
        return UnitResult(
            sim_seconds=60.0, points=tuple(points), figures=figures, data={"drawn": draw.random()}
        )

    def _figures(self, name: str, draw: random.Random) -> tuple[Figure, ...]:
        hours = tuple(step / 10 for step in range(240))
        power = tuple(0.7 + 0.2 * math.sin(h / 4) + draw.uniform(0, 0.03) for h in hours)
        return (
            Series(
                title="Row power, worst day", x_label="hours", y_label="power / capacity",
                lines=(Line(label=name, x=hours, y=power),),
                limits={"T1": 0.8, "T2": 0.89, "capacity": 1.0}, note="At +30 % servers.",
            ),
            Cdf(
                title="Time to first token", x_label="seconds", y_label="share of requests",
                lines=(Line(
                    label=f"{name} low", y=SHARES,
                    x=tuple(0.1 * draw.uniform(1, 1.2) / (1.001 - share) for share in SHARES),
                ),), log=True,
            ),
        )  # fmt: skip

    def points(self, _scenario: ToySweep, results: Sequence[UnitResult]) -> tuple[Point, ...]:
        """Every point stands for itself."""
        return tuple(point for result in results for point in result.points)

    def metrics(
        self, _scenario: ToySweep, points: Sequence[Point]
    ) -> dict[str, dict[str, MetricValue]]:
        """The most that a competitor adds without a brake in any seed."""
        brakes: dict[str, dict[float, float]] = {}
        for point in points:
            worst = brakes.setdefault(point.policy, {})
            added = point.at["added_ratio"]
            worst[added] = max(worst.get(added, 0.0), point.metrics["brakes"] or 0.0)
        return {
            name: {"added_ratio_max": max((a for a, b in worst.items() if b == 0), default=None)}
            for name, worst in brakes.items()
        }

    def figures(self, scenario: ToySweep, results: Sequence[UnitResult]) -> Sequence[Figure]:
        """Bars of the gain, and a table of what was drawn."""
        gains = self.metrics(scenario, self.points(scenario, results))
        bars = tuple(
            Bar(label=name, value=float(found["added_ratio_max"] or 0), low=0.0, high=0.5)
            for name, found in gains.items()
        )
        rows = tuple((f"unit {place}", item.data["drawn"]) for place, item in enumerate(results))
        return (
            Bars(title="Servers that fit", x_label="added / servers", y_label="", bars=bars),
            Table(title="Draws", columns=("unit", "drawn"), rows=rows),  # type: ignore[arg-type]
        )

    def notes(self, _scenario: ToySweep) -> Sequence[str]:
        """What a reader must know."""
        return ("A toy: nothing here is physics & nothing is < measured >.",)


def model() -> Model[ToySweep]:
    """The model of this module."""
    return ToyModel()
