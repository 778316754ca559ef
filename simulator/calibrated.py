"""The calibrated constants of the twin, as a file: their shape, and the one place that reads them.

`python -m simulator.calibration` writes `calibrated.json` from measurements; the GPUs and engines
of the twin take their figures from it. It never fits anything and never changes a figure.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

SCHEMA_VERSION: Final = 1
FILE_NAME: Final = "calibrated.json"

Positive = Annotated[float, Meta(gt=0.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class _Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the file: unknown keys are errors."""


class Band(_Part, frozen=True, kw_only=True):
    """An uncertain figure: what the twin uses, and between what it may really lie."""

    low: float
    nominal: float
    high: float
    unit: str
    source: str


class Source(_Part, frozen=True, kw_only=True):
    """A file that was fitted: its path below the data folder and its sha256."""

    path: str
    sha256: str


class PartFit(_Part, frozen=True, kw_only=True):
    """The power law of one GPU part, see `simulator.gpu.GpuConstants`.

    `voltage_curve_ratio` holds pairs of clock and voltage, both as shares of their highest.
    """

    static_power_w: Positive
    context_power_w: Positive
    compute_power_w: Positive
    memory_power_w: Positive
    movement_power_w: Positive
    voltage_curve_ratio: tuple[tuple[Share, Share], ...]


class EngineFit(_Part, frozen=True, kw_only=True):
    """One model on the GPUs of one engine, see `simulator.engine.Engine`."""

    prefill_points: tuple[tuple[Positive, Positive], ...]
    prefill_intensity: float
    intensity_half_tokens: float
    decode_overhead_s: float
    bandwidth_share: float
    sequence_s: float
    key_token_s: float
    decode_intensity_idle: float
    decode_intensity_gain: float
    decode_intensity_half: float


class ServingFit(_Part, frozen=True, kw_only=True):
    """One served configuration by batch: power of one GPU, and median inter-token latency."""

    batch: tuple[Positive, ...]
    power_w: tuple[Positive, ...]
    token_ms: tuple[Positive, ...]


class HeatFit(_Part, frozen=True, kw_only=True):
    """Temperature of one part against power.

    `idle_temperature_c` and `straight_k_per_w` are of a straight line. `weights` are of a
    constant, of power, and of the power above each of `knots_w`.
    """

    idle_temperature_c: float
    straight_k_per_w: Positive
    knots_w: tuple[Positive, ...]
    weights: tuple[float, ...]


class FanFit(_Part, frozen=True, kw_only=True):
    """Fan power as a straight line of server power."""

    base_power_w: float
    power_ratio: Share


class OperatingPoint(_Part, frozen=True, kw_only=True):
    """Power in one kind of kernel: tenth, middle and ninetieth of a hundred."""

    low_w: Positive
    median_w: Positive
    high_w: Positive
    points: int


class SensorFit(_Part, frozen=True, kw_only=True):
    """What a power sensor shows: the mean over `window_s` of every `period_s`, times its gain."""

    window_s: Positive
    period_s: Positive
    gain_spread_ratio: Share
    average_s: Positive
    source: str


class Calibrated(_Part, frozen=True, kw_only=True):
    """Everything that was calibrated. Engines are named `model/part/tensor_parallel`."""

    schema_version: int
    sources: tuple[Source, ...]
    parts: dict[str, PartFit]
    engines: dict[str, EngineFit]
    prefill_fixed_share: Share
    serving: dict[str, ServingFit]
    heat: dict[str, HeatFit]
    fans: FanFit
    h200_products: dict[str, OperatingPoint]
    sensor: SensorFit
    bands: dict[str, Band]


def decode_calibrated(text: bytes | str, name: str = FILE_NAME) -> Calibrated:
    """Read the file's text strictly.

    Raises:
        ValueError: not JSON of this shape and version; says where and what is allowed.
    """
    try:
        found = msgspec.json.decode(text, type=Calibrated)
    except msgspec.DecodeError as error:
        raise ValueError(f"{name}: {error}") from error
    if found.schema_version != SCHEMA_VERSION:
        raise ValueError(
            f"{name}: schema_version is {found.schema_version}; this twin reads {SCHEMA_VERSION}:"
            " run python -m simulator.calibration"
        )
    return found


@cache
def load_calibrated() -> Calibrated:
    """The constants that this twin ships with."""
    return decode_calibrated(resources.files("simulator").joinpath(FILE_NAME).read_bytes())
