"""What one run of the twin at the request level is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.chassis import ServerConstants
from simulator.dispatch import Packing
from simulator.engine import Engine
from simulator.loads.trace import Trace
from simulator.loads.workload import Workload

PRIORITIES = ("high", "low")


@dataclass(frozen=True, slots=True)
class PlantSettings:
    """One run of the twin. Times in simulated seconds; the same settings give the same run.

    `requests_per_node_s` is the default load of a node with a service: the default row then needs
    about its capacity at full clocks, with 60-75 % of its engines' throughput in use.
    `mean_requests_per_s`, if given, is the whole site's instead. `spread_s` is how far the copies
    of the trace are shifted against each other; a workload begins at its time `load_begin_s`. The
    plant warms up for `warm_up_s` before its time 0, uncounted and with protections at rest.
    `dt_s` is at most 0.25. `server` is what stands around the GPUs, by default what the site's node
    models say; `packing` is how a router packs requests, by default to where load is least. Without
    `trips` no protection wears or opens, however much is drawn.
    """

    seed: int = 1
    dt_s: float = 0.1
    requests_per_node_s: float = 6.5
    mean_requests_per_s: float | None = None
    trace: Trace | Workload | None = None
    spread_s: float | None = None
    load_begin_s: float = 0.0
    warm_up_s: float = 60.0
    boot_s: float = 120.0
    engine: Engine = field(default_factory=Engine)
    opaque_intensity: float = 0.5
    lock_ignored_ratio: float = 0.001
    node_meter: bool = True
    meter_spread: float = 0.03
    meter_lag_s: float = 1.0
    server: ServerConstants | None = None
    packing: Packing | None = None
    trips: bool = True
