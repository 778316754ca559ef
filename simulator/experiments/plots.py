"""Figures as SVG: plain, labelled at the lines, distinct without colour, the same bytes each time.

Draws what `results` describes and nothing it does not; a page of them is `report`'s business.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from simulator.experiments.results import Bars, Cdf, Curve, Line, Numbers, Series

Drawn = Series | Curve | Cdf | Bars
FloatArray = NDArray[np.float64]

COLOURS: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
    "#8a8a8a",
)
"""Okabe and Ito's palette: told apart by the colour-blind; grey for yellow, on white."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: Final = ("solid", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
GREY: Final = "#5a5a5a"
STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ampacity",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
}
WIDTH_IN, HEIGHT_IN = 8.6, 3.7
SAMPLES_MAX: Final = 1_200
"""Longest line drawn as it is; of a longer one, the mean of stretches in a band of their range."""
STRETCHES: Final = 300
LABEL_GAP: Final = 0.062
"""Least distance between two labels at the end of lines, as a share of the axes' height."""
TAIL_SHARE: Final = 0.1


def svg(figure: Drawn) -> str:
    """The figure as an `<svg>` element."""
    return _element(draw(figure, "svg").decode(), figure.title)


def draw(figure: Drawn, form: str) -> bytes:
    """The figure as `svg` or `png`; the same bytes for the same figure and library."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH_IN, _height_in(figure)), dpi=110, layout="constrained")
        match figure:
            case Bars():
                _bars(canvas.subplots(), figure)
            case Cdf():
                _cdf(canvas, figure)
            case Series() | Curve():
                _plot(canvas, figure)
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type")) if form == "svg" else None
        canvas.savefig(buffer, format=form, metadata=nothing)
    return buffer.getvalue()


def _height_in(figure: Drawn) -> float:
    return 1.1 + 0.32 * len(figure.bars) if isinstance(figure, Bars) else HEIGHT_IN


def _plot(canvas: Canvas, figure: Series | Curve) -> None:
    """Lines with labels at their ends, bands around them, limits across."""
    axes = canvas.subplots()
    axes.set_title(figure.title)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    markers = isinstance(figure, Curve)
    for place, line in enumerate(figure.lines):
        _line(axes, line, place, markers=markers)
    if figure.log:
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(bottom=0.0)
    else:
        axes.margins(y=0.09)  # room for the name of the highest limit
    axes.margins(x=0.01)
    _limits(axes, figure.limits)
    if any(len(line.x) > SAMPLES_MAX for line in figure.lines):
        axes.set_title("line: mean; band: range", loc="right", fontsize=8.5, color=GREY,
                       fontweight="normal")  # fmt: skip
    canvas.draw_without_rendering()  # scales are final only after the layout
    _label_ends(axes, figure.lines)


def _cdf(canvas: Canvas, figure: Cdf) -> None:
    """The whole distribution, and its tail as the share that is above, on a logarithmic scale."""
    whole, tail = canvas.subplots(1, 2)
    whole.set_title(figure.title)
    tail.set_title("its tail", fontweight="normal")
    for axes in (whole, tail):
        axes.set_xlabel(figure.x_label)
        if figure.log:
            axes.set_xscale("log")
    whole.set_ylabel(figure.y_label)
    tail.set_ylabel("share above")
    tail.set_yscale("log")
    beyond = []
    for place, line in enumerate(figure.lines):
        _line(whole, line, place, markers=False)
        x, y = _arrays(line.x, line.y)
        inside = 1.0 - y <= TAIL_SHARE
        shown = inside & (y < 1.0)
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        tail.plot(x[shown], 1.0 - y[shown], color=colour, linestyle=dash, label=line.label)
        beyond += [float(value) for value in 1.0 - y[shown]]
    whole.set_ylim(0.0, 1.01)
    if beyond:
        tail.set_ylim(min(beyond) * 0.8, TAIL_SHARE)
    for name, value in figure.limits.items():
        for axes in (whole, tail):
            axes.axvline(value, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        whole.annotate(
            name, (value, 0.02), xycoords=("data", "axes fraction"), color=GREY, fontsize=8.5,
            rotation=90, ha="right", va="bottom",
        )  # fmt: skip
    tail.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _bars(axes: Axes, figure: Bars) -> None:
    """Bars from top to bottom, each with its value, and its spread as a whisker."""
    axes.set_title(figure.title)
    axes.set_xlabel(figure.x_label)
    axes.grid(visible=False, axis="y")
    if figure.log:
        axes.set_xscale("symlog", linthresh=1.0)
    axes.set_yticks(range(len(figure.bars)), [bar.label for bar in figure.bars])
    axes.set_ylim(len(figure.bars) - 0.5, -0.5)
    for place, bar in enumerate(figure.bars):
        if bar.value is None:
            axes.annotate("not measured", (0.0, place), va="center", color=GREY)
            continue
        axes.barh(place, bar.value, height=0.62, color=COLOURS[0], alpha=0.85)
        ends = [bar.value]
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [place, place], color="#000000", linewidth=1.3)
            axes.plot([bar.low, bar.high], [place, place], "|", color="#000000", markersize=9)
            ends += [bar.low, bar.high]
        axes.annotate(
            f"{bar.value:.4g}", (max(0.0, *ends), place), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    axes.axvline(0.0, color=GREY, linewidth=1.0)
    for name, value in figure.limits.items():
        axes.axvline(value, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.annotate(
            name, (value, 1.0), xycoords=("data", "axes fraction"), color=GREY, fontsize=8.5,
            ha="right", va="bottom",
        )  # fmt: skip
    axes.margins(x=0.12)


def _line(axes: Axes, line: Line, place: int, *, markers: bool) -> None:
    colour = COLOURS[place % len(COLOURS)]
    x, y = _arrays(line.x, line.y)
    low, high = (
        None if end is None else np.array(end, dtype=np.float64) for end in (line.low, line.high)
    )
    if len(x) > SAMPLES_MAX:
        x, low, y, high = stretches(x, y)
    if low is not None and high is not None:
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(
        x, y, color=colour, linestyle=DASHES[place % len(DASHES)],
        marker=MARKERS[place % len(MARKERS)] if markers else None, markersize=4.5,
    )  # fmt: skip


def _arrays(x: Numbers, y: Numbers) -> tuple[FloatArray, FloatArray]:
    return np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)


def stretches(
    x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Of a long line: the middle, least, mean and most of each stretch, so that no peak is lost."""
    parts = [
        (float(a.mean()), float(b.min()), float(b.mean()), float(b.max()))
        for a, b in zip(np.array_split(x, STRETCHES), np.array_split(y, STRETCHES), strict=True)
    ]
    middle, low, mean, high = np.array(parts).T
    return middle, low, mean, high


def _limits(axes: Axes, limits: dict[str, float]) -> None:
    for name, value in limits.items():
        axes.axhline(value, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.annotate(
            name, (0.004, value), xycoords=("axes fraction", "data"), color=GREY, fontsize=8.5,
            xytext=(0, 2), textcoords="offset points", va="bottom",
        )  # fmt: skip


def _label_ends(axes: Axes, lines: Sequence[Line]) -> None:
    """Each line's name at its right end, moved apart where they would touch."""
    to_share = axes.transData + axes.transAxes.inverted()
    ends = []
    for place, line in enumerate(lines):
        pairs = zip(line.x, line.y, strict=True)
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if known:
            _, share = to_share.transform(known[-1])
            ends.append((float(np.clip(share, 0.0, 1.0)), place))
    ends.sort()
    floor = -math.inf
    shifted = []
    for share, place in ends:
        floor = max(share, floor + LABEL_GAP)
        shifted.append((share, floor, place))
    over = max(0.0, shifted[-1][1] - 1.0) if shifted else 0.0
    for share, floor, place in shifted:
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(
            [1.0, 1.03], [share, floor - over], color=colour, linewidth=0.7, clip_on=False,
            transform=axes.transAxes, scalex=False, scaley=False,
        )  # fmt: skip
        axes.annotate(
            lines[place].label, (1.035, floor - over), xycoords="axes fraction", color=colour,
            va="center", fontsize=9, annotation_clip=False,
        )  # fmt: skip


def _element(document: str, title: str) -> str:
    """The `<svg>` element alone, its ids made its own among others on a page."""
    mine = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    element = document[document.index("<svg") :].strip()
    element = re.sub(r"<metadata>.*?</metadata>\s*", "", element, flags=re.DOTALL)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{mine}-", element)
