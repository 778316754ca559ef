"""Rows of DGX A100 at the request level: the site, the load and an hour under given ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from facility.compiler import compile_site
from facility.config import (
    DomainConfig,
    GpuModelConfig,
    NodeConfig,
    NodeModelConfig,
    ServiceConfig,
    SiteConfig,
)
from facility.topology import Site
from simulator.chassis import DGX_A100
from simulator.engine import engine_named
from simulator.gpu import A100_SXM_80
from simulator.loads.polca import polca
from simulator.plant import PlantSettings
from simulator.rows import ROW_DT_S, RequestRow

FloatArray = NDArray[np.float64]

TICK_S: Final = 2.0
FULL_MHZ: Final = float(A100_SXM_80.clock_mhz_max)


def a100_site(priorities: Sequence[str], *, capacity_w: float = 260_000.0) -> Site:
    """One row; server s serves the service of the name of its priority."""
    part, server = A100_SXM_80, DGX_A100
    return compile_site(
        SiteConfig(
            version=1,
            site="row",
            gpu_models={
                "a100": GpuModelConfig(
                    clock_mhz_min=part.clock_mhz_min,
                    clock_mhz_max=part.clock_mhz_max,
                    clock_mhz_step=part.clock_mhz_step,
                    safe_ceiling_mhz=1110,
                    brake_ceiling_mhz=285,
                    idle_power_w=part.static_power_w,
                    # A straight line above a law that is convex up to the limit.
                    worst_case_power_w=((part.clock_mhz_min, 250.0), (part.clock_mhz_max, 400.0)),
                )
            },
            node_models={
                "dgx": NodeModelConfig(
                    gpu_model="a100",
                    gpu_count=server.gpu_count,
                    overhead_w=server.fixed_power_w + server.busy_power_w + server.fan_power_w,
                    gpu_power_factor=server.gpu_power_factor,
                )
            },
            domains=(DomainConfig(name="row-1", kind="row", rating_w=capacity_w),),
            nodes=tuple(
                NodeConfig(
                    name=f"s{place + 1:02d}", model="dgx", parents=("row-1",), service=priority
                )
                for place, priority in enumerate(priorities)
            ),
            services=tuple(
                ServiceConfig(name=name, priority="high" if name == "high" else "low")
                for name in dict.fromkeys(priorities)
            ),
        )
    )


def polca_row(*, nodes: int = 40, requests_per_s: float = 30.0, **more: Any) -> RequestRow:
    """POLCA's requests on Llama2-70B over the eight GPUs of each server."""
    workload = polca()
    settings = PlantSettings(
        dt_s=ROW_DT_S,
        trace=workload,
        mean_requests_per_s=requests_per_s,
        engine=engine_named("llama2-70b", "a100", 8),
        server=DGX_A100,
        warm_up_s=300.0,
    )
    site = a100_site(workload.node_priorities(nodes))
    return RequestRow(site, replace(settings, **more))


def drive(
    row: RequestRow,
    *,
    seconds: float,
    ceiling_mhz: Callable[[int], float] = lambda _tick: FULL_MHZ,
) -> FloatArray:
    """Run a row for a time, all nodes at one ceiling by tick; node power, shape (ticks, nodes)."""
    count = len(row.plant.site.nodes)
    return np.stack(
        [
            row.step(np.full(count, ceiling_mhz(tick)), TICK_S)
            for tick in range(round(seconds / TICK_S))
        ]
    )
