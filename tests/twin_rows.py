"""Rows of DGX A100 at the request level: the site, the load and an hour under given ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from facility.config import ControlConfig
from facility.topology import Site
from simulator.chassis import DGX_A100
from simulator.engine import engine_named
from simulator.fluid.site import RowPoint, rows_site
from simulator.fluid.tables import ServerModel
from simulator.gpu import A100_SXM_80
from simulator.loads.polca import polca
from simulator.plant import PlantSettings
from simulator.rows import ROW_DT_S, RequestRow

FloatArray = NDArray[np.float64]

TICK_S: Final = 2.0
ENGINE: Final = engine_named("llama2-70b", "a100", 8)
FULL_MHZ: Final = float(A100_SXM_80.clock_mhz_max)


def a100_site(priorities: Sequence[str], *, capacity_w: float = 260_000.0) -> Site:
    """One row; server s serves the service of the name of its priority."""
    return rows_site(
        [RowPoint(len(priorities), 1.0)],
        priorities,
        ServerModel(DGX_A100, A100_SXM_80, ENGINE),
        capacity_w=capacity_w,
        safe_ceiling_mhz=1110,
        control=ControlConfig(),
    )


def polca_row(*, nodes: int = 40, requests_per_s: float = 30.0, **more: Any) -> RequestRow:
    """POLCA's requests on Llama2-70B over the eight GPUs of each server."""
    workload = polca()
    settings = PlantSettings(
        dt_s=ROW_DT_S,
        trace=workload,
        mean_requests_per_s=requests_per_s,
        engine=ENGINE,
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
