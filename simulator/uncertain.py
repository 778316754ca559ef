"""The twin with other values of what no data settles: one function for each thing that has some.

Figures are named as in the bands of the calibrated constants, and must lie in their band; what a
figure means is said there. An experiment runs across the bands with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from simulator.calibrated import Band, load_calibrated
from simulator.chassis import ServerConstants
from simulator.engine import Engine
from simulator.gpu import A100_SXM_80, GpuConstants

ENGINE_FIGURES: Final = (
    "decode_clock_exponent",
    "decode_slow_ratio",
    "decode_loss_ratio",
    "bandwidth_knee_ratio",
    "a100_prefill_demand_ratio",
)
PART_FIGURES: Final = {
    "H100": ("h100_voltage_ratio", "h100_sxm_k_per_w", "die_s", "sink_s"),
    "A100": ("a100_sxm_k_per_w", "die_s", "sink_s"),
}
SERVER_FIGURES: Final = ("server_a100_fixed_power_w", "server_a100_fan_power_w")


def band_of(figure: str) -> Band:
    """The band of a figure.

    Raises:
        ValueError: no such figure.
    """
    bands = load_calibrated().bands
    if figure not in bands:
        raise ValueError(f"no figure {figure!r} has a band; there are {', '.join(sorted(bands))}")
    return bands[figure]


def _checked(figures: Mapping[str, float], allowed: tuple[str, ...], what: str) -> None:
    for name, value in figures.items():
        if name not in allowed:
            raise ValueError(f"{what} has no figure {name!r}; it has {', '.join(allowed)}")
        band = band_of(name)
        if not band.low <= value <= band.high:
            raise ValueError(f"{name} is {value:g}; its band is {band.low:g} to {band.high:g}")


def engine_with(engine: Engine, figures: Mapping[str, float]) -> Engine:
    """An engine with other values of its uncertain figures.

    Raises:
        ValueError: a figure that engines do not have, or outside its band.
    """
    _checked(figures, ENGINE_FIGURES, "an engine")
    if "decode_clock_exponent" in figures:
        engine = replace(engine, decode_clock_exponent=figures["decode_clock_exponent"])
    if "decode_slow_ratio" in figures:
        engine = replace(engine, decode_slow_ratio=figures["decode_slow_ratio"])
    if "decode_loss_ratio" in figures:
        engine = replace(engine, decode_loss_ratio=figures["decode_loss_ratio"])
    if "bandwidth_knee_ratio" in figures:
        engine = replace(engine, bandwidth_knee=figures["bandwidth_knee_ratio"])
    if "a100_prefill_demand_ratio" in figures:
        nominal = band_of("a100_prefill_demand_ratio").nominal
        more_w = (figures["a100_prefill_demand_ratio"] - nominal) * A100_SXM_80.power_limit_w
        intensity = engine.prefill_intensity + more_w / A100_SXM_80.compute_power_w
        engine = replace(engine, prefill_intensity=intensity)
    return engine


def part_with(part: GpuConstants, figures: Mapping[str, float]) -> GpuConstants:
    """A part with other values of its uncertain figures.

    Raises:
        ValueError: a figure that this part does not have, or outside its band.
    """
    kind = next(word for word in PART_FIGURES if word in part.name)
    _checked(figures, PART_FIGURES[kind], f"an {kind}")
    if "h100_voltage_ratio" in figures:
        part = replace(part, voltage_ratio=figures["h100_voltage_ratio"])
    whole = figures.get(f"{kind.lower()}_sxm_k_per_w")
    if whole is not None:
        more = whole / (part.die_sink_k_per_w + part.sink_air_k_per_w)
        part = replace(
            part,
            die_sink_k_per_w=part.die_sink_k_per_w * more,
            sink_air_k_per_w=part.sink_air_k_per_w * more,
        )
    if "die_s" in figures:
        part = replace(part, die_j_per_k=figures["die_s"] / part.die_sink_k_per_w)
    if "sink_s" in figures:
        part = replace(part, sink_j_per_k=figures["sink_s"] / part.sink_air_k_per_w)
    return part


def server_with(server: ServerConstants, figures: Mapping[str, float]) -> ServerConstants:
    """A DGX A100 with other values of its uncertain figures.

    Raises:
        ValueError: a figure that servers do not have, or outside its band.
    """
    _checked(figures, SERVER_FIGURES, "a server")
    return replace(
        server,
        fixed_power_w=figures.get("server_a100_fixed_power_w", server.fixed_power_w),
        fan_power_w=figures.get("server_a100_fan_power_w", server.fan_power_w),
    )
