"""GPU temperature against power, fitted to years of hourly means of four servers (Cornell BioHPC).

An hour there is a mean of a few instants: four of each GPU (every mean is a multiple of 1/4 or
1/8). With their mean, least and most power the instants are known well enough to put a curve
through them, and a curve is needed: fans and throttling bend it (the A100 stays at 84 C).

Traps: the least power is never above 100 W, a counter that began at 100, so there it is unknown;
two files end with a blank line, a row count and a date; rows are newest first. The room drifts by
several degrees between months: an offset follows the residuals of *past* hours, slowly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibrated import HeatFit
from simulator.calibration.clocks import rounded
from simulator.calibration.errors import Row, kelvins
from simulator.calibration.files import DataFolder

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LEAST_W: Final = 100.0
KNOTS_W: Final = (60.0, 90.0, 120.0, 160.0, 200.0, 240.0, 280.0)
DRIFT_HOURS: Final = 24.0
"""Time constant of the offset: a room, not the last hour."""
SERVER_BOUND_C: Final = 3.0
A100_BOUND_C: Final = 4.0
"""The A100's bound is missed: its hours mix jobs with pauses at four instants each."""
STEADY_W: Final = 40.0


@dataclass(frozen=True, slots=True)
class Server:
    """One file: the part it measures, its GPUs, and what an error may be."""

    name: str
    part: str
    gpu_count: int
    bound_c: float


SERVERS: Final = (
    Server("cbsugpu05", "A40", 2, SERVER_BOUND_C),
    Server("cbsugpu07", "A100-80G PCIe", 1, A100_BOUND_C),
    Server("cbsugpu08", "H100 PCIe", 2, SERVER_BOUND_C),
    Server("cbsugpu09", "A6000 Ada", 1, SERVER_BOUND_C),
)


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours of one server, oldest first; arrays of shape (hours,)."""

    hour: FloatArray
    month: NDArray[np.int64]
    mean_w: FloatArray
    least_w: FloatArray
    most_w: FloatArray
    temperature_c: FloatArray

    @property
    def fitted(self) -> BoolArray:
        """Even months are fitted, odd months are checked."""
        even: BoolArray = self.month % 2 == 0
        return even


def read_hours(data: DataFolder, server: Server) -> Hours:
    """The rows that begin with the server's name, in order of time."""
    path = f"cornell-biohpc/{server.name}_usage_stats.txt.gz"
    columns = ("name", "timestamp", "powerave", "powermin", "powermax", "tempave")
    found = []
    for row in data.rows(path, *columns, delimiter="\t"):
        if row["name"] == server.name:
            at = datetime.strptime(row["timestamp"][:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            values = [float(row[name]) for name in columns[2:]]
            found.append((at.timestamp() / 3600.0, float(at.year * 12 + at.month), *values))
    table = np.array(sorted(found)).T
    return Hours(table[0], table[1].astype(np.int64), *table[2:])


def instants(hours: Hours, gpu_count: int) -> tuple[tuple[float, FloatArray], ...]:
    """Power at the instants of each hour, as weights and watts: least, most, and those between.

    Where the least is the counter's start it is unknown, and stands between too.
    """
    count = 4.0 * gpu_count
    known = hours.least_w < LEAST_W - 0.005
    total = count * hours.mean_w - hours.most_w
    between = np.where(known, (total - hours.least_w) / (count - 2.0), total / (count - 1.0))
    between = np.clip(between, np.minimum(hours.least_w, hours.mean_w), hours.most_w)
    least = np.where(known, hours.least_w, between)
    return (
        (1.0 / count, least),
        (1.0 / count, hours.most_w),
        (1.0 - 2.0 / count, between),
    )


def columns(hours: Hours, gpu_count: int) -> FloatArray:
    """Constant, mean power, and the power above each knot: a curve through every instant."""
    seen = instants(hours, gpu_count)
    above = [
        sum((weight * np.maximum(watts - knot, 0.0) for weight, watts in seen), np.zeros(1))
        for knot in KNOTS_W
    ]
    return np.stack([np.ones_like(hours.mean_w), hours.mean_w, *above], axis=1)


def drift(residual_k: FloatArray) -> FloatArray:
    """The room's offset at each hour, from the residuals of the hours before it alone."""
    follows = 1.0 - math.exp(-1.0 / DRIFT_HOURS)
    offset, found = 0.0, []
    for now in residual_k.tolist():
        found.append(offset)
        offset += follows * (now - offset)
    return np.array(found)


def predicted_c(hours: Hours, gpu_count: int, weights: FloatArray) -> FloatArray:
    """Temperature of every hour from its powers and the offset learnt before it."""
    still = columns(hours, gpu_count) @ weights
    model: FloatArray = still + drift(hours.temperature_c - still)
    return model


def fit_weights(hours: Hours, gpu_count: int) -> FloatArray:
    """Least squares over the fitted months."""
    fitted = hours.fitted
    parts = columns(hours, gpu_count)[fitted]
    return np.array(np.linalg.lstsq(parts, hours.temperature_c[fitted], rcond=None)[0], np.float64)


def straight(hours: Hours) -> tuple[float, float]:
    """Temperature at no power and kelvin per watt, of T = T0 + R P over the fitted months."""
    power, heat = hours.mean_w[hours.fitted], hours.temperature_c[hours.fitted]
    slope = float(np.cov(power, heat)[0, 1] / np.var(power, ddof=1))
    return float(np.mean(heat) - slope * np.mean(power)), slope


def fit_heat(data: DataFolder) -> tuple[dict[str, HeatFit], list[Row]]:
    """All servers: their constants, and the errors in the months that were not fitted."""
    fits: dict[str, HeatFit] = {}
    rows: list[Row] = []
    model, measured = [], []
    for server in SERVERS:
        hours = read_hours(data, server)
        weights = fit_weights(hours, server.gpu_count)
        predicted = predicted_c(hours, server.gpu_count, weights)
        checked = ~hours.fitted
        model.append(predicted[checked])
        measured.append(hours.temperature_c[checked])
        rows.append(_server_row(server, model[-1], measured[-1]))
        idle_c, slope = straight(hours)
        fits[server.part] = HeatFit(
            idle_temperature_c=rounded(idle_c),
            straight_k_per_w=rounded(slope),
            knots_w=KNOTS_W,
            weights=tuple(rounded(value) for value in weights.tolist()),
        )
    rows.append(
        kelvins("temperature by power", "Cornell, all four servers", "odd months, hourly",
                model=np.concatenate(model), measured=np.concatenate(measured),
                bound=SERVER_BOUND_C)
    )  # fmt: skip
    return fits, rows


def _server_row(server: Server, model: FloatArray, measured: FloatArray) -> Row:
    return kelvins(
        f"temperature by power, {server.part}",
        f"Cornell {server.name}",
        "odd months, hourly",
        model=model,
        measured=measured,
        bound=server.bound_c,
    )
