"""The document of a sweep at the fluid level: its row, its load, its competitors and its axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from simulator.experiments.document import Section, SweepScenario, Variant
from simulator.loads.named import WorkloadName

Ratio = Annotated[float, Meta(ge=0.0, le=10.0)]
Watts = Annotated[float, Meta(gt=0.0, le=1e6)]


class RowSection(Section, frozen=True, kw_only=True):
    """A row: servers at +0 %, what is provisioned for each of them, and where nobody is safe.

    `busy_power_w` and `fixed_power_w` are of the board; the rest of a server is `SERVERS`'.
    """

    servers: Annotated[int, Meta(ge=2, le=1_000)] = 40
    provisioned_w: Watts
    part: str = "a100"
    model: str = "bloom-176b"
    safe_ceiling_mhz: Annotated[int, Meta(ge=100, le=5_000)]
    fixed_power_w: Watts | None = None
    busy_power_w: Watts | None = None


class LoadSection(Section, frozen=True, kw_only=True):
    """Requests: a workload, its peak per server, noise, and how the router packs them."""

    workload: WorkloadName = "polca"
    peak_requests_per_server_s: Annotated[float, Meta(gt=0.0, le=100.0)]
    noise_ratio: Ratio | None = None
    noise_slow_s: Annotated[float, Meta(ge=10.0, le=86_400.0)] | None = None
    week_noise_ratio: Ratio | None = None
    packed_ratio: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    packed_batch: Annotated[int, Meta(ge=1, le=256)] = 1


class PathSection(Section, frozen=True, kw_only=True):
    """How long a clock command and the power brake take, s."""

    clock_s: Annotated[float, Meta(ge=0.0, le=600.0)] = 0.0
    brake_s: Annotated[float, Meta(ge=0.0, le=600.0)] = 0.0


class FluidVariant(Variant, frozen=True, kw_only=True):
    """A competitor, and the path by which its commands reach the servers."""

    path: PathSection = PathSection()


class FluidAxes(Section, frozen=True, kw_only=True):
    """What is swept: servers added, and how much more power hungry their work is."""

    added_ratio: Annotated[tuple[Ratio, ...], Meta(min_length=1, max_length=64)] = (0.0,)
    power_factor: Annotated[
        tuple[Annotated[float, Meta(ge=0.5, le=2.0)], ...], Meta(min_length=1, max_length=8)
    ] = (1.0,)


class FluidSweep(SweepScenario, frozen=True, kw_only=True):
    """A sweep at the fluid level. `uncertain` moves figures within their bands."""

    duration_days: Annotated[float, Meta(gt=0.0, le=366.0)]
    tick_s: Annotated[float, Meta(ge=0.5, le=10.0)] = 2.0
    row: RowSection
    load: LoadSection
    control: dict[str, object] = msgspec.field(default_factory=dict)
    uncertain: dict[str, float] = msgspec.field(default_factory=dict)
    sweep: FluidAxes = FluidAxes()
    policies: Annotated[Mapping[str, FluidVariant], Meta(min_length=1, max_length=64)]
