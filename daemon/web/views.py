"""What the API answers, as types and how each is read off a snapshot of the board.

These types are also the API's schema. Nothing here decides: a view is a snapshot put into words
and sums, and whatever is not known is null, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

from daemon.web.board import Snapshot
from facility.decisions import Decision
from facility.topology import Node, Site
from facility.wire import Applied, Mode, NodeTelemetry, Quality

SEVERITIES: Final = ("info", "warning", "critical")
"""From least to most; the API filters by "this and above"."""

_MODES: Final = tuple(Mode)


class ErrorView(Struct, frozen=True):
    """Every answer that is not 2xx: one sentence that says what is wrong and what is allowed."""

    error: str


class HealthView(Struct, frozen=True, kw_only=True):
    """Whether the control cycle runs. Times are real seconds; `age_s` is null before any cycle."""

    status: Literal["ok", "failing"]
    reason: str
    age_s: float | None
    age_s_max: float


class ReadyView(Struct, frozen=True, kw_only=True):
    """Whether the controller can do its work: each check with its reason, empty when it is well."""

    ready: bool
    checks: dict[str, str]


class SiteDomainView(Struct, frozen=True, kw_only=True):
    """A domain as the site file has it; `capacity_w` is without any contingency."""

    domain: str
    kind: str
    capacity_w: float
    parents: tuple[str, ...]
    trip_curve: str
    nodes_count: int


class SiteNodeView(Struct, frozen=True, kw_only=True):
    """A node as the site file has it."""

    node: str
    model: str
    gpus_count: int
    parents: tuple[str, ...]
    zone: str | None
    service: str | None
    priority: str
    safe_ceiling_mhz: int
    clock_mhz_max: int


class SiteView(Struct, frozen=True, kw_only=True):
    """The site and how it is controlled."""

    site: str
    policy: str
    shadow: bool
    cycle_s: float
    lease_s: float
    forecast_quantile: float
    services: tuple[str, ...]
    contingencies: tuple[str, ...]
    domains: tuple[SiteDomainView, ...]
    nodes: tuple[SiteNodeView, ...]


class DomainView(Struct, frozen=True, kw_only=True):
    """A domain after the last cycle.

    `capacity_w` is today's, `nominal_capacity_w` without any contingency. Shaving begins when the
    forecast passes `target_w` and ends below `release_w`.
    """

    domain: str
    kind: str
    parents: tuple[str, ...]
    power_w: float
    forecast_w: float
    exposure_w: float
    capacity_w: float
    nominal_capacity_w: float
    target_w: float
    release_w: float
    mode: Mode
    sentence: str
    nodes_count: int
    nodes_missing_count: int
    temperature_c: float | None


class GpuView(Struct, frozen=True, kw_only=True):
    """One GPU: its last reading, and what became of the last ceiling asked of it."""

    gpu: int
    uuid: str
    quality: Quality
    power_w: float
    energy_j: float | None
    temperature_c: float | None
    margin_c: float | None
    memory_temperature_c: float | None
    sm_clock_mhz: int
    requested_mhz: int | None
    accepted_mhz: int | None
    observed_mhz: int | None
    cause: str


class LeaseView(Struct, frozen=True, kw_only=True):
    """What a node may do, and until when.

    `state` is the lease's own, by the controller's clock; `reason` is what the node says holds now:
    `lease`, `ramp`, `lease-expired`, `no-lease`, `contingency:<name>`, `thermal`, `brake`. The MHz
    are the highest among the node's GPUs, `cause` the first deviation that one of them reports.
    """

    state: Literal["valid", "expired", "none"]
    granted_mhz: int | None
    remaining_s: float | None
    reason: str
    requested_mhz: int | None
    accepted_mhz: int | None
    observed_mhz: int | None
    cause: str


class NodeView(Struct, frozen=True, kw_only=True):
    """A node after the last cycle. `gpus` are its last frame's, however old: see the age."""

    node: str
    rack: str
    zone: str | None
    service: str | None
    priority: str
    missing: bool
    controllable: bool
    telemetry_age_s: float | None
    power_w: float | None
    exposure_w: float | None
    inlet_temperature_c: float | None
    ceiling_mhz: int | None
    contingency_ceilings_mhz: dict[str, int]
    sentence: str
    lease: LeaseView
    gpus: tuple[GpuView, ...]


class DecisionView(Struct, frozen=True, kw_only=True):
    """The last decision as it was made, and its age in real seconds."""

    age_s: float
    stale_after_s: float
    contingencies: tuple[str, ...]
    decision: Decision


def site_view(site: Site) -> SiteView:
    """The site as its file has it."""
    control = site.control
    return SiteView(
        site=site.name,
        policy=control.policy,
        shadow=control.shadow,
        cycle_s=control.cycle_s,
        lease_s=control.lease_s,
        forecast_quantile=control.forecast_quantile,
        services=site.services,
        contingencies=tuple(site.contingencies),
        domains=tuple(
            SiteDomainView(
                domain=domain.name,
                kind=domain.kind,
                capacity_w=domain.capacity_w,
                parents=domain.parents,
                trip_curve=domain.trip_curve.name,
                nodes_count=len(domain.nodes),
            )
            for domain in site.domains.values()
        ),
        nodes=tuple(_site_node_view(node) for node in site.nodes.values()),
    )


def _site_node_view(node: Node) -> SiteNodeView:
    return SiteNodeView(
        node=node.name,
        model=node.model.name,
        gpus_count=node.model.gpu_count,
        parents=node.parents,
        zone=node.zone,
        service=node.service,
        priority=node.priority,
        safe_ceiling_mhz=node.model.gpu.safe_ceiling_mhz,
        clock_mhz_max=node.model.gpu.clock_mhz_max,
    )


def domain_view(snapshot: Snapshot, name: str) -> DomainView:
    """One domain of the site.

    Raises:
        KeyError: the last decision says nothing about it.
    """
    state, domain = snapshot.domains[name], snapshot.site.domains[name]
    control = snapshot.site.control
    return DomainView(
        domain=name,
        kind=domain.kind,
        parents=domain.parents,
        power_w=state.power_w,
        forecast_w=state.forecast_w,
        exposure_w=state.exposure_w,
        capacity_w=state.capacity_w,
        nominal_capacity_w=domain.capacity_w,
        target_w=control.target_ratio * state.capacity_w,
        release_w=control.release_ratio * state.capacity_w,
        mode=state.mode,
        sentence=state.sentence,
        nodes_count=state.nodes_count,
        nodes_missing_count=state.nodes_missing_count,
        temperature_c=state.temperature_c,
    )


def domain_views(snapshot: Snapshot) -> tuple[DomainView, ...]:
    """All domains that the last decision speaks of, in the order of the site file."""
    return tuple(
        domain_view(snapshot, name) for name in snapshot.site.domains if name in snapshot.domains
    )


def worst_mode(snapshot: Snapshot) -> Mode:
    """The gravest mode of any domain."""
    modes = (state.mode for state in snapshot.domains.values())
    return max(modes, key=_MODES.index, default=Mode.NORMAL)


def rack_of(site: Site, node: Node) -> str:
    """The rack that a node stands in; its first parent where the site has no racks."""
    racks = (name for name in node.parents if site.domains[name].kind == "rack")
    return next(racks, node.parents[0])


def telemetry_age_s(snapshot: Snapshot, name: str) -> float | None:
    """How old the node's last frame is, None when there never was one."""
    heard = snapshot.frames.get(name)
    return None if heard is None else max(0.0, snapshot.now_s - heard.received_s)


def is_missing(snapshot: Snapshot, name: str) -> bool:
    """Whether nothing current is known: the decision says so, or the last frame is stale."""
    decided = snapshot.nodes.get(name)
    age_s = telemetry_age_s(snapshot, name)
    too_old = age_s is None or age_s > snapshot.site.control.stale_s
    return too_old or decided is None or decided.missing


def lease_view(snapshot: Snapshot, name: str) -> LeaseView:
    """What a node may do: what the controller granted, against what the node reports."""
    granted, applied = snapshot.leases.get(name), snapshot.applied.get(name)
    remaining_s = None if granted is None else max(0.0, granted.expires_s - snapshot.now_s)
    state: Literal["valid", "expired", "none"] = "none"
    if remaining_s is not None:
        state = "valid" if remaining_s > 0.0 else "expired"
    reason = applied.reason if applied is not None else ""
    if reason in {"", "lease"}:
        reason = {"valid": "lease", "expired": "lease-expired", "none": "no-lease"}[state]
    gpus = tuple(applied.gpus.values()) if applied is not None else ()
    return LeaseView(
        state=state,
        granted_mhz=None
        if granted is None
        else max(granted.lease.ceilings_mhz.values(), default=0),
        remaining_s=remaining_s,
        reason=reason,
        requested_mhz=max((gpu.requested_mhz for gpu in gpus), default=None),
        accepted_mhz=_highest(gpu.accepted_mhz for gpu in gpus),
        observed_mhz=_highest(gpu.observed_mhz for gpu in gpus),
        cause=next((gpu.cause for gpu in gpus if gpu.cause), ""),
    )


def node_view(snapshot: Snapshot, name: str) -> NodeView:
    """One node of the site."""
    node, decided = snapshot.site.nodes[name], snapshot.nodes.get(name)
    heard, applied = snapshot.frames.get(name), snapshot.applied.get(name)
    return NodeView(
        node=name,
        rack=rack_of(snapshot.site, node),
        zone=node.zone,
        service=node.service,
        priority=node.priority,
        missing=is_missing(snapshot, name),
        controllable=decided is not None and decided.controllable,
        telemetry_age_s=telemetry_age_s(snapshot, name),
        power_w=decided.power_w if decided else None,
        exposure_w=decided.exposure_w if decided else None,
        inlet_temperature_c=heard.frame.inlet_temperature_c if heard else None,
        ceiling_mhz=decided.ceiling_mhz if decided else None,
        contingency_ceilings_mhz=dict(decided.contingency_ceilings_mhz) if decided else {},
        sentence=decided.sentence if decided else "",
        lease=lease_view(snapshot, name),
        gpus=_gpu_views(heard.frame, applied) if heard else (),
    )


def _highest(clocks_mhz: Iterable[int | None]) -> int | None:
    return max((clock for clock in clocks_mhz if clock is not None), default=None)


def _gpu_views(frame: NodeTelemetry, applied: Applied | None) -> tuple[GpuView, ...]:
    writes = applied.gpus if applied is not None else {}
    views = []
    for place, gpu in enumerate(frame.gpus):
        write = writes.get(gpu.uuid)
        views.append(
            GpuView(
                gpu=place,
                uuid=gpu.uuid,
                quality=gpu.quality,
                power_w=gpu.power_w,
                energy_j=gpu.energy_j,
                temperature_c=gpu.temperature_c,
                margin_c=gpu.margin_c,
                memory_temperature_c=gpu.memory_temperature_c,
                sm_clock_mhz=gpu.sm_clock_mhz,
                requested_mhz=write.requested_mhz if write else gpu.ceiling_mhz or None,
                accepted_mhz=write.accepted_mhz if write else None,
                observed_mhz=write.observed_mhz if write else None,
                cause=write.cause if write else "",
            )
        )
    return tuple(views)
