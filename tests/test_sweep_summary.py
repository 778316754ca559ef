"""What a sweep comes to: in checks the worst counts, in tables and curves the mean and spread."""

from __future__ import annotations

import pytest

from simulator.experiments.document import At, CurvePlot, SweepCheck
from simulator.experiments.progress import SweepProgress, spoken
from simulator.experiments.results import Bar, Bars, Cdf, Figure, Line, Point, Table
from simulator.experiments.summary import curve, judged, merged, summarise
from simulator.experiments.units import Unit, make_units
from tests.toy_sweep import ToyModel, ToySweep, ToyVariant

ROW: At = {"added_ratio": 0.3, "power_factor": 1.0}


def point(brakes: float | None, *, policy: str = "polca", seed: int = 1, **at: float) -> Point:
    return Point(policy=policy, seed=seed, at={**ROW, **at}, metrics={"brakes": brakes})


def check(
    minimum: float | None = None, maximum: float | None = None, *, at: At | None = None,
    metric: str = "brakes",
) -> SweepCheck:  # fmt: skip
    return SweepCheck(name="c", policy="polca", metric=metric, at=at, min=minimum, max=maximum)


# ---- checks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "minimum", "maximum", "worst", "passed"),
    [
        ((0.0, 0.0), None, 0.0, 0.0, True),
        ((0.0, 1.0), None, 0.0, 1.0, False),
        ((10.0, 11.0), 10.0, None, 10.0, True),
        ((9.9, 11.0), 10.0, None, 9.9, False),
        ((0.79, 0.805), 0.77, 0.81, 0.805, True),
        ((0.76, 0.80), 0.77, 0.81, 0.76, False),
        ((0.78, 0.82), 0.77, 0.81, 0.82, False),
    ],
)
def test_a_check_holds_for_the_worst_seed(
    values: tuple[float, ...], minimum: float, maximum: float, worst: float, passed: bool
) -> None:
    points = [point(value, seed=seed) for seed, value in enumerate(values)]
    found = judged(check(minimum, maximum), ROW, points, {})
    assert found.value == pytest.approx(worst)
    assert found.passed is passed


def test_a_check_covers_every_point_that_it_leaves_open() -> None:
    points = [point(0.0), point(3.0, power_factor=1.05), point(9.0, added_ratio=0.4)]
    assert judged(check(maximum=0, at={"added_ratio": 0.3}), ROW, points, {}).value == 3.0
    assert judged(check(maximum=0), ROW, points, {}).value == 0.0
    assert judged(check(maximum=0, at={}), ROW, points, {}).value == 9.0


@pytest.mark.parametrize("points", [[], [point(None)], [point(0.0), point(None, seed=2)]])
def test_what_was_not_measured_in_every_seed_fails(points: list[Point]) -> None:
    found = judged(check(maximum=0), ROW, points, {})
    assert found.value is None
    assert not found.passed


def test_a_metric_of_the_whole_sweep_is_checked_without_a_point() -> None:
    metrics = {"polca": {"added_ratio_max": 0.3}, "ampacity": {"added_ratio_max": 0.5}}
    whole = check(0.3, metric="added_ratio_max")
    assert judged(whole, ROW, [point(0.0)], dict(metrics)).passed  # type: ignore[arg-type]
    somewhere = check(0.3, metric="added_ratio_max", at=ROW)
    assert judged(somewhere, ROW, [point(0.0)], dict(metrics)).value is None  # type: ignore[arg-type]


# ---- curves and figures -------------------------------------------------------------------------


def plot(**keys: object) -> CurvePlot:
    base = {"metric": "brakes", "against": "added_ratio", "title": "Brakes", "y_label": "count"}
    return CurvePlot(**base | keys)  # type: ignore[arg-type]


def test_a_curve_is_the_mean_over_seeds_with_its_spread() -> None:
    points = [
        point(0.0, added_ratio=0.0), point(2.0, added_ratio=0.0, seed=2),
        point(4.0, added_ratio=0.5), point(8.0, added_ratio=0.5, seed=2),
        point(99.0, added_ratio=0.5, power_factor=1.05), point(7.0, policy="none"),
    ]  # fmt: skip
    found = curve(plot(at={"power_factor": 1.0}, policies=("polca",)), ("polca", "none"), points)
    (line,) = found.lines
    assert (line.label, line.x, line.y) == ("polca", (0.0, 0.5), (1.0, 6.0))
    assert (line.low, line.high) == ((0.0, 4.0), (2.0, 8.0))


def test_one_seed_has_no_band_and_a_gap_stays_a_gap() -> None:
    points = [point(1.0, added_ratio=0.0), point(None, added_ratio=0.5)]
    (line,) = curve(plot(), ("polca",), points).lines
    assert (line.y, line.low) == ((1.0, None), None)


def test_figures_of_one_kind_and_title_become_one() -> None:
    def cdf(name: str, title: str = "TTFT") -> Figure:
        line = Line(label=name, x=(1.0,), y=(1.0,))
        return Cdf(title=title, x_label="s", y_label="share", limits={name: 1.0}, lines=(line,))

    table = Table(title="T", columns=("a",), rows=((1,),))
    bars = Bars(title="TTFT", x_label="s", y_label="", bars=(Bar(label="a", value=1.0),))
    found = merged((cdf("a"), table, bars, cdf("b"), table, bars, cdf("c", "TPOT")))
    assert [type(item).__name__ for item in found] == ["Cdf", "Table", "Bars", "Cdf"]
    first, rows, joined, _ = found
    assert isinstance(first, Cdf)
    assert isinstance(rows, Table)
    assert isinstance(joined, Bars)
    assert [line.label for line in first.lines] == ["a", "b"]
    assert first.limits == {"a": 1.0, "b": 1.0}
    assert (rows.rows, len(joined.bars)) == (((1,), (1,)), 2)


# ---- headline metrics ---------------------------------------------------------------------------


def scenario(headline: At) -> ToySweep:
    return ToySweep(
        version=1, kind="sweep", scenario="toy", model="toy", headline=headline,
        policies={"polca": ToyVariant(policy="polca", actuation="oob")},
    )  # fmt: skip


def test_the_headline_is_a_point_with_its_spread_over_seeds() -> None:
    toy, model = scenario({"added_ratio": 0.1}), ToyModel()
    contents = model.units(toy, ("polca",), (1, 2))
    results = [model.run(content, lambda _: None) for content in contents]
    found = summarise(model, toy, ("polca",), results).policies["polca"]
    assert found["runs"] == 2
    peaks = [result.points[1].metrics["row_power_ratio_max"] or 0.0 for result in results]
    assert found["row_power_ratio_max"] == pytest.approx(sum(peaks) / 2)
    assert found["row_power_ratio_max_min"] == min(peaks) < max(peaks)
    assert found["row_power_ratio_max_max"] == max(peaks)
    assert found["ttft_p99_s_low"] is None
    assert (
        found["added_ratio_max"]
        == model.metrics(toy, model.points(toy, results))["polca"]["added_ratio_max"]
    )


def test_a_whole_sweep_without_a_headline_has_only_the_models_metrics() -> None:
    toy, model = scenario({}), ToyModel()
    results = [model.run(model.units(toy, ("polca",), (1,))[0], lambda _: None)]
    assert set(summarise(model, toy, ("polca",), results).policies["polca"]) == {"added_ratio_max"}


# ---- units and progress -------------------------------------------------------------------------


def test_an_id_follows_the_content_and_nothing_else() -> None:
    first, second = make_units("tests.toy_sweep", [{"seed": 1}, {"seed": 2}])
    assert first.id != second.id
    assert make_units("tests.toy_sweep", [{"seed": 1}])[0].id == first.id
    assert make_units("simulator.scenario", [{"seed": 1}])[0].id != first.id


@pytest.mark.parametrize("contents", [[{"a": 1}, {"a": 1}], [{"a": float("nan")}]])
def test_units_that_are_the_same_or_no_json_are_refused(contents: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match=r"same|JSON"):
        make_units("tests.toy_sweep", contents)


def progress(*costs: float) -> SweepProgress:
    units = [Unit(str(n), "r", "c", {"cost": cost}) for n, cost in enumerate(costs)]
    return SweepProgress(units, kept=0, now_s=100.0)


def test_remaining_time_follows_the_measured_rate() -> None:
    found = progress(1.0, 3.0)
    assert found.remaining_s(110.0) is None
    found.told("0", 1.0)
    assert found.remaining_s(110.0) == pytest.approx(30.0)
    found.told("1", 0.5)
    assert found.remaining_s(125.0) == pytest.approx(15.0)
    assert found.line(125.0) == "1/2 units, 62 % of the work, 15 s left"


def test_the_last_unit_is_not_shared_between_workers() -> None:
    found = progress(1.0, 1.0, 1.0)
    for unit_id, fraction in (("0", 0.5), ("1", 0.5), ("0", 1.0), ("1", 1.0)):
        found.told(unit_id, fraction)
    assert found.remaining_s(110.0) == pytest.approx(10.0)


def test_a_unit_goes_only_forward() -> None:
    found = progress(1.0)
    found.told("0", 0.5)
    found.told("0", 0.2)
    assert found.remaining_s(110.0) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("seconds", "words"), [(89, "89 s"), (91, "2 min"), (5_300, "88 min"), (5_400, "1 h 30 min")]
)
def test_durations_for_people(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
