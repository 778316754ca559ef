"""Serving power and inter-token latency against the batch, fitted to ML.ENERGY (H100, B200).

Every configuration of model, task and parallelism has its own curve: straight lines over the
logarithm of the batch, through every other batch size. Trap: a run whose mean batch stays below
nine tenths of what it allows never filled its batch, so it is no point of the curve. On B200 some
engines change their mode between two batch sizes and power and latency jump; no curve follows
that, and the table of errors says how much it costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibrated import ServingFit
from simulator.calibration.clocks import rounded
from simulator.calibration.errors import Row, relative
from simulator.calibration.files import DataFolder

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

RUNS: Final = "ml-energy/llm_power_latency_by_batch.csv.gz"
KEY: Final = (
    "task", "model_id", "gpu_model", "num_gpus", "tensor_parallel", "expert_parallel",
    "data_parallel", "weight_precision",
)  # fmt: skip
FILLED_MIN: Final = 0.9
POINTS_MIN: Final = 3
WATT_BOUNDS: Final = {"H100": 10.0, "B200": 20.0}
LATENCY_BOUNDS_RATIO: Final = {"H100": 15.0, "B200": 45.0}


@dataclass(frozen=True, slots=True)
class Curve:
    """One configuration by batch, ascending; power of one GPU."""

    key: tuple[str, ...]
    batch: FloatArray
    power_w: FloatArray
    token_ms: FloatArray

    @property
    def gpu(self) -> str:
        """The GPU's name."""
        return self.key[2]

    @property
    def name(self) -> str:
        """Task, model, GPUs and parallelism in one."""
        task, model, gpu, gpus, *parallel, precision = self.key
        return f"{task}/{model}/{gpu}x{gpus}/{'-'.join(parallel)}/{precision}"

    @property
    def fitted(self) -> BoolArray:
        """Every other batch size, and the largest."""
        places = np.arange(len(self.batch))
        fitted: BoolArray = (places % 2 == 0) | (places == len(places) - 1)
        return fitted


def read_curves(data: DataFolder) -> list[Curve]:
    """All configurations with enough batch sizes that were filled."""
    groups: dict[tuple[str, ...], list[tuple[float, float, float]]] = {}
    needed = ("max_num_seqs", "avg_batch_size", "power_per_gpu_w", "median_itl_ms")
    for row in data.rows(RUNS, *KEY, *needed):
        most, batch, power_w, token_ms = (float(row[name]) for name in needed)
        if batch >= FILLED_MIN * most:
            key = tuple(row[name] for name in KEY)
            groups.setdefault(key, []).append((batch, power_w, token_ms))
    return [
        Curve(key, *np.array(sorted(points)).T)
        for key, points in sorted(groups.items())
        if len(points) >= POINTS_MIN
    ]


def power_w_at(curve: Curve, batch: FloatArray) -> FloatArray:
    """Power of one GPU by the fitted batch sizes."""
    fitted = curve.fitted
    found: FloatArray = np.interp(np.log(batch), np.log(curve.batch[fitted]), curve.power_w[fitted])
    return found


def token_ms_at(curve: Curve, batch: FloatArray) -> FloatArray:
    """Median inter-token latency by the fitted batch sizes."""
    fitted = curve.fitted
    found: FloatArray = np.exp(
        np.interp(np.log(batch), np.log(curve.batch[fitted]), np.log(curve.token_ms[fitted]))
    )
    return found


def fit_serving(data: DataFolder) -> tuple[dict[str, ServingFit], list[Row]]:
    """The curves by name, and the errors at the batch sizes that were not fitted."""
    curves = read_curves(data)
    fits = {
        curve.name: ServingFit(
            batch=tuple(rounded(value) for value in curve.batch[curve.fitted].tolist()),
            power_w=tuple(curve.power_w[curve.fitted].tolist()),
            token_ms=tuple(curve.token_ms[curve.fitted].tolist()),
        )
        for curve in curves
    }
    rows = []
    for gpu in WATT_BOUNDS:
        mine = [curve for curve in curves if curve.gpu == gpu and not curve.fitted.all()]
        rows += _rows(gpu, mine)
    return fits, rows


def _rows(gpu: str, curves: list[Curve]) -> list[Row]:
    source = f"ML.ENERGY {gpu}, {len(curves)} configurations"
    left = [~curve.fitted for curve in curves]
    pairs = list(zip(curves, left, strict=True))
    return [
        relative(f"{gpu} serving power by batch", source, "every other batch size",
                 model=np.concatenate([power_w_at(c, c.batch[part]) for c, part in pairs]),
                 measured=np.concatenate([c.power_w[part] for c, part in pairs]),
                 bound=WATT_BOUNDS[gpu]),
        relative(f"{gpu} inter-token latency by batch", source, "every other batch size",
                 model=np.concatenate([token_ms_at(c, c.batch[part]) for c, part in pairs]),
                 measured=np.concatenate([c.token_ms[part] for c, part in pairs]),
                 bound=LATENCY_BOUNDS_RATIO[gpu]),
    ]  # fmt: skip
