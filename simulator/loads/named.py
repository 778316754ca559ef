"""The workloads that come with the package, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, get_args

import numpy as np

from simulator.loads.envelope import Envelope
from simulator.loads.formats import shipped, week_lengths
from simulator.loads.lengths import servegen_lengths
from simulator.loads.polca import WEEK, polca
from simulator.loads.rates import read_aggregate, read_clients, read_week
from simulator.loads.trace import Trace, read_azure, read_mooncake
from simulator.loads.workload import Kind, Lengths, Workload

WorkloadName = Literal[
    "azure-2023-conv", "azure-2023-code", "azure-2024-week", "servegen-m-large", "mooncake", "polca"
]
NAMES: Final[tuple[WorkloadName, ...]] = get_args(WorkloadName)

MINUTE_S: Final = 60.0
BURST_S: Final = 2.0
"""Of Azure's code service every burst is kept: it is nothing like a Poisson process."""


def workload_named(name: WorkloadName) -> Workload:
    """A workload that comes with the package; its envelope is at the level of its source."""
    makers: dict[WorkloadName, Callable[[], Workload]] = {
        "azure-2023-conv": lambda: _azure_hour("conv", MINUTE_S),
        "azure-2023-code": lambda: _azure_hour("code", BURST_S),
        "azure-2024-week": _azure_week,
        "servegen-m-large": _servegen,
        "mooncake": _mooncake,
        "polca": polca,
    }
    return makers[name]()


def of_trace(name: str, trace: Trace, *, step_s: float) -> Workload:
    """Recorded requests as a workload: rates in even steps of about `step_s`, pairs of lengths."""
    steps = max(1, round(trace.span_s / step_s))
    width_s = trace.span_s / steps
    counts = np.bincount((trace.at_s / width_s).astype(np.int64), minlength=steps)
    return Workload(
        name,
        Envelope.even(counts / width_s, width_s),
        (Kind("all", 1.0, Lengths(trace.context_tokens, trace.generated_tokens)),),
    )


def _azure_hour(service: str, step_s: float) -> Workload:
    path = f"azure/AzureLLMInferenceTrace_{service}.csv.gz"
    return of_trace(f"azure-2023-{service}", read_azure(path, shipped(path)), step_s=step_s)


def _azure_week() -> Workload:
    rates = read_week(WEEK, shipped(WEEK))
    return Workload("azure-2024-week", rates.envelope, (Kind("all", 1.0, week_lengths()),))


def _servegen() -> Workload:
    """Rates of 14 days; how bursty their sum is, from the clients of the first two."""
    path = "servegen/language-m-large_aggregate_600s.csv.gz"
    rates = read_aggregate(path, shipped(path))
    path = "servegen/language-m-large_per_client_rate_600s_2d.csv.gz"
    return Workload(
        "servegen-m-large",
        rates.envelope,
        (Kind("all", 1.0, servegen_lengths()),),
        cv=read_clients(path, shipped(path)).cv,
    )


def _mooncake() -> Workload:
    path = "mooncake/synthetic_trace.jsonl.gz"
    return of_trace("mooncake", read_mooncake(path, shipped(path)), step_s=MINUTE_S)
