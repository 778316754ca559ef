"""A second look at whole engines: sums of single operators measured by AIConfigurator.

Llama 70B on eight GPUs, a layer at a time: four matrix products, attention and two all-reduces.
The sums are a floor without scheduling, sampling or launches, so they check what a modern engine
can do, and show how far the engines of the splitwise-sim profile are from it. On H200 the products
also have power. Trap: rows with m of 3, 17, 32, 64 and so on come from another pass and read a
sixth to two fifths too little power: dropped.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.calibrated import OperatingPoint
from simulator.calibration.clocks import rounded
from simulator.calibration.files import DataFolder

FloatArray = NDArray[np.float64]

STACKS: Final = {"a100": "a100_sxm_vllm_0.14.0", "h100": "h100_sxm_vllm_0.24.0"}
LAYERS: Final = 80
WIDTH: Final = 8192
H200_PRODUCTS: Final = "nvidia-aiconfigurator/h200_sxm_vllm_0.22.0_gemm_perf.csv.gz"
BAD_ROWS: Final = frozenset({3, 17, 32, 64, 128, 192, 256, 257, 512})
KERNEL_MS_MIN: Final = 0.03
"""Shorter kernels are not resolved by the power sensor."""

PAIRS: Final = {
    "qkv": ((1024, 8192), (1536, 8192)),
    "out": ((8192, 1024),),
    "gate_up": ((7168, 8192),),
    "down": ((8192, 3584),),
}
"""Outputs and inputs of each product on one of eight GPUs; qkv has 1,280, between the two."""


def _path(part: str, kind: str) -> str:
    return f"nvidia-aiconfigurator/{STACKS[part]}_{kind}_perf.csv.gz"


class Operators:
    """The tables of one part; times in seconds."""

    def __init__(self, data: DataFolder, part: str) -> None:
        """Read them."""
        products: dict[tuple[int, int], dict[float, float]] = {}
        for row in data.rows(_path(part, "gemm"), "m", "n", "k", "latency"):
            shape = (int(row["n"]), int(row["k"]))
            products.setdefault(shape, {})[float(row["m"])] = float(row["latency"]) / 1000.0
        self._products = products
        self._prompts = {
            float(row["isl"]): float(row["latency"]) / 1000.0
            for row in data.rows(_path(part, "context_attention"), "isl", "latency", "batch_size")
        }
        self._steps: dict[int, dict[float, float]] = {}
        for row in data.rows(_path(part, "generation_attention"), "batch_size", "step", "latency"):
            by_step = self._steps.setdefault(int(row["batch_size"]), {})
            by_step[float(row["step"])] = float(row["latency"]) / 1000.0
        self._reduces = {
            float(row["message_size"]): float(row["latency"]) / 1000.0
            for row in data.rows(_path(part, "custom_allreduce"), "message_size", "kernel_source")
            if row["kernel_source"] == "vLLM_custom_graph"
        }

    def _products_s(self, rows: float) -> float:
        total = 0.0
        for shapes in PAIRS.values():
            total += float(np.mean([_at(self._products[shape], rows) for shape in shapes]))
        return total

    def prefill_s(self, tokens: float) -> float:
        """One prompt of `tokens`."""
        layer = self._products_s(tokens) + _at(self._prompts, tokens)
        return LAYERS * (layer + 2.0 * _at(self._reduces, tokens * WIDTH))

    def decode_s(self, batch: int, context: float) -> float:
        """One token for each of `batch` sequences with `context` tokens each."""
        layer = self._products_s(float(batch)) + _at(self._steps[batch], context)
        return LAYERS * (layer + 2.0 * _at(self._reduces, batch * float(WIDTH)))


def _at(table: dict[float, float], size: float) -> float:
    """A time between measured sizes, straight over both logarithms."""
    sizes = np.array(sorted(table))
    times = np.array([table[at] for at in sizes.tolist()])
    return float(np.exp(np.interp(np.log(size), np.log(sizes), np.log(times))))


def h200_points(data: DataFolder) -> dict[str, OperatingPoint]:
    """H200 power in matrix products at the highest clock, by rows: decode-like to prefill-like."""
    rows = [
        (int(row["m"]), float(row["power"]))
        for row in data.rows(H200_PRODUCTS, "m", "n", "k", "latency", "power")
        if int(row["m"]) not in BAD_ROWS and float(row["latency"]) > KERNEL_MS_MIN
    ]
    groups = {
        "m up to 16": [watts for m, watts in rows if m <= 16],
        "m 33 to 129": [watts for m, watts in rows if 33 <= m <= 129],
        "m from 1024": [watts for m, watts in rows if m >= 1024],
    }
    return {
        name: OperatingPoint(
            low_w=rounded(float(np.quantile(watts, 0.1))),
            median_w=rounded(float(np.median(watts))),
            high_w=rounded(float(np.quantile(watts, 0.9))),
            points=len(watts),
        )
        for name, watts in groups.items()
    }
