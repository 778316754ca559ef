"""Why a domain or a node is as it is: sentences first, then the figures that they rest on.

Pure: the picture, the power tree where a file told it, and the time are arguments. It repeats what
controller and agent have said and adds only what follows from it; it decides nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from msgspec import Struct

from daemon.operator.overview import (
    DomainView,
    current_applied,
    deviation,
    domain_view,
    names,
    natural,
)
from daemon.operator.picture import Picture
from facility.topology import Site
from facility.wire import Applied, GpuReading, Lease, NodeInfo

REASONS: Final = {
    "lease": "by its lease",
    "ramp": "on its way up to its lease: what held it down is over",
    "lease-expired": "because its lease has expired: this is its safe ceiling",
    "no-lease": "because it has no lease: this is its safe ceiling",
    "thermal": "because it is close to its slowdown temperature",
    "brake": "because of the power brake: this is its brake ceiling",
}
"""What an agent's reason means, in words."""


class LeaseView(Struct, frozen=True, kw_only=True):
    """A node's last lease. `remaining_s` is null when the node is silent, which tells nothing.

    `state`: `valid`, `expired`, `void` (granted to an earlier life of the agent), `unknown` (the
    node is silent), `none`.
    """

    state: str
    remaining_s: float | None = None
    lease_s: float | None = None
    granted_mhz: int | None = None
    epoch: int | None = None
    decision_id: str = ""
    contingency_ceilings_mhz: dict[str, int] = {}


class GpuView(Struct, frozen=True, kw_only=True):
    """A GPU: what was asked of it, what came of it, and what it reads now (null if silent)."""

    uuid: str
    requested_mhz: int
    accepted_mhz: int | None
    observed_mhz: int | None
    cause: str
    power_w: float | None
    temperature_c: float | None
    margin_c: float | None


class NodeExplanation(Struct, frozen=True, kw_only=True):
    """One node. `ancestors` is null when no file at hand tells the power tree.

    `gpus` is empty unless the agent is ready: what was so once is no reading.
    """

    node: str
    status: str
    controllable: bool | None
    reason: str
    telemetry_age_s: float | None
    lease: LeaseView
    gpus: tuple[GpuView, ...]
    ancestors: tuple[str, ...] | None
    domains: tuple[DomainView, ...]
    sentences: tuple[str, ...]


class DomainExplanation(Struct, frozen=True, kw_only=True):
    """One domain. What needs the power tree is null when no file at hand tells it."""

    domain: DomainView
    parents: tuple[str, ...] | None
    nodes: tuple[str, ...] | None
    nodes_by_reason: dict[str, int] | None
    sentences: tuple[str, ...]


def explain_domain(
    picture: Picture, name: str, *, tree: Site | None, wall_s: float
) -> DomainExplanation:
    """Why domain `name`, which the picture has, is as it is."""
    view = domain_view(picture, picture.domains[name].message, wall_s)
    known = tree.domains.get(name) if tree is not None else None
    sentences = [_domain_headline(view)]
    if view.power_w is not None and view.capacity_w is not None and view.exposure_w is not None:
        sentences.append(
            f"It draws {_kw(view.power_w)} of {_kw(view.capacity_w)}; the limits that are in force"
            f" would allow {_kw(view.exposure_w)}."
        )
    if known is not None and view.capacity_w is not None and view.capacity_w < known.capacity_w:
        sentences.append(
            f"Its capacity is lowered from {_kw(known.capacity_w)}, by a contingency or a cap."
        )
    if view.contingencies:
        sentences.append(f"On, by its emergency message: {', '.join(view.contingencies)}.")
    if view.nodes_missing_count:
        sentences.append(
            f"{view.nodes_missing_count} of {view.nodes_count} nodes are silent and count at their"
            " worst case."
        )
    if known is None:
        sentences.append(_no_tree("its parents and nodes"))
    else:
        sentences += _parents(picture, known.parents, wall_s)
        sentences += _members(picture, known.nodes)
    return DomainExplanation(
        domain=view,
        parents=known.parents if known is not None else None,
        nodes=known.nodes if known is not None else None,
        nodes_by_reason=_reasons(picture, known.nodes) if known is not None else None,
        sentences=tuple(sentences),
    )


def explain_node(
    picture: Picture,
    name: str,
    *,
    ancestors: tuple[str, ...] | None,
    decided: str,
    wall_s: float,
) -> NodeExplanation:
    """Why node `name` is as it is; `decided` is the controller's sentence, empty if unknown."""
    status = picture.statuses.get(name)
    info = picture.infos.get(name)
    applied = current_applied(picture, name)
    lease = lease_view(picture, name)
    frame = picture.telemetry.get(name)
    domains = tuple(
        domain_view(picture, picture.domains[domain].message, wall_s)
        for domain in ancestors or ()
        if domain in picture.domains
    )
    state = status.message.state if status is not None else "unknown"
    sentences = _node_sentences(name, state, info.message if info else None, applied, lease)
    if decided:
        sentences.append(f"The controller's last sentence about it: {decided}")
    if ancestors is None:
        sentences.append(_no_tree("its feeds, rack and zone"))
    sentences += [_domain_headline(one) for one in domains]
    return NodeExplanation(
        node=name,
        status=state,
        controllable=info.message.can_actuate if info else None,
        reason=applied.reason if applied else "",
        telemetry_age_s=round(picture.clock() - frame.at_s, 3) if frame is not None else None,
        lease=lease,
        gpus=_gpus(picture, name, applied) if state == "ready" else (),
        ancestors=ancestors,
        domains=domains,
        sentences=tuple(sentences),
    )


def lease_view(picture: Picture, node: str) -> LeaseView:
    """The last lease of a node, and what is left of it by the node's own frames.

    A lease runs from when the node sampled the frame that it answers. Frames are numbered and come
    at a known period, so the last frame heard tells how long ago that was, whatever the clocks say.
    """
    heard, frame = picture.leases.get(node), picture.telemetry.get(node)
    if heard is None:
        return LeaseView(state="none")
    lease, info = heard.message, picture.infos.get(node)
    status = picture.statuses.get(node)
    if status is not None and lease.session != status.message.session:
        return _lease(lease, "void", None)
    if frame is None or info is None or frame.message.session != lease.session:
        return _lease(lease, "unknown", None)
    frames = frame.message.seq - lease.basis_seq
    since_s = frames * info.message.telemetry_s + picture.clock() - frame.at_s
    left_s = lease.lease_s - since_s
    return _lease(lease, "valid" if left_s > 0.0 else "expired", round(max(left_s, 0.0), 2))


def _lease(lease: Lease, state: str, remaining_s: float | None) -> LeaseView:
    return LeaseView(
        state=state,
        remaining_s=remaining_s,
        lease_s=lease.lease_s,
        granted_mhz=max(lease.ceilings_mhz.values(), default=None),
        epoch=lease.epoch,
        decision_id=lease.decision_id,
        contingency_ceilings_mhz=lease.contingency_ceilings_mhz,
    )


def _node_sentences(
    name: str, state: str, info: NodeInfo | None, applied: Applied | None, lease: LeaseView
) -> list[str]:
    """The node's own story, in the order a reader asks: there, holds what, why, how long, odd."""
    there = {
        "ready": "its agent is there",
        "init": "its agent is starting",
        "disconnected": "its agent was stopped",
        "lost": "its agent is LOST: it counts at its worst case until it is heard again",
    }
    sentences = [f"{name}: {there.get(state, 'its agent has never been heard')}."]
    if info is not None and not info.can_actuate:
        why = info.cannot_actuate_because or "no reason given"
        sentences.append(f"It cannot be controlled ({why}): it counts at its worst case.")
    if state == "ready" and applied is not None:
        sentences.append(_holds(applied))
        if odd := deviation(applied):
            sentences.append(f"Not all of its GPUs do what they were asked: {odd}.")
    sentences.append(_lease_sentence(lease))
    return sentences


def _holds(applied: Applied) -> str:
    asked_mhz = sorted({gpu.requested_mhz for gpu in applied.gpus.values()})
    span = " to ".join(str(clock) for clock in sorted({*asked_mhz[:1], *asked_mhz[-1:]})) or "?"
    name = applied.reason.removeprefix("contingency:")
    why = REASONS.get(applied.reason, f"because {applied.reason}")
    if name != applied.reason:
        why = f"because contingency {name} is on"
    return f"It holds its GPUs to {span} MHz {why}."


def _lease_sentence(lease: LeaseView) -> str:
    granted = f"to {lease.granted_mhz} MHz (decision {lease.decision_id})"
    if lease.state == "none":
        return "No lease is on the broker for it."
    if lease.state == "void":
        return f"The lease on the broker, {granted}, is of an earlier life of its agent: void."
    if lease.state == "unknown":
        return f"Its last lease was {granted}; it is silent, so what is left of it is not known."
    if lease.state == "expired":
        return f"Its last lease, {granted}, has EXPIRED: nobody renews it."
    return f"Its lease {granted} has {lease.remaining_s:.1f} s left of {lease.lease_s:g} s."


def _gpus(picture: Picture, node: str, applied: Applied | None) -> tuple[GpuView, ...]:
    frame = picture.telemetry.get(node)
    readings = {gpu.uuid: gpu for gpu in frame.message.gpus} if frame is not None else {}
    if applied is None:
        return ()
    return tuple(
        GpuView(
            uuid=uuid,
            requested_mhz=gpu.requested_mhz,
            accepted_mhz=gpu.accepted_mhz,
            observed_mhz=gpu.observed_mhz,
            cause=gpu.cause,
            power_w=_read(readings.get(uuid), "power_w"),
            temperature_c=_read(readings.get(uuid), "temperature_c"),
            margin_c=_read(readings.get(uuid), "margin_c"),
        )
        for uuid, gpu in applied.gpus.items()
    )


def _read(reading: GpuReading | None, key: str) -> float | None:
    value = getattr(reading, key, None)
    return value if isinstance(value, float) else None


def _parents(picture: Picture, parents: tuple[str, ...], wall_s: float) -> list[str]:
    return [
        f"Above it, {_domain_headline(domain_view(picture, heard.message, wall_s))}"
        for parent in parents
        if (heard := picture.domains.get(parent)) is not None
    ]


def _members(picture: Picture, nodes: tuple[str, ...]) -> list[str]:
    reasons = _reasons(picture, nodes)
    held = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    odd = sorted(
        (node for node in nodes if (one := current_applied(picture, node)) and deviation(one)),
        key=natural,
    )
    found = [f"Its {len(nodes)} nodes' clocks are held by: {held}."]
    return found + ([f"GPUs do not follow on {names(odd)}."] if odd else [])


def _reasons(picture: Picture, nodes: tuple[str, ...]) -> dict[str, int]:
    """What holds the clocks of some nodes; an agent that is not ready holds none that we know."""
    reasons: Counter[str] = Counter()
    for node in nodes:
        status, applied = picture.statuses.get(node), current_applied(picture, node)
        state = status.message.state if status is not None else "never heard"
        if state != "ready":
            reasons[f"agent {state}" if status is not None else state] += 1
        else:
            reasons[applied.reason if applied else "not reported"] += 1
    return dict(reasons.most_common())


def _domain_headline(view: DomainView) -> str:
    if view.live:
        return f"{view.domain} is in {view.mode}: {view.sentence}."
    return (
        f"{view.domain} is STALE: its last word is {view.age_s:.0f} s old"
        f" and must not be relied on: {view.sentence}."
    )


def _no_tree(what: str) -> str:
    return f"The broker does not tell {what}: name the controller's file with --config."


def _kw(power_w: float) -> str:
    return f"{power_w / 1000.0:.1f} kW"
