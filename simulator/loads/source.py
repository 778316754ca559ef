"""Which source of requests a recording or a workload makes, at a mean rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.loads.blocks import Source
from simulator.loads.formats import built_in_trace
from simulator.loads.replay import Load
from simulator.loads.stream import Stream
from simulator.loads.trace import Trace
from simulator.loads.workload import Workload


def source_of(
    load: Trace | Workload | None,
    *,
    rate_per_s: float,
    seed: np.random.SeedSequence,
    priorities: Sequence[str],
    start_s: float,
    spread_s: float | None = None,
    begin_s: float = 0.0,
) -> Source:
    """Replay a trace, by default the built-in one, or draw from a workload.

    `rate_per_s` is the mean over the whole recording; `spread_s` is of a replay (`Load`), and
    `begin_s`, the time of the workload at time 0, of a stream.

    Raises:
        ValueError: a rate that cannot be made.
    """
    if isinstance(load, Workload):
        return Stream(
            load,
            scale=rate_per_s / load.envelope.mean_per_s,
            seed=seed,
            priorities=priorities,
            start_s=start_s,
            offset_s=begin_s,
        )
    return Load(
        load or built_in_trace(),
        rate_per_s=rate_per_s,
        rng=np.random.default_rng(seed),
        start_s=start_s,
        spread_s=spread_s,
    )
