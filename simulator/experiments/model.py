"""What a model must provide to be swept, and where the models are.

A model turns a document into units of work, runs one unit, and says what all results mean. It is
made anew in every process from its module's `model()`, so it carries no state.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

from facility.compiler import did_you_mean
from facility.loader import load_document, located
from facility.strict_yaml import parse
from facility.topology import Problem
from simulator.experiments.document import SweepScenario
from simulator.experiments.results import Figure, MetricValue, Point, UnitResult

MODELS: Final[Mapping[str, str]] = {
    "fluid": "simulator.fluid.experiment",
    "request": "simulator.experiments.request_level",
}
"""Models by the name that a document gives: modules with a function `model()`."""

Content = dict[str, Any]
"""What a unit of work is: JSON values only, all that decides its result (seeds, settings)."""
Progress = Callable[[float], None]
"""Told now and then which fraction (0 to 1) of a unit is done. Cheap enough for each second."""

ScenarioT = TypeVar("ScenarioT", bound=SweepScenario)


class Model(Protocol[ScenarioT]):
    """One way to run experiments, such as the fluid twin."""

    document: type[ScenarioT]
    """The document that it reads: `SweepScenario` with the model's own keys."""

    def units(
        self, scenario: ScenarioT, policies: Sequence[str], seeds: Sequence[int], /
    ) -> list[Content]:
        """Cut the sweep into units, as many points in each as the model likes.

        `policies` are names among `scenario.policies`. The order is the order of the report. A key
        `label` (text) names the unit in progress lines, a key `cost` (number) is its expected work
        in any unit that is the same for all.

        Raises:
            ValueError: the document contradicts itself; every problem, a line each.
        """

    def run(self, content: Content, progress: Progress, /) -> UnitResult:
        """Run one unit: a pure function of `content` (and of the files it names)."""

    def points(self, scenario: ScenarioT, results: Sequence[UnitResult], /) -> tuple[Point, ...]:
        """All points, with what only several units together can tell."""

    def metrics(
        self, scenario: ScenarioT, points: Sequence[Point], /
    ) -> dict[str, dict[str, MetricValue]]:
        """Metrics of the whole sweep by competitor, such as how much can be added."""

    def figures(self, scenario: ScenarioT, results: Sequence[UnitResult], /) -> Sequence[Figure]:
        """What to show beyond the units' own figures and the document's curves."""

    def notes(self, scenario: ScenarioT, /) -> Sequence[str]:
        """Sentences that a reader of the report must know: calibration, what is uncertain."""


def load_model(role: str) -> Model[Any]:
    """The model of a module, such as `simulator.fluid.experiment`."""
    return cast("Model[Any]", importlib.import_module(role).model())


def load_sweep(
    text: str, path: str, changes: Mapping[str, str], models: Mapping[str, str] = MODELS
) -> tuple[str, SweepScenario]:
    """The role of the model that a document names, and the document as that model reads it.

    Args:
        text: the document.
        path: its name in messages.
        changes: dotted keys and the YAML values to put there, as for `load_document`.
        models: roles by the names that documents may give.

    Raises:
        ConfigError: with every problem.
    """
    tree = parse(text).value
    name = parse(changes["model"]).value if "model" in changes else None
    if name is None and isinstance(tree, dict):
        name = tree.get("model")
    if isinstance(tree, dict) and name not in models:
        known = ", ".join(models)
        text_of_problem = f"{name!r} is no model; allowed are {known}"
        hint = did_you_mean(str(name), tuple(models))
        raise located(text, path, (Problem(("model",), text_of_problem + hint),))
    role = models.get(str(name), "")
    kind = load_model(role).document if role else SweepScenario
    scenario = load_document(text, path, kind, changes)
    if problems := _problems(scenario):
        raise located(text, path, problems)
    return role, scenario


def _problems(scenario: SweepScenario) -> tuple[Problem, ...]:
    """What one key of a document cannot say about another."""
    named = [
        (("checks", place, "policy"), check.policy) for place, check in enumerate(scenario.checks)
    ] + [
        (("curves", place, "policies", index), name)
        for place, curve in enumerate(scenario.curves)
        for index, name in enumerate(curve.policies)
    ]
    known = ", ".join(scenario.policies)
    problems = [
        Problem(
            key, f"{name!r} is none of the policies: {known}{did_you_mean(name, scenario.policies)}"
        )
        for key, name in named
        if name not in scenario.policies
    ]
    problems += [
        Problem(("checks", place), "a check needs min or max")
        for place, check in enumerate(scenario.checks)
        if check.min is None and check.max is None
    ]
    return tuple(problems)
