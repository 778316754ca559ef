"""What a limit cost, and how many servers fit: points of several competitors held side by side.

What a limit costs is told against the competitor without a policy: the same servers and the same
requests, and nobody is ever slowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from simulator.experiments.results import Point
from simulator.fluid.document import FluidSweep

PRIORITIES: Final = ("high", "low")
QUANTILES: Final = {"p50": 0.50, "p99": 0.99}

LIMITS: Final = {
    "brakes": 0.0,
    "over_capacity_s": 0.0,
    "latency_p50_impact_ratio_high": 0.01,
    "latency_p99_impact_ratio_high": 0.05,
    "latency_p50_impact_ratio_low": 0.05,
    "latency_p99_impact_ratio_low": 0.50,
}
"""POLCA's own limits (papers 1.4)."""


def unlimited(scenario: FluidSweep) -> str:
    """The competitor in which nobody is ever slowed. Raises ValueError if there is none."""
    for name, variant in scenario.policies.items():
        if variant.policy == "none":
            return name
    raise ValueError(
        "policies: expected one with `policy: none`: what a limit costs is told against it"
    )


def with_cost(points: Sequence[Point], reference: str) -> tuple[Point, ...]:
    """The same points, with what the limit cost at each against `reference`."""
    free = {_place(point): point.metrics for point in points if point.policy == reference}
    return tuple(
        msgspec.structs.replace(
            point, metrics=point.metrics | _cost(point.metrics, free[_place(point)])
        )
        for point in points
    )


def _place(point: Point) -> tuple[object, ...]:
    return point.seed, *sorted(point.at.items())


def _cost(
    ours: Mapping[str, float | None], free: Mapping[str, float | None]
) -> dict[str, float | None]:
    """What a limit cost: latencies and requests as shares of those without one."""
    found: dict[str, float | None] = {}
    for name in PRIORITIES:
        found[f"throughput_ratio_{name}"] = _ratio(ours, free, f"requests_{name}")
        for quantile in QUANTILES:
            ratio = _ratio(ours, free, f"latency_{quantile}_s_{name}")
            impact = None if ratio is None else ratio - 1.0
            found[f"latency_{quantile}_impact_ratio_{name}"] = impact
    return found


def _ratio(
    ours: Mapping[str, float | None], free: Mapping[str, float | None], metric: str
) -> float | None:
    one, other = ours[metric], free[metric]
    return one / other if one is not None and other else None


def proven_max(points: Sequence[Point]) -> float | None:
    """The most servers that can be added such that no failure of control trips the row."""
    return max(
        (one.at["added_ratio"] for one in points if one.metrics["lease_proof_holds"]), default=None
    )


def added_max(points: Sequence[Point], factor: float) -> float | None:
    """The most servers that can be added such that no smaller number fails either."""
    best: float | None = None
    ours = [one for one in points if one.at["power_factor"] == factor]
    for added in sorted({one.at["added_ratio"] for one in ours}):
        here = [one.metrics for one in ours if one.at["added_ratio"] == added]
        values = [metrics[name] for metrics in here for name in LIMITS]
        within = all(
            (metrics[name] or 0.0) <= limit for metrics in here for name, limit in LIMITS.items()
        )
        if not within or any(value is None for value in values):
            break
        best = added
    return best
