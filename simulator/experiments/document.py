"""The document of a sweep: what every `kind: sweep` file has, whatever model runs it.

A model extends `SweepScenario` with keys of its own (site, load, sweep axes, faults) and reads
them; what stands here is read by the runner and the report alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from facility.config import PolicyName
from facility.wire import Name

Text = Annotated[str, Meta(min_length=1, max_length=200)]
At = dict[str, float]
"""A point of a sweep: a value for each of its axes; in a selection, for some of them."""


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of a scenario file: unknown keys are errors."""


class Variant(Section, frozen=True, kw_only=True):
    """One competitor: a policy, and keys of the site's control section that differ for it.

    A model that can vary more, such as how clocks reach the GPUs, extends this.
    """

    policy: PolicyName
    control: dict[str, object] = {}


class SweepCheck(Section, frozen=True, kw_only=True):
    """What one metric of one competitor must be: within [min, max], both inclusive.

    It is read at the point `at`, in every seed, the worst of which counts. Without `at` that is
    the headline, or a metric that the model makes of the whole sweep.
    """

    name: Text
    policy: Name
    metric: Text
    at: At | None = None
    min: float | None = None
    max: float | None = None


class CurvePlot(Section, frozen=True, kw_only=True):
    """A plot of one metric against one axis, a line for each competitor, seeds as a band.

    `at` fixes the other axes; `policies` picks competitors; `limits` are drawn across; `note`
    stands below.
    """

    metric: Text
    against: Text
    title: Text
    y_label: Text
    x_label: str = ""
    at: At = {}
    policies: tuple[Name, ...] = ()
    limits: dict[str, float] = {}
    log: bool = False
    note: str = ""


class SweepScenario(Section, frozen=True, kw_only=True):
    """One sweep. Extended by each model; `policies` are the competitors by name.

    `headline` is the point whose metrics stand for a competitor in tables and on stdout. `metrics`
    picks and orders what tables show. `trace` is a file of requests, for models that replay one.
    """

    version: Literal[1]
    kind: Literal["sweep"]
    scenario: Name
    model: Name
    description: str = ""
    policies: Annotated[Mapping[Name, Variant], Meta(min_length=1, max_length=64)]
    headline: At = {}
    metrics: tuple[Text, ...] = ()
    checks: tuple[SweepCheck, ...] = ()
    curves: tuple[CurvePlot, ...] = ()
    trace: str | None = None
