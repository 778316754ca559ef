"""What Prometheus scrapes: a table of metrics, each read off the board at scrape time.

Names and units follow one rule: base units, unit last, `_total` on counters. This is the only place
where megahertz become hertz. What is not known is not exported: a gap, never a zero. Labels are
names of the site file, GPU UUIDs and the words of this file, so their number is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from daemon.web.board import Board, PriorityTraffic, Snapshot
from daemon.web.views import is_missing, lease_view, telemetry_age_s
from facility.decisions import HopTime
from facility.wire import DomainState, GpuReading, Mode, Quality

Rows = Iterator[tuple[tuple[str, ...], float]]
"""Label values and the value, one row per time series."""

_HERTZ_PER_MHZ: Final = 1e6

_COUNTER_HELP: Final = {
    "messages_received": "Messages that came in.",
    "messages_refused": "Messages that did not validate, changed nothing and were dropped.",
    "messages_dropped": "Messages dropped because a queue was full.",
    "leases_granted": "Leases sent to nodes.",
    "leases_expired": "Leases that ended without a successor, as reported by nodes.",
    "store_rows_dropped": "Rows of history dropped because the store was full or down.",
}


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: `unit` must end its name, and `rows` reads it off a snapshot."""

    name: str
    unit: str
    help: str
    labels: tuple[str, ...]
    rows: Callable[[Snapshot], Rows]
    kind: Literal["gauge", "counter"] = "gauge"


def _gpus(value: Callable[[GpuReading], float | None]) -> Callable[[Snapshot], Rows]:
    """Rows per GPU that is being read: stale frames and missing readings leave gaps."""

    def rows(snapshot: Snapshot) -> Rows:
        for name, heard in snapshot.frames.items():
            if is_missing(snapshot, name):
                continue
            for place, gpu in enumerate(heard.frame.gpus):
                number = value(gpu)
                if number is not None and gpu.quality is not Quality.MISSING:
                    yield (name, str(place), gpu.uuid), number

    return rows


def _domains(value: Callable[[DomainState], float | None]) -> Callable[[Snapshot], Rows]:
    def rows(snapshot: Snapshot) -> Rows:
        for name, state in snapshot.domains.items():
            number = value(state)
            if number is not None:
                yield (name,), number

    return rows


def _nodes(value: Callable[[Snapshot, str], float | None]) -> Callable[[Snapshot], Rows]:
    def rows(snapshot: Snapshot) -> Rows:
        for name in snapshot.site.nodes:
            number = value(snapshot, name)
            if number is not None:
                yield (name,), number

    return rows


def _traffic(value: Callable[[PriorityTraffic], float]) -> Callable[[Snapshot], Rows]:
    def rows(snapshot: Snapshot) -> Rows:
        for traffic in snapshot.traffic.priorities if snapshot.traffic else ():
            yield (traffic.priority,), value(traffic)

    return rows


def _latency(
    p50: Callable[[PriorityTraffic], float | None], p99: Callable[[PriorityTraffic], float | None]
) -> Callable[[Snapshot], Rows]:
    def rows(snapshot: Snapshot) -> Rows:
        for traffic in snapshot.traffic.priorities if snapshot.traffic else ():
            for quantile, value in (("0.5", p50(traffic)), ("0.99", p99(traffic))):
                if value is not None:
                    yield (traffic.priority, quantile), value

    return rows


def _forecast(snapshot: Snapshot) -> Rows:
    quantile = f"{snapshot.site.control.forecast_quantile:g}"
    for name, state in snapshot.domains.items():
        yield (name, quantile), state.forecast_w


def _modes(snapshot: Snapshot) -> Rows:
    for name, state in snapshot.domains.items():
        for mode in Mode:
            yield (name, mode.value), float(state.mode is mode)


def _contingencies(snapshot: Snapshot) -> Rows:
    for name in snapshot.site.contingencies:
        yield (name,), float(name in snapshot.contingencies)


def _hops(value: Callable[[HopTime], float | None]) -> Callable[[Snapshot], Rows]:
    def rows(snapshot: Snapshot) -> Rows:
        for item in snapshot.decision.hops if snapshot.decision else ():
            number = value(item)
            if number is not None:
                yield (item.hop,), number

    return rows


def _telemetry_age_s(snapshot: Snapshot, node: str) -> float:
    """Never heard is infinitely old, so that an alert on age needs no second rule."""
    age_s = telemetry_age_s(snapshot, node)
    return math.inf if age_s is None else age_s


def _ceiling_hertz(snapshot: Snapshot, node: str) -> float | None:
    decided = snapshot.nodes.get(node)
    return decided.ceiling_mhz * _HERTZ_PER_MHZ if decided else None


def _exposure_w(snapshot: Snapshot, node: str) -> float | None:
    decided = snapshot.nodes.get(node)
    return decided.exposure_w if decided else None


def _power_w(snapshot: Snapshot, node: str) -> float | None:
    decided = snapshot.nodes.get(node)
    return decided.power_w if decided else None


_GPU: Final = ("node", "gpu", "uuid")

TABLE: Final = (
    Series("gpu_power", "watts", "Mean power of a GPU over the last telemetry period.", _GPU,
           _gpus(lambda gpu: gpu.power_w)),
    Series("gpu_energy", "joules", "Energy that a GPU has used since its driver was loaded.", _GPU,
           _gpus(lambda gpu: gpu.energy_j), "counter"),
    Series("gpu_temperature", "celsius", "Temperature of a GPU.", _GPU,
           _gpus(lambda gpu: gpu.temperature_c)),
    Series("gpu_margin", "celsius", "Distance to the nearest slowdown threshold of a GPU.", _GPU,
           _gpus(lambda gpu: gpu.margin_c)),
    Series("gpu_sm_clock", "hertz", "SM clock of a GPU.", _GPU,
           _gpus(lambda gpu: gpu.sm_clock_mhz * _HERTZ_PER_MHZ)),
    Series("gpu_clock_limit", "hertz", "SM clock that the agent last asked for as a limit.", _GPU,
           _gpus(lambda gpu: gpu.ceiling_mhz * _HERTZ_PER_MHZ if gpu.ceiling_mhz else None)),
    Series("domain_power", "watts", "Power of a domain, missing nodes at their worst case.",
           ("domain",), _domains(lambda state: state.power_w)),
    Series("domain_capacity", "watts", "What a domain may carry continuously today.",
           ("domain",), _domains(lambda state: state.capacity_w)),
    Series("domain_forecast", "watts", "Forecast of a domain's power, as an upper quantile.",
           ("domain", "quantile"), _forecast),
    Series("domain_exposure", "watts", "Worst case of all limits that may be in force.",
           ("domain",), _domains(lambda state: state.exposure_w)),
    Series("domain_temperature", "celsius", "Temperature of a zone's air or of its hottest inlet.",
           ("domain",), _domains(lambda state: state.temperature_c)),
    Series("domain_nodes", "", "Nodes below a domain.",
           ("domain",), _domains(lambda state: state.nodes_count)),
    Series("domain_nodes_missing", "", "Nodes below a domain of which nothing current is known.",
           ("domain",), _domains(lambda state: state.nodes_missing_count)),
    Series("domain_mode", "", "1 for the mode that a domain is in, 0 for the others.",
           ("domain", "mode"), _modes),
    Series("contingency_active", "", "1 while a declared contingency lasts.",
           ("contingency",), _contingencies),
    Series("node_power", "watts", "Power of a node, at its worst case when missing.",
           ("node",), _nodes(_power_w)),
    Series("node_exposure", "watts", "Worst case of all limits that may be in force on a node.",
           ("node",), _nodes(_exposure_w)),
    Series("node_ceiling", "hertz", "SM clock ceiling decided for a node.",
           ("node",), _nodes(_ceiling_hertz)),
    Series("node_lease_remaining", "seconds", "Time until a node's lease ends, 0 when it has.",
           ("node",), _nodes(lambda snapshot, node: lease_view(snapshot, node).remaining_s)),
    Series("node_missing", "", "1 while nothing current is known of a node.",
           ("node",), _nodes(lambda snapshot, node: float(is_missing(snapshot, node)))),
    Series("telemetry_age", "seconds", "Age of a node's last frame, +Inf when there was none.",
           ("node",), _nodes(_telemetry_age_s)),
    Series("reaction_bound", "seconds", "How long a hop of the reaction may take at most.",
           ("hop",), _hops(lambda item: item.bound_s)),
    Series("reaction_p999", "seconds", "How long a hop took, as a 99.9th percentile.",
           ("hop",), _hops(lambda item: item.measured_s)),
    Series("requests_served", "", "Requests answered.",
           ("priority",), _traffic(lambda traffic: traffic.served_count), "counter"),
    Series("requests_lost", "", "Requests lost or refused.",
           ("priority",), _traffic(lambda traffic: traffic.lost_count), "counter"),
    Series("requests_queued", "", "Requests waiting.",
           ("priority",), _traffic(lambda traffic: traffic.queued_count)),
    Series("request_ttft", "seconds", "Time to first token over the last minute.",
           ("priority", "quantile"), _latency(lambda t: t.ttft_p50_s, lambda t: t.ttft_p99_s)),
    Series("request_tpot", "seconds", "Time per output token over the last minute.",
           ("priority", "quantile"), _latency(lambda t: t.tpot_p50_s, lambda t: t.tpot_p99_s)),
)  # fmt: skip
"""Every metric that is one number per label set."""


class BoardCollector(Collector):
    """Reads the board once per scrape."""

    def __init__(self, board: Board, *, version: str) -> None:
        self._board = board
        self._version = version

    def collect(self) -> Iterable[Metric]:
        """All metrics of one snapshot."""
        snapshot = self._board.snapshot()
        for series in TABLE:
            yield _family(series, snapshot)
        yield _cycles(snapshot)
        counters = {"control_cycle_overruns": float(snapshot.overruns_count), **snapshot.counters}
        yield from _counters(counters)
        if math.isfinite(snapshot.age_s):
            yield _one("decision_age", "seconds", "Time since the last cycle.", snapshot.age_s)
        control = snapshot.site.control
        yield _one("control_shadow", "", "1 when decisions are not acted on.", control.shadow)
        yield InfoMetricFamily(
            "ampacity_build",
            "Version and policy of this controller.",
            {"version": self._version, "site": snapshot.site.name, "policy": control.policy},
        )


def _family(series: Series, snapshot: Snapshot) -> Metric:
    kind = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    family = kind(f"ampacity_{series.name}", series.help, labels=series.labels, unit=series.unit)
    for labels, value in series.rows(snapshot):
        family.add_metric(labels, value)
    return family


def _one(name: str, unit: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(f"ampacity_{name}", text, unit=unit)
    family.add_metric((), value)
    return family


def _counters(values: Mapping[str, float]) -> Iterator[Metric]:
    texts = {"control_cycle_overruns": "Control cycles that took longer than one cycle."}
    texts |= _COUNTER_HELP
    for name, value in sorted(values.items()):
        text = texts.get(name, f"{name.replace('_', ' ').capitalize()}.")
        yield CounterMetricFamily(f"ampacity_{name}", text, value=value)


def _cycles(snapshot: Snapshot) -> Metric:
    durations, total = snapshot.cycle_durations, 0
    buckets: list[tuple[str, float]] = []
    for bound_s, count in zip((*durations.bounds_s, math.inf), durations.counts, strict=True):
        total += count
        buckets.append(("+Inf" if math.isinf(bound_s) else f"{bound_s:g}", total))
    return HistogramMetricFamily(
        "ampacity_control_cycle_duration",
        "Time that one control cycle took.",
        buckets=buckets,
        sum_value=durations.total_s,
        unit="seconds",
    )


def metrics_router(board: Board, *, version: str) -> APIRouter:
    """`/metrics`, in the format that the scraper asks for, with this process's own figures."""
    registry = CollectorRegistry()
    registry.register(BoardCollector(board, version=version))
    ProcessCollector(registry=registry)
    router = APIRouter()
    router.add_api_route(
        "/metrics",
        _scrape(registry),
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"description": "Prometheus text", "content": {"text/plain": {}}}},
    )
    return router


def _scrape(registry: CollectorRegistry) -> Callable[[Request], Awaitable[Response]]:
    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(
            encode(registry), headers={"Content-Type": kind, "Cache-Control": "no-store"}
        )

    return metrics
