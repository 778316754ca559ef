"""What a unit of an experiment returns: points of the sweep, and things to look at, as data.

Figures are a small vocabulary (series, curves, CDFs, bars, tables), so that a report can draw any
experiment. It never draws; figures of the same kind and title from several units become one.
"""

from __future__ import annotations

from msgspec import Struct

from simulator.experiments.document import At

MetricValue = float | int | bool | str | None
Numbers = tuple[float | None, ...]
"""None is a gap: not measured."""


class Point(Struct, frozen=True, kw_only=True):
    """One competitor with one seed at one point of the sweep, and what was measured there.

    Metric names carry their unit. What was not measured is None, never 0.
    """

    policy: str
    seed: int
    at: At
    metrics: dict[str, float | None]


class Line(Struct, frozen=True, kw_only=True):
    """A named line through (x, y), of equal lengths; `low` and `high` make a band around it."""

    label: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


class _Plot(Struct, frozen=True, kw_only=True):
    """What every plot has: a title, labels with units, lines across it, and a sentence below."""

    title: str
    x_label: str
    y_label: str
    limits: dict[str, float] = {}
    note: str = ""
    log: bool = False


class Series(_Plot, frozen=True, kw_only=True, tag="series"):
    """Something over time, such as power of a row; x in the unit that `x_label` says."""

    lines: tuple[Line, ...]


class Curve(_Plot, frozen=True, kw_only=True, tag="curve"):
    """A metric against an axis of the sweep, with markers at the points that were run."""

    lines: tuple[Line, ...]


class Cdf(_Plot, frozen=True, kw_only=True, tag="cdf"):
    """Distributions: x is the value, y the share (0 to 1) of all that is at most that.

    `log` is the scale of x. The tail above P90 is drawn once more, enlarged.
    """

    lines: tuple[Line, ...]


class Bar(Struct, frozen=True, kw_only=True):
    """One bar, with the spread of its value when it is known."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None


class Bars(_Plot, frozen=True, kw_only=True, tag="bars"):
    """Values side by side, such as what each factor adds; `x_label` names the values' unit."""

    bars: tuple[Bar, ...]


class Table(Struct, frozen=True, kw_only=True, tag="table"):
    """Rows and columns of values, shown as they are."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[MetricValue, ...], ...]
    note: str = ""


Figure = Series | Curve | Cdf | Bars | Table


class UnitResult(Struct, frozen=True, kw_only=True):
    """What one unit found. `data` is for the model's own `metrics` and `figures`: JSON values."""

    sim_seconds: float
    points: tuple[Point, ...] = ()
    figures: tuple[Figure, ...] = ()
    data: dict[str, object] = {}
