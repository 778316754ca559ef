"""A sweep's report: one page that loads nothing, the same bytes each time, all numbers beside."""

from __future__ import annotations

import csv
import html
import io
import json
import re

import numpy as np
import pytest

from simulator.experiments.document import CurvePlot, SweepCheck
from simulator.experiments.honesty import calibration_tables
from simulator.experiments.plots import draw, stretches, svg
from simulator.experiments.report import CHECKS, HTML, JSON, POINTS, report_files
from simulator.experiments.results import Bar, Bars, Cdf, Curve, Line, Series
from simulator.experiments.summary import summarise
from tests.toy_sweep import ToyModel, ToySweep, ToyVariant

LINE = Line(label="polca", x=(0.0, 0.1, 0.2), y=(1.0, None, 3.0), low=(0.5, None, 2.0),
            high=(2.0, None, 4.0))  # fmt: skip


def written() -> dict[str, str]:
    toy = ToySweep(
        version=1, kind="sweep", scenario="toy", model="toy", headline={"added_ratio": 0.1},
        description="5 < 6 & more",
        policies={
            "polca": ToyVariant(policy="polca", actuation="oob"),
            "ampacity": ToyVariant(policy="ampacity"),
        },
        checks=(
            SweepCheck(name="in <band>", policy="ampacity", metric="brakes", max=0.0),
            SweepCheck(name="fails", policy="polca", metric="brakes", max=-1.0),
        ),
        curves=(CurvePlot(metric="brakes", against="added_ratio", title="Brakes", y_label="n"),),
    )  # fmt: skip
    model = ToyModel()
    contents = model.units(toy, tuple(toy.policies), (1, 2))
    results = [model.run(content, lambda _: None) for content in contents]
    summary = summarise(model, toy, tuple(toy.policies), results)
    return {k: v.decode() for k, v in report_files(toy, summary, "1..2").items()}


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The report of a toy sweep by the names of its files."""
    return written()


def test_the_same_results_give_the_same_bytes(files: dict[str, str]) -> None:
    assert written() == files


def test_the_page_loads_nothing_and_runs_nothing(files: dict[str, str]) -> None:
    page = files[HTML]
    assert page.startswith("<!DOCTYPE html>")
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "@import" not in page
    assert not re.search(r"20\d\d-\d\d-\d\d", page), "a date"


def test_the_page_shows_checks_metrics_figures_and_notes_escaped(files: dict[str, str]) -> None:
    page = files[HTML]
    assert "5 &lt; 6 &amp; more" in page
    assert "in &lt;band&gt;" in page
    assert "nothing is &lt; measured &gt;" in page
    assert "1 of 2 FAIL" in page
    assert page.count("<svg ") == 4
    assert page.count('<span class="fail">') == 1
    for words in ("Row power, worst day", "T2", "hours", "Brakes", "Servers that fit", "Draws"):
        assert words in page


def test_the_page_says_how_far_the_twin_is_from_measurements_and_what_is_uncertain(
    files: dict[str, str],
) -> None:
    page = files[HTML]
    errors, bands = calibration_tables()
    assert errors.rows
    assert bands.rows
    for row in (*errors.rows, *bands.rows):
        assert f">{html.escape(str(row[0]))}</td>" in page
    p95, bound = (errors.columns.index(name) for name in ("P95", "bound"))
    for row in errors.rows:
        error, limit = row[p95], row[bound]
        assert isinstance(error, float)
        assert limit is None or error <= float(limit)


def test_a_metric_shows_its_spread_over_seeds_in_one_cell(files: dict[str, str]) -> None:
    found = json.loads(files[JSON])["policies"]["ampacity"]
    name = "row_power_ratio_max"
    low, mean, high = (f"{found[name + end]:.5g}" for end in ("_min", "", "_max"))
    assert f"<td>{mean} ({low} to {high})</td>" in files[HTML]
    assert f"{name}_min" not in files[HTML]


def test_ids_of_plots_do_not_clash(files: dict[str, str]) -> None:
    ids = re.findall(r'\bid="([^"]+)"', files[HTML])
    assert len(ids) == len(set(ids))


def test_every_point_is_in_the_csv_and_the_json(files: dict[str, str]) -> None:
    found = files
    rows = list(csv.DictReader(io.StringIO(found[POINTS])))
    assert len(rows) == 2 * 2 * 6
    assert rows[0]["policy"] == "polca"
    assert rows[0]["ttft_p99_s_low"] == ""
    document = json.loads(found[JSON])
    assert len(document["points"]) == 24
    assert [item["pass"] for item in document["checks"]] == [True, False]
    assert {item["title"] for item in document["figures"]} >= {"Brakes", "Draws"}
    assert found[CHECKS].splitlines()[2].endswith("FAIL")


@pytest.mark.parametrize(
    "figure",
    [
        Curve(title="t", x_label="x", y_label="y", lines=(LINE, LINE), log=True),
        Curve(title="none", x_label="x", y_label="y", lines=()),
        Series(title="t", x_label="x", y_label="y", lines=(LINE,), limits={"T1": 2.0}),
        Cdf(title="t", x_label="x", y_label="y", log=True, limits={"SLO": 2.0},
            lines=(Line(label="a", x=(1.0, 2.0, 3.0), y=(0.5, 0.95, 1.0)),)),
        Bars(title="t", x_label="x", y_label="", log=True, limits={"goal": 1.0},
             bars=(Bar(label="a", value=1.0, low=0.5, high=2.0), Bar(label="b", value=None))),
    ],
    ids=lambda figure: f"{type(figure).__name__}-{figure.title}",
)  # fmt: skip
def test_every_kind_of_plot_is_drawn_twice_the_same(figure: Curve) -> None:
    assert svg(figure) == svg(figure)
    assert svg(figure).startswith("<svg ")
    assert draw(figure, "png").startswith(b"\x89PNG")


def test_labels_stay_text_so_that_a_page_can_be_searched() -> None:
    assert ">polca</text>" in svg(Curve(title="t", x_label="x", y_label="y", lines=(LINE,)))


def test_a_long_line_keeps_its_peaks() -> None:
    x = np.arange(100_000, dtype=np.float64)
    y = np.zeros_like(x)
    y[77_777], y[12_345] = 9.0, -9.0
    middle, low, mean, high = stretches(x, y)
    assert (high.max(), low.min()) == (9.0, -9.0)
    assert abs(middle[high.argmax()] - 77_777) < 1_000
    assert np.all((low <= mean) & (mean <= high))
    long = Line(label="long", x=tuple(x.tolist()), y=tuple(y.tolist()))
    drawn = svg(Series(title="t", x_label="s", y_label="w", lines=(long,)))
    assert len(drawn) < 100_000
    assert "band: range" in drawn
