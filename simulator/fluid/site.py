"""A sweep as one site: every point is a row of its own, and all rows have the same servers.

The site is a real one, compiled like any other, so that policies see what they always see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facility.compiler import compile_site
from facility.config import (
    ControlConfig,
    DomainConfig,
    GpuModelConfig,
    NodeConfig,
    NodeModelConfig,
    ServiceConfig,
    SiteConfig,
)
from facility.topology import Site
from simulator.fluid.rows import Layout
from simulator.fluid.tables import ServerModel

WORST_STEPS = 8
"""Clocks between the points of the worst-case table; power is convex, so lines lie above it."""
HEAVY_CONTEXT_TOKENS = 4_096.0
HOT_C = 80.0


@dataclass(frozen=True, slots=True)
class RowPoint:
    """One point of a sweep: how many servers the row has, and how power hungry their work is."""

    servers: int
    power_factor: float


def rows_site(
    points: Sequence[RowPoint],
    priorities: Sequence[str],
    model: ServerModel,
    *,
    capacity_w: float,
    safe_ceiling_mhz: int,
    control: ControlConfig,
) -> Site:
    """One row of `capacity_w` for each point; server s serves `priorities[s]` in every row.

    Raises:
        SiteError: the model's figures contradict each other.
    """
    part, chassis = model.part, model.chassis
    gpu = part.name.lower().replace(" ", "-")
    config = SiteConfig(
        version=1,
        site="sweep",
        gpu_models={
            gpu: GpuModelConfig(
                clock_mhz_min=part.clock_mhz_min,
                clock_mhz_max=part.clock_mhz_max,
                clock_mhz_step=part.clock_mhz_step,
                safe_ceiling_mhz=_on_grid(model, safe_ceiling_mhz),
                brake_ceiling_mhz=_on_grid(model, part.brake_clock_mhz),
                idle_power_w=part.static_power_w,
                worst_case_power_w=worst_case_w(model),
            )
        },
        node_models={
            "server": NodeModelConfig(
                gpu_model=gpu,
                gpu_count=chassis.gpu_count,
                overhead_w=chassis.fixed_power_w + chassis.busy_power_w + chassis.fan_power_w,
                gpu_power_factor=chassis.gpu_power_factor,
            )
        },
        domains=tuple(
            DomainConfig(name=f"row-{place + 1}", kind="row", rating_w=capacity_w)
            for place, point in enumerate(points)
        ),
        nodes=tuple(
            NodeConfig(
                name=f"r{place + 1}-s{server + 1}",
                model="server",
                parents=(f"row-{place + 1}",),
                service=priorities[server],
            )
            for place, point in enumerate(points)
            for server in range(point.servers)
        ),
        services=tuple(
            ServiceConfig(name=name, priority="high" if name == "high" else "low")
            for name in dict.fromkeys(priorities)
        ),
        control=control,
    )
    return compile_site(config)


def _on_grid(model: ServerModel, clock_mhz: int) -> int:
    """The highest clock of the part that is not above `clock_mhz`."""
    return max(clock for clock in model.part.clocks_mhz if clock <= clock_mhz)


def worst_case_w(model: ServerModel) -> tuple[tuple[int, float], ...]:
    """Most that one GPU draws under a ceiling: dense prefill or a full batch, whichever is more.

    The part's limit is put one step below where the law passes it, so that lines stay above it.
    """
    limit_w = model.part.power_limit_w
    clocks = list(model.part.clocks_mhz)
    law_w = [_heaviest_w(model, clock) for clock in clocks]
    within = sum(power_w < limit_w for power_w in law_w)
    if within == len(clocks):
        places = [*range(0, within - 1, WORST_STEPS), within - 1]
        return tuple((clocks[place], law_w[place]) for place in places)
    flat = max(within - 1, 1)
    points = [(clocks[place], law_w[place]) for place in range(0, flat, WORST_STEPS)]
    return (*points, (clocks[flat], limit_w), (clocks[-1], limit_w))


def _heaviest_w(model: ServerModel, clock_mhz: int) -> float:
    """Power by the law of the part alone, at a die temperature that it should not pass, W."""
    part, engine = model.part, model.engine
    batch = np.array([float(engine.batch_max)])
    step = engine.decode_step(
        batch=batch,
        key_tokens=batch * HEAVY_CONTEXT_TOKENS,
        clock_ratio=np.array([clock_mhz / part.clock_mhz_max]),
        byte_per_s=np.array([model.chassis.gpu_count * part.memory_byte_per_s]),
    )
    loads = (
        (engine.prefill_intensity, engine.prefill_bandwidth),
        (float(step.intensity[0]), float(step.bandwidth[0])),
    )
    return max(
        part.power_w_at(clock_mhz, intensity=intensity, bandwidth=bandwidth, temperature_c=HOT_C)
        for intensity, bandwidth in loads
    )


def layout_of(points: Sequence[RowPoint], priorities: Sequence[str]) -> Layout:
    """The places of `rows_site`, in its order; mixes are numbered as priorities first appear."""
    mix_of = {name: place for place, name in enumerate(dict.fromkeys(priorities))}
    mixes = np.array([mix_of[name] for name in priorities])
    servers = np.concatenate([np.arange(point.servers) for point in points])
    counts = [point.servers for point in points]
    return Layout(
        row=np.repeat(np.arange(len(points)), counts),
        server=servers,
        mix=mixes[servers],
        power_factor=np.repeat([point.power_factor for point in points], counts),
    )
